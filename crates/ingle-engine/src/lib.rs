// SPDX-License-Identifier: EUPL-1.2
//! Tokeniser, chat templates, sampler, paged KV cache, scheduler: the one generation loop.

mod error;
mod request;
mod sampler;

pub use error::{Error, Result};
pub use request::{Event, FinishReason, Generate, Logprobs, Request, RequestId, Task, Token, Usage};
pub use sampler::Sampling;
