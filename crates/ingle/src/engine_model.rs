// SPDX-License-Identifier: EUPL-1.2
//! A model on Ingle's own engine, whatever the device.

mod classify;

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;
use ingle_engine::text::{ChatTemplate, GenerationPrompt, Message, Special, Tokenizer};
use ingle_engine::{Engine, EngineOptions, Event, EventStream, Generate, Request, Sampling, Task, Worker};
use ingle_models::Model;
use ingle_nn::{Adapter, AdapterId, ModelFiles};
use ingle_tensor::{DeviceHandle, Memory};

use crate::stream::{Finish, TokenSource, Update, stopped};
use crate::window::Window;
use crate::{
    AdapterSource, Classifications, ClassifyOptions, Completion, Completions, EndTokens, Error, GenerateOptions,
    Inspection, LoadOptions, LoadProgress, Metrics, ModelInfo, Prompt, Result, TextModel, TokenStream, defaults, paper,
};

/// Answers started ahead of the one waited for: enough that the engine's batch is always full.
const AHEAD: usize = 1024;

/// A model whose tokens Ingle's own engine computes, on any [`ingle_tensor::Device`]: a handle to it, and the adapter
/// that requests to this handle go through.
pub struct EngineModel {
    loaded: Arc<Loaded>,
    adapter: Option<AdapterId>,
}

/// What all handles share.
pub struct Loaded {
    worker: Worker,
    device: DeviceHandle,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    /// The names of the adapters in it are in the order of their numbers.
    info: ModelInfo,
}

impl Deref for EngineModel {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        &self.loaded
    }
}

impl EngineModel {
    /// Loads a model's files onto `device`.
    pub fn load(
        backend: &'static str,
        files: &ModelFiles,
        device: DeviceHandle,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        device.set_memory_limit(options.memory_limit);
        let model = read(files, &device, options, progress)?;
        let Parts { engine, tokenizer, template, sampling, info } = assemble(backend, files, model, options)?;
        let loaded = Loaded { worker: Worker::new(engine)?, device, tokenizer, template, sampling, info };
        Ok(EngineModel { loaded: Arc::new(loaded), adapter: None })
    }

    /// What a model would be that is loaded so, from its files' headers.
    pub fn inspect(backend: &'static str, files: &ModelFiles, options: &LoadOptions) -> Result<Inspection> {
        let mut model = read(files, &paper::device(), options, &mut |_| {})?;
        let weights = paper::forms(&mut *model);
        let Parts { mut info, .. } = assemble(backend, files, model, options)?;
        info.summary.parameters = weights.iter().map(|form| form.parameters).sum();
        info.summary.weight_bytes = weights.iter().map(|form| form.bytes).sum();
        Ok(Inspection { info, weights, memory: None })
    }

    fn tokens(&self, prompt: Prompt) -> Result<Vec<u32>> {
        match prompt {
            Prompt::Text(text) => Ok(self.tokenizer.encode(&text, Special::Add)?),
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Chat(messages) => self.rendered(&messages),
        }
    }

    /// A conversation as the template renders it, ready for the answer.
    fn rendered(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let text = self.template.render(messages, GenerationPrompt::Add, &serde_json::Map::new())?;
        // The template writes the special tokens itself.
        Ok(self.tokenizer.encode(&text, Special::Omit)?)
    }

    fn submit(&self, prompt: Vec<u32>, task: Task) -> Result<EventStream> {
        Ok(self.worker.submit(Request { prompt, task, adapter: self.adapter, deadline: None })?)
    }

    /// What is asked of the engine for an answer.
    fn request(&self, prompt: Prompt, options: &GenerateOptions) -> Result<Request> {
        let stop_tokens = match (options.end_tokens, &prompt) {
            (EndTokens::Ignore, _) => Vec::new(),
            (EndTokens::Stop, Prompt::Chat(_)) => self.tokenizer.end_of_turn_tokens().to_vec(),
            (EndTokens::Stop, Prompt::Text(_) | Prompt::Tokens(_)) => self.tokenizer.eos_tokens().to_vec(),
        };
        let task = Task::Generate(Generate {
            max_tokens: options.max_tokens,
            sampling: options.sampling.clone().unwrap_or_else(|| self.sampling.clone()),
            stop_tokens,
            stop_strings: options.stop.clone(),
            top_logprobs: options.top_logprobs,
        });
        let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(Request { prompt: self.tokens(prompt)?, task, adapter: self.adapter, deadline })
    }

    /// Starts an answer to each prompt.
    fn start_all(&self, prompts: Vec<Prompt>, options: &GenerateOptions) -> Vec<Result<TokenStream>> {
        let requests = prompts.into_iter().map(|prompt| Ok(vec![self.request(prompt, options)?])).collect();
        let answer = |streams: Vec<EventStream>| {
            let events = streams.into_iter().next().ok_or_else(stopped)?;
            let cancel = options.cancel.as_ref().map(|token| {
                let canceller = events.canceller();
                token.on_cancel(move || canceller.cancel())
            });
            Ok(TokenStream::new(Box::new(Events(events)), cancel))
        };
        self.submit_all(requests).into_iter().map(|streams| answer(streams?)).collect()
    }

    fn start(&self, prompt: Prompt, options: &GenerateOptions) -> Result<TokenStream> {
        self.start_all(vec![prompt], options).pop().unwrap_or_else(|| Err(stopped()))
    }

    /// Submits the requests of all jobs at once; gives each job its streams.
    fn submit_all(&self, jobs: Vec<Result<Vec<Request>>>) -> Vec<Result<Vec<EventStream>>> {
        let counts: Vec<Result<usize>> =
            jobs.iter().map(|job| job.as_ref().map(Vec::len).map_err(Clone::clone)).collect();
        let mut streams = self.worker.submit_all(jobs.into_iter().flatten().flatten().collect()).into_iter();
        let of_job = |count: Result<usize>| Ok(streams.by_ref().take(count?).collect::<ingle_engine::Result<_>>()?);
        counts.into_iter().map(of_job).collect()
    }
}

/// What a loaded model is made of, but for the thread that computes.
struct Parts {
    engine: Engine,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    info: ModelInfo,
}

/// Reads a model's weights onto `device`.
fn read(
    files: &ModelFiles,
    device: &DeviceHandle,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    let load = ingle_models::LoadOptions { dtype: options.dtype };
    ingle_models::load(files, device, &load, progress).map_err(|error| paper::explained(files, error.into()))
}

/// Adds what a model of `files` needs besides its weights.
fn assemble(
    backend: &'static str,
    files: &ModelFiles,
    mut model: Box<dyn Model>,
    options: &LoadOptions,
) -> Result<Parts> {
    let adapters = attach(&mut *model, options)?;
    let summary = model.summary().clone();
    let tokenizer = Tokenizer::from_files(files)?;
    let template = ChatTemplate::from_files(files, &tokenizer)?;
    let engine_options = EngineOptions {
        context_length: options.context_length,
        kv_dtype: options.kv_dtype,
        ..EngineOptions::default()
    };
    let engine = Engine::new(model, Some(tokenizer.clone()), engine_options)?;
    let info = ModelInfo {
        name: files.name(),
        backend: backend.into(),
        summary,
        context_length: engine.context_length(),
        kv_dtype: engine.cache().dtype(),
        kv_token_bytes: engine.cache().token_bytes(),
        adapters,
        adapter: None,
        chat_template: template.origin().into(),
    };
    Ok(Parts { engine, tokenizer, template, sampling: defaults::sampling(files)?, info })
}

/// Loads adapters, numbered in their order. Gives their names.
fn attach(model: &mut dyn Model, options: &LoadOptions) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (id, AdapterSource { name, path }) in (0..).zip(&options.adapters) {
        if names.contains(name) {
            let expected = "adapters whose names differ".into();
            return Err(Error::Option { option: "adapters", expected, found: format!("`{name}` twice") });
        }
        let adapter = Adapter::open(path, &model.device().clone())?;
        let adapter = match options.dtype {
            Some(dtype) => adapter.cast(dtype)?,
            None => adapter,
        };
        let unfit = |error: ingle_nn::Error| Error::Adapter { path: path.clone(), message: error.to_string() };
        ingle_models::attach(model, adapter, AdapterId(id)).map_err(unfit)?;
        names.push(name.clone());
    }
    Ok(names)
}

fn rows(stream: EventStream) -> Result<Vec<Vec<f32>>> {
    let mut rows = Vec::new();
    for event in stream {
        match event {
            Event::Logits { row, .. } => rows.push(row),
            Event::Finished { .. } => return Ok(rows),
            Event::Failed { error, .. } => return Err(error.into()),
            Event::Token { .. } | Event::Scores { .. } | Event::Next { .. } => {}
        }
    }
    Err(stopped())
}

impl TextModel for EngineModel {
    fn info(&self) -> ModelInfo {
        let adapter = self.adapter.and_then(|AdapterId(id)| self.info.adapters.get(id as usize)).cloned();
        ModelInfo { adapter, ..self.info.clone() }
    }

    fn adapted(&self, adapter: Option<&str>) -> Result<Box<dyn TextModel>> {
        let number = |name: &str| {
            let index = self.info.adapters.iter().position(|known| known == name);
            index.map(|index| AdapterId(index as u32)).ok_or_else(|| Error::Option {
                option: "adapter",
                expected: match self.info.adapters.as_slice() {
                    [] => "none, as the model was loaded without adapters".into(),
                    known => format!("one of {}", known.join(", ")),
                },
                found: format!("`{name}`"),
            })
        };
        Ok(Box::new(EngineModel { loaded: self.loaded.clone(), adapter: adapter.map(number).transpose()? }))
    }

    fn metrics(&self) -> Metrics {
        Metrics { engine: self.worker.metrics(), memory: self.device.memory() }
    }

    fn generate(&self, prompt: Prompt, options: &GenerateOptions) -> Result<TokenStream> {
        self.start(prompt, options)
    }

    fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<TokenStream> {
        self.start(Prompt::Chat(messages.to_vec()), options)
    }

    fn batch_generate(&self, prompts: Vec<Prompt>, options: &GenerateOptions) -> Result<Completions<'_>> {
        let options = options.clone();
        let start = move |prompts| self.start_all(prompts, &options);
        let finish = |stream: Result<TokenStream>| -> Result<Completion> { stream?.collect_all() };
        Ok(Box::new(Window::new(prompts.into_iter(), AHEAD, start, finish)))
    }

    fn classify(&self, texts: Vec<String>, options: &ClassifyOptions) -> Result<Classifications<'_>> {
        crate::classify::check(options)?;
        let (begin, conclude) = (options.clone(), options.clone());
        let start = move |texts| self.begin_all(texts, &begin);
        let finish = move |pending: Result<classify::Pending>| self.conclude(pending?, &conclude);
        Ok(Box::new(Window::new(texts.into_iter(), AHEAD, start, finish)))
    }

    fn logits(&self, tokens: Vec<u32>, from: usize) -> Result<Vec<Vec<f32>>> {
        rows(self.submit(tokens, Task::Logits { from })?)
    }

    fn tokenize(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(text, special)?)
    }

    fn piece(&self, id: u32) -> Option<String> {
        self.tokenizer.piece(id)
    }

    fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt> {
        Ok(Prompt::Tokens(self.rendered(messages)?))
    }

    fn default_sampling(&self) -> Sampling {
        self.sampling.clone()
    }

    fn memory(&self) -> Memory {
        self.device.memory()
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        self.device.set_memory_limit(bytes);
    }

    fn set_cache_limit(&self, bytes: Option<usize>) {
        self.device.set_cache_limit(bytes);
    }

    fn forget_prompts(&self) -> Result<()> {
        Ok(self.worker.forget_prefixes()?)
    }

    fn clear_cache(&self) -> Result<()> {
        self.worker.clear_prefix_cache()?;
        self.device.clear_cache();
        Ok(())
    }
}

/// The engine's events as the tokens of one answer.
struct Events(EventStream);

fn update(event: Event) -> Option<Result<Update>> {
    match event {
        Event::Token { token, .. } => Some(Ok(Update::Token(token))),
        Event::Finished { reason, usage, .. } => Some(Ok(Update::Finish(Finish { reason, usage }))),
        Event::Failed { error, .. } => Some(Err(error.into())),
        Event::Logits { .. } | Event::Next { .. } | Event::Scores { .. } => None,
    }
}

impl TokenSource for Events {
    fn recv(&mut self) -> Option<Result<Update>> {
        self.0.by_ref().find_map(update)
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Update>>> {
        loop {
            match Pin::new(&mut self.0).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(event)) => {
                    if let Some(update) = update(event) {
                        return Poll::Ready(Some(update));
                    }
                }
            }
        }
    }
}
