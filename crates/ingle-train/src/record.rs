// SPDX-License-Identifier: EUPL-1.2
//! Observers that keep a record of a training: as JSON lines, for TensorBoard, and as a picture.

mod curve;
mod json;
mod png;
mod svg;
mod tensorboard;

pub use curve::LossCurve;
pub use json::JsonLog;
pub use tensorboard::TensorBoard;
