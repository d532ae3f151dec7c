// SPDX-License-Identifier: EUPL-1.2
//! Tokeniser, chat templates, sampler, paged KV cache, scheduler: the one generation loop.

mod answer;
mod batch;
mod blocks;
mod engine;
mod error;
mod limits;
mod metrics;
mod options;
mod prefix;
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
pub use options::EngineOptions;
pub use request::{Event, FinishReason, Generate, Logprobs, Request, RequestId, Task, Token, Usage};
pub use sampler::Sampling;
pub use worker::{Canceller, EventStream, Worker};
