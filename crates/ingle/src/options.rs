// SPDX-License-Identifier: EUPL-1.2
//! How a model is loaded, and how an answer is made.

use std::path::PathBuf;
use std::time::Duration;

use ingle_engine::Sampling;
use ingle_engine::text::Message;
use ingle_tensor::DType;

use crate::{CancelToken, MlxLmOptions};

/// How a model is loaded. The default lets the model and the machine decide.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Tokens a sequence may have, prompt and answer together; the model's own context length if `None`.
    pub context_length: Option<usize>,
    /// Weights and activations in this dtype; as stored if `None`. [`DType::F32`] is the reference.
    pub dtype: Option<DType>,
    /// Keys and values in this dtype; f32 if `None` and the weights are, else bf16. [`DType::I8`] takes about half of
    /// bf16's memory: each head's key and value as 8-bit integers with a scale.
    pub kv_dtype: Option<DType>,
    /// The backend, by name (see [`crate::backends`]); the best available if `None`.
    pub device: Option<String>,
    /// Bytes that the model and all it computes may take; unlimited if `None`.
    pub memory_limit: Option<usize>,
    /// Threads to compute with; one for each core if `None`.
    pub threads: Option<usize>,
    /// Adapters, any of which a request may go through ([`TextModel::adapted`](crate::TextModel::adapted)).
    pub adapters: Vec<AdapterSource>,
    /// What the backend `mlx_lm` alone needs to know.
    pub mlx_lm: MlxLmOptions,
}

/// An adapter's files, and the name by which requests choose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSource {
    /// Unlike those of the others.
    pub name: String,
    /// The directory that PEFT, mlx-lm or Ingle has written.
    pub path: PathBuf,
}

/// How an answer is made.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Tokens at most; up to the context length if `None`.
    pub max_tokens: Option<usize>,
    /// How each token is chosen; as the model's `generation_config.json` says if `None`, or greedily where it
    /// says nothing.
    pub sampling: Option<Sampling>,
    /// Texts that end the answer; neither they nor what follows is part of it.
    pub stop: Vec<String>,
    /// With each token, the log-probabilities of this many likeliest tokens; none if `None`.
    pub top_logprobs: Option<usize>,
    /// Go on past the model's own end tokens.
    pub end_tokens: EndTokens,
    /// End the answer after so long.
    pub timeout: Option<Duration>,
    /// Ends the answer from elsewhere.
    pub cancel: Option<CancelToken>,
}

/// What the model's own end tokens do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndTokens {
    /// They end the answer.
    #[default]
    Stop,
    /// They are tokens like any other: for benchmarks.
    Ignore,
}

/// What a model is asked to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text; the model's own start token is put before it.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<u32>),
    /// A conversation whose last message is to be answered: the end of a turn ends the answer, too.
    Chat(Vec<Message>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt::Text(text.into())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Prompt::Text(text)
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Prompt::Tokens(tokens)
    }
}
