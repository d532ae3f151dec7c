// SPDX-License-Identifier: EUPL-1.2
//! What the conformance suite does not ask: threads, errors in MLX's words, graphs that nobody reads.
#![cfg(feature = "mlx")]

use std::sync::Arc;
use std::thread;

use ingle_mlx::MlxDevice;
use ingle_tensor::{DType, DeviceHandle, Error, Invariance, PagedAttention, Quantization, Tensor};

fn device() -> DeviceHandle {
    Arc::new(MlxDevice::new().unwrap())
}

#[test]
fn it_says_what_it_is_good() {
    let device = device();
    assert!(["mlx", "metal"].contains(&device.name()));
    assert_eq!(device.name(), ingle_mlx::name());
    assert!(device.description().starts_with("MLX 0."), "{}", device.description());
    assert_eq!(device.invariance(), Invariance::Rounding);
}

#[test]
fn many_threads_share_a_device_good() {
    let device = device();
    let weight = Tensor::from_slice(&device, &[0.5f32; 64 * 64], [64, 64]).unwrap();
    thread::scope(|scope| {
        for seed in 0..6 {
            let (device, weight) = (device.clone(), &weight);
            scope.spawn(move || {
                for round in 0..30 {
                    let x = Tensor::full(&device, [3, 64], DType::F32, f64::from(seed + round)).unwrap();
                    let y = x.linear(weight, None).unwrap().add(&x.linear(weight, None).unwrap()).unwrap();
                    let expected = 64.0 * (seed + round) as f32;
                    assert!(y.to_vec::<f32>().unwrap().iter().all(|&y| y == expected));
                }
            });
        }
    });
}

#[test]
fn an_axis_past_32_bits_is_refused_bad() {
    let device = device();
    let refused = Tensor::full(&device, [1], DType::F32, 0.0).unwrap().broadcast([1 << 31]).unwrap_err();
    assert!(matches!(&refused, Error::Device { op: "broadcast", .. }), "{refused}");
    assert!(refused.to_string().contains("32 bits, found 2147483648"), "{refused}");
}

#[test]
fn indices_outside_are_named_bad() {
    let device = device();
    let table = Tensor::full(&device, [4, 2], DType::F32, 1.0).unwrap();
    let index = Tensor::from_slice(&device, &[1i32, 4], [2]).unwrap();
    assert_eq!(table.take_rows(&index).unwrap_err(), Error::Index { op: "take_rows", index: 4, len: 4 });
    // One that was computed is read first.
    let index = index.neg().unwrap();
    assert_eq!(table.take_rows(&index).unwrap_err(), Error::Index { op: "take_rows", index: -1, len: 4 });
}

#[test]
fn writes_that_nobody_reads_do_not_pile_up_ugly() {
    let device = device();
    let row = Tensor::full(&device, [1, 256], DType::F32, 1.0).unwrap();
    let mut cache = Tensor::full(&device, [2048, 256], DType::F32, 0.0).unwrap();
    for at in 0..2048 {
        cache = cache.write_rows(&row, &Tensor::from_slice(&device, &[at], [1]).unwrap()).unwrap();
    }
    assert_eq!(cache.to_vec::<f32>().unwrap(), vec![1.0; 2048 * 256]);
}

/// Decoding: sequences of very different lengths, alone and together, with and without a window.
#[test]
fn lengths_far_apart_attend_as_alone_good() {
    let device = device();
    let (width, block_size, blocks) = (16, 8, 96);
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 101) % 211) as f32 / 105.0 - 1.0).collect()
    };
    let cache = |seed| {
        let list = numbers(blocks * block_size * 2 * width, seed);
        Tensor::from_slice(&device, &list, [blocks * block_size, 2, width]).unwrap()
    };
    let (keys, values) = (cache(1), cache(2));
    let lengths = [1, 500, 7, 64, 480, 2];
    let columns = 63;
    let table: Vec<i32> = (0..lengths.len() * columns).map(|i| ((i * 29) % blocks) as i32).collect();
    let ints = |list: &[i32], shape: &[usize]| Tensor::from_slice(&device, list, shape).unwrap();
    for window in [None, Some(20)] {
        let parameters = PagedAttention { block_size, scale: 0.25, window, soft_cap: None };
        let attend = |sequences: &[usize]| -> Vec<f32> {
            let tokens = sequences.len();
            let q: Vec<f32> = sequences.iter().flat_map(|&s| numbers(4 * width, 10 + s)).collect();
            let q = Tensor::from_slice(&device, &q, [tokens, 4, width]).unwrap();
            let own: Vec<i32> = sequences.iter().map(|&s| s as i32).collect();
            let last: Vec<i32> = sequences.iter().map(|&s| lengths[s] - 1).collect();
            let blocks = ints(&table, &[lengths.len(), columns]);
            let places = [&blocks, &ints(&own, &[tokens]), &ints(&last, &[tokens])];
            q.paged_attention([&keys, &values], places, parameters).unwrap().to_vec().unwrap()
        };
        let together = attend(&[0, 1, 2, 3, 4, 5]);
        for (s, together) in together.chunks(4 * width).enumerate() {
            for (a, b) in attend(&[s]).iter().zip(together) {
                assert!((a - b).abs() < 1e-5, "sequence {s}: {a} alone, {b} together");
            }
        }
    }
}

/// A GPU may unpack a weight for many rows, and multiply a few with it packed.
#[test]
fn quantised_products_of_many_rows_are_those_of_few_good() {
    let device = device();
    let (rows, n, k) = (150, 64, 384);
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 101) % 211) as f32 / 105.0 - 1.0).collect()
    };
    let float = |shape: [usize; 2], seed, dtype| {
        let list = numbers(shape[0] * shape[1], seed);
        Tensor::from_slice(&device, &list, shape).unwrap().cast(dtype).unwrap()
    };
    for (bits, group_size) in [(2, 32), (3, 64), (4, 64), (5, 128), (6, 32), (8, 128)] {
        for dtype in DType::FLOATS {
            let words: Vec<u32> = (0..(n * k * bits / 32) as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
            let words = Tensor::from_slice(&device, &words, [n, k * bits / 32]).unwrap();
            let parts = vec![words, float([n, k / group_size], 1, dtype), float([n, k / group_size], 2, dtype)];
            let weight = Tensor::dequantize(parts, Quantization::Affine { bits, group_size }, dtype).unwrap();
            let bias = Tensor::from_slice(&device, &numbers(n, 4), [n]).unwrap().cast(dtype).unwrap();
            let x = float([rows, k], 3, dtype);
            for bias in [None, Some(&bias)] {
                let product = |start, end| -> Vec<f32> {
                    x.slice(0, start, end).unwrap().linear(&weight, bias).unwrap().to_f32_vec().unwrap()
                };
                let together = product(0, rows);
                let most = together.iter().fold(0f32, |most, x| most.max(x.abs()));
                let near = if dtype == DType::F32 { 1e-5 } else { 1e-2 };
                for start in (0..rows).step_by(5) {
                    for (a, b) in product(start, start + 5).iter().zip(&together[start * n..]) {
                        assert!((a - b).abs() <= near * most, "{bits} bits, {dtype}: {a} by few, {b} by many");
                    }
                }
            }
        }
    }
}
