// SPDX-License-Identifier: EUPL-1.2
//! Tokeniser, chat templates, sampler, paged KV cache, scheduler: the one generation loop.
//!
//! An [`Engine`] owns a model and works on many requests at once. [`Engine::step`] picks the sequences that
//! run next, new prompts in chunks beside those that decode, computes them in one forward pass, samples, and
//! says what happened. [`Worker`] puts an engine on a thread of its own, for many callers. [`text`] is what
//! stands on both sides: text to token ids, and token ids to text.
//!
//! Three promises:
//!
//! - The same request gives the same answer: whatever runs beside it, however its prompt is chunked, whether
//!   its prefix was cached, whether it had to make room and begin again. Draws depend on the request's seed
//!   and on how many tokens came before.
//! - Memory is bounded. Sequences with equal prefixes share their keys and values; what a sliding window has
//!   left is given back; a context length is a window over the whole model.
//! - A failure is the failure of a request: of those that a failed forward pass computed, or of the one whose
//!   logits are not numbers. The others go on.
//!
//! ```
//! use ingle_engine::{Engine, EngineOptions, Event, Generate, Request, Task};
//! # use std::sync::Arc;
//! # use ingle_cpu::{CpuDevice, CpuOptions};
//! # use ingle_models::{Model, Summary};
//! # use ingle_nn::{Batch, CacheLayer, KvCache, Parameters, Visitor};
//! # use ingle_tensor::{DType, DeviceHandle, Tensor};
//! # /// Counts: after token `n` comes `n + 1`.
//! # struct Counting { summary: Summary, device: DeviceHandle, table: Tensor }
//! # impl Counting {
//! #     fn new() -> Result<Self, ingle_tensor::Error> {
//! #         let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
//! #         let rows: Vec<f32> = (0..64).map(|i| f32::from(u8::from(i % 8 == (i / 8 + 1) % 8))).collect();
//! #         let table = Tensor::from_slice(&device, &rows, [8, 8])?;
//! #         let summary = Summary {
//! #             architecture: "counting".into(), vocab_size: 8, layers: 0, hidden_size: 8, parameters: 64,
//! #             weight_bytes: 256, dtype: DType::F32, quantisation: None, context_length: 32,
//! #         };
//! #         Ok(Counting { summary, device, table })
//! #     }
//! # }
//! # impl Parameters for Counting {
//! #     fn visit(&mut self, visitor: &mut Visitor<'_>) { visitor.weight("table", &mut self.table) }
//! # }
//! # impl Model for Counting {
//! #     fn summary(&self) -> &Summary { &self.summary }
//! #     fn cache_layers(&self) -> Vec<CacheLayer> { Vec::new() }
//! #     fn device(&self) -> &DeviceHandle { &self.device }
//! #     fn forward(&self, batch: &Batch, _: &mut KvCache) -> ingle_nn::Result<Tensor> {
//! #         Ok(self.table.take_rows(&batch.tokens.take_rows(&batch.outputs)?)?)
//! #     }
//! # }
//! # let model = Counting::new()?;
//! let mut engine = Engine::new(Box::new(model), None, EngineOptions::default())?;
//! let options = Generate { max_tokens: Some(3), ..Default::default() };
//! let id = engine.submit(Request { prompt: vec![1, 2], task: Task::Generate(options), adapter: None, deadline: None })?;
//!
//! let (mut events, mut answer) = (Vec::new(), Vec::new());
//! while !engine.is_idle() {
//!     engine.step(&mut events)?;
//!     for event in events.drain(..) {
//!         assert_eq!(event.id(), id);
//!         if let Event::Token { token, .. } = event {
//!             answer.push(token.id);
//!         }
//!     }
//! }
//! assert_eq!(answer, [3, 4, 5]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod batch;
mod blocks;
mod engine;
mod error;
mod limits;
mod metrics;
mod options;
mod prefix;
mod readout;
mod request;
mod sampler;
mod scheduler;
mod sequence;
pub mod text;
mod worker;

pub use engine::Engine;
pub use error::{Error, Result};
pub use limits::Limits;
pub use metrics::Metrics;
pub use options::{EngineOptions, MAX_SEQUENCES};
pub use request::{Event, FinishReason, Generate, Logprobs, Next, Request, RequestId, Task, Token, Usage};
pub use sampler::Sampling;
pub use worker::{Canceller, EventStream, Worker};
