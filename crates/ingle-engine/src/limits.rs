// SPDX-License-Identifier: EUPL-1.2
//! What a request must keep to.

use ingle_nn::AdapterId;

use crate::{Error, Generate, Next, Request, Result, Task};

/// What a request must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Token ids are below this.
    pub vocab_size: usize,
    /// The longest prompt.
    pub context_length: usize,
    /// Whether tokens have text, so that stop strings can be found in it.
    pub has_text: bool,
    /// Numbers of adapters are below this.
    pub adapters: u32,
}

impl Limits {
    /// Refuses a request that cannot be carried out.
    ///
    /// # Errors
    /// [`Error::Request`] for an empty prompt, one longer than the context, a token id outside the vocabulary,
    /// a position, a token to score or an adapter that is not there, an empty stop string, a stop string without a
    /// tokeniser;
    /// [`Error::Sampling`] for a sampling option out of range.
    pub fn check(&self, request: &Request) -> Result<()> {
        let (prompt, vocab_size) = (&request.prompt, self.vocab_size);
        let refuse = |message: String| Err(Error::Request { message });
        if prompt.is_empty() {
            return refuse("the prompt is empty; give at least one token".into());
        }
        if prompt.len() > self.context_length {
            return refuse(format!(
                "the prompt has {} tokens, the context holds {}; shorten it or raise the context length",
                prompt.len(),
                self.context_length
            ));
        }
        if let Some((index, id)) = prompt.iter().enumerate().find(|&(_, &id)| id as usize >= vocab_size) {
            return refuse(format!("prompt token {index} is {id}, the vocabulary has {vocab_size} tokens"));
        }
        if let Some(AdapterId(id)) = request.adapter.filter(|AdapterId(id)| *id >= self.adapters) {
            return refuse(format!("adapter {id}: expected one of the {} that the model has", self.adapters));
        }
        match &request.task {
            Task::Generate(options) => self.check_generate(options),
            Task::Logits { from } if *from >= prompt.len() => refuse(format!(
                "logits from position {from}: expected a position of the prompt, which has {} tokens",
                prompt.len()
            )),
            Task::Score { from } if *from == 0 || *from >= prompt.len() => refuse(format!(
                "scores from token {from}: expected 1 to {}, for a prompt of {} tokens",
                prompt.len() - 1,
                prompt.len()
            )),
            Task::Next(next) => self.check_next(next),
            Task::Logits { .. } | Task::Score { .. } => Ok(()),
        }
    }

    fn check_next(&self, next: &Next) -> Result<()> {
        let refuse = |message: String| Err(Error::Request { message });
        match next {
            Next::Likeliest(0) => refuse("the 0 likeliest tokens: expected at least 1".into()),
            Next::Tokens(tokens) if tokens.is_empty() => refuse("no token to score; give at least one".into()),
            Next::Tokens(tokens) => match tokens.iter().find(|&&id| id as usize >= self.vocab_size) {
                Some(id) => refuse(format!("token {id} to score: the vocabulary has {} tokens", self.vocab_size)),
                None => Ok(()),
            },
            Next::Likeliest(_) => Ok(()),
        }
    }

    fn check_generate(&self, options: &Generate) -> Result<()> {
        options.sampling.validate(self.vocab_size)?;
        let refuse = |message: String| Err(Error::Request { message });
        if !options.stop_strings.is_empty() && !self.has_text {
            return refuse("stop strings need a tokeniser, and this model was loaded without one".into());
        }
        if let Some(index) = options.stop_strings.iter().position(String::is_empty) {
            return refuse(format!("stop string {index} is empty; leave it out"));
        }
        Ok(())
    }

    /// How many tokens an answer may have: as many as asked for, else as the context holds.
    pub(crate) fn max_tokens(&self, prompt: usize, asked: Option<usize>) -> usize {
        // Positions are i32 on every device.
        asked.unwrap_or(self.context_length - prompt).min(i32::MAX as usize - prompt)
    }
}
