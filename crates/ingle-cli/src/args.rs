// SPDX-License-Identifier: EUPL-1.2
//! The words of the command line that several commands share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser};
use ingle::{
    AdapterSource, DType, EndTokens, GenerateOptions, Inspection, LoadOptions, MlxLmOptions, Sampling, TextModel,
};

use crate::Failure;
use crate::commands::Command;
use crate::output::Progress;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Run, fine-tune and train language models on the machine you own.
///
/// A model is a directory as the Hugging Face hub has them (config.json,
/// tokenizer.json, *.safetensors) or a .gguf file. The model `demo` is built in,
/// so every command works at once:
///
///   ingle generate --prompt "ROMEO:"
///   ingle pull Qwen/Qwen3-0.6B
///   ingle chat --model Qwen/Qwen3-0.6B
#[derive(Parser)]
#[command(name = "ingle", version, styles = STYLES, verbatim_doc_comment)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// Which model, and how it is loaded.
#[derive(Args, Clone)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A model directory, a .gguf file, the name of a pulled model (owner/name), or `demo`
    #[arg(long, short, default_value = "demo", env = "INGLE_MODEL", value_name = "MODEL")]
    pub model: String,

    /// Load a LoRA adapter, a directory of PEFT's, mlx-lm's or Ingle's, under its own name or another; may be repeated.
    /// Requests go through the first, unless they say otherwise
    #[arg(long = "adapter", value_name = "[NAME=]DIR", value_parser = adapter)]
    pub adapters: Vec<AdapterSource>,

    /// Backend to run on (see `ingle devices`); the best available if not given
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,

    /// Compute in this dtype instead of the one the weights are stored in: f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    pub dtype: Option<DType>,

    /// Keep keys and values as f32, bf16, f16 or q8, 8-bit integers that take half the memory of bf16; f32 if the
    /// weights are, else bf16
    #[arg(long, value_name = "DTYPE", value_parser = kv_dtype)]
    pub kv_dtype: Option<DType>,

    /// Threads to compute with; one for each core if not given
    #[arg(long, value_name = "N", value_parser = |s: &str| up_to(s, MOST_THREADS))]
    pub threads: Option<usize>,

    /// Tokens a sequence may have, prompt and answer together; the model's own limit if not given
    #[arg(long, value_name = "TOKENS", value_parser = positive)]
    pub context_length: Option<usize>,

    /// Memory that the model may take, for example 6GiB or 800MB; unlimited if not given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory_limit: Option<usize>,

    /// With --device mlx_lm: the Python that has mlx-lm; INGLE_PYTHON if not given, else python3
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,

    /// With --device mlx_lm: give up when Python owes an answer and says nothing for so long; 300 if not given
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub python_deadline: Option<usize>,
}

impl ModelArgs {
    /// What the model is that would be loaded so, from its files' headers.
    pub fn inspect(&self) -> Result<Inspection, Failure> {
        Ok(ingle::inspect(&self.model, &self.options())?)
    }

    fn options(&self) -> LoadOptions {
        LoadOptions {
            context_length: self.context_length,
            dtype: self.dtype,
            kv_dtype: self.kv_dtype,
            device: self.device.clone(),
            memory_limit: self.memory_limit,
            threads: self.threads,
            adapters: self.adapters.clone(),
            mlx_lm: MlxLmOptions {
                python: self.python.clone(),
                deadline: self.python_deadline.map(|seconds| Duration::from_secs(seconds as u64)),
            },
        }
    }

    /// Loads the model, by way of the first adapter if there is one, with a progress bar if that takes over a second.
    pub fn load(&self) -> Result<Box<dyn TextModel>, Failure> {
        let progress = Progress::bytes("loading");
        let model = ingle::load_with_progress(&self.model, &self.options(), &mut |p| {
            progress.set(p.loaded_bytes as u64, p.total_bytes as u64);
        });
        progress.done();
        let model = model?;
        match self.adapters.first() {
            Some(first) => Ok(model.adapted(Some(&first.name))?),
            None => Ok(model),
        }
    }
}

/// How each token is chosen and when the answer ends. What is not given is as the model's own
/// generation_config.json says, or greedy.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Tokens at most; up to the context length if not given
    #[arg(long, short = 'n', value_name = "N", value_parser = positive)]
    pub max_tokens: Option<usize>,

    /// Divide the logits; 0 always takes the likeliest token; the model's own if not given
    ///
    /// What is not given of temperature, top-p, top-k, min-p and repetition penalty is as the model's
    /// generation_config.json says. A model without one, or whose file does not say `do_sample`, and a .gguf file take
    /// the likeliest token (temperature 0)
    #[arg(long, short, value_name = "T", allow_negative_numbers = true, value_parser = |s: &str| within(s, 0.0, f32::MAX))]
    pub temperature: Option<f32>,

    /// Keep the likeliest tokens that together have this probability; 1 keeps all; the model's own, else 1, if not
    /// given
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = |s: &str| within(s, f32::MIN_POSITIVE, 1.0))]
    pub top_p: Option<f32>,

    /// Keep this many of the likeliest tokens; 0 keeps all; the model's own if not given (50 if it samples and says no
    /// number), else 0
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all; the model's own, else 0, if not
    /// given
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = |s: &str| within(s, 0.0, 1.0))]
    pub min_p: Option<f32>,

    /// Make tokens seen before less likely; 1 does nothing; the model's own, else 1, if not given
    #[arg(long, value_name = "F", allow_negative_numbers = true, value_parser = |s: &str| within(s, f32::MIN_POSITIVE, f32::MAX))]
    pub repetition_penalty: Option<f32>,

    /// Subtract this from the logits of generated tokens; 0 if not given
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = |s: &str| within(s, f32::MIN, f32::MAX))]
    pub presence_penalty: Option<f32>,

    /// Subtract this from the logits of generated tokens, once for each time; 0 if not given
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = |s: &str| within(s, f32::MIN, f32::MAX))]
    pub frequency_penalty: Option<f32>,

    /// Add to the logit of one token, for example 42=-5; may be repeated
    #[arg(long, value_name = "ID=X", allow_hyphen_values = true, value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,

    /// Seed of the draw: the same seed gives the same answer; a new one each time if not given
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,

    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,

    /// Show each token's log-probability and those of this many likeliest: in the JSON, or on standard error after the
    /// answer
    #[arg(long, value_name = "N")]
    pub logprobs: Option<usize>,

    /// Go on past the model's own end tokens
    #[arg(long)]
    pub ignore_eos: bool,
}

impl SamplingArgs {
    /// The options for `model`: what was given, over the model's own defaults.
    pub fn options(&self, model: &dyn TextModel) -> GenerateOptions {
        let own = model.default_sampling();
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(own.temperature),
            top_p: self.top_p.unwrap_or(own.top_p),
            top_k: self.top_k.unwrap_or(own.top_k),
            min_p: self.min_p.unwrap_or(own.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(own.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(own.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed.unwrap_or_else(fresh_seed),
        };
        GenerateOptions {
            max_tokens: self.max_tokens,
            sampling: Some(sampling),
            stop: self.stop.clone(),
            top_logprobs: self.logprobs,
            end_tokens: if self.ignore_eos { EndTokens::Ignore } else { EndTokens::Stop },
            ..GenerateOptions::default()
        }
    }
}

/// A seed that differs from run to run: the hasher that the standard library seeds from the system.
fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8) >> 16
}

/// `NAME=DIR`, or a directory that has the adapter's name.
fn adapter(text: &str) -> Result<AdapterSource, String> {
    let own_name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (name, path) = match text.split_once('=') {
        // A directory may have the sign in its name.
        Some((name, path)) if !Path::new(text).is_dir() => (Some(name.to_owned()), PathBuf::from(path)),
        _ => (own_name(Path::new(text)), PathBuf::from(text)),
    };
    let name = name.filter(|name| !name.is_empty() && !path.as_os_str().is_empty());
    let name = name.ok_or_else(|| "expected NAME=DIR, for example formal=adapters/formal".to_owned())?;
    Ok(AdapterSource { name, path })
}

pub fn dtype(text: &str) -> Result<DType, String> {
    DType::FLOATS.into_iter().find(|dtype| dtype.name() == text).ok_or_else(|| "expected f32, bf16 or f16".into())
}

/// What `--kv-dtype` calls the dtype of a key-value cache.
pub fn kv_dtype_name(dtype: DType) -> &'static str {
    if dtype == DType::I8 { "q8" } else { dtype.name() }
}

fn kv_dtype(text: &str) -> Result<DType, String> {
    let mut known = DType::FLOATS.into_iter().chain([DType::I8]);
    known.find(|dtype| kv_dtype_name(*dtype) == text).ok_or_else(|| "expected f32, bf16, f16 or q8".into())
}

pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".into()),
        Ok(number) => Ok(number),
    }
}

/// More threads than any machine has cores: so many that the system might not start them.
const MOST_THREADS: usize = 4096;

/// A whole number from 1 to `most`.
pub fn up_to(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("expected a whole number from 1 to {most}"))
}

pub fn positive_number(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number greater than 0".into())
}

/// A part of a whole.
pub fn part(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1".into())
}

fn within(text: &str, least: f32, most: f32) -> Result<f32, String> {
    let range = match (least, most) {
        (0.0, f32::MAX) => "of at least 0".to_owned(),
        (f32::MIN_POSITIVE, f32::MAX) => "greater than 0".to_owned(),
        (f32::MIN_POSITIVE, most) => format!("greater than 0 and at most {most}"),
        (f32::MIN, f32::MAX) => "that is finite".to_owned(),
        _ => format!("from {least} to {most}"),
    };
    match text.parse::<f32>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a number {range}")),
    }
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse::<f32>().ok()?)));
    parsed.filter(|(_, bias)| !bias.is_nan()).ok_or_else(|| "expected TOKEN_ID=NUMBER, for example 42=-5".into())
}

pub fn size(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, u64); 7] = [
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
        ("", 1),
    ];
    let refused = || "expected a size such as 6GiB, 800MB or a number of bytes".to_owned();
    let (number, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit))).ok_or_else(refused)?;
    let bytes = number.trim().parse::<f64>().map_err(|_| refused())? * unit as f64;
    if bytes >= 1.0 && bytes < usize::MAX as f64 { Ok(bytes as usize) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_words_are_consistent_good() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_good() {
        assert_eq!(size("6GiB"), Ok(6 << 30));
        assert_eq!(size("1.5 MB"), Ok(1_500_000));
        assert_eq!(size("77"), Ok(77));
    }

    #[test]
    fn adapters_by_name_good() {
        let read = |text| adapter(text).map(|AdapterSource { name, path }| (name, path));
        assert_eq!(read("formal=a/b"), Ok(("formal".into(), "a/b".into())));
        assert_eq!(read("a/formal"), Ok(("formal".into(), "a/formal".into())));
        assert!(read("=a").is_err() && read("formal=").is_err() && read("").is_err());
    }

    #[test]
    fn values_out_of_range_are_refused_bad() {
        assert!(within("nan", 0.0, f32::MAX).is_err());
        assert!(within("-1", 0.0, f32::MAX).is_err());
        assert!(within("inf", 0.0, f32::MAX).is_err());
        assert!(within("1.5", 0.0, 1.0).is_err());
        assert!(positive("0").is_err());
        assert!(size("lots").is_err());
        assert!(bias("42").is_err());
        assert!(dtype("int8").is_err());
        assert!(dtype("q8").is_err());
        assert!(kv_dtype("i8").is_err());
    }
}
