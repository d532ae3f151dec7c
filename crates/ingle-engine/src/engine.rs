// SPDX-License-Identifier: EUPL-1.2
//! The one loop.

use std::fmt;
use std::time::Instant;

use ingle_models::Model;
use ingle_nn::{AdapterId, KvCache, Visitor};
use ingle_tensor::Evaluation;

use crate::answer::Answer;
use crate::batch::batch;
use crate::blocks::BlockManager;
use crate::limits::Limits;
use crate::readout::{Found, Readout};
use crate::scheduler::{Begun, Scheduler};
use crate::sequence::{Sequence, Work};
use crate::text::Tokenizer;
use crate::{EngineOptions, Error, Event, FinishReason, Metrics, Request, RequestId, Result, Task};

/// A forward pass, perhaps not computed yet.
#[derive(Debug)]
struct Pass {
    readout: Readout,
    /// Who computes in it, with the number of rows of each.
    sequences: Vec<(RequestId, usize)>,
}

/// A model, its key-value cache, and the requests it is working on.
///
/// [`Engine::step`] computes a little of every request; call it until the engine [is idle](Engine::is_idle).
/// What a request gives does not depend on the requests beside it. See the [crate's text](crate) for an
/// example.
pub struct Engine {
    // Dropped before the model whose device it lives on.
    cache: KvCache,
    model: Box<dyn Model>,
    tokenizer: Option<Tokenizer>,
    scheduler: Scheduler,
    limits: Limits,
    metrics: Metrics,
    /// The pass that the device computes while the next step is prepared.
    under_way: Option<Pass>,
    /// Events that came between steps.
    pending: Vec<Event>,
    next_id: u64,
}

impl Engine {
    /// An engine for `model`, and whatever adapters that has. Without a tokeniser, tokens have no text and requests no
    /// stop strings.
    ///
    /// # Errors
    /// Options out of range, and those of making an empty cache.
    pub fn new(mut model: Box<dyn Model>, tokenizer: Option<Tokenizer>, options: EngineOptions) -> Result<Self> {
        let setup = options.setup(model.as_ref())?;
        let cache = KvCache::new(model.device(), &setup.layers, setup.block_size, setup.kv_dtype)?;
        let blocks = BlockManager::new(cache.groups(), setup.block_size, setup.pools);
        let limits = Limits {
            vocab_size: model.summary().vocab_size,
            context_length: setup.context_length,
            has_text: tokenizer.is_some(),
            adapters: adapters(&mut *model),
        };
        Ok(Engine {
            cache,
            model,
            tokenizer,
            scheduler: Scheduler::new(setup.step, blocks),
            limits,
            metrics: Metrics::default(),
            under_way: None,
            pending: Vec::new(),
            next_id: 0,
        })
    }

    /// The model.
    pub fn model(&self) -> &dyn Model {
        self.model.as_ref()
    }

    /// Where keys and values are kept.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Positions that a token can see at most, and the longest prompt.
    pub fn context_length(&self) -> usize {
        self.limits.context_length
    }

    /// What a request must keep to; lets other threads check theirs.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a request on.
    ///
    /// # Errors
    /// [`Error::Request`] or [`Error::Sampling`] for one that cannot be carried out: see [`Limits::check`].
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let id = RequestId(self.next_id);
        self.submit_as(id, request)?;
        self.next_id += 1;
        Ok(id)
    }

    /// [`Engine::submit`] for a caller that numbers all requests of this engine itself.
    pub(crate) fn submit_as(&mut self, id: RequestId, request: Request) -> Result<()> {
        self.limits.check(&request)?;
        let Request { prompt, task, adapter, deadline } = request;
        let mut wants_nothing = false;
        let work = match task {
            Task::Generate(options) => {
                let max_tokens = self.limits.max_tokens(prompt.len(), options.max_tokens);
                wants_nothing = max_tokens == 0;
                Work::Generate(Box::new(Answer::new(options, &prompt, max_tokens, self.tokenizer.as_ref())?))
            }
            Task::Logits { from } => Work::Logits { next: from },
            Task::Next(next) => Work::Next(next),
            Task::Score { from } => Work::Score { from, logprobs: Vec::new() },
        };
        let sequence = Sequence {
            id,
            prompt_tokens: prompt.len(),
            known: prompt.len(),
            awaited: None,
            tokens: prompt,
            work,
            adapter,
            deadline,
            submitted: Instant::now(),
            computed: 0,
            lease: None,
            chunk: 0,
            last_step: 0,
            time_to_first_token: None,
            cached_tokens: None,
        };
        if wants_nothing {
            self.pending.push(sequence.finish(FinishReason::Length));
        } else {
            self.scheduler.waiting.push_back(sequence);
        }
        Ok(())
    }

    /// Ends a request; the next step says so. One that has ended, or never was, is passed over.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(sequence) = self.scheduler.take_id(id) {
            self.pending.push(sequence.finish(FinishReason::Cancelled));
        }
        if self.scheduler.is_idle() {
            self.under_way = None;
        }
    }

    /// Whether there is nothing to do and nothing to say.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.scheduler.is_idle()
    }

    /// Computes a little of every request, in one forward pass, and appends what happened to `events`.
    ///
    /// A failed pass fails the requests it computed, with [`Event::Failed`]; the others go on.
    ///
    /// # Errors
    /// Only if the cache cannot be made anew after a failed pass. The engine is of no more use then.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let begin = Instant::now();
        events.append(&mut self.pending);
        for late in self.scheduler.take_where(|sequence| sequence.deadline.is_some_and(|end| end <= begin)) {
            events.push(late.finish(FinishReason::Deadline));
        }
        let stuck = self.scheduler.schedule(&mut self.cache);
        events.extend(stuck.map(|(sequence, error)| Event::Failed { id: sequence.id, error }));
        let Begun { prompt_tokens, cached_tokens, preemptions } = std::mem::take(&mut self.scheduler.begun);
        self.metrics.prompt_tokens += prompt_tokens;
        self.metrics.cached_tokens += cached_tokens;
        self.metrics.preemptions += preemptions;

        let decoded = self.scheduler.running.iter().filter(|s| s.chunk > 0 && s.decodes()).count();
        let computed: usize = self.scheduler.running.iter().map(|sequence| sequence.chunk).sum();
        if computed == 0 && self.under_way.is_none() {
            return Ok(());
        }
        let launched = if computed > 0 { self.launch().map(Some) } else { Ok(None) };
        // What the last pass gave is read, and its text made, while the device computes this one.
        if let Some(pass) = self.under_way.take() {
            self.land(pass, events)?;
        }
        match launched {
            Ok(Some(pass)) => match self.advance(&pass) {
                true => self.under_way = Some(pass),
                false => self.land(pass, events)?,
            },
            Ok(None) => {}
            Err(error) => self.fail(&error, |sequence| sequence.chunk > 0, events)?,
        }
        self.metrics.count_step(computed - decoded, decoded, begin.elapsed());
        Ok(())
    }

    /// What the engine has done so far, and its present state.
    pub fn metrics(&self) -> Metrics {
        let blocks = self.scheduler.blocks.counts();
        Metrics {
            running: self.scheduler.running.len(),
            waiting: self.scheduler.waiting.len(),
            blocks_used: blocks.used,
            blocks_cached: blocks.cached,
            blocks_total: blocks.total,
            kv_bytes: self.cache.bytes(),
            kv_used_bytes: blocks.used_bytes,
            ..self.metrics
        }
    }

    /// Starts counts and times again from zero.
    pub fn reset_metrics(&mut self) {
        self.metrics = Metrics::default();
    }

    /// Forgets the prompts kept for reuse; their memory stays, for the next ones.
    pub fn forget_prefixes(&mut self) {
        self.scheduler.blocks.forget();
    }

    /// Forgets the prompts kept for reuse. Without a running request, the cache gives its memory back too.
    ///
    /// # Errors
    /// Those of making an empty cache.
    pub fn clear_prefix_cache(&mut self) -> Result<()> {
        self.forget_prefixes();
        if self.scheduler.running.is_empty() {
            self.scheduler.blocks.reset();
            self.cache.reset()?;
        }
        Ok(())
    }

    /// Starts this step's forward pass.
    fn launch(&mut self) -> Result<Pass> {
        let (groups, block_size) = (self.cache.groups().len(), self.cache.block_size());
        let device = self.model.device().clone();
        let under_way = self.under_way.as_ref().and_then(|pass| pass.readout.tokens());
        let batch = batch(&device, &self.scheduler.running, under_way, groups, block_size)?;
        let logits = self.model.forward(&batch, &mut self.cache)?;
        let expected = [batch.outputs.shape()[0], self.limits.vocab_size];
        if **logits.shape() != expected {
            let message = format!("model: expected logits {expected:?}, found {}", logits.spec());
            return Err(Error::Request { message });
        }
        let in_step = || self.scheduler.running.iter().filter(|sequence| sequence.chunk > 0);
        let readout = Readout::new(&logits, in_step().flat_map(Sequence::wants).collect())?;
        let sequences = in_step().map(|sequence| (sequence.id, sequence.rows())).collect();
        device.flush()?;
        Ok(Pass { readout, sequences })
    }

    /// Goes past a pass that is launched. Says whether the next can be prepared before this one is read; then its
    /// tokens are awaited.
    fn advance(&mut self, pass: &Pass) -> bool {
        let queued = self.model.device().evaluation() == Evaluation::Queued;
        let meanwhile = queued && pass.readout.tokens().is_some();
        let mut row = 0;
        for &(id, rows) in &pass.sequences {
            if let Some(sequence) = self.scheduler.running.iter_mut().find(|sequence| sequence.id == id) {
                sequence.computed += std::mem::take(&mut sequence.chunk);
                if meanwhile && rows > 0 {
                    sequence.await_token(row);
                }
            }
            row += rows;
        }
        meanwhile
    }

    /// Hands each sequence of a pass its rows. One that has ended since is passed over.
    fn land(&mut self, pass: Pass, events: &mut Vec<Event>) -> Result<()> {
        let Pass { readout, sequences } = pass;
        let found = match readout.read() {
            Ok(found) => found,
            Err(error) => {
                self.under_way = None;
                let failed = |sequence: &Sequence| sequences.iter().any(|&(id, _)| id == sequence.id);
                return self.fail(&error, failed, events);
            }
        };
        let mut found = found.into_iter();
        for (id, count) in sequences {
            let rows: Vec<Found> = found.by_ref().take(count).collect();
            let Some(sequence) = self.scheduler.find(id) else { continue };
            let before = sequence.known;
            let ended = sequence.take_rows(rows.into_iter(), events);
            self.metrics.generated_tokens += sequence.known - before;
            if count > 0 && sequence.time_to_first_token.is_none() {
                let elapsed = sequence.submitted.elapsed();
                sequence.time_to_first_token = Some(elapsed);
                self.metrics.count_first_token(elapsed);
            }
            let event = match ended {
                Ok(None) => continue,
                Ok(Some(reason)) => self.scheduler.take_id(id).map(|sequence| sequence.finish(reason)),
                Err(error) => self.scheduler.take_id(id).map(|_| Event::Failed { id, error }),
            };
            events.extend(event);
        }
        Ok(())
    }

    /// After a pass that failed: its sequences fail, the others begin again in an empty cache.
    fn fail(&mut self, error: &Error, failed: impl Fn(&Sequence) -> bool, events: &mut Vec<Event>) -> Result<()> {
        tracing::warn!(%error, "a forward pass failed");
        let failed = self.scheduler.abandon(failed);
        events.extend(failed.iter().map(|sequence| Event::Failed { id: sequence.id, error: error.clone() }));
        Ok(self.cache.reset()?)
    }
}

/// One past the largest number of the adapters that a model has.
fn adapters(model: &mut dyn Model) -> u32 {
    let mut adapters = 0;
    model.visit(&mut Visitor::linears(&mut |_, linear| {
        adapters = linear.adapters().map(|AdapterId(id)| id.saturating_add(1)).fold(adapters, u32::max);
    }));
    adapters
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model.summary().architecture)
            .field("limits", &self.limits)
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}
