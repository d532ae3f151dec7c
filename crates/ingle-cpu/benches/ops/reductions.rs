// SPDX-License-Identifier: EUPL-1.2
//! Sums, maxima, and where they are.

use criterion::{BenchmarkId, Criterion};
use ingle_tensor::DType;

use super::measure::{Time, bytes, device, numbers, run};

pub fn bench(criterion: &mut Criterion<Time>) {
    let device = device();
    let mut group = criterion.benchmark_group("reductions");
    for shape in [[1, 1 << 20], [512, 2048]] {
        let x = numbers(&device, shape, DType::F32);
        let shown = format!("{}x{}", shape[0], shape[1]);
        group.throughput(bytes(shape[0] * shape[1] * 4));
        group.bench_function(BenchmarkId::new("sum along rows", &shown), |timer| run(timer, || x.sum_axis(1)));
        group.bench_function(BenchmarkId::new("sum along columns", &shown), |timer| run(timer, || x.sum_axis(0)));
        group.bench_function(BenchmarkId::new("max along rows", &shown), |timer| run(timer, || x.max_axis(1)));
    }
    for vocabulary in [32_000, 262_144] {
        let logits = numbers(&device, [1, vocabulary], DType::F32);
        group.throughput(bytes(vocabulary * 4));
        group.bench_function(BenchmarkId::new("argmax", vocabulary), |timer| run(timer, || logits.argmax(1)));
    }
    group.finish();
}
