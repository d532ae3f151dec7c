// SPDX-License-Identifier: EUPL-1.2
//! A model in a child process, as a [`TextModel`].

use std::time::Instant;

use ingle_engine::text::{Message, Special, StopStrings};
use ingle_engine::{FinishReason, Limits, Request, Sampling};
use ingle_models::Summary;
use ingle_nn::ModelFiles;
use ingle_tensor::{DType, Memory};

use super::answer::Answer;
use super::link::{Link, Reports};
use super::protocol::{End, Generate, Ready, Report, Task};
use super::{NAME, failed, python};
use crate::classify::{self, Labelled};
use crate::window::Window;
use crate::{
    Classifications, ClassifyOptions, Completion, Completions, EndTokens, Error, GenerateOptions, LoadOptions,
    LoadProgress, Metrics, ModelInfo, NextToken, Outcome, Prompt, Result, TextModel, TokenStream, defaults,
};

/// The child's program, in three parts.
const SCRIPT: &str =
    concat!(include_str!("child/protocol.py"), include_str!("child/answers.py"), include_str!("child/model.py"));

/// Requests sent ahead of the one waited for: enough that the child's batch is always full.
const AHEAD: usize = 256;

/// The context of a model that names none: positions are i32.
const UNBOUNDED: usize = i32::MAX as usize / 2;

/// A model that mlx-lm runs in a process of its own.
pub struct MlxLmModel {
    link: Link,
    info: ModelInfo,
    limits: Limits,
    sampling: Sampling,
}

impl MlxLmModel {
    /// Starts a child and has it load a model's files.
    pub fn load(files: &ModelFiles, options: &LoadOptions, progress: &mut dyn FnMut(LoadProgress)) -> Result<Self> {
        if options.threads.is_some() {
            return Err(cannot("choose the number of threads, MLX does; leave it out"));
        }
        if options.kv_dtype.is_some() {
            return Err(cannot("choose the dtype of keys and values, it is that of the activations; leave it out"));
        }
        if !options.adapters.is_empty() {
            return Err(cannot("load adapters; leave them out, or fuse one into the model first"));
        }
        let folder = Folder::of(files)?;
        let interpreter = python::interpreter(options.mlx_lm.python.as_deref());
        let link = Link::start(python::child(&interpreter, SCRIPT), SCRIPT, options.mlx_lm.deadline())?;
        let load = Task::Load {
            path: folder.path()?,
            dtype: options.dtype.map(DType::name),
            memory_limit: options.memory_limit,
        };
        for report in link.ask(&load)? {
            match report? {
                Report::Loading { loaded_bytes, total_bytes } => progress(LoadProgress { loaded_bytes, total_bytes }),
                Report::Ready(ready) => return Self::new(link, files, options, *ready),
                _ => {}
            }
        }
        Err(failed("the process has not loaded the model, nor said why"))
    }

    fn new(link: Link, files: &ModelFiles, options: &LoadOptions, ready: Ready) -> Result<Self> {
        let (dtype, kv_dtype) = (float(&ready.dtype)?, float(&ready.kv_dtype)?);
        let own_context = ready.context_length.unwrap_or(UNBOUNDED);
        let context_length = options.context_length.unwrap_or(own_context);
        let summary = Summary {
            architecture: ready.architecture,
            vocab_size: ready.vocab_size,
            layers: ready.layers,
            hidden_size: ready.hidden_size,
            parameters: ready.parameters,
            weight_bytes: ready.weight_bytes,
            dtype,
            quantisation: ready.quantisation,
            context_length: own_context,
        };
        tracing::info!(python = ready.python, mlx_lm = ready.mlx_lm, mlx = ready.mlx, "mlx_lm child is ready");
        Ok(MlxLmModel {
            link,
            limits: Limits { vocab_size: ready.vocab_size, context_length, has_text: true, adapters: 0 },
            sampling: defaults::sampling(files)?,
            info: ModelInfo {
                name: files.name(),
                backend: NAME.into(),
                summary,
                context_length,
                kv_dtype,
                kv_token_bytes: ready.kv_token_bytes,
                adapters: Vec::new(),
                adapter: None,
                chat_template: if ready.chat_template { "mlx-lm's tokeniser" } else { "none" }.into(),
            },
        })
    }

    fn encode(&self, texts: Vec<String>, special: Special) -> Result<Vec<Vec<u32>>> {
        let count = texts.len();
        let special = match special {
            Special::Add => "add",
            Special::Omit => "omit",
            Special::Literal => "literal",
        };
        self.encoded(&Task::Encode { texts, special }, count)
    }

    /// The `count` token lists that answer a task.
    fn encoded(&self, task: &Task, count: usize) -> Result<Vec<Vec<u32>>> {
        match self.link.call(task)? {
            Report::Encoded { tokens } if tokens.len() == count => Ok(tokens),
            other => Err(unexpected(&other)),
        }
    }

    fn encode_one(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        Ok(self.encode(vec![text.to_owned()], special)?.pop().unwrap_or_default())
    }

    fn rendered(&self, messages: &[Message]) -> Result<Vec<u32>> {
        Ok(self.encoded(&Task::Render { messages: messages.to_vec() }, 1)?.pop().unwrap_or_default())
    }

    fn tokens(&self, prompt: Prompt) -> Result<Vec<u32>> {
        match prompt {
            Prompt::Text(text) => self.encode_one(&text, Special::Add),
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Chat(messages) => self.rendered(&messages),
        }
    }

    /// Refuses what the engine would refuse, in its words, before anything is sent; gives the prompt back.
    fn checked(&self, prompt: Vec<u32>, task: ingle_engine::Task) -> Result<Vec<u32>> {
        let request = Request { prompt, task, adapter: None, deadline: None };
        self.limits.check(&request)?;
        Ok(request.prompt)
    }

    fn max_tokens(&self, prompt: usize, asked: Option<usize>) -> Result<usize> {
        let room = self.limits.context_length - prompt;
        match asked {
            // Ingle's own engine slides on past its context; mlx-lm has no such window for every model.
            Some(asked) if asked > room => {
                let message = format!(
                    "max_tokens: expected at most {room}, found {asked}: the prompt has {prompt} tokens, the context \
                     holds {}, and the backend `{NAME}` does not slide past it",
                    self.limits.context_length
                );
                Err(ingle_engine::Error::Request { message }.into())
            }
            asked => Ok(asked.unwrap_or(room)),
        }
    }

    fn start(&self, prompt: Prompt, options: &GenerateOptions) -> Result<TokenStream> {
        let end = match (options.end_tokens, &prompt) {
            (EndTokens::Ignore, _) => End::None,
            (EndTokens::Stop, Prompt::Chat(_)) => End::Turn,
            (EndTokens::Stop, Prompt::Text(_) | Prompt::Tokens(_)) => End::Sequence,
        };
        let sampling = options.sampling.clone().unwrap_or_else(|| self.sampling.clone());
        let task = ingle_engine::Generate {
            sampling: sampling.clone(),
            stop_strings: options.stop.clone(),
            ..ingle_engine::Generate::default()
        };
        let prompt = self.checked(self.tokens(prompt)?, ingle_engine::Task::Generate(task))?;
        let max_tokens = self.max_tokens(prompt.len(), options.max_tokens)?;
        let stop = StopStrings::new(&options.stop)?;
        let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if max_tokens == 0 {
            let (answer, updates) = Answer::new(prompt.len(), stop);
            answer.finish(FinishReason::Length);
            return Ok(TokenStream::new(Box::new(super::answer::Ready(updates)), None));
        }
        let generate =
            Generate { prompt, max_tokens, end, sampling: sampling.into(), top_logprobs: options.top_logprobs };
        let source = self.link.generate(generate, stop, deadline)?;
        let cancel = options.cancel.as_ref().map(|token| {
            let (shared, id) = (source.shared.clone(), source.id);
            token.on_cancel(move || shared.end(id, FinishReason::Cancelled))
        });
        Ok(TokenStream::new(Box::new(source), cancel))
    }

    /// Asks for what is needed to classify one text.
    fn begin(&self, text: &str, options: &ClassifyOptions) -> Result<Reports> {
        match options {
            ClassifyOptions::Top(count) => {
                let tokens = self.encode_one(text, Special::Add)?;
                let from = tokens.len().saturating_sub(1);
                let tokens = self.checked(tokens, ingle_engine::Task::Logits { from })?;
                self.link.ask(&Task::Top { tokens, count: *count })
            }
            ClassifyOptions::Labels(labels) => {
                let Labelled { sequences, shared } =
                    Labelled::new(|texts| self.encode(texts, Special::Add), text, labels)?;
                let check = |sequence| self.checked(sequence, ingle_engine::Task::Score { from: shared });
                let sequences = sequences.into_iter().map(check).collect::<Result<_>>()?;
                self.link.ask(&Task::Score { sequences, from: shared })
            }
        }
    }

    fn conclude(reports: Reports, options: &ClassifyOptions) -> Result<Outcome> {
        match (reports.last()?, options) {
            (Report::Top { tokens }, ClassifyOptions::Top(_)) => {
                let next = |(id, piece, logprob): (u32, String, Option<f64>)| {
                    let probability = logprob.map_or(0.0, |logprob| logprob.exp() as f32);
                    NextToken { id, piece, probability }
                };
                Ok(Outcome::Next(tokens.into_iter().map(next).collect()))
            }
            (Report::Scores { logprobs }, ClassifyOptions::Labels(labels)) if logprobs.len() == labels.len() => {
                let sums = logprobs.into_iter().map(|sum| sum.unwrap_or(f64::NEG_INFINITY)).collect();
                Ok(Outcome::Labels(classify::from_logprobs(sums, labels)))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }
}

impl TextModel for MlxLmModel {
    fn info(&self) -> ModelInfo {
        self.info.clone()
    }

    fn metrics(&self) -> Metrics {
        self.link.metrics()
    }

    fn generate(&self, prompt: Prompt, options: &GenerateOptions) -> Result<TokenStream> {
        self.start(prompt, options)
    }

    fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<TokenStream> {
        self.start(Prompt::Chat(messages.to_vec()), options)
    }

    fn batch_generate(&self, prompts: Vec<Prompt>, options: &GenerateOptions) -> Result<Completions<'_>> {
        let options = options.clone();
        let start = move |prompts: Vec<Prompt>| prompts.into_iter().map(|p| self.start(p, &options)).collect();
        let finish = |stream: Result<TokenStream>| -> Result<Completion> { stream?.collect_all() };
        Ok(Box::new(Window::new(prompts.into_iter(), AHEAD, start, finish)))
    }

    fn classify(&self, texts: Vec<String>, options: &ClassifyOptions) -> Result<Classifications<'_>> {
        classify::check(options)?;
        let (begin, conclude) = (options.clone(), options.clone());
        let start = move |texts: Vec<String>| texts.iter().map(|text| self.begin(text, &begin)).collect();
        let finish = move |reports: Result<Reports>| Self::conclude(reports?, &conclude);
        Ok(Box::new(Window::new(texts.into_iter(), AHEAD, start, finish)))
    }

    fn logits(&self, tokens: Vec<u32>, from: usize) -> Result<Vec<Vec<f32>>> {
        let tokens = self.checked(tokens, ingle_engine::Task::Logits { from })?;
        let mut rows = Vec::new();
        for report in self.link.ask(&Task::Logits { tokens, from })? {
            match report? {
                Report::Logits { row } => {
                    rows.push(row.into_iter().map(|logit| logit.unwrap_or(f32::NEG_INFINITY)).collect());
                }
                Report::Done => return Ok(rows),
                _ => {}
            }
        }
        Err(crate::stream::stopped())
    }

    fn tokenize(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        self.encode_one(text, special)
    }

    fn piece(&self, id: u32) -> Option<String> {
        match self.link.call(&Task::Piece { token: id }) {
            Ok(Report::Piece { piece }) => piece,
            _ => None,
        }
    }

    fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt> {
        Ok(Prompt::Tokens(self.rendered(messages)?))
    }

    fn default_sampling(&self) -> Sampling {
        self.sampling.clone()
    }

    fn memory(&self) -> Memory {
        self.link.metrics().memory
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        self.link.tell(&Task::SetMemoryLimit { bytes });
    }

    fn set_cache_limit(&self, bytes: Option<usize>) {
        self.link.tell(&Task::SetCacheLimit { bytes });
    }

    /// Keeps none.
    fn forget_prompts(&self) -> Result<()> {
        Ok(())
    }

    fn clear_cache(&self) -> Result<()> {
        self.link.call(&Task::ClearCache).map(drop)
    }
}

fn float(name: &str) -> Result<DType> {
    DType::FLOATS
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| failed(&format!("expected f32, bf16 or f16 for a dtype, found `{name}`")))
}

fn cannot(what: &'static str) -> Error {
    Error::Unsupported { backend: NAME.into(), what }
}

fn unexpected(report: &Report) -> Error {
    let what: String = format!("{report:?}").chars().take(80).collect();
    failed(&format!("the process gave an answer that was not asked for: {what}"))
}

/// A folder that the child can read: the model's own, or one that is written for it and removed once it is read.
enum Folder {
    Own(std::path::PathBuf),
    Written(tempfile::TempDir),
}

impl Folder {
    fn of(files: &ModelFiles) -> Result<Self> {
        match files {
            ModelFiles::Directory(path) => Ok(Folder::Own(path.clone())),
            ModelFiles::Gguf(_) => Err(cannot("read GGUF files; give the model's directory of safetensors")),
            ModelFiles::Embedded { files, .. } => {
                let refused = |path: &std::path::Path, error: std::io::Error| Error::Output {
                    path: path.into(),
                    message: error.to_string(),
                };
                let folder = tempfile::tempdir().map_err(|error| refused(&std::env::temp_dir(), error))?;
                for (name, content) in *files {
                    let path = folder.path().join(name);
                    std::fs::write(&path, content).map_err(|error| refused(&path, error))?;
                }
                Ok(Folder::Written(folder))
            }
        }
    }

    /// The path as JSON can say it.
    fn path(&self) -> Result<String> {
        let path = match self {
            Folder::Own(path) => path,
            Folder::Written(folder) => folder.path(),
        };
        // The child would take a relative path that does not exist for a name on the hub.
        let path = std::path::absolute(path)
            .map_err(|error| Error::Directory { path: path.into(), message: error.to_string() })?;
        path.to_str().map(str::to_owned).ok_or_else(|| Error::Directory {
            path: path.clone(),
            message: "the backend `mlx_lm` needs a path of UTF-8 text".into(),
        })
    }
}
