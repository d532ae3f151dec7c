// SPDX-License-Identifier: EUPL-1.2
//! The answer to one prompt as it grows: tokens, their text, and when it ends.

use crate::readout::Want;
use crate::sampler::{LogSoftmax, Sampler};
use crate::text::{Detokenizer, StopStrings, Tokenizer};
use crate::{FinishReason, Generate, Logprobs, Result, Token};

/// Continues one prompt.
#[derive(Debug)]
pub(crate) struct Answer {
    sampler: Sampler,
    detokenizer: Option<Detokenizer>,
    stop_strings: StopStrings,
    stop_tokens: Vec<u32>,
    top_logprobs: Option<usize>,
    /// Tokens that may still come.
    left: usize,
}

/// A token that was chosen.
#[derive(Debug)]
pub(crate) struct Step {
    pub token: Token,
    pub finished: Option<FinishReason>,
}

impl Answer {
    /// An empty answer to `prompt` that may have up to `max_tokens` tokens.
    pub fn new(options: Generate, prompt: &[u32], max_tokens: usize, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        Ok(Answer {
            sampler: Sampler::new(options.sampling, prompt),
            detokenizer: tokenizer.map(|tokenizer| Detokenizer::new(tokenizer.clone(), prompt)),
            stop_strings: StopStrings::new(&options.stop_strings)?,
            stop_tokens: options.stop_tokens,
            top_logprobs: options.top_logprobs,
            left: max_tokens,
        })
    }

    /// What the next token is chosen from.
    pub fn want(&self) -> Want {
        match self.sampler.takes_likeliest() && self.top_logprobs.is_none() {
            true => Want::Likeliest,
            false => Want::Row,
        }
    }

    /// Tokens that may still come.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Takes the next token, the likeliest.
    pub fn take(&mut self, token: u32, logit: f32) -> Result<Step> {
        let id = self.sampler.take(token, logit)?;
        self.accept(id, None)
    }

    /// Chooses the next token from its logits, which are changed on the way.
    pub fn choose(&mut self, logits: &mut [f32]) -> Result<Step> {
        let unmodified = self.top_logprobs.map(|count| (count, logits.to_vec()));
        let id = self.sampler.sample(logits)?;
        self.accept(id, unmodified.map(|(count, logits)| LogSoftmax::new(&logits).top(id, count)))
    }

    fn accept(&mut self, id: u32, logprobs: Option<Logprobs>) -> Result<Step> {
        self.left = self.left.saturating_sub(1);
        let (mut text, finished) = if self.stop_tokens.contains(&id) {
            (String::new(), Some(FinishReason::Stop))
        } else {
            let piece = self.detokenizer.as_mut().map_or(Ok(String::new()), |detokenizer| detokenizer.push(id))?;
            let matched = self.stop_strings.push(&piece);
            let finished = match (matched.stopped, self.left) {
                (true, _) => Some(FinishReason::Stop),
                (false, 0) => Some(FinishReason::Length),
                (false, _) => None,
            };
            (matched.text, finished)
        };
        if finished.is_some() {
            text += &self.held_back();
        }
        Ok(Step { token: Token { id, text, logprobs }, finished })
    }

    /// The text that was held back, once no token follows.
    fn held_back(&mut self) -> String {
        let rest = self.detokenizer.as_mut().map(Detokenizer::finish).unwrap_or_default();
        let matched = self.stop_strings.push(&rest);
        matched.text + &self.stop_strings.finish()
    }
}
