// SPDX-License-Identifier: EUPL-1.2
//! Choosing the next token.

/// How a token is chosen from the logits.
///
/// The order is fixed: logit bias, repetition penalty, presence and frequency penalties, then greedy if the
/// temperature is 0, else temperature, top-p, top-k, min-p, and a draw.
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
    /// Added to the logits of single tokens.
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
