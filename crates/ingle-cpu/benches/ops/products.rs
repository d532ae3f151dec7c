// SPDX-License-Identifier: EUPL-1.2
//! Products of matrices, dense and quantised.

use criterion::{BenchmarkId, Criterion};
use ingle_tensor::{BlockFormat, DType, DeviceHandle, Quantization, Tensor};

use super::measure::{Time, bytes, device, flops, numbers, run};

/// How a weight is stored.
#[derive(Clone, Copy)]
enum Format {
    Dense(DType),
    Quantised(Quantization),
}

impl Format {
    fn all() -> Vec<Format> {
        let affine = [4, 8].map(|bits| Format::Quantised(Quantization::Affine { bits, group_size: 64 }));
        let blocks = [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4K, BlockFormat::Q6K];
        let blocks = blocks.map(|format| Format::Quantised(Quantization::Blocks(format)));
        let dense = [DType::F32, DType::BF16].map(Format::Dense);
        dense.into_iter().chain(affine).chain(blocks).collect()
    }

    fn name(self) -> String {
        match self {
            Format::Dense(dtype) => dtype.to_string(),
            Format::Quantised(Quantization::Affine { bits, group_size }) => format!("affine-{bits}-{group_size}"),
            Format::Quantised(quantization) => quantization.to_string(),
        }
    }

    /// Bytes of `n` rows of `k` weights, scales and offsets included.
    fn bytes(self, n: usize, k: usize) -> usize {
        match self {
            Format::Dense(dtype) => n * k * dtype.size(),
            Format::Quantised(quantization) => {
                let beside = match quantization {
                    Quantization::Affine { group_size, .. } => 2 * DType::BF16.size() * (k / group_size),
                    Quantization::Blocks(_) => 0,
                };
                n * (quantization.row_bytes(k).expect("whole blocks") + beside)
            }
        }
    }

    /// A weight `[n, k]` as models hold it.
    fn weight(self, device: &DeviceHandle, n: usize, k: usize) -> Tensor {
        let quantization = match self {
            Format::Dense(dtype) => return numbers(device, [n, k], dtype).pack().expect("a packed weight"),
            Format::Quantised(quantization) => quantization,
        };
        let row = quantization.row_bytes(k).expect("whole blocks");
        // Any bits are quants, and these are no scale that is infinite.
        let stored: Vec<u8> = (0..n * row).map(|i| ((i * 31 + (i >> 7) * 13) % 57) as u8).collect();
        let inputs = match quantization {
            Quantization::Affine { group_size, .. } => {
                let word = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                let words: Vec<u32> = stored.chunks_exact(4).map(word).collect();
                let scales = Tensor::full(device, [n, k / group_size], DType::BF16, 0.01).expect("scales");
                vec![Tensor::from_slice(device, &words, [n, row / 4]).expect("a weight"), scales.clone(), scales]
            }
            Quantization::Blocks(_) => vec![Tensor::from_slice(device, &stored, [n, row]).expect("blocks")],
        };
        let weight = Tensor::dequantize(inputs, quantization, DType::BF16).expect("a quantised weight");
        weight.pack().expect("a packed weight")
    }
}

pub fn bench(criterion: &mut Criterion<Time>) {
    let device = device();
    let mut group = criterion.benchmark_group("matmul");
    for dtype in [DType::F32, DType::BF16] {
        for size in [128, 256, 512, 1024, 2048, 4096] {
            let (a, b) = (numbers(&device, [size, size], dtype), numbers(&device, [size, size], dtype));
            group.sample_size(if size > 1024 { 10 } else { 20 });
            group.throughput(flops(2 * size * size * size));
            group.bench_function(BenchmarkId::new(dtype.name(), size), |timer| run(timer, || a.matmul(&b)));
        }
    }
    // The head of a small model: one row of 2048 features, 32,000 outputs.
    let (a, b) = (numbers(&device, [1, 2048], DType::F32), numbers(&device, [2048, 32_000], DType::F32));
    group.throughput(bytes(2048 * 32_000 * 4));
    group.bench_function(BenchmarkId::new("f32", "1x2048 to 32000"), |timer| run(timer, || a.matmul(&b)));
    group.finish();

    let mut group = criterion.benchmark_group("linear");
    for format in Format::all() {
        let weight = format.weight(&device, 32_000, 2048);
        let x = numbers(&device, [1, 2048], DType::F32);
        group.throughput(bytes(format.bytes(32_000, 2048)));
        group.bench_function(BenchmarkId::new("1x2048 to 32000", format.name()), |timer| {
            run(timer, || x.linear(&weight, None))
        });
        for rows in [8, 512] {
            let (n, k) = (4096, 2048);
            let weight = format.weight(&device, n, k);
            let x = numbers(&device, [rows, k], DType::F32);
            group.throughput(flops(2 * rows * n * k));
            group.bench_function(BenchmarkId::new(format!("{rows}x2048 to 4096"), format.name()), |timer| {
                run(timer, || x.linear(&weight, None))
            });
        }
    }
    group.finish();
}
