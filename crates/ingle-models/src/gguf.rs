// SPDX-License-Identifier: EUPL-1.2
//! Models in GGUF files: from their metadata to the decoder they describe.
//!
//! Keys and defaults are those of llama.cpp. Some things are stored otherwise than in the checkpoint a file was made
//! of: Gemma's norms have the 1 added already; Llama's queries and keys have their features in the order that turns
//! neighbours together; what stretches Llama 3's RoPE is a tensor.

mod names;
mod plan;
mod types;

use ingle_nn::gguf::{Array, FromValue, Gguf, Metadata, Value};
use ingle_nn::{Bias, Error, Head, Result, RmsNormConfig, RopeScaling, RotaryConfig};
use ingle_tensor::{Activation, RopeLayout};

use crate::config::LayerType;
use crate::decoder::{BlockNorms, DecoderConfig};

pub use plan::Plan;
pub(crate) use plan::plan;
pub use types::GgufType;

/// What a GGUF file says of its model.
pub(crate) struct Description {
    pub architecture: &'static str,
    pub config: DecoderConfig,
    /// What the file calls a decoder's tensors.
    pub names: fn(&str) -> String,
    /// How most weights are quantised, if they are: the file's own word, and the formats it has.
    pub quantisation: Option<String>,
}

/// Fills in what an architecture has of its own.
type Read = fn(&Keys<'_>, DecoderConfig) -> Result<DecoderConfig>;

/// Each architecture by its `general.architecture`, with what its `model_type` would be.
const ARCHITECTURES: [(&str, &str, Read); 5] = [
    ("gemma2", "gemma2", gemma2),
    ("gemma3", "gemma3_text", gemma3),
    ("llama", "llama", llama),
    ("qwen2", "qwen2", |_, plain| Ok(plain)),
    ("qwen3", "qwen3", |_, plain| Ok(DecoderConfig { qk_norm: true, ..plain })),
];

/// Reads the metadata of a model, the first of its parts.
pub(crate) fn read(parts: &[Gguf]) -> Result<Description> {
    let Some(gguf) = parts.first() else {
        return Err(Error::Malformed { file: "GGUF".into(), message: "expected at least one file, found none".into() });
    };
    let metadata = gguf.metadata();
    let name: &str = metadata.read("general.architecture")?;
    let Some((name, architecture, read)) = ARCHITECTURES.iter().find(|(known, _, _)| *known == name) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _, _)| *name).collect();
        return Err(metadata.unexpected("general.architecture", &format!("one of {}", known.join(", "))));
    };
    let keys = Keys { architecture: name, metadata, parts };
    let config = read(&keys, plain(&keys)?)?;
    keys.check(&config)?;
    let names = match config.norms {
        BlockNorms::Before => names::of_norms_before,
        BlockNorms::BeforeAndAfter => names::of_norms_before_and_after,
    };
    Ok(Description { architecture, config, names, quantisation: quantisation(&keys)? })
}

/// Whether a tensor is a weight, rather than something that a configuration would say.
pub(crate) fn is_weight(name: &str) -> bool {
    name != ROPE_FACTORS
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The decoder as most architectures have it.
fn plain(keys: &Keys<'_>) -> Result<DecoderConfig> {
    let hidden_size = keys.size("embedding_length")?;
    let num_attention_heads = keys.size("attention.head_count")?;
    let head_dim = match keys.size_if_any("attention.key_length")? {
        Some(head_dim) => head_dim,
        None => hidden_size / num_attention_heads,
    };
    let rope = keys.rope(head_dim)?;
    Ok(DecoderConfig {
        vocab_size: keys.vocab_size()?,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        num_attention_heads,
        num_key_value_heads: keys.size_if_any("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: keys.size("context_length")?,
        hidden_act: Activation::Silu,
        norm: RmsNormConfig { eps: keys.number("attention.layer_norm_rms_epsilon")? as f32, offset: 0.0 },
        norms: BlockNorms::Before,
        qk_norm: false,
        qkv_bias: keys.bias("blk.0.attn_q.bias"),
        o_bias: keys.bias("blk.0.attn_output.bias"),
        mlp_bias: keys.bias("blk.0.ffn_gate.bias"),
        embedding_scale: None,
        attention_scale: (head_dim as f64).powf(-0.5),
        attn_logit_softcapping: None,
        final_logit_softcapping: None,
        layer_types: vec![LayerType::FullAttention; keys.layers()?],
        sliding_window: None,
        rope_local: rope.clone(),
        rope,
        head: if keys.has_tensor("output.weight") { Head::Separate } else { Head::Tied },
    })
}

fn llama(keys: &Keys<'_>, plain: DecoderConfig) -> Result<DecoderConfig> {
    if keys.size_if_any("expert_count")?.is_some() {
        return Err(keys.unexpected("expert_count", "none: mixtures of experts are not supported yet"));
    }
    let scaling = match keys.rope_factors(plain.rope.rotary_dim() / 2)? {
        Some(factors) => RopeScaling::PerPair { factors },
        None => plain.rope.scaling.clone(),
    };
    let rope = RotaryConfig { layout: RopeLayout::Interleaved, scaling, ..plain.rope };
    Ok(DecoderConfig { rope_local: rope.clone(), rope, ..plain })
}

fn gemma(plain: DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        hidden_act: Activation::GeluTanh,
        norms: BlockNorms::BeforeAndAfter,
        embedding_scale: Some((plain.hidden_size as f64).sqrt()),
        ..plain
    }
}

/// The scale of a Gemma of so many layers. The files do not have it: the largest of either generation divides by the
/// hidden size shared among the heads, the others by the width of a head.
fn gemma_attention_scale(config: &DecoderConfig, largest: usize) -> f64 {
    let divisor = match config.layer_types.len() == largest {
        true => config.hidden_size / config.num_attention_heads,
        false => config.head_dim,
    };
    (divisor as f64).powf(-0.5)
}

fn gemma2(keys: &Keys<'_>, plain: DecoderConfig) -> Result<DecoderConfig> {
    let config = gemma(plain);
    Ok(DecoderConfig {
        attention_scale: gemma_attention_scale(&config, 46),
        attn_logit_softcapping: Some(keys.number_if_any("attn_logit_softcapping")?.unwrap_or(50.0)),
        final_logit_softcapping: Some(keys.number_if_any("final_logit_softcapping")?.unwrap_or(30.0)),
        layer_types: keys.layer_types(config.layer_types.len(), 2)?,
        sliding_window: Some(keys.size_if_any("attention.sliding_window")?.unwrap_or(4096)),
        head: Head::Tied,
        ..config
    })
}

fn gemma3(keys: &Keys<'_>, plain: DecoderConfig) -> Result<DecoderConfig> {
    let config = gemma(plain);
    let sliding_window = keys.count_if_any("attention.sliding_window")?.filter(|window| *window > 0);
    let layers = config.layer_types.len();
    let rope_local = RotaryConfig {
        rope_theta: keys.number_if_any("rope.freq_base_swa")?.unwrap_or(10_000.0),
        scaling: RopeScaling::None,
        ..config.rope.clone()
    };
    Ok(DecoderConfig {
        qk_norm: true,
        attention_scale: gemma_attention_scale(&config, 62),
        final_logit_softcapping: keys.number_if_any("final_logit_softcapping")?,
        layer_types: match sliding_window {
            Some(_) => keys.layer_types(layers, 6)?,
            None => config.layer_types,
        },
        sliding_window,
        rope_local,
        ..config
    })
}

/// What `general.file_type` may say: the formats of llama.cpp's quantisation, by its number.
const FILE_TYPES: [(u32, &str); 18] = [
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (21, "Q2_K_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (30, "IQ4_XS"),
];

/// `Q4_K_M (Q4_K, Q6_K)`: the file's own word for it, and the formats of its matrices, the most used first.
fn quantisation(keys: &Keys<'_>) -> Result<Option<String>> {
    let mut formats: Vec<(&'static str, usize)> = Vec::new();
    for (_, tensor) in
        keys.parts.iter().flat_map(Gguf::tensors).filter(|(_, tensor)| tensor.ggml_type().block_len() > 1)
    {
        let name = tensor.ggml_type().name();
        match formats.iter_mut().find(|(known, _)| *known == name) {
            Some((_, bytes)) => *bytes += tensor.bytes(),
            None => formats.push((name, tensor.bytes())),
        }
    }
    formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let formats: Vec<&str> = formats.into_iter().map(|(name, _)| name).collect();
    let file_type = keys.metadata.find::<u32>("general.file_type")?;
    let file_type = FILE_TYPES.iter().find(|(id, _)| Some(*id) == file_type).map(|(_, name)| *name);
    Ok(match (formats.as_slice(), file_type) {
        ([], _) => None,
        ([only], Some(file_type)) if *only == file_type => Some(file_type.into()),
        (formats, Some(file_type)) => Some(format!("{file_type} ({})", formats.join(", "))),
        (formats, None) => Some(formats.join(", ")),
    })
}

/// The metadata of one architecture.
struct Keys<'a> {
    architecture: &'a str,
    metadata: &'a Metadata,
    parts: &'a [Gguf],
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn find<'m, T: FromValue<'m>>(&'m self, name: &str) -> Result<Option<T>> {
        self.metadata.find(&self.key(name))
    }

    fn unexpected(&self, name: &str, expected: &str) -> Error {
        self.metadata.unexpected(&self.key(name), expected)
    }

    /// A number of things that may be none, if it is there.
    fn count_if_any(&self, name: &str) -> Result<Option<usize>> {
        let count = self.find::<usize>(name)?;
        match count.is_none_or(|count| i32::try_from(count).is_ok()) {
            true => Ok(count),
            false => Err(self.unexpected(name, &format!("at most {}", i32::MAX))),
        }
    }

    /// A size or count, if it is there.
    fn size_if_any(&self, name: &str) -> Result<Option<usize>> {
        match self.count_if_any(name)? {
            Some(0) => Err(self.unexpected(name, "at least 1")),
            size => Ok(size),
        }
    }

    /// A size or count.
    fn size(&self, name: &str) -> Result<usize> {
        self.size_if_any(name)?.ok_or_else(|| self.unexpected(name, "a whole number"))
    }

    fn layers(&self) -> Result<usize> {
        const MOST: usize = 2000;
        let layers = self.size("block_count")?;
        if layers > MOST { Err(self.unexpected("block_count", &format!("at most {MOST}"))) } else { Ok(layers) }
    }

    /// A number above 0, if it is there.
    fn number_if_any(&self, name: &str) -> Result<Option<f64>> {
        let number = self.find::<f32>(name)?;
        match number.is_none_or(|number| number > 0.0 && number.is_finite()) {
            true => Ok(number.map(f64::from)),
            false => Err(self.unexpected(name, "a number above 0")),
        }
    }

    /// A number above 0.
    fn number(&self, name: &str) -> Result<f64> {
        self.number_if_any(name)?.ok_or_else(|| self.unexpected(name, "a number above 0"))
    }

    fn has_tensor(&self, name: &str) -> bool {
        self.parts.iter().any(|part| part.get(name).is_some())
    }

    fn bias(&self, name: &str) -> Bias {
        if self.has_tensor(name) { Bias::Present } else { Bias::Absent }
    }

    /// Rows of the embedding table. A file that holds only a vocabulary has none.
    fn vocab_size(&self) -> Result<usize> {
        const TABLE: &str = "token_embd.weight";
        let table = self.parts.iter().find_map(|part| part.get(TABLE)).and_then(|table| table.shape().first().copied());
        table.ok_or_else(|| Error::MissingTensor {
            file: self.parts.iter().map(Gguf::located).collect::<Vec<_>>().join(", "),
            tensor: TABLE.into(),
            hint: "a file that holds only a vocabulary is no model".into(),
        })
    }

    /// Which layers slide: as the file says of each, or all but every `pattern`-th.
    fn layer_types(&self, layers: usize, pattern: usize) -> Result<Vec<LayerType>> {
        const NAME: &str = "attention.sliding_window_pattern";
        let kind = |slides| if slides { LayerType::SlidingAttention } else { LayerType::FullAttention };
        if let Some(Value::Array(_)) = self.metadata.get(&self.key(NAME)) {
            let each = self.find::<&Array>(NAME)?.map(|each| each.iter().map(|value| slides(&value)).collect());
            let each: Option<Vec<bool>> = each.flatten();
            let each = each.filter(|each| each.len() >= layers);
            let each =
                each.ok_or_else(|| self.unexpected(NAME, &format!("a truth value for each of {layers} layers")))?;
            return Ok(each.into_iter().take(layers).map(kind).collect());
        }
        let pattern = self.count_if_any(NAME)?.unwrap_or(pattern);
        Ok((0..layers).map(|layer| kind(pattern == 0 || layer % pattern + 1 < pattern)).collect())
    }

    fn rope(&self, head_dim: usize) -> Result<RotaryConfig> {
        let turning = self.size_if_any("rope.dimension_count")?.unwrap_or(head_dim);
        if turning > head_dim || !turning.is_multiple_of(2) {
            return Err(self.unexpected("rope.dimension_count", &format!("an even number of at most {head_dim}")));
        }
        let rope_theta = self.number_if_any("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = self.rope_scaling()?;
        if matches!(scaling, RopeScaling::Yarn { .. }) && turning != head_dim {
            return Err(self.unexpected("rope.dimension_count", &format!("{head_dim} beside yarn")));
        }
        // Half a feature too many, so that rounding takes none away.
        let partial_rotary_factor = if turning == head_dim { 1.0 } else { (turning as f64 + 0.5) / head_dim as f64 };
        Ok(RotaryConfig { head_dim, rope_theta, partial_rotary_factor, scaling, layout: RopeLayout::Halves })
    }

    fn rope_scaling(&self) -> Result<RopeScaling> {
        let factor = match self.number_if_any("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number_if_any("rope.scale_linear")?,
        };
        let kind: Option<&str> = self.find("rope.scaling.type")?;
        match (kind.unwrap_or("linear"), factor) {
            ("none", _) | ("linear" | "yarn", None) => Ok(RopeScaling::None),
            ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
            ("yarn", Some(factor)) => {
                let number = |name: &str, default| Ok::<_, Error>(self.number_if_any(name)?.unwrap_or(default));
                let original = match self.size_if_any("rope.scaling.original_context_length")? {
                    Some(original) => original,
                    None => self.size("context_length")?,
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
                    attention_factor: number("rope.scaling.attn_factor", 1.0)? * (0.1 * factor.max(1.0).ln() + 1.0),
                    original_max_position_embeddings: original as f64,
                })
            }
            _ => Err(self.unexpected("rope.scaling.type", "one of none, linear, yarn")),
        }
    }

    /// The tensor that stretches Llama 3's RoPE.
    fn rope_factors(&self, pairs: usize) -> Result<Option<Vec<f32>>> {
        let Some((part, tensor)) = self.parts.iter().find_map(|part| Some((part, part.get(ROPE_FACTORS)?))) else {
            return Ok(None);
        };
        let read = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let factors: Vec<f32> = read(tensor.content());
        let fits = tensor.describe() == format!("F32[{pairs}]");
        if !fits || factors.iter().any(|factor| !(*factor > 0.0 && factor.is_finite())) {
            return Err(Error::UnfitTensor {
                file: part.located().into(),
                tensor: ROPE_FACTORS.into(),
                expected: format!("F32[{pairs}] of numbers above 0"),
                found: tensor.describe(),
            });
        }
        Ok(Some(factors))
    }

    /// What keys must be to each other.
    fn check(&self, config: &DecoderConfig) -> Result<()> {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(
                self.unexpected("attention.head_count_kv", &format!("a divisor of attention.head_count {heads}"))
            );
        }
        if config.head_dim == 0 || !config.head_dim.is_multiple_of(2) {
            return Err(self.unexpected("attention.key_length", "an even number of at least 2"));
        }
        let values = self.size_if_any("attention.value_length")?.unwrap_or(config.head_dim);
        if values != config.head_dim {
            let expected = format!("attention.key_length {}", config.head_dim);
            return Err(self.unexpected("attention.value_length", &expected));
        }
        Ok(())
    }
}

/// Whether a value of a pattern says that a layer slides: writers use truth values and whole numbers.
fn slides(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(slides) => Some(*slides),
        other => other.integer().map(|number| number != 0),
    }
}

#[cfg(test)]
mod tests;
