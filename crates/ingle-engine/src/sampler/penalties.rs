// SPDX-License-Identifier: EUPL-1.2
//! What changes logits before a token is chosen: bias, and penalties for tokens seen before.

use std::collections::HashMap;

use super::Sampling;

/// Bias and penalties of one sequence, and the tokens they depend on.
#[derive(Debug)]
pub(super) struct Penalties {
    bias: Vec<(u32, f32)>,
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// How often each token was generated; prompt tokens that were not are there with 0. Empty if no penalty
    /// needs it.
    seen: HashMap<u32, u32>,
    generated: u64,
}

impl Penalties {
    pub fn new(options: &Sampling, prompt: &[u32]) -> Self {
        let mut penalties = Penalties {
            bias: options.logit_bias.clone(),
            repetition: options.repetition_penalty,
            presence: options.presence_penalty,
            frequency: options.frequency_penalty,
            seen: HashMap::new(),
            generated: 0,
        };
        if penalties.repeats() {
            penalties.seen.extend(prompt.iter().map(|&id| (id, 0)));
        }
        penalties
    }

    /// Whether no logit is ever changed.
    pub fn are_none(&self) -> bool {
        self.bias.is_empty() && !self.repeats() && self.presence == 0.0 && self.frequency == 0.0
    }

    /// How many tokens were generated.
    pub fn generated(&self) -> u64 {
        self.generated
    }

    /// Notes a generated token.
    pub fn count(&mut self, id: u32) {
        self.generated += 1;
        if self.repeats() || self.presence != 0.0 || self.frequency != 0.0 {
            *self.seen.entry(id).or_insert(0) += 1;
        }
    }

    /// Changes the logits.
    pub fn apply(&self, logits: &mut [f32]) {
        for &(id, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for (&id, &times) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repetition } else { *logit * self.repetition };
            if times > 0 {
                *logit -= self.presence + self.frequency * times as f32;
            }
        }
    }

    fn repeats(&self) -> bool {
        self.repetition != 1.0
    }
}
