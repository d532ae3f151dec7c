// SPDX-License-Identifier: EUPL-1.2
//! One request on its way through the engine.

use std::time::{Duration, Instant};

use ingle_nn::AdapterId;

use crate::answer::Answer;
use crate::blocks::Lease;
use crate::sampler::LogSoftmax;
use crate::{Event, FinishReason, RequestId, Result, Usage};

/// A request, its tokens and how far they are computed.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: RequestId,
    /// The prompt and what was generated.
    pub tokens: Vec<u32>,
    pub prompt_tokens: usize,
    pub work: Work,
    pub adapter: Option<AdapterId>,
    pub deadline: Option<Instant>,
    pub submitted: Instant,
    /// Tokens whose keys and values are in the cache.
    pub computed: usize,
    /// What it holds of the cache while it runs.
    pub lease: Option<Lease>,
    /// The number of tokens that this step computes.
    pub chunk: usize,
    /// The last step that computed some.
    pub last_step: usize,
    pub time_to_first_token: Option<Duration>,
    /// Prompt tokens that were found in the cache; known when the request is begun.
    pub cached_tokens: Option<usize>,
}

/// What is wanted of a sequence.
#[derive(Debug)]
pub(crate) enum Work {
    /// An answer.
    Generate(Box<Answer>),
    /// Logits, from this position on.
    Logits { next: usize },
    /// Log-probabilities of the tokens from index `from` on.
    Score { from: usize, logprobs: Vec<f32> },
}

impl Sequence {
    /// One past the last token that is to be computed.
    pub fn end(&self) -> usize {
        match self.work {
            // The last token predicts nothing that is asked for.
            Work::Score { .. } => self.tokens.len() - 1,
            _ => self.tokens.len(),
        }
    }

    /// The first token whose logits are wanted, so that it must be computed. All after it are wanted too.
    pub fn next_row(&self) -> usize {
        match &self.work {
            Work::Generate(_) => self.tokens.len() - 1,
            Work::Logits { next } => *next,
            Work::Score { from, logprobs } => from - 1 + logprobs.len(),
        }
    }

    /// Tokens generated, a stop token included.
    pub fn generated_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Whether one token more is all there is to compute.
    pub fn is_ready(&self) -> bool {
        self.computed + 1 == self.end()
    }

    /// Whether it is past its prompt and awaits its next token.
    pub fn decodes(&self) -> bool {
        self.generated_tokens() > 0 && self.is_ready()
    }

    /// How many rows of logits this step's chunk gives: those of its last tokens.
    pub fn rows(&self) -> usize {
        (self.computed + self.chunk).saturating_sub(self.next_row())
    }

    /// Takes the rows of logits of this step's chunk; says why the request has ended, if it has.
    pub fn take_rows<'a>(
        &mut self,
        rows: impl Iterator<Item = &'a mut [f32]>,
        events: &mut Vec<Event>,
    ) -> Result<Option<FinishReason>> {
        let id = self.id;
        self.computed += std::mem::take(&mut self.chunk);
        for row in rows {
            match &mut self.work {
                Work::Generate(answer) => {
                    let next = answer.next(row)?;
                    self.tokens.push(next.token.id);
                    events.push(Event::Token { id, token: next.token });
                    if next.finished.is_some() {
                        return Ok(next.finished);
                    }
                }
                Work::Logits { next } => {
                    events.push(Event::Logits { id, position: *next, row: row.to_vec() });
                    *next += 1;
                    if *next == self.tokens.len() {
                        return Ok(Some(FinishReason::Stop));
                    }
                }
                Work::Score { from, logprobs } => {
                    logprobs.push(LogSoftmax::new(row).of(self.tokens[*from + logprobs.len()]));
                    if *from + logprobs.len() == self.tokens.len() {
                        events.push(Event::Scores { id, logprobs: std::mem::take(logprobs) });
                        return Ok(Some(FinishReason::Stop));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The request's last event.
    pub fn finish(&self, reason: FinishReason) -> Event {
        let total_time = self.submitted.elapsed();
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens.unwrap_or(0),
            generated_tokens: self.generated_tokens(),
            time_to_first_token: self.time_to_first_token.unwrap_or(total_time),
            total_time,
        };
        Event::Finished { id: self.id, reason, usage }
    }
}
