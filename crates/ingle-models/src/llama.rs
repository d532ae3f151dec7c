// SPDX-License-Identifier: EUPL-1.2
//! Llama (Touvron et al. 2023; Grattafiori et al. 2024): the plain decoder.

use ingle_nn::{Head, Result, RmsNormConfig};
use ingle_tensor::Activation;

use crate::config::{Config, LayerType};
use crate::decoder::{BlockNorms, DecoderConfig};
use crate::rope::{RopeDefaults, rotary};

/// A Llama's `config.json`.
pub(crate) fn read(config: &Config) -> Result<DecoderConfig> {
    let hidden_size = config.size("hidden_size", 4096)?;
    let num_attention_heads = config.size("num_attention_heads", 32)?;
    let head_dim = config.head_dim(hidden_size, num_attention_heads)?;
    let attention_bias = config.bias("attention_bias")?;
    let rope = rotary(config, head_dim, &RopeDefaults::USUAL)?;
    Ok(DecoderConfig {
        vocab_size: config.size("vocab_size", 32_000)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 11_008)?,
        num_attention_heads,
        num_key_value_heads: config.size("num_key_value_heads", num_attention_heads)?,
        head_dim,
        max_position_embeddings: config.size("max_position_embeddings", 2048)?,
        hidden_act: config.activation("hidden_act", Activation::Silu)?,
        norm: RmsNormConfig { eps: config.number("rms_norm_eps", 1e-6)? as f32, offset: 0.0 },
        norms: BlockNorms::Before,
        qk_norm: false,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: config.bias("mlp_bias")?,
        embedding_scale: None,
        attention_scale: (head_dim as f64).powf(-0.5),
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        layer_types: vec![LayerType::FullAttention; config.layers(32)?],
        sliding_window: None,
        rope_local: rope.clone(),
        rope,
        head: config.head(Head::Separate)?,
    })
}
