// SPDX-License-Identifier: EUPL-1.2
//! From a model's files to a model, or to what it is.

use ingle_nn::gguf::Gguf;
use ingle_nn::{Checkpoint, Error, Head, LoadProgress, ModelFiles, Result, Weights};
use ingle_tensor::{DType, DeviceHandle};

use crate::config::{Config, LayerType};
use crate::decoder::{Decoder, DecoderConfig, Prefixes};
use crate::quantization::Quantised;
use crate::{Model, Summary, gemma2, gemma3, gguf, llama, qwen2, qwen3};

/// Reads a `config.json` of one architecture.
type Read = fn(&Config) -> Result<DecoderConfig>;

/// Each architecture by its `model_type`.
const ARCHITECTURES: [(&str, Read); 6] = [
    ("gemma2", gemma2::read),
    ("gemma3", gemma3::read_nested),
    ("gemma3_text", gemma3::read),
    ("llama", llama::read),
    ("qwen2", qwen2::read),
    ("qwen3", qwen3::read),
];

const NAMES: [&str; ARCHITECTURES.len()] = {
    let mut names = [""; ARCHITECTURES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = ARCHITECTURES[index].0;
        index += 1;
    }
    names
};

/// Where a language model may stand in its checkpoint: alone, or beside a vision tower in the order that
/// `save_pretrained` or the modules give.
pub(crate) const MODEL_PREFIXES: [&str; 4] = ["language_model.model", "model.language_model", "model", ""];
pub(crate) const HEAD_PREFIXES: [&str; 3] = ["language_model.lm_head", "lm_head", "model.lm_head"];

/// Where a language model stands that is alone.
pub(crate) const PLAIN: Prefixes = Prefixes { model: "model", lm_head: "lm_head" };

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Weights are kept as this, and activations are what the device prefers beside it; as stored if `None`.
    pub dtype: Option<DType>,
}

/// The architectures that [`load`] knows, as `model_type` in `config.json` names them.
pub fn architectures() -> &'static [&'static str] {
    &NAMES
}

/// Loads the model of `files` onto `device`. `on_progress` is called after every few megabytes read.
///
/// # Errors
/// [`Error::Malformed`] for a configuration that is wrong, unknown or not supported, or a weight file that lies;
/// [`Error::MissingFile`], [`Error::MissingTensor`] and [`Error::UnfitTensor`] for weights that do not match it;
/// the device's own, memory among them.
pub fn load(
    files: &ModelFiles,
    device: &DeviceHandle,
    options: &LoadOptions,
    on_progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    if let Some(dtype) = options.dtype.filter(|dtype| !dtype.is_float()) {
        let (expected, found) = ("weights as f32, f16 or bf16".into(), dtype.to_string());
        return Err(ingle_tensor::Error::DType { op: "load", expected, found }.into());
    }
    let source = Source::open(files)?;
    if let Some(Quantised::Foreign(_)) = &source.quantised {
        let quantisation = source.summary.quantisation.unwrap_or_default();
        let message = format!("quantised weights ({quantisation}) are not supported yet; use the original checkpoint");
        return Err(Error::Malformed { file: files.locate("config.json"), message });
    }
    let weights = Weights::new(&source.checkpoint, device, options.dtype, on_progress);
    let summary = Summary { dtype: options.dtype.unwrap_or(source.summary.dtype), ..source.summary };
    Ok(Box::new(Decoder::load(&source.config, summary, source.prefixes, &weights)?))
}

/// What the model of `files` is, from its configuration and the headers of its weights: nothing is loaded.
///
/// # Errors
/// As [`load`], for what can be seen without loading.
pub fn read_summary(files: &ModelFiles) -> Result<Summary> {
    Ok(Source::open(files)?.summary)
}

/// A model's files, read and checked, before anything is loaded.
pub(crate) struct Source {
    pub config: DecoderConfig,
    pub summary: Summary,
    pub quantised: Option<Quantised>,
    /// The tensors of the language model only.
    pub checkpoint: Checkpoint,
    pub prefixes: Prefixes,
}

impl Source {
    pub(crate) fn open(files: &ModelFiles) -> Result<Self> {
        match files {
            ModelFiles::Gguf(path) => Self::from_gguf(&Gguf::open_parts(path)?),
            _ => Self::from_config(files),
        }
    }

    fn from_config(files: &ModelFiles) -> Result<Self> {
        let file = Config::open(files)?;
        let (architecture, config) = read_config(&file)?;
        let quantised = Quantised::read(&file)?;

        let checkpoint = Checkpoint::open(files)?;
        let checkpoint = match &quantised {
            Some(Quantised::Mlx(layers)) => checkpoint.with_affine(layers.clone())?,
            _ => checkpoint,
        };
        let model = checkpoint.find_prefix(&MODEL_PREFIXES, "embed_tokens.weight").unwrap_or("model");
        let lm_head = checkpoint.find_prefix(&HEAD_PREFIXES, "weight").unwrap_or("lm_head");
        let checkpoint = checkpoint.retain(|name| {
            let head = config.head == Head::Separate && is_under(name, lm_head);
            let decoder = is_under(name, model) && !is_under(name, lm_head);
            // Early Llamas stored what is computed from the configuration.
            (head || decoder) && !name.ends_with("rotary_emb.inv_freq")
        });
        let parameters = match &quantised {
            Some(Quantised::Foreign(foreign)) => {
                checkpoint.tensors().map(|(name, tensor)| foreign.parameters(name, tensor)).sum()
            }
            _ => checkpoint.parameters(),
        };
        let quantisation = quantised.as_ref().map(Quantised::describe);
        let summary = Summary { parameters, quantisation, ..summarise(architecture, &config, &checkpoint) };
        Ok(Source { config, summary, quantised, checkpoint, prefixes: Prefixes { model, lm_head } })
    }

    fn from_gguf(parts: &[Gguf]) -> Result<Self> {
        let gguf::Description { architecture, config, names, quantisation } = gguf::read(parts)?;
        let checkpoint = Checkpoint::from_gguf(parts, names)?.retain(gguf::is_weight);
        let summary = Summary { quantisation, ..summarise(architecture, &config, &checkpoint) };
        Ok(Source { config, summary, quantised: None, checkpoint, prefixes: PLAIN })
    }
}

/// The architecture that a `config.json` names, and what it says of it.
pub(crate) fn read_config(file: &Config) -> Result<(&str, DecoderConfig)> {
    let architecture = file.text("model_type")?.unwrap_or_default();
    let Some((_, read)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
        return Err(file.error("model_type", format!("one of {}", NAMES.join(", "))));
    };
    let config = read(file)?;
    check(&config, file)?;
    Ok((architecture, config))
}

fn summarise(architecture: &str, config: &DecoderConfig, checkpoint: &Checkpoint) -> Summary {
    Summary {
        architecture: architecture.into(),
        vocab_size: config.vocab_size,
        layers: config.layer_types.len(),
        hidden_size: config.hidden_size,
        parameters: checkpoint.parameters(),
        weight_bytes: checkpoint.bytes(),
        dtype: checkpoint.main_dtype().unwrap_or(DType::U8),
        quantisation: None,
        context_length: config.max_position_embeddings,
    }
}

fn is_under(name: &str, prefix: &str) -> bool {
    prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

/// What fields must be to each other, whatever the architecture.
fn check(config: &DecoderConfig, file: &Config) -> Result<()> {
    let text = file.object("text_config")?;
    let file = text.as_ref().unwrap_or(file);
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    if !heads.is_multiple_of(kv_heads) {
        let expected = format!("a divisor of num_attention_heads {heads}");
        return Err(file.error("num_key_value_heads", expected));
    }
    if config.sliding_window.is_none() && config.layer_types.contains(&LayerType::SlidingAttention) {
        return Err(file.error("sliding_window", "a whole number, as some layers slide"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
