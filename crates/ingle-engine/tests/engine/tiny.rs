// SPDX-License-Identifier: EUPL-1.2
//! A tiny model with real attention, so that a wrong key or value shows in its logits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_engine::{
    Engine, EngineOptions, Event, FinishReason, Generate, Next, Request, RequestId, Sampling, Task, Usage,
};
use ingle_models::{Model, Summary};
use ingle_nn::{AdapterId, Batch, CacheLayer, KvCache, Linear, Lora, Parameters, Visitor};
use ingle_tensor::{
    Activation, Bytes, DType, Device, DeviceHandle, Evaluation, Memory, Op, RopeLayout, Spec, Storage, Tensor,
};

pub const VOCAB: usize = 61;
pub const CONTEXT: usize = 256;
pub const WINDOW: usize = 24;
/// Adapters that the model has.
pub const ADAPTERS: u32 = 2;
/// A token whose embedding is NaN.
pub const POISON: u32 = 60;

const HIDDEN: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const MLP: usize = 48;
/// A window, everything, and a window again.
const WINDOWS: [Option<usize>; 3] = [Some(WINDOW), None, Some(WINDOW)];

/// A random decoder of three layers.
pub struct Tiny {
    summary: Summary,
    device: DeviceHandle,
    embedding: Tensor,
    head: Linear,
    ones: Tensor,
    frequencies: Tensor,
    layers: Vec<Layer>,
    calls: AtomicUsize,
    trouble: Trouble,
}

/// What goes wrong, and in which forward pass.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Never,
    Error(usize),
    Panic(usize),
}

struct Layer {
    window: Option<usize>,
    qkv: [Linear; 3],
    out: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
}

/// The CPU, on 2 threads.
pub fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(2), ..Default::default() }).expect("a CPU"))
}

impl Tiny {
    pub fn new(trouble: Trouble) -> Self {
        Tiny::on(cpu(), trouble)
    }

    pub fn on(device: DeviceHandle, trouble: Trouble) -> Self {
        let mut seed = 1;
        let mut weight = |rows: usize, columns: usize, scale: f32| {
            let values: Vec<f32> = (0..rows * columns).map(|_| scale * uniform(&mut seed)).collect();
            Tensor::from_slice(&device, &values, [rows, columns]).expect("a weight")
        };
        let mut embedding = weight(VOCAB, HIDDEN, 1.0).to_vec::<f32>().expect("numbers");
        embedding[POISON as usize * HIDDEN..].fill(f32::NAN);
        let embedding = Tensor::from_slice(&device, &embedding, [VOCAB, HIDDEN]).expect("a table");
        let mut head = Linear::from_weight(weight(VOCAB, HIDDEN, 2.0));
        let layer = |&window: &Option<usize>| Layer {
            window,
            qkv: [
                Linear::from_weight(weight(HEADS * HEAD_DIM, HIDDEN, 0.6)),
                Linear::from_weight(weight(KV_HEADS * HEAD_DIM, HIDDEN, 0.6)),
                Linear::from_weight(weight(KV_HEADS * HEAD_DIM, HIDDEN, 0.6)),
            ],
            out: weight(HIDDEN, HEADS * HEAD_DIM, 0.6),
            gate: weight(MLP, HIDDEN, 0.4),
            up: weight(MLP, HIDDEN, 0.4),
            down: weight(HIDDEN, MLP, 0.4),
        };
        let mut layers: Vec<Layer> = WINDOWS.iter().map(layer).collect();
        let adapted = layers.iter_mut().flat_map(|layer| &mut layer.qkv[1..]).chain([&mut head]);
        for linear in adapted {
            let [outputs, inputs] = linear.shape();
            for id in 0..ADAPTERS {
                let matrices = [weight(2, inputs, 0.5), weight(outputs, 2, 0.5)];
                linear.attach(AdapterId(id), Lora::new("layer", matrices, 1.0).expect("they fit")).expect("it fits");
            }
        }
        let frequencies: Vec<f32> = (0..HEAD_DIM / 2).map(|j| 1000f32.powf(-2.0 * j as f32 / 8.0)).collect();
        Tiny {
            summary: Summary {
                architecture: "tiny".into(),
                vocab_size: VOCAB,
                layers: WINDOWS.len(),
                hidden_size: HIDDEN,
                parameters: 0,
                weight_bytes: 0,
                dtype: DType::F32,
                quantisation: None,
                context_length: CONTEXT,
            },
            ones: Tensor::full(&device, [HIDDEN], DType::F32, 1.0).expect("ones"),
            frequencies: Tensor::from_slice(&device, &frequencies, [HEAD_DIM / 2]).expect("frequencies"),
            embedding,
            head,
            layers,
            device,
            calls: AtomicUsize::new(0),
            trouble,
        }
    }
}

/// A number in `[−1, 1)`, by a linear congruential generator (Knuth's MMIX).
fn uniform(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

impl Parameters for Tiny {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.weight("embedding", &mut self.embedding);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let mut scope = visitor.scope(&format!("layers.{index}"));
            layer.qkv.iter_mut().zip(["q", "k", "v"]).for_each(|(linear, name)| scope.linear(name, linear));
        }
        visitor.linear("head", &mut self.head);
    }
}

impl Model for Tiny {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn cache_layers(&self) -> Vec<CacheLayer> {
        let layer = |layer: &Layer| CacheLayer { kv_heads: KV_HEADS, head_dim: HEAD_DIM, window: layer.window };
        self.layers.iter().map(layer).collect()
    }

    fn forward(&self, batch: &Batch, cache: &mut KvCache) -> ingle_nn::Result<Tensor> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.trouble {
            Trouble::Error(at) if at == call => return Err(ingle_nn::Error::CacheLost { layer: 7 }),
            Trouble::Panic(at) if at == call => panic!("at the disco"),
            _ => {}
        }
        let tokens = batch.tokens.shape()[0];
        let norm = |x: &Tensor| x.rms_norm(&self.ones, 1e-6, 0.0);
        let mut x = self.embedding.take_rows(&batch.tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let h = norm(&x)?;
            let heads = |linear: &Linear| {
                let heads = linear.shape()[0] / HEAD_DIM;
                Ok::<_, ingle_nn::Error>(linear.forward(&h, &batch.routes)?.reshape([tokens, heads, HEAD_DIM])?)
            };
            let turned = |x: Tensor| x.rope(&batch.positions, &self.frequencies, RopeLayout::Halves);
            let [q, k, v] = &layer.qkv;
            let (q, k, v) = (turned(heads(q)?)?, turned(heads(k)?)?, heads(v)?);
            let attended = cache.attend(index, [&q, &k, &v], batch, 0.6, None)?;
            x = x.add(&attended.reshape([tokens, HEADS * HEAD_DIM])?.linear(&layer.out, None)?)?;
            let h = norm(&x)?;
            let gated = h.linear(&layer.gate, None)?.glu(&h.linear(&layer.up, None)?, Activation::Silu)?;
            x = x.add(&gated.linear(&layer.down, None)?)?;
        }
        self.head.forward(&norm(&x.take_rows(&batch.outputs)?)?, &batch.output_routes)
    }

    fn device(&self) -> &DeviceHandle {
        &self.device
    }
}

/// An engine of the tiny model, without text.
pub fn engine(options: EngineOptions) -> Engine {
    Engine::new(Box::new(Tiny::new(Trouble::Never)), None, options).expect("an engine")
}

/// [`engine`], on a device that computes while the next step is prepared.
pub fn queued_engine(options: EngineOptions, trouble: Trouble) -> Engine {
    let device: DeviceHandle = Arc::new(Queued(cpu()));
    Engine::new(Box::new(Tiny::on(device, trouble)), None, options).expect("an engine")
}

/// The CPU as a device that says it computes later: what is asked of the engine by one that does.
#[derive(Debug)]
struct Queued(DeviceHandle);

impl Device for Queued {
    fn name(&self) -> &'static str {
        "queued"
    }

    fn description(&self) -> String {
        self.0.description()
    }

    fn run(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> ingle_tensor::Result<Storage> {
        self.0.run(op, inputs, output)
    }

    fn upload(&self, bytes: Bytes, spec: &Spec) -> ingle_tensor::Result<Storage> {
        self.0.upload(bytes, spec)
    }

    fn download(&self, tensor: &Tensor) -> ingle_tensor::Result<Vec<u8>> {
        self.0.download(tensor)
    }

    fn evaluation(&self) -> Evaluation {
        Evaluation::Queued
    }

    fn activation_dtype(&self, weights: DType) -> DType {
        self.0.activation_dtype(weights)
    }

    fn memory(&self) -> Memory {
        self.0.memory()
    }

    fn reset_peak_memory(&self) {
        self.0.reset_peak_memory();
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        self.0.set_memory_limit(bytes);
    }

    fn set_cache_limit(&self, bytes: Option<usize>) {
        self.0.set_cache_limit(bytes);
    }

    fn clear_cache(&self) {
        self.0.clear_cache();
    }
}

/// A prompt of `length` tokens; prompts of different seeds differ.
pub fn prompt(seed: u64, length: usize) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) + 1;
    (0..length).map(|_| (uniform(&mut state).abs() * (VOCAB - 1) as f32) as u32).collect()
}

/// A request for so many tokens, none of them poison, at a temperature where the draw matters.
pub fn generate(prompt: Vec<u32>, max_tokens: usize, seed: u64) -> Request {
    let logit_bias = vec![(POISON, f32::NEG_INFINITY)];
    let sampling = Sampling { temperature: 0.8, logit_bias, seed, ..Default::default() };
    Request {
        prompt,
        task: Task::Generate(Generate { max_tokens: Some(max_tokens), sampling, ..Default::default() }),
        adapter: None,
        deadline: None,
    }
}

pub fn logits(prompt: Vec<u32>, from: usize) -> Request {
    Request { prompt, task: Task::Logits { from }, adapter: None, deadline: None }
}

/// A request for so many of the likeliest tokens.
pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let task = Task::Generate(Generate { max_tokens: Some(max_tokens), ..Default::default() });
    Request { prompt, task, adapter: None, deadline: None }
}

pub fn next(prompt: Vec<u32>, next: Next) -> Request {
    Request { prompt, task: Task::Next(next), adapter: None, deadline: None }
}

pub fn score(prompt: Vec<u32>, from: usize) -> Request {
    Request { prompt, task: Task::Score { from }, adapter: None, deadline: None }
}

/// All that one request gave.
#[derive(Debug, Default)]
pub struct Outcome {
    pub tokens: Vec<u32>,
    pub text: String,
    /// The bits of the rows, so that equal means equal.
    pub rows: Vec<Vec<u32>>,
    pub scores: Vec<u32>,
    pub finished: Option<(FinishReason, Usage)>,
    pub failed: Option<String>,
}

impl Outcome {
    pub fn take(&mut self, event: Event) {
        assert!(self.finished.is_none() && self.failed.is_none(), "an event after the last: {event:?}");
        let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        match event {
            Event::Token { token, .. } => {
                self.tokens.push(token.id);
                self.text += &token.text;
            }
            Event::Logits { row, .. } => self.rows.push(bits(&row)),
            Event::Scores { logprobs, .. } => self.scores = bits(&logprobs),
            Event::Next { logprobs, .. } => {
                let (tokens, logprobs): (Vec<u32>, Vec<f32>) = logprobs.into_iter().unzip();
                (self.tokens, self.scores) = (tokens, bits(&logprobs));
            }
            Event::Finished { reason, usage, .. } => self.finished = Some((reason, usage)),
            Event::Failed { error, .. } => self.failed = Some(error.to_string()),
        }
    }

    pub fn reason(&self) -> Option<FinishReason> {
        self.finished.map(|(reason, _)| reason)
    }

    pub fn usage(&self) -> Usage {
        self.finished.expect("it finished").1
    }
}

/// Steps until all is done; what each of `ids` gave.
pub fn finish(engine: &mut Engine, ids: &[RequestId]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = ids.iter().map(|_| Outcome::default()).collect();
    let mut events = Vec::new();
    for _ in 0..100_000 {
        if engine.is_idle() {
            return outcomes;
        }
        engine.step(&mut events).expect("a step");
        for event in events.drain(..) {
            if let Some(index) = ids.iter().position(|&id| id == event.id()) {
                outcomes[index].take(event);
            }
        }
    }
    panic!("the engine never became idle: {engine:?}");
}

/// What each of the requests gives when all are submitted at once.
pub fn run(engine: &mut Engine, requests: Vec<Request>) -> Vec<Outcome> {
    let ids: Vec<RequestId> = requests.into_iter().map(|request| engine.submit(request).expect("valid")).collect();
    finish(engine, &ids)
}

/// What a request gives in an engine of its own.
pub fn alone(request: Request) -> Outcome {
    alone_with(EngineOptions::default(), request)
}

/// [`alone`], in an engine set up so.
pub fn alone_with(options: EngineOptions, request: Request) -> Outcome {
    run(&mut engine(options), vec![request]).remove(0)
}
