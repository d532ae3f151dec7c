// SPDX-License-Identifier: EUPL-1.2
//! One request on its way through the engine.

use std::time::{Duration, Instant};

use ingle_nn::AdapterId;

use crate::answer::Answer;
use crate::blocks::Lease;
use crate::readout::{self, Found, Want};
use crate::{Event, FinishReason, Next, RequestId, Result, Usage};

/// A request, its tokens and how far they are computed.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub id: RequestId,
    /// The prompt and what was generated. Those after `known` are being computed: a 0 stands in for each.
    pub tokens: Vec<u32>,
    /// How many tokens are known.
    pub known: usize,
    /// Of the last token, if it is not known: the row of the pass under way that it follows.
    pub awaited: Option<usize>,
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
    /// What may come after the last token.
    Next(Next),
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
            Work::Generate(_) | Work::Next(_) => self.tokens.len() - 1,
            Work::Logits { next } => *next,
            Work::Score { from, logprobs } => from - 1 + logprobs.len(),
        }
    }

    /// Tokens generated and known, a stop token included.
    pub fn generated_tokens(&self) -> usize {
        self.known - self.prompt_tokens
    }

    /// Whether nothing more is to be computed once the tokens under way are known.
    pub fn awaits_its_end(&self) -> bool {
        match &self.work {
            Work::Generate(answer) => self.tokens.len() - self.known >= answer.left(),
            _ => false,
        }
    }

    /// Whether one token more is all there is to compute.
    pub fn is_ready(&self) -> bool {
        self.computed + 1 == self.end()
    }

    /// Whether it is past its prompt and awaits its next token.
    pub fn decodes(&self) -> bool {
        self.tokens.len() > self.prompt_tokens && self.is_ready()
    }

    /// How many rows of logits this step's chunk gives: those of its last tokens.
    pub fn rows(&self) -> usize {
        (self.computed + self.chunk).saturating_sub(self.next_row())
    }

    /// What is wanted of each row of this step's chunk.
    pub fn wants(&self) -> Vec<Want> {
        let rows = self.rows();
        match &self.work {
            Work::Generate(answer) => vec![answer.want(); rows],
            Work::Next(Next::Likeliest(1)) => vec![Want::Top; rows],
            Work::Next(Next::Tokens(tokens)) => vec![Want::Logprobs(tokens.clone()); rows],
            Work::Logits { .. } | Work::Next(Next::Likeliest(_)) => vec![Want::Row; rows],
            Work::Score { .. } => {
                let first = self.next_row() + 1;
                self.tokens[first..first + rows].iter().map(|&token| Want::Logprobs(vec![token])).collect()
            }
        }
    }

    /// Goes on with a token that is still to come: the one that follows this row of the pass under way.
    pub fn await_token(&mut self, row: usize) {
        self.tokens.push(0);
        self.awaited = Some(row);
    }

    /// Takes what was found of the rows of a chunk that is computed; says why the request has ended, if it has.
    pub fn take_rows(
        &mut self,
        rows: impl Iterator<Item = Found>,
        events: &mut Vec<Event>,
    ) -> Result<Option<FinishReason>> {
        let id = self.id;
        for found in rows {
            match (&mut self.work, found) {
                (Work::Generate(answer), found) => {
                    let next = match found {
                        Found::Likeliest { token, logit } => answer.take(token, logit)?,
                        Found::Row(mut row) => answer.choose(&mut row)?,
                        Found::Top { .. } | Found::Logprobs(_) => continue,
                    };
                    match self.tokens.get_mut(self.known) {
                        Some(awaited) => *awaited = next.token.id,
                        None => self.tokens.push(next.token.id),
                    }
                    self.known += 1;
                    if self.known == self.tokens.len() {
                        self.awaited = None;
                    }
                    events.push(Event::Token { id, token: next.token });
                    if next.finished.is_some() {
                        return Ok(next.finished);
                    }
                }
                (Work::Logits { next }, Found::Row(row)) => {
                    events.push(Event::Logits { id, position: *next, row });
                    *next += 1;
                    if *next == self.tokens.len() {
                        return Ok(Some(FinishReason::Stop));
                    }
                }
                (Work::Next(next), found) => {
                    let logprobs = match (next, found) {
                        (Next::Tokens(tokens), Found::Logprobs(found)) => tokens.iter().copied().zip(found).collect(),
                        (Next::Likeliest(_), Found::Top { token, logprob }) => vec![(token, logprob)],
                        (Next::Likeliest(count), Found::Row(row)) => readout::top(&row, *count),
                        _ => continue,
                    };
                    events.push(Event::Next { id, logprobs });
                    return Ok(Some(FinishReason::Stop));
                }
                (Work::Score { from, logprobs }, Found::Logprobs(found)) => {
                    logprobs.extend(found);
                    if *from + logprobs.len() == self.tokens.len() {
                        events.push(Event::Scores { id, logprobs: std::mem::take(logprobs) });
                        return Ok(Some(FinishReason::Stop));
                    }
                }
                // Nothing else was asked for.
                (Work::Logits { .. } | Work::Score { .. }, _) => {}
            }
        }
        Ok(None)
    }

    /// Forgets what it awaits, and begins again.
    pub fn begin_again(&mut self) {
        self.tokens.truncate(self.known);
        (self.awaited, self.computed, self.chunk) = (None, 0, 0);
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
