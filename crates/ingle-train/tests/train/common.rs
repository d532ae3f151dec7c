// SPDX-License-Identifier: EUPL-1.2
//! Small models, and texts to learn.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_models::{LoadOptions, Model, load};
use ingle_nn::{Adapter, AdapterId, LoraConfig, ModelFiles, Visitor};
use ingle_tensor::{DType, DeviceHandle, Tensor};
use ingle_train::data::{Example, Examples, Order};
use ingle_train::{
    AdamOptions, Decay, Event, Observer, Optimizer, Result, Schedule, TrainOptions, Trained, Trainer, Until,
};

pub fn fixtures(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(path)
}

pub fn model(name: &str, dtype: DType) -> Box<dyn Model> {
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).unwrap());
    let files = ModelFiles::directory(fixtures("models").join(name)).unwrap();
    load(&files, &device, &LoadOptions { dtype: Some(dtype) }, &mut |_| {}).unwrap()
}

fn noise(i: usize, t: usize) -> usize {
    (i * 7919 + t * 104_729) % 10_007
}

/// The texts of `scripts/fixtures/make_training.py`, three to a step.
pub struct Texts {
    pub vocab_size: usize,
    pub steps: usize,
}

impl Examples for Texts {
    fn count(&self, _epoch: u64) -> usize {
        3 * self.steps
    }

    fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
        let (step, number) = (index / 3, index % 3);
        let mut tokens = vec![noise(number, step) % self.vocab_size];
        for i in 1..[11, 40, 5][number] {
            let jump = if noise(i, step + 50 * number).is_multiple_of(5) { 17 } else { 3 };
            tokens.push((tokens[i - 1] * 2 + jump) % self.vocab_size);
        }
        Ok(Example::learnt(tokens.into_iter().map(|token| token as u32).collect()))
    }
}

/// The options of `scripts/fixtures/make_training.py`: three texts make a batch, and no four do.
pub fn options(steps: u64) -> TrainOptions {
    TrainOptions {
        optimizer: Optimizer::AdamW(AdamOptions { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.1 }),
        schedule: Schedule { peak: 5e-3, warmup: 0.1, decay: Decay::Cosine, floor: 0.0 },
        clip_norm: Some(1.0),
        batch_tokens: 55,
        max_length: 40,
        order: Order::Sequential,
        until: Until::Steps(steps),
        ..TrainOptions::default()
    }
}

/// Remembers the losses of a training, and stops it after some step.
#[derive(Default)]
pub struct Losses {
    pub training: Vec<f32>,
    pub validation: Vec<f32>,
    pub stop_after: Option<u64>,
}

impl Observer for Losses {
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>> {
        match event {
            Event::Step(step) => {
                self.training.push(step.loss);
                if self.stop_after == Some(step.step) {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Event::Validated(validation) => self.validation.push(validation.loss),
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A training of all weights on those texts.
pub fn trainer(name: &str, dtype: DType, options: TrainOptions) -> Trainer {
    begin(model(name, dtype), Trained::Weights, options)
}

/// The adapter of [`lora_trainer`].
pub const LORA: AdapterId = AdapterId(3);

/// A training of LoRA on queries and values, begun as in `scripts/fixtures/make_training.py`.
pub fn lora_trainer(name: &str, dtype: DType, options: TrainOptions, dropout: f64) -> Trainer {
    let mut model = model(name, dtype);
    let (id, device) = (LORA, model.device().clone());
    let config = LoraConfig { dropout, ..LoraConfig::default() };
    Adapter::create(&mut *model, &device, &config, 1).unwrap().attach(&mut *model, id).unwrap();
    let mut number = 0;
    model.visit(&mut Visitor::adapter(id, &mut |name, weight| {
        if name.ends_with("lora_A.weight") {
            let value = |i| (noise(i, 31 * number) as f32 / 10_007.0 - 0.5) / 2.0;
            let values: Vec<f32> = (0..weight.shape().elements()).map(value).collect();
            *weight = Tensor::from_slice(&device, &values, weight.shape()).unwrap();
            number += 1;
        }
    }));
    begin(model, Trained::Adapter(id), options)
}

fn begin(model: Box<dyn Model>, trained: Trained, options: TrainOptions) -> Trainer {
    let vocab_size = model.summary().vocab_size;
    Trainer::new(model, trained, Arc::new(Texts { vocab_size, steps: 50 }), options).unwrap()
}

pub fn bits(losses: &[f32]) -> Vec<u32> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}
