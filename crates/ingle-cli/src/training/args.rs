// SPDX-License-Identifier: EUPL-1.2
//! The words of the command line that every kind of training understands.

use std::path::PathBuf;

use clap::Args;
use ingle::DType;
use ingle::train::{Machine, Outcome, Start};

use super::{Display, Shown};
use crate::Failure;
use crate::args::{dtype, positive, size};

/// What is learnt, and where it goes.
#[derive(Args)]
pub struct RunArgs {
    /// What to learn: JSONL with an example a line, or a plain text if the name ends otherwise
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,

    /// The same, on which the loss is measured
    #[arg(long, value_name = "FILE")]
    pub valid: Option<PathBuf>,

    /// The folder to make
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,

    /// Go on from the newest checkpoint in the folder, if there is one
    #[arg(long)]
    resume: bool,

    /// Print what happens as lines of JSON
    #[arg(long)]
    json: bool,
}

/// What a training runs on.
#[derive(Args)]
#[command(next_help_heading = "Machine")]
pub struct MachineArgs {
    /// Backend to train on: cpu, or MLX's where it is built in
    #[arg(long, value_name = "NAME")]
    device: Option<String>,

    /// Keep the weights in this dtype: f32, bf16 or f16; as stored if not given (f32 for a new model). The optimiser
    /// keeps exact ones beside those of half width
    #[arg(long, value_name = "DTYPE", value_parser = dtype)]
    dtype: Option<DType>,

    /// Threads to compute with; one for each core if not given
    #[arg(long, value_name = "N", value_parser = positive)]
    threads: Option<usize>,

    /// Memory that the training may take, for example 6GiB; unlimited if not given
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_limit: Option<usize>,
}

impl RunArgs {
    /// How the training begins.
    pub fn start(&self) -> Start {
        if self.resume { Start::Resume } else { Start::New }
    }

    /// Shows what `train` does, and what it has come to.
    ///
    /// # Errors
    /// Those of `train`; if nobody can be told.
    pub fn show(&self, train: impl FnOnce(&mut Display) -> ingle::Result<Outcome>) -> Result<(), Failure> {
        let mut display = Display::new(if self.json { Shown::Json } else { Shown::People })?;
        let outcome = train(&mut display)?;
        display.finish(&outcome, &self.out)
    }
}

impl MachineArgs {
    /// The machine that they describe.
    pub fn machine(self) -> Machine {
        let MachineArgs { device, dtype, threads, memory_limit } = self;
        Machine { device, dtype, threads, memory_limit }
    }
}
