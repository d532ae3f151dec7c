// SPDX-License-Identifier: EUPL-1.2
//! What a loaded model is, and what it has done.

use ingle_models::Summary;
use ingle_tensor::{DType, Memory};

/// What a loaded model is.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// What was loaded: a path, or a built-in model's name.
    pub name: String,
    /// The backend that runs it.
    pub backend: String,
    /// The architecture, its sizes and its weights.
    pub summary: Summary,
    /// Tokens a sequence may have here, prompt and answer together.
    pub context_length: usize,
    /// Dtype of keys and values; [`DType::I8`] are 8-bit integers with scales.
    pub kv_dtype: DType,
    /// Bytes that the keys and values of one token take, over all layers.
    pub kv_token_bytes: usize,
    /// The adapters it was loaded with, by name.
    pub adapters: Vec<String>,
    /// The one of them that requests to this handle go through.
    pub adapter: Option<String>,
    /// Where the chat template comes from: a file, or `built-in …`.
    pub chat_template: String,
}

/// What a model is, from its files' headers: see [`inspect`](crate::inspect).
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What a loaded one would say of itself.
    pub info: ModelInfo,
    /// The forms in which its weights are kept, the one that takes the most bytes first.
    pub weights: Vec<WeightForm>,
    /// Memory that it took, if it had to be loaded: a backend that is another program tells nothing before.
    pub memory: Option<Memory>,
}

/// The weights of a model that are kept in one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightForm {
    /// `bf16`, `Q4_0`, `4 bits in groups of 64`…
    pub name: String,
    /// How many there are.
    pub parameters: usize,
    /// Bytes that they take, scales and offsets included.
    pub bytes: usize,
}

/// What a model has done since it was loaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Metrics {
    /// Tokens, times and speeds.
    pub engine: ingle_engine::Metrics,
    /// Memory of the device.
    pub memory: Memory,
}
