// SPDX-License-Identifier: EUPL-1.2
//! An answer as it comes: an iterator for those who wait, a stream for those who do not.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use ingle_engine::{FinishReason, Token, Usage};

use crate::Result;
use crate::cancel::Registration;

/// An answer, token by token.
///
/// It is an [`Iterator`] that waits for each token, and a [`Stream`] for async callers. Dropping it cancels
/// what has not come yet. After the last token, [`TokenStream::finish`] says why it ended and what it took.
pub struct TokenStream {
    source: Box<dyn TokenSource>,
    finish: Option<Finish>,
    ended: bool,
    _cancel: Option<Registration>,
}

/// Where a backend's tokens come from; dropping it cancels the rest.
pub trait TokenSource: Send {
    /// Waits for the next update; `None` once there will be none.
    fn recv(&mut self) -> Option<Result<Update>>;

    /// The next update if it is there; else the task is woken when it is.
    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Update>>>;
}

/// What a [`TokenSource`] tells.
#[derive(Clone, Debug)]
pub enum Update {
    /// A token of the answer.
    Token(Token),
    /// The end of the answer.
    Finish(Finish),
}

/// Why an answer ended, and what it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: FinishReason,
    /// Tokens and times.
    pub usage: Usage,
}

/// Completions in the order of their prompts.
pub type Completions<'a> = Box<dyn Iterator<Item = Result<Completion>> + Send + 'a>;

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<Token>,
    /// Why it ended and what it took.
    pub finish: Finish,
}

impl TokenStream {
    pub(crate) fn new(source: Box<dyn TokenSource>, cancel: Option<Registration>) -> Self {
        TokenStream { source, finish: None, ended: false, _cancel: cancel }
    }

    /// Why the answer ended; `None` before its end, and if it failed.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn collect_all(mut self) -> Result<Completion> {
        let mut tokens = Vec::new();
        for token in &mut self {
            tokens.push(token?);
        }
        let text = tokens.iter().map(|token| token.text.as_str()).collect();
        match self.finish {
            Some(finish) => Ok(Completion { text, tokens, finish }),
            None => Err(stopped()),
        }
    }

    fn accept(&mut self, update: Option<Result<Update>>) -> Option<Result<Token>> {
        match update {
            Some(Ok(Update::Token(token))) => return Some(Ok(token)),
            Some(Ok(Update::Finish(finish))) => self.finish = Some(finish),
            Some(Err(error)) => {
                self.ended = true;
                return Some(Err(error));
            }
            None => {
                self.ended = true;
                return Some(Err(stopped()));
            }
        }
        self.ended = true;
        None
    }
}

/// The engine went away before the answer's end.
pub(crate) fn stopped() -> crate::Error {
    ingle_engine::Error::Stopped { message: "it has ended before the answer was complete".into() }.into()
}

impl Iterator for TokenStream {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let update = self.source.recv();
        self.accept(update)
    }
}

impl Stream for TokenStream {
    type Item = Result<Token>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.source.poll_recv(context).map(|update| self.accept(update))
    }
}
