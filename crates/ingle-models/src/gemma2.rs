// SPDX-License-Identifier: EUPL-1.2
//! Gemma 2 (Gemma Team 2024): norms before and after, stored around zero; embeddings scaled by √hidden; soft caps
//! on scores and logits; every other layer slides.

use ingle_nn::{Bias, Head, Result, RmsNormConfig};
use ingle_tensor::Activation;

use crate::config::Config;
use crate::decoder::{BlockNorms, DecoderConfig};
use crate::rope::{RopeDefaults, rotary};

/// A Gemma 2's `config.json`.
pub(crate) fn read(config: &Config) -> Result<DecoderConfig> {
    causal(config)?;
    let hidden_size = config.size("hidden_size", 2304)?;
    let head_dim = config.size("head_dim", 256)?;
    let attention_bias = config.bias("attention_bias")?;
    let rope = rotary(config, head_dim, &RopeDefaults::USUAL)?;
    Ok(DecoderConfig {
        vocab_size: config.size("vocab_size", 256_000)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 9216)?,
        num_attention_heads: config.size("num_attention_heads", 8)?,
        num_key_value_heads: config.size("num_key_value_heads", 4)?,
        head_dim,
        max_position_embeddings: config.size("max_position_embeddings", 8192)?,
        hidden_act: config.activation("hidden_activation", Activation::GeluTanh)?,
        norm: RmsNormConfig { eps: config.number("rms_norm_eps", 1e-6)? as f32, offset: 1.0 },
        norms: BlockNorms::BeforeAndAfter,
        qk_norm: false,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: Bias::Absent,
        embedding_scale: Some((hidden_size as f64).sqrt()),
        attention_scale: config.number("query_pre_attn_scalar", 256.0)?.powf(-0.5),
        attn_logit_softcapping: config.number_or_null("attn_logit_softcapping", Some(50.0))?,
        final_logit_softcapping: config.number_or_null("final_logit_softcapping", Some(30.0))?,
        layer_types: config.layer_types(config.layers(26)?, |layer| layer.is_multiple_of(2))?,
        sliding_window: config.size_or_null("sliding_window", 4096)?,
        rope_local: rope.clone(),
        rope,
        head: config.head(Head::Tied)?,
    })
}

/// Refuses a Gemma made into an encoder: `use_bidirectional_attention`.
pub(crate) fn causal(config: &Config) -> Result<()> {
    const FIELD: &str = "use_bidirectional_attention";
    if config.flag(FIELD, false)? { Err(config.error(FIELD, "false: encoders are not supported")) } else { Ok(()) }
}
