// SPDX-License-Identifier: EUPL-1.2
//! Layers and weight files for language models on Ingle tensors.

mod cache;
mod error;
mod files;

pub use cache::{Batch, BlockTable, CacheGroup, CacheLayer, KvCache};
pub use error::{Error, Result};
pub use files::ModelFiles;
