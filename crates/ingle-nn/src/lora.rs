// SPDX-License-Identifier: EUPL-1.2
//! Low-rank adaptation of a linear layer (Hu et al. 2021).
//!
//! The layer's weight `W` stays as it is, quantised or not; beside it stand two narrow matrices, and a row `x` goes
//! through `x·Wᵀ + scale · (x·Aᵀ)·Bᵀ`. [`Routes`] say which rows of a batch go through which adapter.

use ingle_tensor::{DType, DeviceHandle, Tensor};

use crate::random::{stream, uniform};
use crate::{Draw, Dropout, Error, Result};

mod pattern;
mod route;

pub use pattern::Target;
pub use route::{AdapterId, Route, Routes, Rows};

/// What a new adapter is like.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rows of `A`, columns of `B`; at least 1.
    pub rank: usize,
    /// The change is multiplied by `alpha` over the rank, or over its root: see [`LoraScaling`].
    pub alpha: f64,
    /// What `alpha` is divided by.
    pub scaling: LoraScaling,
    /// The share of the features of `x` that training leaves out of the change, at least 0 and below 1.
    pub dropout: f64,
    /// The layers that are adapted.
    pub targets: Vec<Target>,
}

/// What `alpha` is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraScaling {
    /// The rank.
    Rank,
    /// Its square root, so that a high rank learns as fast as a low one: rsLoRA (Kalajdzievski 2023).
    RootRank,
}

impl Default for LoraConfig {
    /// Queries and values with rank 8, as the paper has it.
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 16.0,
            scaling: LoraScaling::Rank,
            dropout: 0.0,
            targets: vec![Target::new("q_proj"), Target::new("v_proj")],
        }
    }
}

impl LoraConfig {
    /// Refuses what makes no adapter.
    ///
    /// # Errors
    /// [`Error::Lora`] for a rank of 0, an `alpha` that is not finite, a dropout outside `[0, 1)`, or no targets.
    pub fn check(&self) -> Result<()> {
        let refused =
            |field, expected: &str, found: String| Err(Error::Lora { field, expected: expected.into(), found });
        if self.rank == 0 {
            return refused("rank", "at least 1", "0".into());
        }
        if !self.alpha.is_finite() {
            return refused("alpha", "a finite number", self.alpha.to_string());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refused("dropout", "a number from 0 up to, not including, 1", self.dropout.to_string());
        }
        if self.targets.is_empty() {
            return refused("targets", "the name of a layer, such as q_proj", "none".into());
        }
        Ok(())
    }

    /// What the change is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scaling.scale(self.alpha, self.rank)
    }
}

impl LoraScaling {
    /// What the change of an adapter of this `alpha` and `rank` is multiplied by.
    pub fn scale(self, alpha: f64, rank: usize) -> f64 {
        match self {
            LoraScaling::Rank => alpha / rank as f64,
            LoraScaling::RootRank => alpha / (rank as f64).sqrt(),
        }
    }
}

/// One layer's part of an adapter.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[rank, inputs]`.
    pub(crate) a: Tensor,
    /// `[outputs, rank]`.
    pub(crate) b: Tensor,
    scale: f64,
    dropout: f64,
    /// Of its random numbers.
    stream: u64,
}

impl Lora {
    /// The change `scale · (x·aᵀ)·bᵀ` of the layer called `name`, by `a [rank, inputs]` and `b [outputs, rank]`.
    ///
    /// # Errors
    /// [`ingle_tensor::Error::Shape`] if they do not fit each other.
    pub fn new(name: &str, [a, b]: [Tensor; 2], scale: f64) -> Result<Self> {
        let fits = a.shape().len() == 2 && b.shape().len() == 2 && a.shape()[0] == b.shape()[1];
        if !fits || a.shape()[0] == 0 {
            let expected = "a [rank, inputs] and b [outputs, rank], of a rank of at least 1".into();
            let found = format!("{}, {}", a.spec(), b.spec());
            return Err(ingle_tensor::Error::Shape { op: "lora", expected, found }.into());
        }
        Ok(Lora { a, b, scale, dropout: 0.0, stream: stream(name) })
    }

    /// A change that is none yet, for a layer of `inputs` and `outputs`: `b` is 0, and `a` uniform within
    /// `±1/√inputs`, as PEFT and mlx-lm begin it. It depends on `seed` and the layer's name alone.
    ///
    /// # Errors
    /// Those of [`LoraConfig::check`]; past the device's memory.
    pub fn create(
        name: &str,
        device: &DeviceHandle,
        [outputs, inputs]: [usize; 2],
        config: &LoraConfig,
        seed: u64,
    ) -> Result<Self> {
        config.check()?;
        let (rank, bound) = (config.rank, 1.0 / (inputs.max(1) as f64).sqrt());
        let own = seed ^ stream(name);
        let number = |index: u64| ((2.0 * uniform(own, index) - 1.0) * bound) as f32;
        let numbers: Vec<f32> = (0..(rank * inputs) as u64).map(number).collect();
        let a = Tensor::from_slice(device, &numbers, [rank, inputs])?;
        let b = Tensor::full(device, [outputs, rank], DType::F32, 0.0)?;
        Ok(Lora { dropout: config.dropout, ..Lora::new(name, [a, b], config.scale())? })
    }

    /// `a [rank, inputs]` and `b [outputs, rank]`.
    pub fn matrices(&self) -> [&Tensor; 2] {
        [&self.a, &self.b]
    }

    /// The same, of which training leaves out this share of the features: at least 0, below 1.
    #[must_use]
    pub fn with_dropout(self, dropout: f64) -> Self {
        Lora { dropout, ..self }
    }

    /// The share of the features that training leaves out.
    pub fn dropout(&self) -> f64 {
        self.dropout
    }

    /// The same in `dtype`.
    ///
    /// # Errors
    /// The device's own.
    pub fn cast(self, dtype: DType) -> Result<Self> {
        Ok(Lora { a: self.a.cast(dtype)?, b: self.b.cast(dtype)?, ..self })
    }

    /// The same for a layer whose outputs come in another order: what was output `from[i]` is output `i`.
    ///
    /// # Errors
    /// Those of [`Tensor::take_rows`].
    pub fn reorder(self, from: &[i32]) -> Result<Self> {
        let from = Tensor::from_slice(self.b.device(), from, [from.len()])?;
        Ok(Lora { b: self.b.take_rows(&from)?, ..self })
    }

    /// Rows of `a`, columns of `b`.
    pub fn rank(&self) -> usize {
        self.a.shape()[0]
    }

    /// Outputs and inputs of the layer that it changes.
    pub fn layer_shape(&self) -> [usize; 2] {
        [self.b.shape()[0], self.a.shape()[1]]
    }

    /// What the change is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// `x […, inputs]` → its change `[…, outputs]`, in the dtype of `x`. With a `draw`, features drop out.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn forward(&self, x: &Tensor, draw: Option<Draw>) -> Result<Tensor> {
        let x = match draw.filter(|_| self.dropout > 0.0) {
            Some(draw) => Dropout { probability: self.dropout, draw }.apply(x, self.stream)?,
            None => x.clone(),
        };
        Ok(x.linear(&self.a, None)?.scale(self.scale)?.linear(&self.b, None)?)
    }

    /// The change of the weight itself, `scale · b·a`, as `f32[outputs, inputs]`.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn change(&self) -> Result<Tensor> {
        Ok(self.b.cast(DType::F32)?.matmul(&self.a.cast(DType::F32)?)?.scale(self.scale)?)
    }
}

#[cfg(test)]
mod tests;
