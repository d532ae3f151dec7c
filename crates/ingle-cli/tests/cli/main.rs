// SPDX-License-Identifier: EUPL-1.2
//! The `ingle` command as a person or a script runs it.

mod adapters;
mod bad_input;
mod bench;
mod commands;
mod common;
mod info;
#[cfg(unix)]
mod interrupt;
mod mlx_lm;
mod pull;
mod quantize;
mod training;
