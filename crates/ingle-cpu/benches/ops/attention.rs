// SPDX-License-Identifier: EUPL-1.2
//! Attention over a paged cache, with the heads of Qwen3-0.6B.

use criterion::{BenchmarkId, Criterion};
use ingle_tensor::{DType, DeviceHandle, PagedAttention, Tensor};

use super::measure::{Time, bytes, device, flops, numbers, run};

const HEADS: usize = 16;
const KV_HEADS: usize = 8;
const WIDTH: usize = 128;
const BLOCK: usize = 16;
/// Positions of the longest context.
const LONGEST: usize = 4096;

/// The last `queries` tokens of a sequence of `length`.
struct Sequence {
    queries: Tensor,
    cache: [Tensor; 2],
    table: [Tensor; 3],
}

impl Sequence {
    fn new(device: &DeviceHandle, cache: DType, queries: usize, length: usize) -> Self {
        let index = |numbers: Vec<i32>, shape: &[usize]| Tensor::from_slice(device, &numbers, shape).expect("an index");
        let blocks = length.div_ceil(BLOCK);
        // Blocks lie scattered, as they do after some requests.
        let scattered = (0..blocks).map(|block| ((block * 7 + 3) % blocks) as i32).collect();
        let kv = || {
            let rows = numbers(device, [blocks * BLOCK, KV_HEADS, WIDTH], DType::BF16);
            if cache == DType::I8 { rows.quantize_rows().expect("rows") } else { rows }
        };
        Sequence {
            queries: numbers(device, [queries, HEADS, WIDTH], DType::F32),
            cache: [kv(), kv()],
            table: [
                index(scattered, &[1, blocks]),
                index(vec![0; queries], &[queries]),
                index((length - queries..length).map(|position| position as i32).collect(), &[queries]),
            ],
        }
    }

    fn attend(&self) -> ingle_tensor::Result<Tensor> {
        let scale = 1.0 / (WIDTH as f32).sqrt();
        let parameters = PagedAttention { block_size: BLOCK, scale, window: None, soft_cap: None };
        self.queries.paged_attention(self.cache.each_ref(), self.table.each_ref(), parameters)
    }
}

pub fn bench(criterion: &mut Criterion<Time>) {
    let device = device();
    let mut group = criterion.benchmark_group("attention");
    let lengths = [(1, 512), (1, LONGEST), (32, 512), (32, LONGEST), (512, 512), (512, LONGEST)];
    let caches = [DType::BF16, DType::I8];
    for (cache, (queries, length)) in caches.into_iter().flat_map(|cache| lengths.map(|pair| (cache, pair))) {
        let sequence = Sequence::new(&device, cache, queries, length);
        // One query reads all keys and values for little arithmetic; many share what they read.
        group.throughput(match queries {
            1 => bytes(sequence.cache.iter().map(|cache| cache.spec().bytes()).sum()),
            _ => {
                let seen: usize = (length - queries + 1..=length).sum();
                flops(4 * HEADS * WIDTH * seen)
            }
        });
        let id = BenchmarkId::new(format!("{queries} queries"), format!("{length} positions in {cache}"));
        group.bench_function(id, |timer| run(timer, || sequence.attend()));
    }
    group.finish();
}
