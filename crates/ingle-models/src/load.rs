// SPDX-License-Identifier: EUPL-1.2
//! From a model's files to a model, or to what it is.

use ingle_nn::{Checkpoint, Error, LoadProgress, ModelFiles, Result, StoredTensor, Weights};
use ingle_tensor::{DType, DeviceHandle};

use crate::config::{Config, LayerType};
use crate::decoder::{Decoder, DecoderConfig};
use crate::{Model, Summary, gemma2, gemma3, llama, qwen2, qwen3};

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
const MODEL_PREFIXES: [&str; 4] = ["language_model.model", "model.language_model", "model", ""];
const HEAD_PREFIXES: [&str; 3] = ["language_model.lm_head", "lm_head", "model.lm_head"];

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
    if let Some(quantisation) = &source.summary.quantisation {
        let message = format!("quantised weights ({quantisation}) are not supported yet; use the original checkpoint");
        return Err(Error::Malformed { file: files.locate("config.json"), message });
    }
    let weights = Weights::new(&source.checkpoint, device, options.dtype, on_progress);
    let summary = Summary { dtype: options.dtype.unwrap_or(source.summary.dtype), ..source.summary };
    let (model, lm_head) = (weights.scope(source.model), weights.scope(source.lm_head));
    Ok(Box::new(Decoder::load(&source.config, summary, [&model, &lm_head])?))
}

/// What the model of `files` is, from its configuration and the headers of its weights: nothing is loaded.
///
/// # Errors
/// As [`load`], for what can be seen without loading.
pub fn read_summary(files: &ModelFiles) -> Result<Summary> {
    Ok(Source::open(files)?.summary)
}

/// A model's files, read and checked, before anything is loaded.
struct Source {
    config: DecoderConfig,
    summary: Summary,
    /// The tensors of the language model only.
    checkpoint: Checkpoint,
    /// Where the decoder stands in the checkpoint.
    model: &'static str,
    /// Where the head does.
    lm_head: &'static str,
}

impl Source {
    fn open(files: &ModelFiles) -> Result<Self> {
        let file = Config::open(files)?;
        let architecture = file.text("model_type")?.unwrap_or_default();
        let Some((_, read)) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture) else {
            return Err(file.error("model_type", format!("one of {}", NAMES.join(", "))));
        };
        let config = read(&file)?;
        check(&config, &file)?;
        let quantisation = Quantisation::read(&file)?;

        let checkpoint = Checkpoint::open(files)?;
        let model = checkpoint.find_prefix(&MODEL_PREFIXES, "embed_tokens.weight").unwrap_or("model");
        let lm_head = checkpoint.find_prefix(&HEAD_PREFIXES, "weight").unwrap_or("lm_head");
        let checkpoint = checkpoint.retain(|name| {
            let head = !config.tie_word_embeddings && is_under(name, lm_head);
            let decoder = is_under(name, model) && !is_under(name, lm_head);
            // Early Llamas stored what is computed from the configuration.
            (head || decoder) && !name.ends_with("rotary_emb.inv_freq")
        });
        let parameters = |(name, tensor): (&str, &StoredTensor)| match &quantisation {
            Some(quantisation) => quantisation.parameters(name, tensor),
            None => tensor.shape().elements(),
        };
        let summary = Summary {
            architecture: architecture.into(),
            vocab_size: config.vocab_size,
            layers: config.layer_types.len(),
            hidden_size: config.hidden_size,
            parameters: checkpoint.tensors().map(parameters).sum(),
            weight_bytes: checkpoint.bytes(),
            dtype: checkpoint.main_dtype().unwrap_or(DType::U8),
            quantisation: quantisation.as_ref().map(Quantisation::describe),
            context_length: config.max_position_embeddings,
        };
        Ok(Source { config, summary, checkpoint, model, lm_head })
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

/// How weights are quantised, as far as the configuration says.
struct Quantisation {
    method: Option<String>,
    bits: Option<usize>,
    group_size: Option<usize>,
}

impl Quantisation {
    /// `quantization_config` is transformers' field, `quantization` that of MLX.
    fn read(config: &Config) -> Result<Option<Self>> {
        let config = match (config.object("quantization_config")?, config.object("quantization")?) {
            (Some(config), _) | (None, Some(config)) => config,
            (None, None) => return Ok(None),
        };
        let flag = |name| config.flag(name, false);
        let bits = match config.size_if_any("bits")? {
            Some(bits) => Some(bits),
            None if flag("load_in_4bit")? => Some(4),
            None if flag("load_in_8bit")? => Some(8),
            None => None,
        };
        let method = config.text("quant_method")?.map(str::to_owned);
        // GPTQ writes a group size of −1 for none.
        let group_size = config.size_if_any("group_size").unwrap_or(None);
        Ok(Some(Quantisation { method, bits, group_size }))
    }

    /// `4-bit, groups of 64, gptq`.
    fn describe(&self) -> String {
        let bits = self.bits.map(|bits| format!("{bits}-bit"));
        let groups = self.group_size.map(|size| format!("groups of {size}"));
        let parts: Vec<String> = [bits, groups, self.method.clone()].into_iter().flatten().collect();
        if parts.is_empty() { "of an unnamed kind".into() } else { parts.join(", ") }
    }

    /// How many weights a tensor holds: several to a 32-bit word, none in scales and zero points.
    fn parameters(&self, name: &str, tensor: &StoredTensor) -> usize {
        let elements = tensor.shape().elements();
        match (name.rsplit('.').next(), tensor.dtype(), self.bits) {
            (Some("weight" | "qweight"), Some(DType::U32 | DType::I32), Some(bits)) => {
                elements.saturating_mul(32) / bits
            }
            (Some("weight" | "bias"), _, _) => elements,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
