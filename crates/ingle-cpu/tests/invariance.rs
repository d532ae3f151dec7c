// SPDX-License-Identifier: EUPL-1.2
//! The same request gives the same bits: alone and in a batch, whole and in chunks, on one thread and on many.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions, Isa};
use ingle_tensor::{DType, DeviceHandle, PagedAttention, Tensor};

const THREADS: [usize; 3] = [1, 2, 3];

fn device(isa: Isa, threads: usize) -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).unwrap())
}

/// Numbers between −1 and 1 that differ for each seed.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / (1u32 << 31) as f32 - 1.0
        })
        .collect()
}

fn tensor(device: &DeviceHandle, shape: &[usize], seed: u32, dtype: DType) -> Tensor {
    let values = numbers(shape.iter().product(), seed);
    Tensor::from_slice(device, &values, shape).unwrap().cast(dtype).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_f32_vec().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn linear_rows_are_the_same_alone_and_together_good() {
    // Lengths around the widths of vectors, blocks and pairs; a number of outputs with a rest.
    for (k, n) in [(1, 5), (31, 4), (64, 9), (100, 130)] {
        for isa in Isa::available() {
            for dtype in DType::FLOATS {
                let alone = device(isa, 1);
                let (weight, bias) = (tensor(&alone, &[n, k], 1, dtype), tensor(&alone, &[n], 2, dtype));
                let x = tensor(&alone, &[40, k], 3, DType::F32);
                let rows: Vec<Vec<u32>> = (0..40)
                    .map(|row| bits(&x.slice(0, row, row + 1).unwrap().linear(&weight, Some(&bias)).unwrap()))
                    .collect();
                for threads in THREADS {
                    let device = device(isa, threads);
                    let (weight, bias) = (tensor(&device, &[n, k], 1, dtype), tensor(&device, &[n], 2, dtype));
                    let x = tensor(&device, &[40, k], 3, DType::F32);
                    for m in 1..=40 {
                        let together = bits(&x.slice(0, 0, m).unwrap().linear(&weight, Some(&bias)).unwrap());
                        assert_eq!(together, rows[..m].concat(), "{isa}, {threads} threads, {dtype}[{n}, {k}], m {m}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_is_the_same_however_its_first_operand_lies_ugly() {
    // So long that its rows are turned in pieces, the last of them a few rows.
    let (m, k, n) = (519, 8200, 40);
    for isa in Isa::available() {
        let device = device(isa, 2);
        let (a, b) = (tensor(&device, &[k, m], 1, DType::BF16), tensor(&device, &[k, n], 2, DType::BF16));
        let across = a.permute(&[1, 0]).unwrap();
        let rows =
            Tensor::from_slice(&device, &across.to_f32_vec().unwrap(), [m, k]).unwrap().cast(DType::BF16).unwrap();
        assert_eq!(bits(&across.matmul(&b).unwrap()), bits(&rows.matmul(&b).unwrap()), "{isa}");
    }
}

#[test]
fn linear_is_near_the_exact_product_good() {
    for isa in Isa::available() {
        for dtype in DType::FLOATS {
            for (m, k, n) in [(1, 7, 3), (13, 257, 11), (3, 2048, 5), (97, 64, 70)] {
                let device = device(isa, 2);
                let weight = tensor(&device, &[n, k], 1, dtype);
                // Rounded to the weight's dtype, as the matrix instructions may.
                let x = tensor(&device, &[m, k], 2, dtype).cast(DType::F32).unwrap();
                let found = x.linear(&weight, None).unwrap().to_vec::<f32>().unwrap();
                let (x, weight) = (x.to_f32_vec().unwrap(), weight.to_f32_vec().unwrap());
                for (i, found) in found.into_iter().enumerate() {
                    let pairs = x[i / n * k..].iter().zip(&weight[i % n * k..][..k]);
                    let terms = pairs.map(|(x, w)| f64::from(*x) * f64::from(*w));
                    let (exact, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + f64::abs(t)));
                    let bound = size * (k as f64).sqrt() * 2f64.powi(-22) + 1e-30;
                    assert!((f64::from(found) - exact).abs() <= bound, "{isa} {dtype}: {found} for {exact}");
                }
            }
        }
    }
}

/// Sequences in a paged cache, their blocks interleaved.
struct Cache {
    keys: Tensor,
    values: Tensor,
    blocks: Tensor,
}

const BLOCK_SIZE: usize = 16;
const LENGTHS: [usize; 3] = [600, 37, 290];
const HEADS: [usize; 2] = [4, 2];

impl Cache {
    fn new(device: &DeviceHandle, width: usize, dtype: DType) -> Cache {
        let per_sequence = LENGTHS[0].div_ceil(BLOCK_SIZE);
        let shape = [LENGTHS.len() * per_sequence * BLOCK_SIZE, HEADS[1], width];
        let blocks: Vec<i32> =
            (0..LENGTHS.len()).flat_map(|s| (0..per_sequence).map(move |b| (b * LENGTHS.len() + s) as i32)).collect();
        Cache {
            keys: tensor(device, &shape, 11, dtype),
            values: tensor(device, &shape, 12, dtype),
            blocks: Tensor::from_slice(device, &blocks, [LENGTHS.len(), per_sequence]).unwrap(),
        }
    }

    /// Attention of tokens given as (sequence, position), each with a query of its own.
    fn attend(&self, tokens: &[(usize, usize)], parameters: PagedAttention) -> Vec<Vec<u32>> {
        let device = self.keys.device();
        let width = self.keys.shape()[2];
        let query = |&(s, p): &(usize, usize)| numbers(HEADS[0] * width, (s * 1000 + p) as u32);
        let q: Vec<f32> = tokens.iter().flat_map(query).collect();
        let column = |values: Vec<i32>| Tensor::from_slice(device, &values, [tokens.len()]).unwrap();
        let sequences = column(tokens.iter().map(|t| t.0 as i32).collect());
        let positions = column(tokens.iter().map(|t| t.1 as i32).collect());
        let q = Tensor::from_slice(device, &q, [tokens.len(), HEADS[0], width]).unwrap();
        let table = [&self.blocks, &sequences, &positions];
        let result = q.paged_attention([&self.keys, &self.values], table, parameters).unwrap();
        bits(&result).chunks(HEADS[0] * width).map(<[u32]>::to_vec).collect()
    }
}

#[test]
fn attention_is_the_same_alone_in_chunks_and_in_a_batch_good() {
    let settings = [(None, None), (Some(50), None), (Some(300), Some(20.0))];
    for isa in Isa::available() {
        for (width, dtype) in [(64, DType::F32), (36, DType::BF16), (96, DType::BF16), (128, DType::F16)] {
            for (window, soft_cap) in settings {
                let parameters = PagedAttention { block_size: BLOCK_SIZE, scale: 0.3, window, soft_cap };
                let whole: Vec<(usize, usize)> =
                    LENGTHS.iter().enumerate().flat_map(|(s, &len)| (0..len).map(move |p| (s, p))).collect();
                let one = Cache::new(&device(isa, 1), width, dtype);
                let wanted = one.attend(&whole, parameters);
                let same = |tokens: &[(usize, usize)], found: Vec<Vec<u32>>, what: &str| {
                    for (token, found) in tokens.iter().zip(found) {
                        let place = whole.iter().position(|t| t == token).unwrap();
                        assert!(found == wanted[place], "{isa}, {dtype}, {parameters:?}: {token:?} differs {what}");
                    }
                };
                for threads in THREADS {
                    let cache = Cache::new(&device(isa, threads), width, dtype);
                    same(&whole, cache.attend(&whole, parameters), "on more threads");
                    for size in [1, 7, 64, 200] {
                        let tokens: Vec<(usize, usize)> = (0..size).map(|i| (0, LENGTHS[0] - size + i)).collect();
                        same(&tokens, cache.attend(&tokens, parameters), "in a chunk");
                    }
                    let mixed: Vec<(usize, usize)> = [(1, 36), (0, 599), (2, 3), (2, 4), (2, 5), (0, 12)].into();
                    same(&mixed, cache.attend(&mixed, parameters), "among others");
                }
            }
        }
    }
}

#[test]
fn values_that_a_token_may_not_see_do_not_touch_it_ugly() {
    let parameters = PagedAttention { block_size: BLOCK_SIZE, scale: 0.3, window: Some(40), soft_cap: None };
    for isa in Isa::available() {
        for (width, dtype) in [(64, DType::F32), (64, DType::BF16), (36, DType::BF16)] {
            let device = device(isa, 2);
            let clean = Cache::new(&device, width, dtype);
            // Position 105 lies in block 6 of sequence 0, which is block 18 of the cache.
            let slot = Tensor::from_slice(&device, &[18 * 16 + 9i32], [1]).unwrap();
            let poison = Tensor::full(&device, [1, HEADS[1], width], dtype, f64::NAN).unwrap();
            let poisoned = Cache { values: clean.values.clone().write_rows(&poison, &slot).unwrap(), ..clean };
            let clean = Cache::new(&device, width, dtype);
            // Many rows together, and a few.
            for positions in [100..110, 103..107, 130..150, 143..147, 145..146] {
                let tokens: Vec<(usize, usize)> = positions.map(|p| (0, p)).collect();
                let (found, wanted) = (poisoned.attend(&tokens, parameters), clean.attend(&tokens, parameters));
                for ((_, position), (found, wanted)) in tokens.iter().zip(found.iter().zip(wanted)) {
                    let sees = (105..145).contains(position);
                    assert_eq!(*found == wanted, !sees, "{isa}, {dtype}: position {position} of {tokens:?}");
                }
            }
        }
    }
}

#[test]
fn where_blocks_end_changes_no_bit_ugly() {
    const SLOTS: usize = 480;
    for isa in Isa::available() {
        for dtype in [DType::F32, DType::BF16] {
            let device = device(isa, 2);
            let shape = [SLOTS, HEADS[1], 64];
            let (keys, values) = (tensor(&device, &shape, 11, dtype), tensor(&device, &shape, 12, dtype));
            let attend = |block_size: usize, positions: std::ops::Range<usize>| {
                let blocks: Vec<i32> = (0..(SLOTS / block_size) as i32).collect();
                let blocks = Tensor::from_slice(&device, &blocks, [1, blocks.len()]).unwrap();
                let sequences = Tensor::from_slice(&device, &vec![0i32; positions.len()], [positions.len()]).unwrap();
                let numbers: Vec<i32> = positions.clone().map(|p| p as i32).collect();
                let numbers = Tensor::from_slice(&device, &numbers, [positions.len()]).unwrap();
                let q = tensor(&device, &[SLOTS, HEADS[0], 64], 13, DType::F32);
                let q = q.slice(0, positions.start, positions.end).unwrap();
                let parameters = PagedAttention { block_size, scale: 0.3, window: Some(300), soft_cap: None };
                bits(&q.paged_attention([&keys, &values], [&blocks, &sequences, &numbers], parameters).unwrap())
            };
            // Many rows together, and a few, whose windows begin and end anywhere.
            for positions in [0..SLOTS, 203..205, 349..350, 411..415] {
                let wanted = attend(16, positions.clone());
                for block_size in [10, 48] {
                    assert!(
                        attend(block_size, positions.clone()) == wanted,
                        "{isa}, {dtype}: {block_size}, {positions:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn rows_of_other_operations_are_the_same_alone_and_together_good() {
    for isa in Isa::available() {
        let (one, many) = (device(isa, 1), device(isa, 3));
        let build = |device: &DeviceHandle, rows: usize| {
            let x = tensor(device, &[300, 77], 5, DType::F32).slice(0, 0, rows).unwrap();
            let weight = tensor(device, &[77], 6, DType::F32);
            let other = tensor(device, &[77, 40], 7, DType::F32);
            [
                x.softmax().unwrap(),
                x.rms_norm(&weight, 1e-6, 1.0).unwrap(),
                x.layer_norm(&weight, &weight, 1e-6).unwrap(),
                x.sum_axis(1).unwrap(),
                x.matmul(&other).unwrap(),
            ]
        };
        for (alone, together) in build(&one, 1).iter().zip(build(&many, 300)) {
            assert_eq!(bits(alone), bits(&together)[..alone.shape().elements()], "{isa}");
        }
    }
}
