// SPDX-License-Identifier: EUPL-1.2
//! Vectors for tokens.

use ingle_tensor::{DType, Tensor};

use crate::{Linear, Result, Weights};

/// A table with one vector for each token of the vocabulary.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Loads `weight [tokens, features]`.
    ///
    /// # Errors
    /// Those of [`Weights::tensor`].
    pub fn load(weights: &Weights<'_>, [tokens, features]: [usize; 2]) -> Result<Self> {
        Ok(Embedding { weight: weights.tensor("weight", [tokens, features])? })
    }

    /// `tokens i32[T]` → their vectors `[T, features]`, as `dtype`.
    ///
    /// # Errors
    /// [`ingle_tensor::Error::Index`] for a token outside the table, where the device can tell.
    pub fn forward(&self, tokens: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.weight.take_rows(tokens)?.cast(dtype)?)
    }

    /// The head that shares this table (Press & Wolf 2017): `x [R, features]` → `[R, tokens]`.
    pub fn as_linear(&self) -> Linear {
        Linear::from_weight(self.weight.clone())
    }
}
