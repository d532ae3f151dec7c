// SPDX-License-Identifier: EUPL-1.2
//! How an engine is set up.

use ingle_models::Model;
use ingle_nn::CacheLayer;
use ingle_tensor::DType;

use crate::blocks::{PoolLimits, least_blocks};
use crate::scheduler::StepLimits;
use crate::{Error, Result};

/// How an [`Engine`](crate::Engine) is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Positions that a token can see at most, and the longest prompt; the model's own context length if
    /// `None`. An answer that is asked to be longer slides on: it sees the last so many tokens.
    pub context_length: Option<usize>,
    /// Tokens computed in one step, as many as make the device busy if `None`: prompts longer than this are computed
    /// in chunks.
    pub step_tokens: Option<usize>,
    /// Requests computed at once; more wait.
    pub max_sequences: usize,
    /// Positions in one block of the key-value cache: prefixes are shared in whole blocks.
    pub block_size: usize,
    /// Dtype of the key-value cache: a float, or i8 for quantised rows; f32 if `None` and the weights are, else bf16.
    pub kv_dtype: Option<DType>,
    /// Bytes the key-value cache may take; no more than all sequences need if `None`. The context length is
    /// cut to what fits.
    pub kv_bytes: Option<usize>,
    /// Bytes up to which the key-value cache grows rather than forget a prompt; what one sequence can use
    /// but at most 256 MiB if `None`.
    pub prefix_bytes: Option<usize>,
    /// Bytes of logits that one step may give, 128 KiB for each of its tokens if `None`; at least one row comes.
    pub logits_bytes: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            context_length: None,
            step_tokens: None,
            max_sequences: MAX_SEQUENCES,
            block_size: 16,
            kv_dtype: None,
            kv_bytes: None,
            prefix_bytes: None,
            logits_bytes: None,
        }
    }
}

/// Requests computed at once, where nobody says otherwise.
pub const MAX_SEQUENCES: usize = 256;

/// Bytes of logits for each token of a step: a vocabulary of 32,768 tokens.
const LOGITS_BYTES: usize = 128 << 10;

/// Most that prefixes take of their own accord.
const PREFIX_BYTES: usize = 256 << 20;

/// What the options come to for a model.
#[derive(Debug)]
pub(crate) struct Setup {
    pub layers: Vec<CacheLayer>,
    pub block_size: usize,
    pub kv_dtype: DType,
    pub context_length: usize,
    pub pools: PoolLimits,
    pub step: StepLimits,
}

impl EngineOptions {
    pub(crate) fn setup(&self, model: &dyn Model) -> Result<Setup> {
        let summary = model.summary();
        let step_tokens = self.step_tokens.unwrap_or_else(|| model.device().busy_rows());
        let logits_bytes = self.logits_bytes.unwrap_or_else(|| step_tokens.saturating_mul(LOGITS_BYTES));
        let sizes = [
            ("context_length", self.context_length.unwrap_or(summary.context_length)),
            ("step_tokens", step_tokens),
            ("max_sequences", self.max_sequences),
            ("block_size", self.block_size),
        ];
        for (option, size) in sizes {
            // Positions and slots are i32 on every device.
            if size == 0 || size > i32::MAX as usize / 2 {
                let message = format!("{option}: expected a number from 1 to {}, found {size}", i32::MAX / 2);
                return Err(Error::Request { message });
            }
        }
        let kv_dtype = self.kv_dtype.unwrap_or(match summary.dtype {
            DType::F32 => DType::F32,
            _ => DType::BF16,
        });
        if !kv_dtype.is_float() && kv_dtype != DType::I8 {
            let message = format!("kv_dtype: expected f32, f16, bf16 or i8, found {kv_dtype}");
            return Err(Error::Request { message });
        }

        let layers = model.cache_layers();
        let wanted = self.context_length.unwrap_or(summary.context_length);
        let bytes = |context, step_tokens| self.bytes(&clipped(&layers, context), kv_dtype, step_tokens);
        let limit = self.kv_bytes.unwrap_or(usize::MAX);
        let context_length = longest(wanted, |context| bytes(context, 1) <= limit);
        if context_length == 0 {
            let message =
                format!("kv_bytes: expected at least {} for a context of one token, found {limit}", bytes(1, 1));
            return Err(Error::Request { message });
        }
        // However many tokens of it a device computes at once: on a GPU those would be most of it.
        let one_sequence = bytes(context_length, 1);
        Ok(Setup {
            layers: clipped(&layers, context_length),
            block_size: self.block_size,
            kv_dtype,
            context_length,
            pools: PoolLimits {
                context_length,
                sequences: self.max_sequences,
                step_tokens,
                bytes: limit,
                prefix_bytes: self.prefix_bytes.unwrap_or(one_sequence.min(PREFIX_BYTES)),
            },
            step: StepLimits {
                tokens: step_tokens,
                rows: (logits_bytes / summary.vocab_size.saturating_mul(size_of::<f32>()).max(1)).max(1),
                sequences: self.max_sequences,
            },
        })
    }

    /// Bytes that a sequence alone takes when `step_tokens` of it are computed at once.
    fn bytes(&self, layers: &[CacheLayer], dtype: DType, step_tokens: usize) -> usize {
        let of = |layer: &CacheLayer| {
            let positions = layer.window.unwrap_or(0) + step_tokens - 1;
            let slots = least_blocks(positions, self.block_size).saturating_mul(self.block_size);
            slots.saturating_mul(layer.token_bytes(dtype))
        };
        layers.iter().map(of).fold(0, usize::saturating_add)
    }
}

/// The layers with a context length as a window over the whole model.
fn clipped(layers: &[CacheLayer], context_length: usize) -> Vec<CacheLayer> {
    let clip = |&layer: &CacheLayer| CacheLayer {
        window: Some(layer.window.map_or(context_length, |window| window.min(context_length))),
        ..layer
    };
    layers.iter().map(clip).collect()
}

/// The largest number up to `most` that fits, where all below one that fits do too; 0 if none does.
fn longest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    if fits(most) {
        return most;
    }
    let (mut fitting, mut too_long) = (0, most);
    while too_long - fitting > 1 {
        let middle = fitting + (too_long - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            too_long = middle;
        }
    }
    fitting
}
