// SPDX-License-Identifier: EUPL-1.2
//! From a decoder to a GGUF file: its metadata and its tensors, as llama.cpp expects them.

use ingle_nn::gguf::{Gguf, GgufHeader};
use ingle_nn::quantise::{Conversion, Form, Original};
use ingle_nn::{Bias, Error, Head, Result, RopeScaling, RotaryConfig};
use ingle_tensor::{DType, RopeLayout, Shape};

use super::types::ggml_type;
use super::{ARCHITECTURES, GgufType, ROPE_FACTORS, names};
use crate::Summary;
use crate::config::LayerType;
use crate::decoder::{BlockNorms, DecoderConfig, row_order};
use crate::export::ExportedTensor;

/// What a GGUF file of a model is to hold, besides its tokeniser.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What `general.architecture` is.
    pub architecture: &'static str,
    /// Tensors, in the order of the file.
    pub tensors: Vec<ExportedTensor>,
    /// Numbers that are computed from the configuration.
    factors: Option<Vec<f32>>,
    config: DecoderConfig,
    gguf_type: GgufType,
}

/// Plans the file of a model whose tensors have the names of a decoder.
pub(crate) fn plan(
    summary: &Summary,
    config: &DecoderConfig,
    originals: Vec<(String, Original)>,
    gguf_type: GgufType,
) -> Result<Plan> {
    let architecture = ARCHITECTURES.iter().find(|(_, model_type, _)| {
        *model_type == summary.architecture || *model_type == format!("{}_text", summary.architecture)
    });
    let Some((architecture, _, _)) = architecture else {
        return Err(unfit(&summary.architecture, "no architecture of this name"));
    };
    let config = in_file(architecture, config);
    let plan = Plan {
        architecture,
        tensors: tensors(architecture, &config, originals, gguf_type),
        factors: match &config.rope.scaling {
            RopeScaling::PerPair { factors } => Some(factors.clone()),
            _ => None,
        },
        config,
        gguf_type,
    };
    plan.check()?;
    Ok(plan)
}

fn unfit(architecture: &str, why: &str) -> Error {
    Error::Malformed { file: format!("GGUF of a {architecture}"), message: format!("llama.cpp has {why}") }
}

/// The decoder that the file will describe, once its tensors are as the file has them.
fn in_file(architecture: &str, config: &DecoderConfig) -> DecoderConfig {
    let mut config = config.clone();
    config.norm.offset = 0.0;
    if architecture == "llama" {
        let factors = |rope: &RotaryConfig| {
            let plain = RotaryConfig { scaling: RopeScaling::None, ..rope.clone() };
            plain.frequencies().iter().zip(rope.frequencies()).map(|(plain, own)| plain / own).collect()
        };
        if matches!(config.rope.scaling, RopeScaling::Llama3 { .. }) {
            config.rope.scaling = RopeScaling::PerPair { factors: factors(&config.rope) };
        }
        config.rope.layout = RopeLayout::Interleaved;
        config.rope_local = config.rope.clone();
    }
    config
}

fn tensors(
    architecture: &str,
    config: &DecoderConfig,
    originals: Vec<(String, Original)>,
    gguf_type: GgufType,
) -> Vec<ExportedTensor> {
    let translate = match config.norms {
        BlockNorms::Before => names::of_norms_before,
        BlockNorms::BeforeAndAfter => names::of_norms_before_and_after,
    };
    let head = match config.head {
        Head::Separate => "output.weight",
        Head::Tied => "token_embd.weight",
    };
    let export = |(own, original): (String, Original)| {
        let name = translate(&own);
        let columns = original.shape().last().copied().unwrap_or(1);
        let is_matrix = original.shape().len() == 2;
        let form = match is_matrix {
            true => gguf_type.form_of(&name, columns, config.layer_types.len(), head),
            // Vectors take next to no space.
            false => Form::Float(DType::F32),
        };
        let layer = own.rsplit_once('.').map_or("", |(layer, _)| layer);
        let rows = row_order(layer, config.qk_rows());
        let shift = if architecture.starts_with("gemma") && own.ends_with("norm.weight") { 1.0 } else { 0.0 };
        ExportedTensor { name, original, conversion: Conversion { form, rows, shift } }
    };
    originals.into_iter().map(export).collect()
}

impl Plan {
    /// The header of the file, complete but for what `tokeniser` adds to it; and the data of tensors that are computed
    /// rather than converted. These come before all others.
    pub fn header(&self, name: &str, tokeniser: impl FnOnce(&mut GgufHeader)) -> (GgufHeader, Vec<Vec<u8>>) {
        let mut header = GgufHeader::default();
        self.write_metadata(name, &mut header);
        tokeniser(&mut header);
        let mut computed = Vec::new();
        if let Some(factors) = &self.factors {
            header.tensor(ROPE_FACTORS, ggml_type(Form::Float(DType::F32)), &Shape::from([factors.len()]));
            computed.push(factors.iter().flat_map(|factor| factor.to_le_bytes()).collect());
        }
        for tensor in &self.tensors {
            header.tensor(&tensor.name, ggml_type(tensor.conversion.form), tensor.shape());
        }
        (header, computed)
    }

    fn write_metadata(&self, name: &str, header: &mut GgufHeader) {
        let DecoderConfig { head_dim, rope, rope_local, layer_types, .. } = &self.config;
        let config = &self.config;
        // Sizes were read as numbers that fit.
        let size = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        header.set("general.architecture", self.architecture);
        header.set("general.name", name);
        header.set("general.file_type", self.gguf_type.file_type());
        header.set("general.quantization_version", 2u32);
        let key = |name: &str| format!("{}.{name}", self.architecture);
        for (name, value) in [
            ("block_count", layer_types.len()),
            ("context_length", config.max_position_embeddings),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_attention_heads),
            ("attention.head_count_kv", config.num_key_value_heads),
            ("attention.key_length", *head_dim),
            ("attention.value_length", *head_dim),
            ("rope.dimension_count", rope.rotary_dim()),
            ("vocab_size", config.vocab_size),
        ] {
            header.set(&key(name), size(value));
        }
        header.set(&key("attention.layer_norm_rms_epsilon"), config.norm.eps);
        header.set(&key("rope.freq_base"), rope.rope_theta as f32);
        match rope.scaling {
            RopeScaling::Linear { factor } => {
                header.set(&key("rope.scaling.type"), "linear");
                header.set(&key("rope.scaling.factor"), factor as f32);
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, .. } => {
                header.set(&key("rope.scaling.type"), "yarn");
                header.set(&key("rope.scaling.factor"), factor as f32);
                header.set(&key("rope.scaling.original_context_length"), original_max_position_embeddings as u32);
                header.set(&key("rope.scaling.yarn_beta_fast"), beta_fast as f32);
                header.set(&key("rope.scaling.yarn_beta_slow"), beta_slow as f32);
            }
            _ => {}
        }
        for (name, cap) in [
            ("attn_logit_softcapping", config.attn_logit_softcapping),
            ("final_logit_softcapping", config.final_logit_softcapping),
        ] {
            if let Some(cap) = cap {
                header.set(&key(name), cap as f32);
            }
        }
        if let Some(window) = config.sliding_window {
            header.set(&key("attention.sliding_window"), size(window));
        }
        if self.architecture == "gemma3" {
            header.set(&key("rope.freq_base_swa"), rope_local.rope_theta as f32);
            let slides: Vec<bool> = layer_types.iter().map(|kind| *kind == LayerType::SlidingAttention).collect();
            header.set(&key("attention.sliding_window_pattern"), &slides[..]);
        }
    }

    /// Refuses a model that the file would describe as another: what the header says is read back.
    fn check(&self) -> Result<()> {
        let mut header = GgufHeader::default();
        self.write_metadata("check", &mut header);
        let mut computed = Vec::new();
        if let Some(factors) = &self.factors {
            header.tensor(ROPE_FACTORS, ggml_type(Form::Float(DType::F32)), &Shape::from([factors.len()]));
            computed.extend(factors.iter().flat_map(|factor| factor.to_le_bytes()));
        }
        for tensor in &self.tensors {
            // Without data, as only that it is there and how many rows it has is looked at.
            let shape = tensor.shape().with_axis(tensor.shape().len().saturating_sub(1), 0);
            header.tensor(&tensor.name, ggml_type(Form::Float(DType::F32)), &shape);
        }
        let file = [header.bytes(), computed].concat();
        let gguf = Gguf::read("GGUF".into(), file.into())?;
        let read = super::read(std::slice::from_ref(&gguf))?.config;
        let mut fields = differences(&read, &self.config);
        fields.extend(self.beyond_llama_cpp());
        match fields.as_slice() {
            [] => Ok(()),
            fields => Err(unfit(self.architecture, &format!("no way to say its {}", fields.join(", ")))),
        }
    }

    /// The fields that a file can say, and llama.cpp does not read for this architecture.
    fn beyond_llama_cpp(&self) -> impl Iterator<Item = &'static str> {
        let DecoderConfig { rope, head_dim, hidden_size, num_attention_heads, o_bias, mlp_bias, .. } = &self.config;
        let is = |architecture: &str| self.architecture == architecture;
        [
            ("attention_bias", *o_bias == Bias::Present && !is("llama")),
            ("mlp_bias", *mlp_bias == Bias::Present && !is("llama")),
            ("partial_rotary_factor", rope.rotary_dim() != *head_dim),
            ("head_dim", is("qwen2") && head_dim * num_attention_heads != *hidden_size),
        ]
        .into_iter()
        .filter(|(_, beyond)| *beyond)
        .map(|(field, _)| field)
    }
}

/// The fields in which two decoders differ, halves of an ulp apart.
fn differences(a: &DecoderConfig, b: &DecoderConfig) -> Vec<&'static str> {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
    let near_if_any = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => near(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    let same_rope = |a: &RotaryConfig, b: &RotaryConfig| {
        let frequencies = a.frequencies().into_iter().zip(b.frequencies());
        let same_frequencies = frequencies.into_iter().all(|(a, b)| near(f64::from(a), f64::from(b)));
        let factor = |rope: &RotaryConfig| match rope.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        a.head_dim == b.head_dim && a.rotary_dim() == b.rotary_dim() && same_frequencies && near(factor(a), factor(b))
    };
    let slides = b.layer_types.contains(&LayerType::SlidingAttention);
    [
        ("hidden_act", a.hidden_act == b.hidden_act),
        ("attention_bias", (a.qkv_bias, a.o_bias) == (b.qkv_bias, b.o_bias)),
        ("mlp_bias", a.mlp_bias == b.mlp_bias),
        ("head_dim", a.head_dim == b.head_dim),
        ("query_pre_attn_scalar", near(a.attention_scale, b.attention_scale)),
        ("attn_logit_softcapping", near_if_any(a.attn_logit_softcapping, b.attn_logit_softcapping)),
        ("final_logit_softcapping", near_if_any(a.final_logit_softcapping, b.final_logit_softcapping)),
        ("layer_types", a.layer_types == b.layer_types),
        ("sliding_window", !slides || a.sliding_window == b.sliding_window),
        ("rope_parameters", same_rope(&a.rope, &b.rope) && (!slides || same_rope(&a.rope_local, &b.rope_local))),
        ("tie_word_embeddings", a.head == b.head),
    ]
    .into_iter()
    .filter(|(_, same)| !same)
    .map(|(field, _)| field)
    .collect()
}
