// SPDX-License-Identifier: EUPL-1.2
//! Run, serve, fine-tune and train language models on the machine you own.
//!
//! This crate is the public face. A [`Backend`] loads a model and gives a [`TextModel`]; users choose one by
//! name, or leave it to [`load`] to take the best that can run here. A model is a directory as the Hugging
//! Face hub has them, a GGUF file, the name of one that [`hub::pull`] has fetched, or `demo`, which is built in.
//!
//! ```
//! use ingle::{GenerateOptions, LoadOptions};
//!
//! let model = ingle::load("demo", &LoadOptions::default())?;
//! let options = GenerateOptions { max_tokens: Some(8), ..GenerateOptions::default() };
//! for token in model.generate("ROMEO:".into(), &options)? {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), ingle::Error>(())
//! ```
//!
//! [`TextModel::chat`] answers a conversation, [`TextModel::batch_generate`] continues many prompts together,
//! [`TextModel::classify`] chooses among labels in one pass. All of them are callers of one engine
//! (`ingle-engine`), so they may run at once on one model, from many threads.
//!
//! A model may be loaded with LoRA adapters that PEFT, mlx-lm or Ingle has written ([`LoadOptions::adapters`]);
//! [`TextModel::adapted`] is the model with one of them. [`fuse`] merges one into its model for good.
//!
//! The backend `mlx_lm` runs whatever [mlx-lm](https://github.com/ml-explore/mlx-lm) runs, in a Python process of its
//! own: see [`MlxLmOptions`].
//!
//! [`train`] has what fine-tunes a model, and what trains one from nothing.
//!
//! [`quantize`] makes a model smaller: into MLX's quantised format, or into GGUF.

mod backend;
mod cancel;
mod classify;
mod confusion;
mod defaults;
mod discover;
mod engine_model;
mod error;
mod fuse;
pub mod hub;
mod info;
mod mlx_lm;
mod model;
mod options;
mod paper;
mod quantize;
mod stream;
pub mod train;
mod window;

pub use backend::{Backend, backends, choose_backend, register_backend};
pub use cancel::CancelToken;
pub use classify::{Classifications, ClassifyOptions, LabelScore, NextToken, Outcome};
pub use confusion::Confusion;
pub use discover::{DEMO, Found, demo, discover, pulled};
pub use error::{Error, Result};
pub use fuse::{Fused, fuse};
pub use info::{Inspection, Metrics, ModelInfo, WeightForm};
pub use ingle_engine::text::{Message, Special, Tokenizer};
pub use ingle_engine::{FinishReason, Logprobs, MAX_SEQUENCES, Sampling, Token, Usage};
pub use ingle_models::{GgufType, Summary};
pub use ingle_nn::{LoadProgress, ModelFiles};
pub use ingle_tensor::{DType, Memory};
pub use mlx_lm::MlxLmOptions;
pub use model::TextModel;
pub use options::{AdapterSource, EndTokens, GenerateOptions, LoadOptions, Prompt};
pub use quantize::{QuantizeFormat, Quantized, quantize};
pub use stream::{Completion, Completions, Finish, TokenSource, TokenStream, Update};

/// Loads a model: a directory, a GGUF file, the name of a pulled model, or [`DEMO`].
///
/// # Errors
/// A model that is not there, files that are missing or malformed, an architecture that is not known, options
/// that cannot be met: each in one line.
pub fn load(model: &str, options: &LoadOptions) -> Result<Box<dyn TextModel>> {
    load_with_progress(model, options, &mut |_| {})
}

/// As [`load`]; `progress` is called now and then while weights are read.
///
/// # Errors
/// As [`load`].
pub fn load_with_progress(
    model: &str,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn TextModel>> {
    let (files, backend) = chosen(model, options)?;
    backend.load(&files, options, progress)
}

/// What a model is, as [`load`]ed with these options, from its files' headers: whatever of it can be checked without
/// reading weights is checked. A backend that is another program loads it all the same.
///
/// ```
/// let found = ingle::inspect("demo", &ingle::LoadOptions::default())?;
/// assert_eq!(found.weights[0].name, "bf16");
/// # Ok::<(), ingle::Error>(())
/// ```
///
/// # Errors
/// As [`load`], but for what only loading shows: a memory limit that is too low.
pub fn inspect(model: &str, options: &LoadOptions) -> Result<Inspection> {
    let (files, backend) = chosen(model, options)?;
    backend.inspect(&files, options)
}

/// The files of a model, and the backend that is to load it.
fn chosen(model: &str, options: &LoadOptions) -> Result<(ModelFiles, &'static dyn Backend)> {
    for (option, value) in [("context_length", options.context_length), ("threads", options.threads)] {
        if value == Some(0) {
            return Err(Error::Option { option, expected: "at least 1".into(), found: "0".into() });
        }
    }
    let files = discover::resolve(model)?;
    // One that is asked for by name says itself what it lacks, with these options.
    let backend = options.device.as_deref().map_or_else(|| choose_backend(None), backend::backend_named)?;
    Ok((files, backend))
}

/// The tokeniser of a model, without its weights. See [`load`] for what `model` may be.
///
/// # Errors
/// A model that is not there; a tokeniser that is missing or malformed.
pub fn load_tokenizer(model: &str) -> Result<Tokenizer> {
    Ok(Tokenizer::from_files(&discover::resolve(model)?)?)
}
