// SPDX-License-Identifier: EUPL-1.2
//! Qwen 3 (Yang et al. 2025): queries and keys are normalised head by head, and a head's width is its own.

use ingle_nn::{Bias, Head, Result, RmsNormConfig};
use ingle_tensor::Activation;

use crate::config::Config;
use crate::decoder::{BlockNorms, DecoderConfig};
use crate::qwen2::{Sliding, sliding};
use crate::rope::{RopeDefaults, rotary};

/// A Qwen 3's `config.json`.
pub(crate) fn read(config: &Config) -> Result<DecoderConfig> {
    let num_attention_heads = config.size("num_attention_heads", 32)?;
    let head_dim = config.size("head_dim", 128)?;
    let attention_bias = config.bias("attention_bias")?;
    let Sliding { sliding_window, layer_types } = sliding(config)?;
    let rope = rotary(config, head_dim, &RopeDefaults::USUAL)?;
    Ok(DecoderConfig {
        vocab_size: config.size("vocab_size", 151_936)?,
        hidden_size: config.size("hidden_size", 4096)?,
        intermediate_size: config.size("intermediate_size", 22_016)?,
        num_attention_heads,
        num_key_value_heads: config.size_or_null("num_key_value_heads", 32)?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: config.size("max_position_embeddings", 32_768)?,
        hidden_act: config.activation("hidden_act", Activation::Silu)?,
        norm: RmsNormConfig { eps: config.number("rms_norm_eps", 1e-6)? as f32, offset: 0.0 },
        norms: BlockNorms::Before,
        qk_norm: true,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
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
