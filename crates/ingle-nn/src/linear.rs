// SPDX-License-Identifier: EUPL-1.2
//! The affine map that most of a language model's arithmetic is.

use ingle_tensor::Tensor;

use crate::{Parameters, Result, Visitor, Weights};

/// `x · weightᵀ + bias`.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// Whether a [`Linear`] has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `x · weightᵀ`.
    Absent,
    /// `x · weightᵀ + bias`.
    Present,
}

impl Linear {
    /// Loads `weight [outputs, inputs]`, in whichever form its file holds it, and, if there is one,
    /// `bias [outputs]`.
    ///
    /// # Errors
    /// Those of [`Weights::matrix`] and [`Weights::tensor`].
    pub fn load(weights: &Weights<'_>, [outputs, inputs]: [usize; 2], bias: Bias) -> Result<Self> {
        let bias = match bias {
            Bias::Absent => None,
            Bias::Present => Some(weights.tensor("bias", [outputs], 0.0)?),
        };
        Ok(Linear { weight: weights.matrix([outputs, inputs])?, bias })
    }

    /// A map of this weight, `[outputs, inputs]`, and no bias.
    pub fn from_weight(weight: Tensor) -> Self {
        Linear { weight, bias: None }
    }

    /// `x […, inputs]` → `[…, outputs]`, in the dtype of `x`.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.linear(&self.weight, self.bias.as_ref())?)
    }
}

impl Parameters for Linear {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.weight("weight", &mut self.weight);
        if let Some(bias) = &mut self.bias {
            visitor.weight("bias", bias);
        }
    }
}
