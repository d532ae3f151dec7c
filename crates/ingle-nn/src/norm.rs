// SPDX-License-Identifier: EUPL-1.2
//! Root mean square normalisation.

use ingle_tensor::Tensor;

use crate::{Parameters, Result, Visitor, Weights};

/// `x / √(mean(x²) + eps) · (offset + weight)` along the last axis (Zhang & Sennrich 2019).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    config: RmsNormConfig,
}

/// What is not learnt of an [`RmsNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsNormConfig {
    /// Added to the mean square.
    pub eps: f32,
    /// Added to each weight: 1 where weights are stored around zero (Gemma), else 0.
    pub offset: f32,
}

impl RmsNorm {
    /// Loads `weight [features]`.
    ///
    /// # Errors
    /// Those of [`Weights::tensor`].
    pub fn load(weights: &Weights<'_>, features: usize, config: RmsNormConfig) -> Result<Self> {
        // To begin with, nothing is scaled.
        let initial = 1.0 - f64::from(config.offset);
        Ok(RmsNorm { weight: weights.tensor("weight", [features], initial)?, config })
    }

    /// `x […, features]` → the same shape and dtype.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.rms_norm(&self.weight, self.config.eps, self.config.offset)?)
    }
}

impl Parameters for RmsNorm {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.weight("weight", &mut self.weight);
    }
}
