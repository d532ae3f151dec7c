// SPDX-License-Identifier: EUPL-1.2
//! Choosing the next token.

mod draw;
mod logprobs;
mod penalties;

use ingle_nn::random::uniform;

use crate::{Error, Result};

pub(crate) use logprobs::LogSoftmax;
use penalties::Penalties;

/// How a token is chosen from the logits.
///
/// The order is fixed: logit bias, repetition penalty, presence and frequency penalties, then greedy if the
/// temperature is 0, else temperature, top-p, top-k, min-p, and a draw.
///
/// The draw depends on the seed and on how many tokens were generated before, on nothing else: it is a
/// counter-based generator (Philox, Salmon et al. 2011).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Keep the likeliest tokens that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen before (Keskar et al. 2019); 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of generated tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of generated tokens, once for each time.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seeds the draw: the same request with the same seed gives the same answer.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Refuses options out of range, for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`Error::Sampling`], naming the option, what it takes and what was given.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let finite = "a finite number";
        let rules = [
            ("temperature", self.temperature, "0 or a finite number above it", self.temperature >= 0.0),
            ("top_p", self.top_p, "a number above 0, at most 1", self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", self.min_p, "a number from 0 to 1", (0.0..=1.0).contains(&self.min_p)),
            ("repetition_penalty", self.repetition_penalty, "a finite number above 0", self.repetition_penalty > 0.0),
            ("presence_penalty", self.presence_penalty, finite, true),
            ("frequency_penalty", self.frequency_penalty, finite, true),
        ];
        for (option, value, expected, holds) in rules {
            if !(holds && value.is_finite()) {
                return Err(Error::Sampling { option, expected, found: value.to_string() });
            }
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab_size {
                let found = format!("{id} (the vocabulary has {vocab_size} tokens)");
                return Err(Error::Sampling { option: "logit_bias", expected: "ids of the vocabulary", found });
            }
            if bias.is_nan() || bias == f32::INFINITY {
                let found = format!("{bias} for token {id}");
                return Err(Error::Sampling { option: "logit_bias", expected: "finite numbers or -inf", found });
            }
        }
        Ok(())
    }
}

/// Chooses the tokens of one sequence.
#[derive(Debug)]
pub(crate) struct Sampler {
    options: Sampling,
    penalties: Penalties,
}

impl Sampler {
    /// A sampler with validated options, for a sequence that begins with `prompt`.
    pub fn new(options: Sampling, prompt: &[u32]) -> Self {
        Sampler { penalties: Penalties::new(&options, prompt), options }
    }

    /// The next token, from its logits, which are changed on the way.
    ///
    /// # Errors
    /// [`Error::Request`] if no choice can be made: a logit is NaN or +∞, or all are −∞.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        self.penalties.apply(logits);
        let (likeliest, max) = maximum(logits)?;
        let chosen = match self.options.temperature {
            0.0 => likeliest,
            _ => {
                let uniform = uniform(self.options.seed, self.penalties.generated());
                draw::draw(logits, max, &self.options, uniform)
            }
        };
        self.penalties.count(chosen);
        Ok(chosen)
    }

    /// Whether the likeliest token is taken as the model gives it.
    pub fn takes_likeliest(&self) -> bool {
        self.options.temperature == 0.0 && self.penalties.are_none()
    }

    /// Takes the likeliest token, which somebody else has found.
    ///
    /// # Errors
    /// Those of [`Sampler::sample`].
    pub fn take(&mut self, token: u32, logit: f32) -> Result<u32> {
        if !logit.is_finite() {
            return Err(no_choice(logit));
        }
        self.penalties.count(token);
        Ok(token)
    }
}

/// The first largest logit, with its index.
fn maximum(logits: &[f32]) -> Result<(u32, f32)> {
    // A sum of lanes is NaN exactly if one of its terms makes it so; the maximum skips NaN.
    const LANES: usize = 16;
    let (mut lanes, mut nan) = ([f32::NEG_INFINITY; LANES], [false; LANES]);
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
            nan[lane] |= chunk[lane].is_nan();
        }
    }
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let found = if nan.contains(&true) || rest.iter().any(|x| x.is_nan()) { f32::NAN } else { max };
    let index = logits.iter().position(|&x| x == max);
    match index {
        Some(index) if found.is_finite() => Ok((index as u32, max)),
        _ => Err(no_choice(found)),
    }
}

fn no_choice(found: f32) -> Error {
    let message = format!(
        "no token can be chosen: expected logits with a finite maximum, found {found}; \
         check the weights, or load with dtype f32, or forbid fewer tokens"
    );
    Error::Request { message }
}

#[cfg(test)]
#[path = "sampler/tests.rs"]
mod tests;
