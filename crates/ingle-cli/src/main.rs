// SPDX-License-Identifier: EUPL-1.2
//! The `ingle` command: thin commands over the public face of the `ingle` library.

mod adapters;
mod args;
mod commands;
mod input;
mod interrupt;
mod output;
mod training;
mod usage;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

/// What a command fails with: one line for people.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error),
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => match interrupt::reason(error.as_ref()) {
            Some(told) => {
                told.iter().for_each(|message| output::error(message));
                ExitCode::from(interrupt::EXIT_CODE)
            }
            None => {
                output::error(&error.to_string());
                ExitCode::FAILURE
            }
        },
    }
}
