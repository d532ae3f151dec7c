// SPDX-License-Identifier: EUPL-1.2
//! Language model architectures: from a model's files to logits.
//!
//! [`load`] reads `config.json`, checks it against the headers of the weights, and puts the weights on a device.
//! What comes back is a [`Model`]: a forward pass over a ragged batch of tokens, and a [`Summary`] of what it is.
//! [`read_summary`] gives the latter without loading anything.
//!
//! Each architecture is one file, which reads its `config.json` into a description of the decoder they all share:
//! what normalises, what has a bias, what slides. To add an architecture of that kind, write its file and name it in
//! `load.rs`; one that is no such decoder brings a `Model` of its own.
//!
//! [`create`] gives a model that knows nothing yet, to be trained; [`save`] writes one that has learnt.
//!
//! [`Export`] is the way out: the weights of a model on their way into MLX's quantised format or GGUF.
//!
//! Tokens, sampling and scheduling are the engine's business (`ingle-engine`); this is the pass it calls.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ingle_cpu::{CpuDevice, CpuOptions};
//! use ingle_models::{LoadOptions, architectures, load};
//! use ingle_nn::{Activations, Batch, BlockTable, KvCache, ModelFiles, Routes};
//! use ingle_tensor::{DType, DeviceHandle, Tensor};
//!
//! assert!(architectures().contains(&"qwen3"));
//! let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
//! let files = ModelFiles::directory(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/qwen3-v5"))?;
//! let model = load(&files, &device, &LoadOptions::default(), &mut |_progress| {})?;
//! assert_eq!(model.summary().layers, 2);
//!
//! // One sequence of three tokens, in the first block of a cache with blocks of four.
//! let mut cache = KvCache::new(&device, &model.cache_layers(), 4, DType::F32)?;
//! for group in 0..cache.groups().len() {
//!     cache.grow(group, 1)?;
//! }
//! let list = |values: &[i32]| Tensor::from_slice(&device, values, [values.len()]);
//! let batch = Batch {
//!     tokens: list(&[5, 6, 7])?,
//!     positions: list(&[0, 1, 2])?,
//!     sequences: list(&[0, 0, 0])?,
//!     tables: vec![BlockTable { blocks: list(&[0])?.reshape([1, 1])?, slots: list(&[0, 1, 2])? }],
//!     outputs: list(&[2])?,
//!     routes: Routes::default(),
//!     output_routes: Routes::default(),
//!     activations: Activations::Kept,
//!     hidden: None,
//!     dropout: None,
//! };
//! let logits = model.forward(&batch, &mut cache)?;
//! assert_eq!(**logits.shape(), [1, model.summary().vocab_size]);
//! # Ok::<(), ingle_nn::Error>(())
//! ```

mod adapter;
mod config;
mod create;
mod decoder;
mod export;
mod gemma2;
mod gemma3;
mod gguf;
mod llama;
mod load;
mod model;
mod quantization;
mod qwen2;
mod qwen3;
mod rope;
mod save;
mod scores;

pub use adapter::{adapter, attach, fuse};
pub use create::{CreateOptions, create};
pub use export::{Export, ExportedTensor};
pub use gguf::{GgufType, Plan as GgufPlan};
pub use load::{LoadOptions, architectures, load, read_summary};
pub use model::{Model, Summary};
pub use save::{COMPANIONS, save, weights};
