// SPDX-License-Identifier: EUPL-1.2
//! Language model architectures, one file each.

mod config;
mod decoder;
mod gemma2;
mod gemma3;
mod llama;
mod load;
mod model;
mod qwen2;
mod qwen3;
mod rope;

pub use load::{LoadOptions, architectures, load, read_summary};
pub use model::{Model, Summary};
