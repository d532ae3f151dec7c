// SPDX-License-Identifier: EUPL-1.2
//! Training: fine-tuning a model on examples, and a model of one's own from a text.
//!
//! [`finetune`] and [`from_scratch`] make a folder: the `model` (or the `adapter`) that was learnt, `checkpoints` to go
//! on from, `log.jsonl`, `loss.svg` and `loss.png`, and events for TensorBoard. What else there is to training is in
//! [`ingle_train`], whose words are here, too.
//!
//! ```no_run
//! use std::ops::ControlFlow;
//!
//! use ingle::train::{Event, FinetuneOptions, LoraConfig, finetune};
//!
//! let options = FinetuneOptions { adapter: Some(LoraConfig::default()), ..FinetuneOptions::new("train.jsonl", "out") };
//! let outcome = finetune("Qwen/Qwen3-0.6B", &options, &mut |event: &Event| {
//!     if let Event::Step(step) = event {
//!         println!("step {}: loss {:.3}", step.step, step.loss);
//!     }
//!     Ok(ControlFlow::Continue(()))
//! })?;
//! println!("{} steps", outcome.steps);
//! # Ok::<(), ingle::Error>(())
//! ```

mod config;
mod folder;

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_engine::text::{ChatTemplate, Tokenizer};
use ingle_models::{CreateOptions, Model, create, load, save, weights};
use ingle_nn::{Adapter, AdapterId};
pub use ingle_nn::{AdapterFormat, LoraConfig, LoraScaling, Target};
use ingle_tensor::{DType, DeviceHandle};
pub use ingle_train::Error as TrainError;
pub use ingle_train::data::{BpeDropout, Order, PromptLoss};
use ingle_train::data::{Corpus, CorpusOptions, Documents, Encoder, Examples, JsonLines};
pub use ingle_train::{
    AdamOptions, Beginning, Decay, Ending, Event, Lookahead, Observer, Optimizer, Outcome, Recompute, Schedule,
    SgdOptions, Step, TokenizerOptions, TrainOptions, Until, Validation,
};
use ingle_train::{Trained, Trainer};
use serde_json::Value;

pub use config::{ScratchConfig, TextOptions};
use folder::{Begin, Folder};

use crate::{Error, Result, discover};

/// The adapter that is trained, where one is.
const ADAPTER: AdapterId = AdapterId(0);

/// What is trained with, and where the result goes.
#[derive(Clone, Debug)]
pub struct FinetuneOptions {
    /// Examples: a JSONL file of objects with `text`, with `text` and `label`, with `prompt` and `completion`, or with
    /// `messages`; or a plain text, for any other name.
    pub data: PathBuf,
    /// Examples on which the loss is measured.
    pub validation: Option<PathBuf>,
    /// The folder that is made.
    pub out: PathBuf,
    /// Whether there may be something in it already.
    pub start: Start,
    /// Train an adapter like this, and leave the weights as they are; all weights are trained if `None`.
    pub adapter: Option<LoraConfig>,
    /// Whose files the adapter is written as.
    pub adapter_format: AdapterFormat,
    /// What becomes of prompts.
    pub prompt_loss: PromptLoss,
    /// The field that has an example's label.
    pub label_field: String,
    /// What the model reads of an example with a label: `{text}` stands for its text.
    pub template: String,
    /// How likely a token that is read is taken apart in training: see [`BpeDropout`].
    pub bpe_dropout: f64,
    /// How it is trained.
    pub training: TrainOptions,
    /// On what.
    pub machine: Machine,
}

/// How a training begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// In a new folder.
    #[default]
    New,
    /// At the newest checkpoint in the folder, or in a new one.
    Resume,
}

/// What a training runs on.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The backend's name; the processor if `None`.
    pub device: Option<String>,
    /// The weights in this dtype; as stored if `None`, or f32 where there are none yet.
    pub dtype: Option<DType>,
    /// Threads to compute with; one for each core if `None`.
    pub threads: Option<usize>,
    /// Bytes that the model and all it computes may take; unlimited if `None`.
    pub memory_limit: Option<usize>,
}

impl FinetuneOptions {
    /// All weights, in a new folder `out`, with the options that most trainings have.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        FinetuneOptions {
            data: data.into(),
            validation: None,
            out: out.into(),
            start: Start::New,
            adapter: None,
            adapter_format: AdapterFormat::Peft,
            prompt_loss: PromptLoss::Masked,
            label_field: "label".into(),
            template: "{text}".into(),
            bpe_dropout: 0.0,
            training: TrainOptions::default(),
            machine: Machine::default(),
        }
    }
}

/// Trains a model (see [`crate::load`]) on examples of what it should say.
///
/// # Errors
/// A model or data that are not there or malformed, with file and line; options that cannot be met; a loss that is no
/// number any more; a folder that cannot be written. What was saved before stays; where no step was made, the folder is as
/// it was, or not there.
pub fn finetune(model: &str, options: &FinetuneOptions, observer: &mut dyn Observer) -> Result<Outcome> {
    let files = discover::resolve(model)?;
    if options.adapter.is_none() && files.gguf()?.is_some() {
        let expected = "a directory of safetensors, or an adapter to train beside the model".into();
        return Err(Error::Option { option: "model", expected, found: files.name() });
    }
    options.training.check()?;
    options.adapter.as_ref().map(LoraConfig::check).transpose()?;
    let mut folder = Folder::open(&options.out, options.start)?;
    let device = options.machine.device()?;
    let load_options = ingle_models::LoadOptions { dtype: options.machine.dtype };
    // Data first: what is wrong with them is found before a large model is read.
    let tokenizer = Tokenizer::from_files(&files)?;
    let chat = ChatTemplate::from_files(&files, &tokenizer)?;
    let encoder = Encoder::new(tokenizer, chat, options.prompt_loss).with_template(&options.template);
    let encoder = encoder.with_label_field(&options.label_field);
    let reading = Reading { encoder: &encoder, documents: None, bpe_dropout: options.bpe_dropout };
    let data = Data::open(&options.data, options.validation.as_deref(), &reading, &options.training)?;
    let mut model = load(&files, &device, &load_options, &mut |_| {})?;
    let trained = match &options.adapter {
        None => Trained::Weights,
        Some(config) => {
            let adapter = Adapter::create(&mut *model, &device, config, options.training.seed)?;
            adapter.attach(&mut *model, ADAPTER)?;
            Trained::Adapter(ADAPTER)
        }
    };
    let begin = Begin { model, trained, data, options: options.training.clone(), start: options.start };
    let (outcome, learnt) = folder.train(begin, observer)?;
    if let Some(mut model) = learnt {
        match trained {
            Trained::Weights => folder.put("model", |out| Ok(save(out, &files, &weights(&mut *model))?))?,
            Trained::Adapter(id) => {
                let adapter = ingle_models::adapter(&mut *model, id)?;
                folder.put("adapter", |out| Ok(adapter.save(out, options.adapter_format, &files.name())?))?;
            }
        }
    }
    Ok(outcome)
}

/// What a model of one's own is made from, and where it goes.
#[derive(Clone, Debug)]
pub struct ScratchOptions {
    /// The model, its tokeniser and its training.
    pub config: ScratchConfig,
    /// A plain text, or a JSONL file as [`FinetuneOptions::data`] may be.
    pub data: PathBuf,
    /// The same, on which the loss is measured.
    pub validation: Option<PathBuf>,
    /// The folder that is made.
    pub out: PathBuf,
    /// Whether there may be something in it already.
    pub start: Start,
    /// On what.
    pub machine: Machine,
}

/// Trains a model from nothing: first its tokeniser, then its weights.
///
/// # Errors
/// As [`finetune`], and for a configuration that describes no model.
pub fn from_scratch(options: &ScratchOptions, observer: &mut dyn Observer) -> Result<Outcome> {
    let (training, documents) = (options.config.training_options()?, options.config.data.documents()?);
    training.check()?;
    let mut folder = Folder::open(&options.out, options.start)?;
    let device = options.machine.device()?;
    if let Some(validation) = &options.validation {
        // Before a tokeniser is made, which takes its time.
        File::open(validation).map_err(|error| TrainError::unread(validation, &error))?;
    }
    let text = std::fs::read_to_string(&options.data).map_err(|error| TrainError::unread(&options.data, &error))?;
    let text = if is_jsonl(&options.data) { texts(&text) } else { text };
    let files = folder.beginning(&options.config, &text)?;
    let tokenizer = Tokenizer::from_files(&files)?;
    let chat = ChatTemplate::from_files(&files, &tokenizer)?;
    let encoder = Encoder::new(tokenizer, chat, PromptLoss::Masked);
    let reading = Reading { encoder: &encoder, documents, bpe_dropout: options.config.data.bpe_dropout };
    let data = Data::open(&options.data, options.validation.as_deref(), &reading, &training)?;
    let dtype = options.machine.dtype.unwrap_or(DType::F32);
    let model = create(&files, &device, &CreateOptions { seed: training.seed, dtype })?;
    let begin = Begin { model, trained: Trained::Weights, data, options: training, start: options.start };
    let (outcome, learnt) = folder.train(begin, observer)?;
    if let Some(mut model) = learnt {
        folder.put("model", |out| Ok(save(out, &files, &weights(&mut *model))?))?;
    }
    Ok(outcome)
}

fn is_jsonl(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

/// All texts in lines of JSON, a line each: what a tokeniser learns from. Lines that are none are found when the examples
/// are read.
fn texts(lines: &str) -> String {
    fn add(value: &Value, texts: &mut String) {
        match value {
            Value::String(text) => texts.extend([text.as_str(), "\n"]),
            Value::Array(values) => values.iter().for_each(|value| add(value, texts)),
            Value::Object(fields) => fields.values().for_each(|value| add(value, texts)),
            _ => {}
        }
    }
    let mut texts = String::new();
    lines.lines().filter_map(|line| serde_json::from_str(line).ok()).for_each(|value| add(&value, &mut texts));
    texts
}

/// What is learnt and what is asked.
pub(crate) struct Data {
    training: Arc<dyn Examples>,
    validation: Option<Arc<dyn Examples>>,
}

/// How data are read.
struct Reading<'a> {
    encoder: &'a Encoder,
    /// Of a plain text.
    documents: Option<Documents>,
    /// Of what is learnt.
    bpe_dropout: f64,
}

impl Data {
    fn open(training: &Path, validation: Option<&Path>, reading: &Reading<'_>, options: &TrainOptions) -> Result<Self> {
        let (encoder, tokenizer) = (reading.encoder, reading.encoder.tokenizer());
        let lines = |path: &Path| JsonLines::open(path, encoder.clone());
        let corpus_options = CorpusOptions { window: options.max_length, documents: reading.documents.clone() };
        let corpus = |path: &Path| Corpus::open(path, tokenizer, &corpus_options);
        let bpe_dropout = match reading.bpe_dropout {
            0.0 => None,
            probability => Some(BpeDropout::new(tokenizer, probability, options.seed)?),
        };
        let training: Arc<dyn Examples> = match (is_jsonl(training), bpe_dropout) {
            (true, None) => Arc::new(lines(training)?),
            (true, Some(bpe_dropout)) => Arc::new(lines(training)?.varied(bpe_dropout)),
            (false, bpe_dropout) => Arc::new(corpus(training)?.varied(options.seed, bpe_dropout)),
        };
        let open = |path: &Path| -> Result<Arc<dyn Examples>> {
            Ok(if is_jsonl(path) { Arc::new(lines(path)?) } else { Arc::new(corpus(path)?) })
        };
        Ok(Data { training, validation: validation.map(open).transpose()? })
    }
}

impl Machine {
    fn device(&self) -> Result<DeviceHandle> {
        let device: DeviceHandle = match self.device.as_deref() {
            None | Some("cpu") => {
                Arc::new(CpuDevice::new(CpuOptions { threads: self.threads, ..CpuOptions::default() })?)
            }
            #[cfg(mlx)]
            Some(name) if name == ingle_mlx::name() => Arc::new(ingle_mlx::MlxDevice::new()?),
            Some(name) => {
                let known = if cfg!(mlx) { "cpu and MLX's, to train on" } else { "cpu, to train on" };
                return Err(Error::UnknownBackend { name: name.into(), known: known.into() });
            }
        };
        device.set_memory_limit(self.memory_limit);
        Ok(device)
    }
}

/// What happens first, and then what somebody else wants to hear.
pub(crate) struct Together<'a>(pub Vec<&'a mut dyn Observer>);

impl Observer for Together<'_> {
    fn observe(&mut self, event: &Event) -> ingle_train::Result<ControlFlow<()>> {
        let mut flow = ControlFlow::Continue(());
        for observer in &mut self.0 {
            if observer.observe(event)?.is_break() {
                flow = ControlFlow::Break(());
            }
        }
        Ok(flow)
    }
}

/// A trainer and what it is given.
pub(crate) type Learnt = (Outcome, Option<Box<dyn Model>>);

impl Begin {
    /// A trainer with its checkpoints in `folder`, which goes on from there if it is to.
    fn trainer(self, folder: &Path) -> Result<Trainer> {
        let Begin { model, trained, data, options, start } = self;
        let mut trainer = Trainer::new(model, trained, data.training, options)?.with_checkpoints(folder);
        if let Some(validation) = data.validation {
            trainer = trainer.with_validation(validation);
        }
        if start == Start::Resume {
            trainer.resume()?;
        }
        Ok(trainer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_in_lines_of_json_good() {
        let lines =
            "{\"text\": \"a\", \"n\": 1}\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}]}\nno JSON\n";
        assert_eq!(texts(lines), "a\nuser\nb\n");
    }

    #[test]
    fn a_device_that_none_trains_on_bad() {
        let machine = Machine { device: Some("mlx_lm".into()), ..Machine::default() };
        let refused = machine.device().map(|_| ()).unwrap_err().to_string();
        assert!(refused.starts_with("backend `mlx_lm`: unknown; known are: cpu"), "{refused}");
    }
}
