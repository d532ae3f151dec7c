// SPDX-License-Identifier: EUPL-1.2
//! Vectors for tokens.

use ingle_tensor::{DType, Tensor};

use crate::{Linear, Parameters, Result, Visitor, Weights};

/// A table with one vector for each token of the vocabulary.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
}

/// Whose weights the head of a model has: what scores the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Its own.
    Separate,
    /// Those of the embedding table (Press & Wolf 2017).
    Tied,
}

impl Embedding {
    /// Loads `weight [tokens, features]`, in whichever form its file holds it: once, also where the head uses it too.
    ///
    /// # Errors
    /// Those of [`Weights::matrix`].
    pub fn load(weights: &Weights<'_>, shape: [usize; 2], head: Head) -> Result<Self> {
        let weight = match head {
            Head::Separate => weights.table(shape)?,
            Head::Tied => weights.matrix(shape)?,
        };
        Ok(Embedding { weight })
    }

    /// `tokens i32[T]` → their vectors `[T, features]`, as `dtype`.
    ///
    /// # Errors
    /// [`ingle_tensor::Error::Index`] for a token outside the table, where the device can tell.
    pub fn forward(&self, tokens: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.weight.take_rows(tokens)?.cast(dtype)?)
    }

    /// The head that is tied to this table: `x [R, features]` → `[R, tokens]`.
    pub fn as_linear(&self) -> Linear {
        Linear::from_weight(self.weight.clone())
    }
}

impl Parameters for Embedding {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.weight("weight", &mut self.weight);
    }
}
