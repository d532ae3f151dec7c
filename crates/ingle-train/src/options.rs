// SPDX-License-Identifier: EUPL-1.2
//! How a model is trained.

use ingle_nn::AdapterId;
use serde::{Deserialize, Serialize};

use crate::data::Order;
use crate::{AdamOptions, Decay, Error, Optimizer, Result, Schedule};

/// How a model is trained. The defaults fine-tune a language model on short texts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// How weights follow their gradients.
    pub optimizer: Optimizer,
    /// The learning rate over time.
    pub schedule: Schedule,
    /// Gradients whose norm, taken over all parameters, is greater are scaled down to it; none if `None`.
    pub clip_norm: Option<f64>,
    /// Tokens of a batch at most; those of [`TrainOptions::accumulate`] batches make a step.
    pub batch_tokens: usize,
    /// Tokens of a sequence at most.
    pub max_length: usize,
    /// Batches whose gradients are added up before a step.
    pub accumulate: usize,
    /// How long.
    pub until: Until,
    /// In which order examples come.
    pub order: Order,
    /// Of what drops out.
    pub seed: u64,
    /// The share of what enters the residual stream (embeddings, attention's outputs and the MLP's) that training leaves
    /// out, at least 0 and below 1: against learning a small text by heart. What an adapter leaves out is its own.
    #[serde(default)]
    pub dropout: f64,
    /// What is computed a second time to save memory.
    pub recompute: Recompute,
    /// Steps from one validation to the next.
    pub validate_every: Option<u64>,
    /// Stop after so many validations in a row without a lower loss.
    pub patience: Option<u64>,
    /// Steps from one checkpoint to the next; one is written at the end in any case.
    pub checkpoint_every: Option<u64>,
}

/// What of a model is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// All of its weights.
    Weights,
    /// One of its adapters: the rest stays as it is, quantised or not.
    Adapter(AdapterId),
}

/// When training is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// After so many steps.
    Steps(u64),
    /// After so many passes over the data.
    Epochs(u64),
}

/// What is computed again on the way back rather than kept (Chen et al. 2016).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// Each block of the model: its inputs alone are kept. The results are the same in every bit.
    Blocks,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            optimizer: Optimizer::AdamW(AdamOptions::default()),
            schedule: Schedule { peak: 1e-4, warmup: 0.03, decay: Decay::Cosine, floor: 0.0 },
            clip_norm: Some(1.0),
            batch_tokens: 2048,
            max_length: 1024,
            accumulate: 1,
            until: Until::Epochs(1),
            order: Order::Shuffled(0),
            seed: 0,
            dropout: 0.0,
            recompute: Recompute::Nothing,
            validate_every: None,
            patience: None,
            checkpoint_every: None,
        }
    }
}

impl TrainOptions {
    /// Refuses what cannot be met, as [`Trainer::new`](crate::Trainer::new) does.
    ///
    /// # Errors
    /// [`Error::Option`].
    pub fn check(&self) -> Result<()> {
        self.optimizer.check()?;
        self.schedule.check()?;
        if let Some(norm) = self.clip_norm.filter(|norm| norm.is_nan() || *norm <= 0.0) {
            return Err(Error::option("clip norm", "a number greater than 0", norm));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::option("dropout", "a number from 0 and below 1", self.dropout));
        }
        let (Until::Steps(length) | Until::Epochs(length)) = self.until;
        let every = |every: Option<u64>| every.unwrap_or(1);
        for (option, found) in [
            ("accumulate", self.accumulate as u64),
            ("length of the training", length),
            ("steps between validations", every(self.validate_every)),
            ("steps between checkpoints", every(self.checkpoint_every)),
            ("patience", every(self.patience)),
        ] {
            if found == 0 {
                return Err(Error::option(option, "at least 1", found));
            }
        }
        Ok(())
    }

    /// The name and the values of the first option that may not change when a training goes on.
    pub(crate) fn differs(&self, earlier: &TrainOptions) -> Option<(&'static str, String, String)> {
        macro_rules! first {
            ($($name:literal => $field:ident,)*) => {
                $(if self.$field != earlier.$field {
                    return Some(($name, format!("{:?}", earlier.$field), format!("{:?}", self.$field)));
                })*
            };
        }
        first! {
            "optimizer" => optimizer,
            "schedule" => schedule,
            "clip norm" => clip_norm,
            "batch tokens" => batch_tokens,
            "max length" => max_length,
            "accumulate" => accumulate,
            "length of the training" => until,
            "order" => order,
            "seed" => seed,
            "dropout" => dropout,
        }
        None
    }
}
