// SPDX-License-Identifier: EUPL-1.2
//! How fast the products of a training step are on this machine: a layer's own, and those of its gradients.
//! `cargo run --release -p ingle-cpu --example training`.

use std::sync::Arc;
use std::time::Instant;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Error, Tensor};

/// Inner length and outputs of a layer.
const SIZES: [[usize; 2]; 8] =
    [[256, 704], [512, 512], [512, 1408], [1408, 512], [512, 8192], [768, 768], [768, 2048], [768, 16384]];

const TOKENS: usize = 2048;

fn matrix(device: &DeviceHandle, [rows, columns]: [usize; 2], dtype: DType) -> Result<Tensor, Error> {
    let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    Tensor::from_slice(device, &values, [rows, columns])?.cast(dtype)
}

/// Billions of operations a second, of so many, by the fastest of several runs.
fn speed(operations: usize, run: impl Fn() -> Result<Tensor, Error>) -> Result<f64, Error> {
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(operations as f64 / best / 1e9)
}

fn main() -> Result<(), Error> {
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    println!("{}; GFLOP/s with {TOKENS} rows", device.description());
    println!("{:>6} {:>5} {:>5} {:>8} {:>8} {:>8}", "weight", "k", "n", "y", "dx", "dweight");
    for dtype in [DType::F32, DType::BF16] {
        for [k, n] in SIZES {
            let (x, g) = (matrix(&device, [TOKENS, k], DType::F32)?, matrix(&device, [TOKENS, n], DType::F32)?);
            // As they lie in a training.
            let weight = matrix(&device, [n, k], dtype)?.pack()?;
            let operations = 2 * TOKENS * k * n;
            let forward = speed(operations, || x.linear(&weight, None))?;
            let of_x = speed(operations, || g.linear(&weight.permute(&[1, 0])?, None))?;
            let of_weight =
                speed(operations, || g.permute(&[1, 0])?.linear(&x.cast(dtype)?.permute(&[1, 0])?, None)?.cast(dtype))?;
            println!("{:>6} {k:>5} {n:>5} {forward:>8.1} {of_x:>8.1} {of_weight:>8.1}", dtype.to_string());
        }
    }
    Ok(())
}
