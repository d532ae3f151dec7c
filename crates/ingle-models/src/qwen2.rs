// SPDX-License-Identifier: EUPL-1.2
//! Qwen 2 and 2.5 (Yang et al. 2024), DeepSeek-R1's distils among them: queries, keys and values have biases, and
//! the upper layers may slide.

use ingle_nn::{Bias, Head, Result, RmsNormConfig};
use ingle_tensor::Activation;

use crate::config::{Config, LayerType};
use crate::decoder::{BlockNorms, DecoderConfig};
use crate::rope::{RopeDefaults, rotary};

/// A Qwen 2's `config.json`.
pub(crate) fn read(config: &Config) -> Result<DecoderConfig> {
    let hidden_size = config.size("hidden_size", 4096)?;
    let num_attention_heads = config.size("num_attention_heads", 32)?;
    let head_dim = config.head_dim(hidden_size, num_attention_heads)?;
    let Sliding { sliding_window, layer_types } = sliding(config)?;
    let rope = rotary(config, head_dim, &RopeDefaults::USUAL)?;
    Ok(DecoderConfig {
        vocab_size: config.size("vocab_size", 151_936)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 22_016)?,
        num_attention_heads,
        num_key_value_heads: config.size_or_null("num_key_value_heads", 32)?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: config.size("max_position_embeddings", 32_768)?,
        hidden_act: config.activation("hidden_act", Activation::Silu)?,
        norm: RmsNormConfig { eps: config.number("rms_norm_eps", 1e-6)? as f32, offset: 0.0 },
        norms: BlockNorms::Before,
        qk_norm: false,
        qkv_bias: Bias::Present,
        o_bias: Bias::Absent,
        mlp_bias: Bias::Absent,
        embedding_scale: None,
        attention_scale: (head_dim as f64).powf(-0.5),
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        layer_types,
        sliding_window,
        rope_local: rope.clone(),
        rope,
        head: config.head(Head::Separate)?,
    })
}

/// Which of a Qwen's layers slide, and how far they see.
pub(crate) struct Sliding {
    pub sliding_window: Option<usize>,
    pub layer_types: Vec<LayerType>,
}

/// With `use_sliding_window`, the layers from `max_window_layers` on slide; otherwise `sliding_window` means nothing.
pub(crate) fn sliding(config: &Config) -> Result<Sliding> {
    let sliding_window = match config.flag("use_sliding_window", false)? {
        true => config.size_or_null("sliding_window", 4096)?,
        false => None,
    };
    let max_window_layers = config.count("max_window_layers", 28)?;
    let slides = |layer| sliding_window.is_some() && layer >= max_window_layers;
    Ok(Sliding { sliding_window, layer_types: config.layer_types(config.layers(32)?, slides)? })
}
