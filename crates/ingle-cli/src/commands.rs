// SPDX-License-Identifier: EUPL-1.2
//! The commands, one file each.

mod batch;
mod bench;
mod chat;
mod classify;
mod devices;
mod finetune;
mod fuse;
mod generate;
mod info;
mod logits;
mod models;
mod pull;
mod quantize;
mod tokenize;
mod train;

use clap::Subcommand;

use crate::Failure;

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    Generate(generate::Args),
    Chat(chat::Args),
    Batch(batch::Args),
    Classify(classify::Args),
    Logits(logits::Args),
    Tokenize(tokenize::Args),
    Info(info::Args),
    Models(models::Args),
    Pull(pull::Args),
    Quantize(quantize::Args),
    Finetune(finetune::Args),
    Fuse(fuse::Args),
    Train(train::Args),
    Bench(bench::Args),
    Devices(devices::Args),
}

/// Runs a command.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Generate(args) => args.run(),
        Command::Chat(args) => args.run(),
        Command::Batch(args) => args.run(),
        Command::Classify(args) => args.run(),
        Command::Logits(args) => args.run(),
        Command::Tokenize(args) => args.run(),
        Command::Info(args) => args.run(),
        Command::Models(args) => args.run(),
        Command::Pull(args) => args.run(),
        Command::Quantize(args) => args.run(),
        Command::Finetune(args) => args.run(),
        Command::Fuse(args) => args.run(),
        Command::Train(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Devices(args) => args.run(),
    }
}
