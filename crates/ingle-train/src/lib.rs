// SPDX-License-Identifier: EUPL-1.2
//! Training and fine-tuning of language models: optimisers, data, the trainer, and records of what it does.
//!
//! From files to a model that has learnt, in the order things happen:
//!
//! - [`data`] are examples: lines of JSON or a text. A [`data::Loader`] encodes them ahead of the step and packs them
//!   into batches without padding.
//! - [`Trainer`] runs the model's own forward pass over a batch, differentiates the mean cross-entropy of the tokens that
//!   are to be predicted, and lets an [`Optimizer`] move all weights, or those of an adapter, by a [`Schedule`].
//! - An [`Observer`] hears of each [`Event`] and may stop the training; those in [`record`] keep logs and draw.
//! - A checkpoint holds all that is needed to go on: a training that was killed and resumed gives the same losses, bit
//!   for bit, as one that was not.
//!
//! [`train_tokenizer`] makes a tokeniser for a model that is trained from nothing. [`cross_entropy`] and
//! [`mean_squared_error`] are for trainings of one's own, as is [`Parameter`].
//!
//! ```
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! use ingle_cpu::{CpuDevice, CpuOptions};
//! use ingle_models::{CreateOptions, create};
//! use ingle_nn::ModelFiles;
//! use ingle_tensor::DeviceHandle;
//! use ingle_train::data::{Example, Examples};
//! use ingle_train::{Event, Result, Schedule, TrainOptions, Trained, Trainer, Until};
//!
//! /// Counting: after token `n` comes `n + 1`.
//! struct Counting;
//!
//! impl Examples for Counting {
//!     fn count(&self, _epoch: u64) -> usize {
//!         30
//!     }
//!
//!     fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
//!         Ok(Example::learnt((0..8).map(|i| (index as u32 + i) % 32).collect()))
//!     }
//! }
//!
//! const CONFIG: &[u8] = br#"{
//!     "model_type": "llama", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64,
//!     "num_hidden_layers": 1, "num_attention_heads": 2, "tie_word_embeddings": true
//! }"#;
//! let files = ModelFiles::Embedded { name: "new", files: &[("config.json", CONFIG)] };
//! let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
//! let model = create(&files, &device, &CreateOptions::default())?;
//!
//! let options = TrainOptions {
//!     schedule: Schedule::constant(1e-2),
//!     batch_tokens: 64,
//!     max_length: 64,
//!     until: Until::Steps(60),
//!     ..TrainOptions::default()
//! };
//! let mut losses = Vec::new();
//! Trainer::new(model, Trained::Weights, Arc::new(Counting), options)?.run(&mut |event: &Event| {
//!     if let Event::Step(step) = event {
//!         losses.push(step.loss);
//!     }
//!     Ok(ControlFlow::Continue(()))
//! })?;
//! assert!(losses[59] < 0.1 * losses[0], "{losses:?}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
pub mod data;
mod error;
mod event;
mod learner;
mod loss;
mod optimizer;
mod options;
pub mod record;
mod schedule;
mod state;
mod tokenizer;
mod trainer;

pub use error::{Error, Result};
pub use event::{Beginning, Event, Observer, Step, Validation};
pub use loss::{cross_entropy, mean_squared_error};
pub use optimizer::{AdamOptions, Lookahead, Optimizer, Parameter, SgdOptions};
pub use options::{Recompute, TrainOptions, Trained, Until};
pub use schedule::{Decay, Schedule};
pub use tokenizer::{TokenizerFiles, TokenizerOptions, train_tokenizer};
pub use trainer::{Ending, Outcome, Trainer};
