// SPDX-License-Identifier: EUPL-1.2
//! Layers and weight files for language models on Ingle tensors.
//!
//! From a directory to numbers, in the order things happen:
//!
//! - [`ModelFiles`] is where a model's files are: a directory, a GGUF file, or the program itself.
//! - [`Checkpoint`] is what its safetensors files hold. Headers are checked before anything is loaded; a
//!   truncated or lying file is an [`Error`] that names the file, the tensor, and the numbers.
//! - [`gguf::Gguf`] is what a GGUF file holds: configuration, tokeniser and tensors, checked likewise.
//! - [`Weights`] puts tensors on a device by name, one [scope](Weights::scope) after another, so that a model
//!   reads like its checkpoint.
//! - [`quantise`] encodes weights in each quantised format, [`output`] writes files that are there whole or not at all.
//! - [`Linear`], [`Embedding`], [`RmsNorm`] and [`RotaryEmbedding`] are the layers. Their weights are
//!   [`Parameters`], which a [`Visitor`] sees by name. An [`Adapter`] is a [`Lora`] for each of
//!   some linear layers; [`Routes`] say which rows go through which.
//! - [`Batch`] is the tokens of one forward pass, [`KvCache`] what attention remembers of those before.
//!
//! No architecture is named here; those are in `ingle-models`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ingle_cpu::{CpuDevice, CpuOptions};
//! use ingle_nn::{Bias, Checkpoint, Linear, ModelFiles, Routes, Weights};
//! use ingle_tensor::{DeviceHandle, Tensor};
//! use safetensors::tensor::{Dtype, TensorView};
//!
//! // A model directory with one tensor, f32[1, 2].
//! let folder = tempfile::tempdir()?;
//! let values: Vec<u8> = [3.0f32, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let tensor = TensorView::new(Dtype::F32, vec![1, 2], &values)?;
//! let tensors = [("model.layers.0.mlp.up_proj.weight", tensor)];
//! safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors"))?;
//!
//! let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
//! let checkpoint = Checkpoint::open(&ModelFiles::directory(folder.path())?)?;
//! let mut on_progress = |_| {};
//! let weights = Weights::new(&checkpoint, &device, None, &mut on_progress);
//!
//! let mlp = weights.scope("model.layers.0.mlp");
//! let up_proj = Linear::load(&mlp.scope("up_proj"), [1, 2], Bias::Absent)?;
//! let x = Tensor::from_slice(&device, &[1.0f32, 10.0], [1, 2])?;
//! assert_eq!(up_proj.forward(&x, &Routes::default())?.to_vec::<f32>()?, [43.0]);
//!
//! let refused = Linear::load(&mlp.scope("up_proj"), [1, 3], Bias::Absent).unwrap_err();
//! assert!(refused.to_string().ends_with(
//!     "tensor `model.layers.0.mlp.up_proj.weight`: expected shape [1, 3], found F32[1, 2]"
//! ));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activation;
mod adapter;
mod cache;
mod checkpoint;
mod dropout;
mod embedding;
mod error;
mod files;
pub mod gguf;
mod linear;
mod lora;
mod mapping;
mod norm;
pub mod output;
mod parameters;
pub mod quantise;
pub mod random;
mod rope;
mod weights;

pub use activation::{activation, activation_names};
pub use adapter::{Adapter, AdapterFormat, Fusion};
pub use cache::{Activations, Batch, BlockTable, CacheForm, CacheGroup, CacheLayer, KvCache};
pub use checkpoint::{AffineLayers, Checkpoint, LayerForm, SafetensorsHeader, StoredTensor, write_safetensors};
pub use dropout::{Draw, Dropout};
pub use embedding::{Embedding, Head};
pub use error::{Error, Result};
pub use files::ModelFiles;
pub use linear::{Bias, Linear};
pub use lora::{AdapterId, Lora, LoraConfig, LoraScaling, Route, Routes, Rows, Target};
pub use norm::{RmsNorm, RmsNormConfig};
pub use parameters::{Parameters, Visitor};
pub use rope::{RopeScaling, RotaryConfig, RotaryEmbedding};
pub use weights::{Initialisation, LoadProgress, Loaded, OnProgress, Weights};
