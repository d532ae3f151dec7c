// SPDX-License-Identifier: EUPL-1.2
//! What the engine may ask of a model, whatever its architecture.

use ingle_nn::quantise::RowOrder;
use ingle_nn::{Batch, CacheLayer, KvCache, Parameters, Result};
use ingle_tensor::{DType, DeviceHandle, Tensor};

/// A decoder-only language model with its weights on a device. Its [`Parameters`] have the names that its checkpoint has
/// for them.
pub trait Model: Parameters + Send + Sync {
    /// What the model is.
    fn summary(&self) -> &Summary;

    /// What each decoder layer keeps for a token, first layer first.
    fn cache_layers(&self) -> Vec<CacheLayer>;

    /// One forward pass over a ragged batch: writes the tokens' keys and values into the cache and gives the
    /// logits `f32[R, vocab]` of the tokens named by [`Batch::outputs`].
    ///
    /// # Errors
    /// Those of the tensor operations; the cache must then be reset.
    fn forward(&self, batch: &Batch, cache: &mut KvCache) -> Result<Tensor>;

    /// What [`Model::forward`] makes of each output's target: the cross-entropies `f32[R]`, in nats, of its logits and
    /// `targets i32[R]`; 0 where that is negative. A model may spare the memory of logits that nobody else sees.
    ///
    /// # Errors
    /// As of [`Model::forward`].
    fn cross_entropy(&self, batch: &Batch, cache: &mut KvCache, targets: &Tensor) -> Result<Tensor> {
        Ok(self.forward(batch, cache)?.cross_entropy(targets)?)
    }

    /// Where the weights are.
    fn device(&self) -> &DeviceHandle;

    /// In which order the rows of a layer's weight stand, beside that of a checkpoint in safetensors: GGUF files of some
    /// architectures have another.
    fn row_order(&self, _layer: &str) -> RowOrder {
        RowOrder::Unchanged
    }
}

/// What a model is, for people and for the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// `model_type` of the configuration: `gemma3_text`, `llama`…
    pub architecture: String,
    /// Rows of the embedding table, and of the logits.
    pub vocab_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Features of the residual stream.
    pub hidden_size: usize,
    /// Number of weights, tied ones counted once.
    pub parameters: usize,
    /// Bytes the weights take.
    pub weight_bytes: usize,
    /// Dtype of the weights as they are kept.
    pub dtype: DType,
    /// How the weights are quantised, if they are: `4-bit, groups of 64`.
    pub quantisation: Option<String>,
    /// The longest sequence the model was made for (`max_position_embeddings`).
    pub context_length: usize,
}
