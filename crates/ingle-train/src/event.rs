// SPDX-License-Identifier: EUPL-1.2
//! What a training tells while it runs.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;

use crate::Result;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// It begins, or goes on.
    Begun(Beginning),
    /// A step was made.
    Step(Step),
    /// The loss on the validation data is known.
    Validated(Validation),
    /// A checkpoint is on the disk.
    Saved(PathBuf),
}

/// What is about to be trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Beginning {
    /// Steps that were made already, before a resumption.
    pub step: u64,
    /// Weights that learn.
    pub trained: usize,
    /// Weights there are.
    pub parameters: usize,
    /// Examples of the first pass.
    pub examples: usize,
}

/// What a step was like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// The mean cross-entropy before it, in nats per token.
    pub loss: f32,
    /// The rate that it was made with.
    pub learning_rate: f64,
    /// The norm of the gradient before clipping.
    pub gradient_norm: f32,
    /// Passes over the data so far.
    pub epoch: f64,
    /// Tokens that were predicted in this step.
    pub targets: usize,
    /// Tokens that were read in this step.
    pub tokens: usize,
    /// Tokens read a second, in this step.
    pub tokens_per_second: f64,
    /// The most memory that tensors have taken so far, in bytes.
    pub peak_bytes: usize,
    /// How much of the training is done, from 0 to 1.
    pub done: f64,
    /// Seconds that are left, at the pace so far.
    pub seconds_left: f64,
}

/// What a validation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// Steps before it.
    pub step: u64,
    /// The mean cross-entropy in nats per token.
    pub loss: f32,
    /// The same in bits per character of the text, if there is one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_per_character: Option<f32>,
    /// Tokens that were predicted.
    pub targets: usize,
    /// Whether no earlier one was lower.
    pub best: bool,
}

/// Hears what happens in a training. A closure does, too.
pub trait Observer {
    /// Is told of an event, and says whether to go on. A training that is to stop writes a checkpoint first.
    ///
    /// # Errors
    /// End the training.
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>>;
}

impl<F: FnMut(&Event) -> Result<ControlFlow<()>>> Observer for F {
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>> {
        self(event)
    }
}
