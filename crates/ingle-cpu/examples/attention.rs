// SPDX-License-Identifier: EUPL-1.2
//! How fast attention is on this machine, beside a plain read of the same bytes:
//! `cargo run --release -p ingle-cpu --example attention [dtype…] [heads…] [batch…]`, as the table names them.

use std::sync::Arc;
use std::time::Instant;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Error, PagedAttention, Tensor};

const BLOCK_SIZE: usize = 16;

/// Heads of the queries, of the cache, and their width: Qwen3-0.6B, Llama-3.2-1B, Gemma3-1B.
const HEADS: [[usize; 3]; 3] = [[16, 8, 128], [32, 8, 64], [4, 1, 256]];

/// Sequences, what each has cached, and how many of it, the last ones, ask.
const BATCHES: [[usize; 3]; 8] =
    [[1, 64, 1], [1, 512, 1], [1, 4096, 1], [8, 512, 1], [8, 4096, 1], [1, 128, 128], [1, 512, 512], [256, 16, 16]];

const DTYPES: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::I8];

/// Bytes of a row of a cache, which behind integers has their scale.
fn row_bytes(dtype: DType, width: usize) -> usize {
    match dtype {
        DType::I8 => width + size_of::<f32>(),
        _ => width * dtype.size(),
    }
}

fn name(sizes: [usize; 3]) -> String {
    sizes.map(|count| count.to_string()).join("x")
}

/// Bytes of caches: as many layers as no cache of the machine holds.
const CACHES: usize = 256 << 20;

/// What is read for comparison.
struct Plain(Vec<u64>);

impl Plain {
    /// Bytes a second that all cores together read from memory.
    fn bandwidth(&self) -> f64 {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for part in self.0.chunks(self.0.len().div_ceil(threads)) {
                scope.spawn(move || std::hint::black_box(part.iter().fold(0u64, |sum, x| sum.wrapping_add(*x))));
            }
        });
        (self.0.len() * 8) as f64 / start.elapsed().as_secs_f64()
    }
}

/// A batch over several layers' caches, whose blocks lie in order.
struct Layers {
    q: Tensor,
    caches: Vec<[Tensor; 2]>,
    tables: [Tensor; 3],
    parameters: PagedAttention,
}

impl Layers {
    fn new(
        device: &DeviceHandle,
        dtype: DType,
        [heads, kv_heads, width]: [usize; 3],
        [sequences, context, asked]: [usize; 3],
    ) -> Result<Layers, Error> {
        let numbers = |shape: &[usize], seed: usize| {
            let count = shape.iter().product();
            let values: Vec<f32> =
                (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 500.0 - 1.0).collect();
            Tensor::from_slice(device, &values, shape)
        };
        let list = |values: Vec<usize>| {
            let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
            Tensor::from_slice(device, &values, [values.len()])
        };
        let blocks = context.div_ceil(BLOCK_SIZE);
        let shape = [sequences * blocks * BLOCK_SIZE, kv_heads, width];
        let bytes = 2 * shape[0] * kv_heads * row_bytes(dtype, width);
        let cache = |seed| match dtype {
            DType::I8 => numbers(&shape, seed)?.quantize_rows(),
            _ => numbers(&shape, seed)?.cast(dtype),
        };
        let mut caches = vec![[cache(0)?, cache(1)?]];
        while caches.len() * bytes < CACHES {
            // The same numbers elsewhere in memory.
            let copy = |cache: &Tensor| Tensor::concat(&[cache.slice(0, 0, 1)?, cache.slice(0, 1, shape[0])?], 0);
            let [keys, values] = &caches[0];
            caches.push([copy(keys)?, copy(values)?]);
        }
        let tokens = || (0..sequences).flat_map(|s| (context - asked..context).map(move |p| (s, p)));
        Ok(Layers {
            q: numbers(&[sequences * asked, heads, width], 2)?,
            caches,
            tables: [
                list((0..sequences * blocks).collect())?.reshape([sequences, blocks])?,
                list(tokens().map(|(s, _)| s).collect())?,
                list(tokens().map(|(_, p)| p).collect())?,
            ],
            parameters: PagedAttention {
                block_size: BLOCK_SIZE,
                scale: 1.0 / (width as f32).sqrt(),
                window: None,
                soft_cap: None,
            },
        })
    }

    /// Seconds that one layer takes, and bytes a second of a plain read in between: the medians of several runs.
    fn time(&self, plain: &Plain) -> Result<[f64; 2], Error> {
        let [blocks, sequences, positions] = &self.tables;
        let (mut own, mut read) = (vec![], vec![]);
        let begun = Instant::now();
        while own.len() < 5 || begun.elapsed().as_secs_f64() < 0.7 {
            let start = Instant::now();
            for [keys, values] in &self.caches {
                self.q.paged_attention([keys, values], [blocks, sequences, positions], self.parameters)?;
            }
            own.push(start.elapsed().as_secs_f64() / self.caches.len() as f64);
            read.push(plain.bandwidth());
        }
        Ok([own, read].map(|mut list| {
            list.sort_by(f64::total_cmp);
            list[list.len() / 2]
        }))
    }
}

fn main() -> Result<(), Error> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    println!("{}", device.description());
    let plain = Plain((0..(CACHES / 8) as u64).collect());
    println!(
        "{:>5} {:>9} {:>9} {:>10} {:>8} {:>8} {:>10}",
        "dtype", "heads", "batch", "µs", "GB/s", "of read", "GFLOP/s"
    );
    // All of a kind, if none of it is named.
    let is_wanted = |name: &str, all: &[String]| {
        wanted.iter().any(|wanted| wanted == name) || !wanted.iter().any(|wanted| all.contains(wanted))
    };
    for dtype in DTYPES {
        if !is_wanted(dtype.name(), &DTYPES.map(|dtype| dtype.name().to_owned())) {
            continue;
        }
        for heads in HEADS {
            let [q_heads, kv_heads, width] = heads;
            if !is_wanted(&name(heads), &HEADS.map(name)) {
                continue;
            }
            for batch in BATCHES {
                if !is_wanted(&name(batch), &BATCHES.map(name)) {
                    continue;
                }
                let [seconds, read] = Layers::new(&device, dtype, heads, batch)?.time(&plain)?;
                let [sequences, context, asked] = batch;
                let bytes = (2 * sequences * context * kv_heads * row_bytes(dtype, width)) as f64;
                let pairs: usize = (context - asked..context).map(|p| p + 1).sum();
                let flops = (4 * sequences * pairs * q_heads * width) as f64;
                println!(
                    "{dtype:>5} {:>9} {:>9} {:>10.1} {:>8.1} {:>8.2} {:>10.1}",
                    name(heads),
                    name(batch),
                    seconds * 1e6,
                    bytes / seconds / 1e9,
                    bytes / seconds / read,
                    flops / seconds / 1e9,
                );
            }
        }
    }
    Ok(())
}
