// SPDX-License-Identifier: EUPL-1.2
//! How fast attention and its gradient are on this machine: `cargo run --release -p ingle-cpu --example attention_grad`.

use std::sync::Arc;
use std::time::Instant;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Error, Op, PagedAttention, Tensor};

const BLOCK_SIZE: usize = 32;

/// Heads of the queries, of the cache, and their width.
const HEADS: [[usize; 3]; 3] = [[4, 1, 64], [8, 8, 64], [16, 8, 128]];

/// Sequences, the tokens of each, and the window.
const BATCHES: [(usize, usize, Option<usize>); 5] =
    [(170, 12, None), (16, 128, None), (2, 1024, Some(128)), (2, 1024, None), (1, 4096, None)];

/// The median of some runs, in seconds.
fn median(run: impl Fn() -> Result<Tensor, Error>) -> Result<f64, Error> {
    let mut all = vec![];
    let begun = Instant::now();
    while all.len() < 3 || begun.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        drop(run()?);
        all.push(start.elapsed().as_secs_f64());
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

fn main() -> Result<(), Error> {
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    println!("{}", device.description());
    println!("{:>5} {:>9} {:>14} {:>10} {:>10} {:>9}", "dtype", "heads", "batch", "forward ms", "grad ms", "GFLOP/s");
    let numbers = |shape: [usize; 3], seed: usize| {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0;
        Tensor::from_slice(&device, &(0..shape.iter().product()).map(number).collect::<Vec<_>>(), shape)
    };
    let list = |values: Vec<usize>| {
        let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
        Tensor::from_slice(&device, &values, [values.len()])
    };
    for dtype in [DType::F32, DType::BF16] {
        for [heads, kv_heads, width] in HEADS {
            for (sequences, length, window) in BATCHES {
                let blocks = length.div_ceil(BLOCK_SIZE);
                let slots = sequences * blocks * BLOCK_SIZE;
                let tokens = || (0..sequences).flat_map(|s| (0..length).map(move |p| (s, p)));
                let mut inputs = vec![
                    numbers([sequences * length, heads, width], 0)?,
                    numbers([slots, kv_heads, width], 1)?.cast(dtype)?,
                    numbers([slots, kv_heads, width], 2)?.cast(dtype)?,
                    list((0..sequences * blocks).collect())?.reshape([sequences, blocks])?,
                    list(tokens().map(|(s, _)| s).collect())?,
                    list(tokens().map(|(_, p)| p).collect())?,
                ];
                let scale = 1.0 / (width as f32).sqrt();
                let attention = PagedAttention { block_size: BLOCK_SIZE, scale, window, soft_cap: None };
                let forward = median(|| Tensor::apply(&Op::PagedAttention(attention), inputs.clone()))?;
                inputs.push(numbers([sequences * length, heads, width], 3)?);
                let backward = median(|| Tensor::apply(&Op::PagedAttentionGrad(attention), inputs.clone()))?;
                let attended = |(_, p): (usize, usize)| (p + 1).min(window.unwrap_or(usize::MAX));
                let flops = 10 * heads * width * tokens().map(attended).sum::<usize>();
                println!(
                    "{dtype:>5} {:>9} {:>14} {:>10.3} {:>10.3} {:>9.1}",
                    format!("{heads}x{kv_heads}x{width}"),
                    format!("{sequences}x{length}{}", window.map_or(String::new(), |window| format!(" in {window}"))),
                    forward * 1e3,
                    backward * 1e3,
                    flops as f64 / backward / 1e9,
                );
            }
        }
    }
    Ok(())
}
