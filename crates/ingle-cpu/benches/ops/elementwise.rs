// SPDX-License-Identifier: EUPL-1.2
//! Element by element, over a million.

use criterion::{BenchmarkId, Criterion};
use ingle_tensor::{Activation, DType};

use super::measure::{Time, bytes, device, numbers, run};

const COUNT: usize = 1 << 20;

pub fn bench(criterion: &mut Criterion<Time>) {
    let device = device();
    let mut group = criterion.benchmark_group("elementwise");
    for dtype in [DType::F32, DType::BF16] {
        let (a, b) = (numbers(&device, [COUNT], dtype), numbers(&device, [COUNT], dtype));
        group.throughput(bytes(3 * COUNT * dtype.size()));
        group.bench_function(BenchmarkId::new("add", dtype), |timer| run(timer, || a.add(&b)));
        group.bench_function(BenchmarkId::new("mul", dtype), |timer| run(timer, || a.mul(&b)));
        group.bench_function(BenchmarkId::new("silu-glu", dtype), |timer| run(timer, || a.glu(&b, Activation::Silu)));
        group.throughput(bytes(2 * COUNT * dtype.size()));
        group.bench_function(BenchmarkId::new("silu", dtype), |timer| run(timer, || a.activate(Activation::Silu)));
    }
    group.finish();
}
