// SPDX-License-Identifier: EUPL-1.2
//! How fast `Linear` is on this machine, beside a plain read of the same bytes:
//! `cargo run --release -p ingle-cpu --example linear [format…]`.

use std::sync::Arc;
use std::time::Instant;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{BlockFormat, DType, DeviceHandle, Error, Op, Quantization, Tensor};

/// Inner length and outputs.
const SIZES: [(usize, usize); 4] = [(1024, 1024), (1024, 3072), (3072, 1024), (1024, 65_536)];

/// How a weight is stored.
#[derive(Clone, Copy)]
enum Format {
    Dense(DType),
    Quantised(Quantization),
}

impl Format {
    fn name(self) -> String {
        match self {
            Format::Dense(dtype) => dtype.to_string(),
            Format::Quantised(Quantization::Affine { bits, group_size }) => format!("affine-{bits}-{group_size}"),
            Format::Quantised(quantization) => quantization.to_string(),
        }
    }

    fn all() -> Vec<Format> {
        let mut all = DType::FLOATS.map(Format::Dense).to_vec();
        all.extend([4, 8].map(|bits| Format::Quantised(Quantization::Affine { bits, group_size: 64 })));
        all.extend(BlockFormat::ALL.map(|format| Format::Quantised(Quantization::Blocks(format))));
        all
    }

    /// A weight of arbitrary content, and the bytes it takes.
    fn weight(self, device: &DeviceHandle, [n, k]: [usize; 2], seed: usize) -> Result<(Tensor, usize), Error> {
        let bytes = |count: usize| -> Vec<u8> {
            (0..count).map(|i| ((i * 31 + seed * 77 + (i >> 7) * 13) % 57) as u8).collect()
        };
        match self {
            Format::Dense(dtype) => {
                let values: Vec<f32> =
                    (0..n * k).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect();
                let weight = Tensor::from_slice(device, &values, [n, k])?.cast(dtype)?;
                Ok((weight.pack()?, n * k * dtype.size()))
            }
            Format::Quantised(quantization) => {
                let row = quantization.row_bytes(k).unwrap_or(0);
                let inputs = match quantization {
                    Quantization::Affine { group_size, .. } => {
                        let words: Vec<u32> = bytemuck_words(&bytes(n * row));
                        let groups = n * k / group_size;
                        let scales = Tensor::full(device, [n, k / group_size], DType::BF16, 0.01)?;
                        vec![
                            (Tensor::from_slice(device, &words, [n, row / 4])?, n * row + 4 * groups),
                            (scales.clone(), 0),
                            (scales, 0),
                        ]
                    }
                    Quantization::Blocks(_) => {
                        vec![(Tensor::from_slice(device, &bytes(n * row), [n, row])?, n * row)]
                    }
                };
                let size = inputs.iter().map(|(_, size)| size).sum();
                let inputs = inputs.into_iter().map(|(tensor, _)| tensor).collect();
                Ok((Tensor::apply(&Op::Dequantize { quantization, dtype: DType::F32 }, inputs)?, size))
            }
        }
    }
}

fn bytemuck_words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
}

/// Bytes a second that all cores together read from memory.
fn bandwidth() -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let data: Vec<u64> = (0..(512 << 20) / 8).collect();
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                // Wide enough to keep many loads under way.
                let sum = |part: &[u64]| {
                    let mut lanes = [0u64; 32];
                    for part in part.chunks_exact(32) {
                        for (lane, x) in lanes.iter_mut().zip(part) {
                            *lane |= x;
                        }
                    }
                    lanes
                };
                scope.spawn(move || std::hint::black_box(sum(part)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    (data.len() * 8) as f64 / best
}

fn main() -> Result<(), Error> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    println!("{}", device.description());
    println!("plain read: {:.1} GB/s", bandwidth() / 1e9);
    println!("{:>12} {:>5} {:>5} {:>6} {:>10} {:>10}", "format", "m", "k", "n", "GFLOP/s", "GB/s");
    for format in Format::all() {
        if !wanted.is_empty() && !wanted.contains(&format.name()) {
            continue;
        }
        for (k, n) in SIZES {
            // As many weights as a cache does not hold, as in a model.
            let (first, size) = format.weight(&device, [n, k], 0)?;
            let count = (256 << 20) / size + 1;
            let mut weights = vec![first];
            for i in 1..count {
                weights.push(format.weight(&device, [n, k], i)?.0);
            }
            for m in [1, 8, 64, 512] {
                let values: Vec<f32> = (0..m * k).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
                let x = Tensor::from_slice(&device, &values, [m, k])?;
                let mut best = f64::INFINITY;
                let runs = (40_000_000_000 / (2 * m * n * k)).clamp(1, 2 * count);
                for _ in 0..3 {
                    let start = Instant::now();
                    for run in 0..runs {
                        x.linear(&weights[run % count], None)?;
                    }
                    best = best.min(start.elapsed().as_secs_f64() / runs as f64);
                }
                let flops = (2 * m * n * k) as f64 / best / 1e9;
                let bytes = size as f64 / best / 1e9;
                println!("{:>12} {m:>5} {k:>5} {n:>6} {flops:>10.1} {bytes:>10.1}", format.name());
            }
        }
    }
    Ok(())
}
