// SPDX-License-Identifier: EUPL-1.2
//! Log-probabilities of the unmodified distribution.

use crate::Logprobs;

use super::draw;

/// A row of logits as log-probabilities: `x − max − ln Σ exp(x − max)`.
pub(crate) struct LogSoftmax<'a> {
    logits: &'a [f32],
    max: f32,
    log_sum: f32,
}

impl<'a> LogSoftmax<'a> {
    /// Of logits that may hold anything; a NaN or +∞ among them makes every log-probability NaN.
    pub fn new(logits: &'a [f32]) -> Self {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // In f64, so that the many small terms of a large vocabulary are not lost.
        let sum: f64 = logits.iter().map(|&x| f64::from((x - max).exp())).sum();
        LogSoftmax { logits, max, log_sum: sum.ln() as f32 }
    }

    /// The log-probability of a token; NaN for one outside the vocabulary.
    pub fn of(&self, id: u32) -> f32 {
        self.logits.get(id as usize).map_or(f32::NAN, |&x| (x - self.max) - self.log_sum)
    }

    /// Those of a chosen token and of the `count` likeliest.
    pub fn top(&self, chosen: u32, count: usize) -> Logprobs {
        let mut top = draw::candidates(self.logits, f32::NEG_INFINITY);
        draw::likeliest(&mut top, count);
        Logprobs { chosen: self.of(chosen), top: top.into_iter().map(|(_, id)| (id, self.of(id))).collect() }
    }
}
