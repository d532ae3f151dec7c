// SPDX-License-Identifier: EUPL-1.2
//! How fast tokens are chosen: `cargo bench -p ingle-engine --bench sampler`.
//!
//! A step of an engine whose model costs nothing: reading back the logits, the sampler, and what the engine itself
//! does for each step. Rates are GB/s of logits.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_engine::{Engine, EngineOptions, Generate, Request, Sampling, Task};
use ingle_models::{Model, Summary};
use ingle_nn::{Batch, CacheLayer, KvCache, Parameters, Visitor};
use ingle_tensor::{DType, DeviceHandle, Tensor};

/// A model that always says the same.
struct Constant {
    summary: Summary,
    device: DeviceHandle,
    logits: Tensor,
}

impl Constant {
    fn new(vocab_size: usize) -> Self {
        let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).expect("a CPU"));
        // As language models have it: the likeliest token is far above the mean, and few come near it.
        let rank = |id: usize| (id * 104_729 + 17) % vocab_size;
        let logits: Vec<f32> = (0..vocab_size).map(|id| -1.5 * ((1 + rank(id)) as f32).ln()).collect();
        Constant {
            summary: Summary {
                architecture: "constant".into(),
                vocab_size,
                layers: 0,
                hidden_size: 1,
                parameters: vocab_size,
                weight_bytes: 4 * vocab_size,
                dtype: DType::F32,
                quantisation: None,
                context_length: 4096,
            },
            logits: Tensor::from_slice(&device, &logits, [1, vocab_size]).expect("logits"),
            device,
        }
    }
}

impl Parameters for Constant {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.weight("logits", &mut self.logits);
    }
}

impl Model for Constant {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn cache_layers(&self) -> Vec<CacheLayer> {
        Vec::new()
    }

    fn forward(&self, _batch: &Batch, _cache: &mut KvCache) -> ingle_nn::Result<Tensor> {
        Ok(self.logits.clone())
    }

    fn device(&self) -> &DeviceHandle {
        &self.device
    }
}

/// An engine that answers one request without end.
fn answering(vocab_size: usize, sampling: Sampling) -> Engine {
    let mut engine =
        Engine::new(Box::new(Constant::new(vocab_size)), None, EngineOptions::default()).expect("an engine");
    let options = Generate { max_tokens: Some(usize::MAX), sampling, ..Generate::default() };
    let prompt = (0..16).collect();
    engine.submit(Request { prompt, task: Task::Generate(options), adapter: None, deadline: None }).expect("a request");
    engine
}

fn bench(criterion: &mut Criterion) {
    let warm = Sampling { temperature: 0.8, seed: 7, ..Sampling::default() };
    let ways = [
        ("greedy", Sampling::default()),
        ("temperature", warm.clone()),
        ("top-k 40", Sampling { top_k: 40, ..warm.clone() }),
        ("top-p 0.95", Sampling { top_p: 0.95, ..warm.clone() }),
        ("min-p 0.05", Sampling { min_p: 0.05, ..warm.clone() }),
        (
            "full chain",
            Sampling {
                top_k: 40,
                top_p: 0.95,
                min_p: 0.05,
                repetition_penalty: 1.1,
                presence_penalty: 0.1,
                frequency_penalty: 0.1,
                logit_bias: vec![(3, -1.0)],
                ..warm
            },
        ),
    ];
    let mut group = criterion.benchmark_group("sampler");
    for vocab_size in [32_000, 262_144] {
        group.throughput(Throughput::BytesDecimal(4 * vocab_size as u64));
        for (name, sampling) in &ways {
            let mut engine = answering(vocab_size, sampling.clone());
            let mut events = Vec::new();
            group.bench_function(BenchmarkId::new(*name, vocab_size), |timer| {
                timer.iter(|| {
                    events.clear();
                    engine.step(&mut events).expect("a step");
                });
            });
            assert!(!engine.is_idle(), "the request went on to the end");
        }
    }
    group.finish();
}

criterion_group!(
    name = benches;
    config = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = bench
);
criterion_main!(benches);
