// SPDX-License-Identifier: EUPL-1.2
//! How fast `Linear` is on this machine: `cargo run --release -p ingle-cpu --example linear`.

use std::sync::Arc;
use std::time::Instant;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Error, Tensor};

fn main() -> Result<(), Error> {
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    println!("{}", device.description());
    println!("{:>5} {:>5} {:>5} {:>5} {:>10} {:>10}", "dtype", "m", "k", "n", "GFLOP/s", "GB/s");
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (k, n) in [(1024, 1024), (1024, 4096), (2048, 2048), (4096, 4096)] {
            // As many weights as a cache does not hold, as in a model.
            let count = (256 << 20) / (n * k * dtype.size());
            let weights: Vec<Tensor> =
                (0..count).map(|i| weight(&device, [n, k], i, dtype)).collect::<Result<_, _>>()?;
            for m in [1, 4, 16, 64, 512] {
                let x = weight(&device, [m, k], 7, DType::F32)?;
                let mut best = f64::INFINITY;
                let runs = (20_000_000_000 / (2 * m * n * k)).clamp(1, 200);
                for _ in 0..3 {
                    let start = Instant::now();
                    for run in 0..runs {
                        x.linear(&weights[run % count], None)?;
                    }
                    best = best.min(start.elapsed().as_secs_f64() / runs as f64);
                }
                let flops = (2 * m * n * k) as f64 / best / 1e9;
                let bytes = (n * k * dtype.size()) as f64 / best / 1e9;
                println!("{dtype:>5} {m:>5} {k:>5} {n:>5} {flops:>10.1} {bytes:>10.1}");
            }
        }
    }
    Ok(())
}

fn weight(device: &DeviceHandle, shape: [usize; 2], seed: usize, dtype: DType) -> Result<Tensor, Error> {
    let values: Vec<f32> =
        (0..shape[0] * shape[1]).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect();
    Tensor::from_slice(device, &values, shape)?.cast(dtype)
}
