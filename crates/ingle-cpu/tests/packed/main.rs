// SPDX-License-Identifier: EUPL-1.2
//! Linear over packed weights: near the exact product, and the same bits however many rows and threads there are.

mod gated_mlp;
mod weights;

use bytes::Bytes;
use half::bf16;
use ingle_cpu::Isa;
use ingle_tensor::{BinaryOp, BlockFormat, DType, DeviceHandle, Op, Quantization, Spec, Tensor};

use self::weights::{dense, device, input, numbers, quantisations, quantised, words};

/// Whether a weight that [`quantised`] makes becomes bf16 on the way to the tiles of AMX.
fn becomes_bf16(quantization: Quantization) -> bool {
    let form = quantization.form();
    matches!(form.bits, 4 | 8) && form.codebook.is_none() && quantization.block_len() < 256
}

/// Compares a product with the exact one. `x` may be off by `step(x's row, column)` at each element: errors that
/// are as often positive as negative grow with the square root of their number, and eight deviations are as good
/// as never.
#[track_caller]
fn near(found: &Tensor, x: &Tensor, weight: &Tensor, step: impl Fn(&[f32], usize) -> f32, what: &str) {
    let [n, k] = [weight.shape()[0], weight.shape()[1]];
    let found = found.to_vec::<f32>().unwrap();
    let (x, weight) = (x.to_vec::<f32>().unwrap(), weight.to_f32_vec().unwrap());
    for (i, found) in found.into_iter().enumerate() {
        let (row, weight) = (&x[i / n * k..][..k], &weight[i % n * k..][..k]);
        let (mut exact, mut size, mut variance) = (0.0, 0.0, 0.0);
        for (column, (x, w)) in row.iter().zip(weight).enumerate() {
            let (x, w) = (f64::from(*x), f64::from(*w));
            exact += x * w;
            size += f64::abs(x * w);
            // Even spread over a step has a twelfth of its square as variance.
            variance += (w * f64::from(step(row, column))).powi(2) / 12.0;
        }
        let bound = 8.0 * variance.sqrt() + size * (k as f64).sqrt() * 2f64.powi(-22) + 1e-30;
        assert!((f64::from(found) - exact).abs() <= bound, "{what}: output {i} is {found}, not {exact} ± {bound}");
    }
}

#[test]
fn quantised_products_are_near_the_exact_ones_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        for quantization in quantisations() {
            // What is rounded together: a group of numbers that meet one scale, a block of a K format.
            let unit = quantization.block_len();
            // One group alone, a number of rows that fills no panel, strips and a rest.
            for (m, n, k) in [(1, 1, quantization.block_len()), (7, 67, 512), (13, 130, 768)] {
                let weight = quantised(&device, quantization, [n, k]);
                let x = input(&device, [m, k]);
                let found = x.linear(&weight, None).unwrap();
                let step = |row: &[f32], column: usize| {
                    let unit = &row[column / unit * unit..][..unit];
                    unit.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 127.0
                };
                near(&found, &x, &weight, step, &format!("{isa}, {quantization:?}, {m}×{n}×{k}"));
            }
        }
    }
}

#[test]
fn the_largest_integers_of_a_block_are_summed_exactly_ugly() {
    // Where each format has its f16 multipliers; every other byte is as large as it gets, or as negative.
    let multipliers = [
        (BlockFormat::Q4_0, vec![0]),
        (BlockFormat::Q4_1, vec![0, 2]),
        (BlockFormat::Q5_0, vec![0]),
        (BlockFormat::Q5_1, vec![0, 2]),
        (BlockFormat::Q8_0, vec![0]),
        (BlockFormat::Iq4Nl, vec![0]),
        (BlockFormat::Q2K, vec![80, 82]),
        (BlockFormat::Q3K, vec![108]),
        (BlockFormat::Q4K, vec![0, 2]),
        (BlockFormat::Q5K, vec![0, 2]),
        (BlockFormat::Q6K, vec![208]),
    ];
    let (n, k) = (70, 512);
    for isa in Isa::available() {
        let device = device(isa, 2);
        for (format, multipliers) in &multipliers {
            let quantization = Quantization::Blocks(*format);
            for byte in [0x00u8, 0x7f, 0x80, 0xff] {
                let mut bytes = vec![byte; n * quantization.row_bytes(k).unwrap()];
                for block in bytes.chunks_mut(quantization.block_bytes()) {
                    // 2⁻⁸, and half of it.
                    for (at, high) in multipliers.iter().zip([0x1c, 0x18]) {
                        block[*at..][..2].copy_from_slice(&[0, high]);
                    }
                }
                let blocks = Tensor::from_slice(&device, &bytes, [n, bytes.len() / n]).unwrap();
                let weight = Tensor::dequantize(vec![blocks], quantization, DType::F32).unwrap();
                for m in [1, 2, 3, 5, 40] {
                    let x = Tensor::from_slice(&device, &[vec![127.0; k], vec![-127.0; k]].concat(), [2, k]).unwrap();
                    let index: Vec<i32> = (0..m).map(|row| row % 2).collect();
                    let x = x.take_rows(&Tensor::from_slice(&device, &index, [index.len()]).unwrap()).unwrap();
                    let found = x.linear(&weight, None).unwrap();
                    // Each of them is a quant.
                    near(&found, &x, &weight, |_, _| 0.0, &format!("{isa}, {format:?} of {byte:#x}, {m} rows"));
                }
            }
        }
    }
}

#[test]
fn packed_dense_products_are_near_the_exact_ones_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        for dtype in DType::FLOATS {
            for (m, n, k) in [(1, 1, 1), (7, 67, 33), (13, 130, 700), (300, 64, 258)] {
                let weight = dense(&device, dtype, [n, k]);
                // Rounded to the weight's dtype, as the matrix instructions may.
                let x = input(&device, [m, k]).cast(dtype).unwrap().cast(DType::F32).unwrap();
                let found = x.linear(&weight, None).unwrap();
                near(&found, &x, &weight, |_, _| 0.0, &format!("{isa}, {dtype}, {m}×{n}×{k}"));
            }
        }
    }
}

#[test]
fn rows_are_the_same_alone_and_together_good() {
    let (n, k, most) = (130, 768, 40);
    for isa in Isa::available() {
        let weights = |device: &DeviceHandle| -> Vec<Tensor> {
            let quantised = quantisations().into_iter().map(|quantization| quantised(device, quantization, [n, k]));
            quantised.chain(DType::FLOATS.map(|dtype| dense(device, dtype, [n, k]))).collect()
        };
        let bits = |x: Tensor| -> Vec<u32> { x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect() };
        let alone = device(isa, 1);
        let x = input(&alone, [most, k]);
        let rows: Vec<Vec<u32>> = weights(&alone)
            .iter()
            .map(|weight| {
                (0..most).flat_map(|t| bits(x.slice(0, t, t + 1).unwrap().linear(weight, None).unwrap())).collect()
            })
            .collect();
        for threads in [1, 2, 3] {
            let device = device(isa, threads);
            let x = input(&device, [most, k]);
            for (which, (weight, rows)) in weights(&device).iter().zip(&rows).enumerate() {
                for m in [2, 3, 4, 5, 6, 7, 8, 13, 33, most] {
                    let together = bits(x.slice(0, 0, m).unwrap().linear(weight, None).unwrap());
                    assert_eq!(together, rows[..m * n], "{isa}, {threads} threads, weight {which}, m {m}");
                }
            }
        }
    }
}

#[test]
fn rows_of_many_are_those_of_a_few_good() {
    let bits = |x: Tensor| -> Vec<u32> { x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect() };
    for isa in Isa::available() {
        let device = device(isa, 2);
        // One strip and whole panels, several strips and a rest; half a panel; rows so long that a cache holds but a part of
        // them, with more panels than meet a part one after another.
        for (m, n, k) in [(260, 128, 64), (513, 70, 1031), (40, 20, 96), (70, 1100, 4200), (64, 1100, 4224)] {
            let (weight, x) = (dense(&device, DType::BF16, [n, k]), input(&device, [m, k]));
            let bias = Tensor::from_slice(&device, &numbers(n, 9), [n]).unwrap();
            for bias in [None, Some(&bias)] {
                let all = bits(x.linear(&weight, bias).unwrap());
                for row in [0, 63, 64, m - 1].into_iter().filter(|row| *row < m) {
                    let alone = bits(x.slice(0, row, row + 1).unwrap().linear(&weight, bias).unwrap());
                    assert_eq!(alone, all[row * n..(row + 1) * n], "{isa}, {m}×{n}×{k}, row {row}");
                }
            }
        }
    }
}

#[test]
fn tiles_and_vectors_give_the_same_bits_good() {
    let bits = |x: Tensor| -> Vec<u32> { x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect() };
    if !Isa::Amx.is_available() {
        eprintln!("this machine has no AMX: nothing was tested");
        return;
    }
    let devices = [Isa::Avx512, Isa::Amx].map(|isa| device(isa, 2));
    for quantization in quantisations().into_iter().filter(|quantization| !becomes_bf16(*quantization)) {
        // Whole blocks, and a last one of one group or three.
        let block = quantization.block_len();
        for (n, k) in [(130, 768), (100, 256 + block), (64, 3 * block)] {
            // Rows that fill tiles and units of work, and a rest of either.
            for m in [12, 16, 31, 32, 33, 50, 150] {
                let results = devices.each_ref().map(|device| {
                    let (weight, x) = (quantised(device, quantization, [n, k]), input(device, [m, k]));
                    let bias = Tensor::from_slice(device, &numbers(n, 9), [n]).unwrap();
                    [None, Some(&bias)].map(|bias| bits(x.linear(&weight, bias).unwrap()))
                });
                assert_eq!(results[0], results[1], "{quantization:?}, {m}×{n}×{k}");
            }
        }
    }
}

#[test]
fn quants_as_bf16_are_near_the_weights_however_many_rows_good() {
    let bits = |x: Tensor| -> Vec<u32> { x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect() };
    if !Isa::Amx.is_available() {
        eprintln!("this machine has no AMX: nothing was tested");
        return;
    }
    let device = device(Isa::Amx, 2);
    for quantization in quantisations().into_iter().filter(|quantization| becomes_bf16(*quantization)) {
        let block = quantization.block_len();
        // One group; a block that is not whole, alone and last; more panels than are summed at a time.
        let mut sizes = vec![(70, block), (64, 2 * block), (130, 1152), (1100, 256 + block), (1100, 512)];
        // Rows so long that a cache holds but a part of them.
        if matches!(quantization, Quantization::Blocks(_)) {
            sizes.push((1100, 4224));
        }
        for (n, k) in sizes {
            let (weight, x) = (quantised(&device, quantization, [n, k]), input(&device, [260, k]));
            let bias = Tensor::from_slice(&device, &numbers(n, 9), [n]).unwrap();
            let what = format!("{quantization:?}, {n}×{k}");
            let all = x.linear(&weight, None).unwrap();
            // Weights and rows are rounded to 8 bits of precision each.
            near(&all, &x, &weight, |row, column| row[column].abs() / 100.0, &what);
            let (all, with_bias) = (bits(all), bits(x.linear(&weight, Some(&bias)).unwrap()));
            for m in [1, 2, 16, 17, 32, 33, 257] {
                let few = x.slice(0, 1, 1 + m).unwrap();
                assert!(bits(few.linear(&weight, None).unwrap()) == all[n..(1 + m) * n], "{what}, {m} rows");
                let few = bits(few.linear(&weight, Some(&bias)).unwrap());
                assert!(few == with_bias[n..(1 + m) * n], "{what}, {m} rows with a bias");
            }
        }
    }
}

#[test]
fn scales_of_any_size_are_met_ugly() {
    let (n, k) = (70, 96);
    let quantization = Quantization::Affine { bits: 8, group_size: 32 };
    for isa in Isa::available() {
        let device = device(isa, 1);
        let packed = Tensor::from_slice(&device, &words(n * k / 4, 1), [n, k / 4]).unwrap();
        // Rows from the smallest to the largest, one of zeros, one with groups that differ, two that are not finite.
        let sizes: Vec<f32> = (0..n * 3)
            .map(|i| match (i / 3, i % 3) {
                (60, _) => 0.0,
                (61, group) => [1.0, 1.0 / 1024.0, 0.0][group],
                (62, 1) => f32::NAN,
                (63, 2) => f32::INFINITY,
                (row, _) => f32::exp2(3.0 * (row as f32 - 35.0)),
            })
            .collect();
        let size = Tensor::from_slice(&device, &sizes, [n, 3]).unwrap().cast(DType::BF16).unwrap();
        let offset = numbers(n * 3, 7).iter().zip(&sizes).map(|(x, size)| x * size * 128.0).collect::<Vec<_>>();
        let offset = Tensor::from_slice(&device, &offset, [n, 3]).unwrap().cast(DType::BF16).unwrap();
        let weight = Tensor::dequantize(vec![packed, size, offset], quantization, DType::F32).unwrap();
        let x = input(&device, [20, k]);
        let plain = weight.to_f32_vec().unwrap();
        for rows in [20, 3] {
            let x = x.slice(0, 0, rows).unwrap();
            let all = x.linear(&weight, None).unwrap();
            for (i, found) in all.to_vec::<f32>().unwrap().iter().enumerate() {
                assert_eq!(found.is_finite(), !matches!(i % n, 62 | 63), "{isa}, {rows} rows, output {i}: {found}");
            }
            for part in [0..62, 64..70] {
                let weight = &plain[part.start * k..part.end * k];
                let weight = Tensor::from_slice(&device, weight, [part.len(), k]).unwrap();
                let found = all.slice(1, part.start, part.end).unwrap();
                // A group of the row, or a number, is rounded.
                let step = |row: &[f32], _| row.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 100.0;
                near(&found, &x, &weight, step, &format!("{isa}, {rows} rows"));
            }
        }
    }
}

#[test]
fn a_few_columns_of_a_transpose_are_those_of_all_good() {
    let bits = |x: Tensor| -> Vec<u32> { x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect() };
    for isa in Isa::available() {
        let device = device(isa, 2);
        for dtype in [DType::F32, DType::BF16] {
            for n in [8, 64, 100] {
                let (m, k) = (40, 300);
                let x = input(&device, [k, m]).permute(&[1, 0]).unwrap();
                let weight = input(&device, [k, n]).cast(dtype).unwrap().permute(&[1, 0]).unwrap();
                let all = bits(x.linear(&weight, None).unwrap());
                for m in [1, 8, 16] {
                    let few = bits(x.slice(0, 3, 3 + m).unwrap().linear(&weight, None).unwrap());
                    assert_eq!(few, all[3 * n..(3 + m) * n], "{isa}, {dtype}, {m} of {n}");
                }
            }
        }
    }
}

#[test]
fn a_transpose_of_very_long_rows_good() {
    // So long that four megabytes hold none of them.
    let (m, n, k) = (2, 2, (1 << 21) + 2);
    for isa in Isa::available() {
        let device = device(isa, 2);
        let ones = |shape| Tensor::full(&device, shape, DType::BF16, 1.0).unwrap();
        let x = ones([k, m]).permute(&[1, 0]).unwrap();
        let found = x.linear(&ones([n, k]), None).unwrap().cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
        // A bf16 next to it.
        assert!(found.iter().all(|x| (x / k as f32 - 1.0).abs() < 0.005), "{isa}: {found:?}");
    }
}

#[test]
fn operands_may_begin_at_any_element_ugly() {
    let (m, n, k) = (300, 8, 64);
    let halves: Vec<bf16> = numbers(m * k, 5).into_iter().map(bf16::from_f32).collect();
    let aligned = Bytes::copy_from_slice(bytemuck::cast_slice(&halves));
    let mut bytes = vec![0; 2];
    bytes.extend_from_slice(&aligned);
    for isa in Isa::available() {
        let device = device(isa, 2);
        let weight = dense(&device, DType::BF16, [n, k]);
        let product = |bytes: Bytes| {
            let x = Tensor::from_bytes(&device, bytes, Spec::new([m, k], DType::BF16)).unwrap();
            x.linear(&weight, None).unwrap().cast(DType::F32).unwrap().to_vec::<f32>().unwrap()
        };
        // Of the two beginnings one is no multiple of four, wherever the bytes lie.
        let apart = Bytes::from(bytes.clone()).slice(2..);
        assert_eq!(product(apart), product(aligned.clone()), "{isa}");
    }
}

#[test]
fn what_was_multiplied_may_change_afterwards_ugly() {
    let device = device(Isa::best(), 2);
    let (m, n, k) = (300, 64, 64);
    let weight = dense(&device, DType::BF16, [n, k]);
    let first = input(&device, [m, k]);
    let once = first.linear(&weight, None).unwrap();
    // In place, for nobody else holds it.
    let twice = Tensor::apply(&Op::Binary(BinaryOp::Add), vec![first, input(&device, [m, k])]).unwrap();
    let twice = twice.linear(&weight, None).unwrap().to_vec::<f32>().unwrap();
    let doubled: Vec<f32> = once.to_vec::<f32>().unwrap().into_iter().map(|x| 2.0 * x).collect();
    assert_eq!(twice, doubled);
}

#[test]
fn a_bias_is_added_once_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        let (n, k) = (70, 256);
        let bias = Tensor::from_slice(&device, &numbers(n, 9), [n]).unwrap();
        for weight in [
            dense(&device, DType::BF16, [n, k]),
            quantised(&device, Quantization::Affine { bits: 4, group_size: 64 }, [n, k]),
        ] {
            let x = Tensor::full(&device, [3, k], DType::F32, 0.0).unwrap();
            let found = x.linear(&weight, Some(&bias)).unwrap().to_vec::<f32>().unwrap();
            assert_eq!(found, bias.to_vec::<f32>().unwrap().repeat(3), "{isa}");
        }
    }
}

#[test]
fn rows_taken_are_those_of_the_whole_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        let mut weights = vec![dense(&device, DType::BF16, [130, 256])];
        weights.extend(quantisations().into_iter().map(|quantization| quantised(&device, quantization, [130, 256])));
        let index = Tensor::from_slice(&device, &[129i32, 0, 64, 64, 63], [5]).unwrap();
        for weight in weights {
            let whole = weight.to_f32_vec().unwrap();
            let taken = weight.take_rows(&index).unwrap().to_f32_vec().unwrap();
            for (row, taken) in [129, 0, 64, 64, 63].into_iter().zip(taken.chunks(256)) {
                assert_eq!(taken, &whole[row * 256..][..256], "{isa}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_ugly() {
    for isa in Isa::available() {
        let device = device(isa, 1);
        for quantization in quantisations() {
            let weight = quantised(&device, quantization, [3, 512]);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![1.0; 2 * 512];
                values[700] = bad;
                let x = Tensor::from_slice(&device, &values, [2, 512]).unwrap();
                let found = x.linear(&weight, None).unwrap().to_vec::<f32>().unwrap();
                assert!(found[..3].iter().all(|x| x.is_finite()), "{isa}, {quantization}: the other row");
                assert!(found[3..].iter().all(|x| !x.is_finite()), "{isa}, {quantization}: {found:?}");
            }
        }
    }
}

#[test]
fn what_is_next_to_nothing_stays_so_ugly() {
    for isa in Isa::available() {
        let device = device(isa, 1);
        let weight = quantised(&device, Quantization::Blocks(BlockFormat::Q8_0), [3, 64]);
        let x = Tensor::full(&device, [2, 64], DType::F32, f64::from(f32::MIN_POSITIVE / 1024.0)).unwrap();
        let found = x.linear(&weight, None).unwrap().to_vec::<f32>().unwrap();
        assert!(found.iter().all(|x| x.abs() < 1e-30), "{isa}: {found:?}");
    }
}

#[test]
fn the_weight_that_was_read_next_may_be_gone_ugly() {
    let device = device(Isa::best(), 2);
    let q4_0 = Quantization::Blocks(BlockFormat::Q4_0);
    let (x, weight) = (input(&device, [1, 512]), quantised(&device, q4_0, [256, 512]));
    let product = || x.linear(&weight, None).unwrap().to_vec::<f32>().unwrap();
    let expected = product();
    for n in [256, 1 << 14, 64] {
        let next = quantised(&device, q4_0, [n, 512]);
        x.linear(&next, None).unwrap();
        drop(next);
        assert_eq!(product(), expected);
        device.clear_cache();
        assert_eq!(product(), expected);
    }
}

#[test]
fn empty_products_are_empty_ugly() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        let weight = quantised(&device, Quantization::Blocks(BlockFormat::Q4_0), [3, 64]);
        let none = input(&device, [0, 64]).linear(&weight, None).unwrap();
        assert_eq!(none.to_vec::<f32>().unwrap(), []);
        let narrow = quantised(&device, Quantization::Blocks(BlockFormat::Q4_0), [3, 0]);
        let zeros = input(&device, [2, 0]).linear(&narrow, None).unwrap();
        assert_eq!(zeros.to_vec::<f32>().unwrap(), [0.0; 6]);
        // Of several panels.
        let bias = numbers(200, 3);
        let narrow = quantised(&device, Quantization::Blocks(BlockFormat::Q8_0), [200, 0]);
        let given = Tensor::from_slice(&device, &bias, [200]).unwrap();
        for m in [2, 20] {
            let found = input(&device, [m, 0]).linear(&narrow, Some(&given)).unwrap();
            assert_eq!(found.to_vec::<f32>().unwrap(), bias.repeat(m), "{isa}, {m} rows");
        }
    }
}

#[test]
fn the_transpose_of_a_packed_weight_is_the_weights_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        for [n, k] in [[1, 5], [3, 1], [64, 64], [65, 130], [130, 67], [200, 33]] {
            let packed = dense(&device, DType::BF16, [n, k]);
            let plain = Tensor::from_slice(&device, &packed.to_f32_vec().unwrap(), [n, k]).unwrap();
            let (packed, plain) = (packed.permute(&[1, 0]).unwrap(), plain.cast(DType::BF16).unwrap());
            let plain = plain.permute(&[1, 0]).unwrap();
            let what = format!("{isa}: [{n}, {k}]");
            assert_eq!(packed.to_f32_vec().unwrap(), plain.to_f32_vec().unwrap(), "{what}");
            let x = input(&device, [7, n]);
            let products = [&packed, &plain].map(|weight| x.linear(weight, None).unwrap().to_vec::<f32>().unwrap());
            assert_eq!(products[0], products[1], "{what}");
            let back = packed.permute(&[1, 0]).unwrap();
            let rows = Tensor::from_slice(&device, &[n as i32 - 1, 0], [2]).unwrap();
            let wanted = plain.permute(&[1, 0]).unwrap().take_rows(&rows).unwrap().to_f32_vec().unwrap();
            assert_eq!(back.take_rows(&rows).unwrap().to_f32_vec().unwrap(), wanted, "{what}");
            let first = Tensor::from_slice(&device, &[k as i32 - 1], [1]).unwrap();
            let wanted = plain.take_rows(&first).unwrap().to_f32_vec().unwrap();
            assert_eq!(packed.take_rows(&first).unwrap().to_f32_vec().unwrap(), wanted, "{what}");
        }
    }
}
