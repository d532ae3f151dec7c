// SPDX-License-Identifier: EUPL-1.2
//! What works on rows: softmax, norms, rotary positions, embeddings.

use criterion::{BenchmarkId, Criterion};
use ingle_tensor::{DType, RopeLayout};

use super::measure::{Time, bytes, device, numbers, run, scattered};

/// Tokens, and features of each.
const TOKENS: usize = 512;
const FEATURES: usize = 2048;

pub fn bench(criterion: &mut Criterion<Time>) {
    let device = device();
    let mut group = criterion.benchmark_group("softmax");
    for length in [1 << 10, 4 << 10, 32 << 10, 128 << 10] {
        let x = numbers(&device, [1, length], DType::F32);
        group.throughput(bytes(2 * length * 4));
        group.bench_function(BenchmarkId::new("f32", length), |timer| run(timer, || x.softmax()));
    }
    group.finish();

    let mut group = criterion.benchmark_group("norms");
    for dtype in [DType::F32, DType::BF16] {
        for tokens in [1, TOKENS] {
            let x = numbers(&device, [tokens, FEATURES], dtype);
            let (weight, bias) = (numbers(&device, [FEATURES], dtype), numbers(&device, [FEATURES], dtype));
            let shown = format!("{dtype}, {tokens}x{FEATURES}");
            group.throughput(bytes(2 * tokens * FEATURES * dtype.size()));
            group.bench_function(BenchmarkId::new("rms_norm", &shown), |timer| {
                run(timer, || x.rms_norm(&weight, 1e-6, 0.0))
            });
            group.bench_function(BenchmarkId::new("layer_norm", &shown), |timer| {
                run(timer, || x.layer_norm(&weight, &bias, 1e-6))
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("rope");
    for dtype in [DType::F32, DType::BF16] {
        let (heads, width) = (32, 64);
        let x = numbers(&device, [TOKENS, heads, width], dtype);
        let positions = scattered(&device, TOKENS, 4096);
        let frequencies = numbers(&device, [width / 2], DType::F32);
        group.throughput(bytes(2 * TOKENS * heads * width * dtype.size()));
        group.bench_function(BenchmarkId::new(dtype.name(), "512x32x64"), |timer| {
            run(timer, || x.rope(&positions, &frequencies, RopeLayout::Halves))
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("embedding");
    for dtype in [DType::F32, DType::BF16] {
        let table = numbers(&device, [32_000, FEATURES], dtype);
        for tokens in [1, TOKENS] {
            let index = scattered(&device, tokens, 32_000);
            group.throughput(bytes(2 * tokens * FEATURES * dtype.size()));
            group.bench_function(BenchmarkId::new(dtype.name(), format!("{tokens} of 32000x{FEATURES}")), |timer| {
                run(timer, || table.take_rows(&index))
            });
        }
    }
    group.finish();
}
