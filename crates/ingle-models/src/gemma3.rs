// SPDX-License-Identifier: EUPL-1.2
//! Gemma 3 (Gemma Team 2025): as Gemma 2, with queries and keys normalised head by head instead of soft caps, five
//! sliding layers to each global one, and a RoPE of its own for either kind.
//!
//! `gemma3_text` is the language model alone. `gemma3` has it in `text_config`, beside a vision tower that is not
//! loaded.

use ingle_nn::{Bias, Head, Result, RmsNormConfig};
use ingle_tensor::Activation;

use crate::config::{Config, LayerType};
use crate::decoder::{BlockNorms, DecoderConfig};
use crate::gemma2::causal;
use crate::rope::{RopeDefaults, rotary};

const GLOBAL: RopeDefaults =
    RopeDefaults { layer_type: LayerType::FullAttention, theta_field: "rope_theta", theta: 1_000_000.0 };
const LOCAL: RopeDefaults =
    RopeDefaults { layer_type: LayerType::SlidingAttention, theta_field: "rope_local_base_freq", theta: 10_000.0 };

/// The `config.json` of a Gemma 3 with vision.
pub(crate) fn read_nested(config: &Config) -> Result<DecoderConfig> {
    let text = config.object("text_config")?.ok_or_else(|| config.error("text_config", "an object"))?;
    let decoder = read(&text)?;
    let head = if text.has("tie_word_embeddings") { decoder.head } else { config.head(Head::Tied)? };
    Ok(DecoderConfig { head, ..decoder })
}

/// The `config.json` of a Gemma 3 without vision, or the `text_config` of one with it.
pub(crate) fn read(config: &Config) -> Result<DecoderConfig> {
    causal(config)?;
    let hidden_size = config.size("hidden_size", 2304)?;
    let head_dim = config.size("head_dim", 256)?;
    let attention_bias = config.bias("attention_bias")?;
    let sliding_window_pattern = config.size("sliding_window_pattern", 6)?;
    let slides = |layer: usize| !(layer + 1).is_multiple_of(sliding_window_pattern);
    Ok(DecoderConfig {
        vocab_size: config.size("vocab_size", 262_208)?,
        hidden_size,
        intermediate_size: config.size("intermediate_size", 9216)?,
        num_attention_heads: config.size("num_attention_heads", 8)?,
        num_key_value_heads: config.size("num_key_value_heads", 4)?,
        head_dim,
        max_position_embeddings: config.size("max_position_embeddings", 131_072)?,
        hidden_act: config.activation("hidden_activation", Activation::GeluTanh)?,
        norm: RmsNormConfig { eps: config.number("rms_norm_eps", 1e-6)? as f32, offset: 1.0 },
        norms: BlockNorms::BeforeAndAfter,
        qk_norm: true,
        qkv_bias: attention_bias,
        o_bias: attention_bias,
        mlp_bias: Bias::Absent,
        embedding_scale: Some((hidden_size as f64).sqrt()),
        attention_scale: config.number("query_pre_attn_scalar", 256.0)?.powf(-0.5),
        attn_logit_softcapping: config.number_or_null("attn_logit_softcapping", None)?,
        final_logit_softcapping: config.number_or_null("final_logit_softcapping", None)?,
        layer_types: config.layer_types(config.layers(26)?, slides)?,
        sliding_window: config.size_or_null("sliding_window", 4096)?,
        rope: rotary(config, head_dim, &GLOBAL)?,
        rope_local: rotary(config, head_dim, &LOCAL)?,
        head: config.head(Head::Tied)?,
    })
}
