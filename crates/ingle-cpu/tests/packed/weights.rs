// SPDX-License-Identifier: EUPL-1.2
//! Devices, and weights and rows of arbitrary content.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions, Isa};
use ingle_tensor::{BlockFormat, DType, DeviceHandle, Quantization, Tensor};

pub fn device(isa: Isa, threads: usize) -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).unwrap())
}

/// Numbers from 0 to 2³² that differ for each seed.
pub fn words(count: usize, seed: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        })
        .collect()
}

/// Numbers between −1 and 1.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    words(count, seed).into_iter().map(|word| word as f32 / (1u32 << 31) as f32 - 1.0).collect()
}

pub fn quantisations() -> Vec<Quantization> {
    let affine = Quantization::AFFINE_BITS
        .into_iter()
        .flat_map(|bits| Quantization::AFFINE_GROUPS.map(|group_size| Quantization::Affine { bits, group_size }));
    affine.chain(BlockFormat::ALL.map(Quantization::Blocks)).collect()
}

/// A quantised weight of arbitrary content.
pub fn quantised(device: &DeviceHandle, quantization: Quantization, shape: [usize; 2]) -> Tensor {
    another(device, quantization, shape, 0)
}

/// The same with other content for each seed.
pub fn another(device: &DeviceHandle, quantization: Quantization, [n, k]: [usize; 2], seed: u32) -> Tensor {
    let words = |count, own: u32| words(count, seed + own);
    let numbers = |count, own: u32| numbers(count, seed + own);
    let row = quantization.row_bytes(k).unwrap();
    let inputs = match quantization {
        Quantization::Affine { group_size, bits } => {
            let packed = Tensor::from_slice(device, &words(n * row / 4, 1), [n, row / 4]).unwrap();
            let groups = [n, k / group_size];
            let scale = |seed, factor: f32| {
                let values: Vec<f32> = numbers(groups[0] * groups[1], seed).iter().map(|x| x * factor).collect();
                // One dtype for each number of bits, so that all occur.
                let dtype = DType::FLOATS[bits % 3];
                Tensor::from_slice(device, &values, groups).unwrap().cast(dtype).unwrap()
            };
            vec![packed, scale(2, 0.1), scale(3, 0.5)]
        }
        Quantization::Blocks(_) => {
            // Bytes below 60, so that an f16 made of any two is of the order of 1.
            let bytes: Vec<u8> = words(n * row, 1).into_iter().map(|word| ((word >> 8) % 60) as u8).collect();
            vec![Tensor::from_slice(device, &bytes, [n, row]).unwrap()]
        }
    };
    Tensor::dequantize(inputs, quantization, DType::F32).unwrap()
}

pub fn dense(device: &DeviceHandle, dtype: DType, shape: [usize; 2]) -> Tensor {
    of(device, &numbers(shape[0] * shape[1], 4), dtype, shape)
}

pub fn of(device: &DeviceHandle, numbers: &[f32], dtype: DType, shape: [usize; 2]) -> Tensor {
    Tensor::from_slice(device, numbers, shape).unwrap().cast(dtype).unwrap().pack().unwrap()
}

pub fn input(device: &DeviceHandle, [m, k]: [usize; 2]) -> Tensor {
    Tensor::from_slice(device, &numbers(m * k, 5), [m, k]).unwrap()
}
