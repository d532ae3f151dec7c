// SPDX-License-Identifier: EUPL-1.2
//! Language model architectures, one file each.

mod model;

pub use model::{Model, Summary};
