// SPDX-License-Identifier: EUPL-1.2
//! One answer as the child's tokens come: stop strings, times, and its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_core::Stream;
use ingle_engine::text::StopStrings;
use ingle_engine::{FinishReason, Token, Usage};

use super::link::Shared;
use super::protocol::{WireFinish, WireToken};
use crate::stream::{Finish, TokenSource, Update};
use crate::{Error, Result};

/// What is kept of an answer while it grows.
pub struct Answer {
    updates: async_channel::Sender<Result<Update>>,
    stop: StopStrings,
    prompt_tokens: usize,
    generated_tokens: usize,
    submitted: Instant,
    time_to_first_token: Option<Duration>,
}

/// What a token did.
pub struct Taken {
    /// The time from submission, if it was the first.
    pub first_after: Option<Duration>,
    /// Whether the answer has ended, and whether the child knows.
    pub ended: Ended,
}

/// Whether an answer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It goes on.
    No,
    /// The child has ended it.
    ByChild,
    /// A stop string has, of which the child knows nothing.
    Here,
}

impl Answer {
    /// An answer that is about to be asked for, and where it can be read.
    pub fn new(prompt_tokens: usize, stop: StopStrings) -> (Self, async_channel::Receiver<Result<Update>>) {
        let (updates, receiver) = async_channel::unbounded();
        let submitted = Instant::now();
        let answer = Answer { updates, stop, prompt_tokens, generated_tokens: 0, submitted, time_to_first_token: None };
        (answer, receiver)
    }

    /// Hands a token on.
    pub fn take(&mut self, token: WireToken) -> Taken {
        self.generated_tokens += 1;
        let first_after = self.time_to_first_token.is_none().then(|| self.submitted.elapsed());
        self.time_to_first_token = self.time_to_first_token.or(first_after);
        let matched = self.stop.push(&token.text);
        let reason = match (matched.stopped, token.finish) {
            (true, _) | (false, Some(WireFinish::Stop)) => Some(FinishReason::Stop),
            (false, Some(WireFinish::Length)) => Some(FinishReason::Length),
            (false, None) => None,
        };
        let mut text = matched.text;
        if reason.is_some() {
            text += &self.stop.finish();
        }
        let logprobs = token.logprobs.map(Into::into);
        self.tell(Ok(Update::Token(Token { id: token.token, text, logprobs })));
        if let Some(reason) = reason {
            self.finish(reason);
        }
        let ended = match (reason, token.finish) {
            (None, _) => Ended::No,
            (Some(_), Some(_)) => Ended::ByChild,
            (Some(_), None) => Ended::Here,
        };
        Taken { first_after, ended }
    }

    /// Tells that the answer has ended.
    pub fn finish(&self, reason: FinishReason) {
        let total_time = self.submitted.elapsed();
        let usage = Usage {
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            generated_tokens: self.generated_tokens,
            time_to_first_token: self.time_to_first_token.unwrap_or(total_time),
            total_time,
        };
        self.tell(Ok(Update::Finish(Finish { reason, usage })));
    }

    /// Tells that the answer has failed.
    pub fn fail(&self, error: Error) {
        self.tell(Err(error));
    }

    fn tell(&self, update: Result<Update>) {
        // Whoever no longer reads has dropped the stream, and is about to cancel.
        let _ = self.updates.try_send(update);
    }
}

/// The reader's end of an answer; dropping it cancels the rest.
pub struct Source {
    pub id: u64,
    pub updates: Pin<Box<async_channel::Receiver<Result<Update>>>>,
    pub shared: Arc<Shared>,
}

/// An answer that was over before it began.
pub struct Ready(pub async_channel::Receiver<Result<Update>>);

impl TokenSource for Ready {
    fn recv(&mut self) -> Option<Result<Update>> {
        self.0.try_recv().ok()
    }

    fn poll_recv(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Update>>> {
        Poll::Ready(self.recv())
    }
}

impl TokenSource for Source {
    fn recv(&mut self) -> Option<Result<Update>> {
        self.updates.recv_blocking().ok()
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Update>>> {
        self.updates.as_mut().poll_next(context)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.end(self.id, FinishReason::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str, finish: Option<WireFinish>) -> WireToken {
        WireToken { token: 1, text: text.into(), logprobs: None, finish }
    }

    fn told(updates: &async_channel::Receiver<Result<Update>>) -> (String, Option<FinishReason>) {
        let (mut text, mut reason) = (String::new(), None);
        while let Ok(update) = updates.try_recv() {
            match update.unwrap() {
                Update::Token(token) => text += &token.text,
                Update::Finish(finish) => reason = Some(finish.reason),
            }
        }
        (text, reason)
    }

    #[test]
    fn a_stop_string_across_tokens_ends_it_here_good() {
        let (mut answer, updates) = Answer::new(1, StopStrings::new(&["END"]).unwrap());
        assert_eq!(answer.take(token("a E", None)).ended, Ended::No);
        assert_eq!(answer.take(token("ND b", None)).ended, Ended::Here);
        assert_eq!(told(&updates), ("a ".into(), Some(FinishReason::Stop)));
    }

    #[test]
    fn the_last_token_brings_what_was_held_back_ugly() {
        let (mut answer, updates) = Answer::new(1, StopStrings::new(&["END"]).unwrap());
        assert!(answer.take(token("a E", None)).first_after.is_some());
        let last = answer.take(token("N", Some(WireFinish::Length)));
        assert!(last.first_after.is_none() && last.ended == Ended::ByChild);
        assert_eq!(told(&updates), ("a EN".into(), Some(FinishReason::Length)));
    }
}
