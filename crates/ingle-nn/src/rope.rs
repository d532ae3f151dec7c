// SPDX-License-Identifier: EUPL-1.2
//! Rotary position embeddings, and the schemes that stretch them over longer contexts.

use std::f64::consts::TAU;

use ingle_tensor::{DeviceHandle, Op, RopeLayout, Tensor};

use crate::Result;

/// How fast each pair of a head's features turns from one position to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct RotaryConfig {
    /// Features of a head.
    pub head_dim: usize,
    /// Pair `j` of `n` turns by `rope_theta^(−j/n)` radians a position.
    pub rope_theta: f64,
    /// The share of a head's features that turn; the first ones.
    pub partial_rotary_factor: f64,
    /// How the context is stretched.
    pub scaling: RopeScaling,
    /// Which features form a pair.
    pub layout: RopeLayout,
}

/// How a context is stretched: `rope_type` and its parameters in `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// It is not (`default`).
    None,
    /// Everything turns slower by `factor` (Chen et al. 2023).
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Pair `j` turns slower by `factors[j]`: how GGUF files write [`RopeScaling::Llama3`].
    PerPair {
        /// One for each pair.
        factors: Vec<f32>,
    },
    /// Slow pairs turn slower by `factor`, fast ones as before, those between in between (Llama 3.1).
    Llama3 {
        /// The stretch.
        factor: f64,
        /// Pairs that turn less often than this within the original context are slow.
        low_freq_factor: f64,
        /// Pairs that turn more often than this within the original context are fast.
        high_freq_factor: f64,
        /// Length of the original context.
        original_max_position_embeddings: f64,
    },
    /// As [`RopeScaling::Llama3`], with a ramp over the pairs' numbers instead of their frequencies, and
    /// scores that grow with the stretch (Peng et al. 2023).
    Yarn {
        /// The stretch.
        factor: f64,
        /// Pairs that turn more often than this within the original context are fast.
        beta_fast: f64,
        /// Pairs that turn less often than this within the original context are slow.
        beta_slow: f64,
        /// Multiplies queries and keys.
        attention_factor: f64,
        /// Length of the original context.
        original_max_position_embeddings: f64,
    },
}

impl RotaryConfig {
    /// Features of a head that turn.
    pub fn rotary_dim(&self) -> usize {
        (self.head_dim as f64 * self.partial_rotary_factor) as usize
    }

    /// Radians a position, for each pair.
    pub fn frequencies(&self) -> Vec<f32> {
        let pairs = self.rotary_dim() / 2;
        let frequency = |pair: usize| {
            let plain = self.rope_theta.powf(-(pair as f64) / pairs as f64);
            self.scaled(plain, pair) as f32
        };
        (0..pairs).map(frequency).collect()
    }

    fn scaled(&self, frequency: f64, pair: usize) -> f64 {
        match self.scaling {
            RopeScaling::None => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::PerPair { ref factors } => frequency / factors.get(pair).copied().map_or(1.0, f64::from),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let turns = original_max_position_embeddings * frequency / TAU;
                let fast = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                mix(frequency / factor, frequency, fast)
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position_embeddings, .. } => {
                // The pair, counted as a fraction, that turns so often within the original context.
                let dim = self.rotary_dim() as f64;
                let pair_of = |turns: f64| {
                    dim * (original_max_position_embeddings / (turns * TAU)).ln() / (2.0 * self.rope_theta.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(dim - 1.0);
                let width = if low == high { 0.001 } else { high - low };
                mix(frequency, frequency / factor, (pair as f64 - low) / width)
            }
        }
    }
}

/// From `a` at 0 to `b` at 1, and no further.
fn mix(a: f64, b: f64, at: f64) -> f64 {
    let at = at.clamp(0.0, 1.0);
    a * (1.0 - at) + b * at
}

/// Turns queries and keys by their positions (Su et al. 2021).
#[derive(Clone, Debug)]
pub struct RotaryEmbedding {
    frequencies: Tensor,
    score_factor: f32,
    layout: RopeLayout,
}

impl RotaryEmbedding {
    /// The embedding that `config` describes.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn new(device: &DeviceHandle, config: &RotaryConfig) -> Result<Self> {
        let frequencies = config.frequencies();
        let score_factor = match config.scaling {
            RopeScaling::Yarn { attention_factor, .. } => (attention_factor * attention_factor) as f32,
            _ => 1.0,
        };
        Ok(RotaryEmbedding {
            frequencies: Tensor::from_slice(device, &frequencies, [frequencies.len()])?,
            score_factor,
            layout: config.layout,
        })
    }

    /// `x [T, heads, head_dim]`, `positions i32[T]` → the same shape and dtype, in its place if nobody else holds it.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn forward(&self, x: Tensor, positions: &Tensor) -> Result<Tensor> {
        let inputs = vec![x, positions.clone(), self.frequencies.clone()];
        Ok(Tensor::apply(&Op::Rope { layout: self.layout }, inputs)?)
    }

    /// Multiplies attention scores. Here rather than in queries and keys, where it would be rounded.
    pub fn score_factor(&self) -> f32 {
        self.score_factor
    }
}

#[cfg(test)]
mod tests;
