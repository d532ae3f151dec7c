// SPDX-License-Identifier: EUPL-1.2
//! MLX itself: what it computes on, and its errors.

use ingle_tensor::{Error, Result};

use crate::bridge::{self, Engine};

/// What MLX computes on, started once for the process.
pub(crate) fn start() -> Result<Engine> {
    bridge::start().map_err(|exception| failed("start", &exception))
}

/// The name of MLX's device here: `metal` where MLX has Metal, else `mlx`.
pub fn name() -> &'static str {
    match bridge::start() {
        Ok(Engine::Metal) => "metal",
        _ => "mlx",
    }
}

/// Whether MLX computes on a GPU here.
pub fn has_gpu() -> bool {
    matches!(bridge::start(), Ok(Engine::Metal | Engine::Cuda))
}

/// An error in MLX's own words.
pub(crate) fn failed(op: &'static str, exception: &cxx::Exception) -> Error {
    unsuited(op, exception.what().to_owned())
}

/// An error of this device.
pub(crate) fn unsuited(op: &'static str, message: String) -> Error {
    Error::Device { op, device: name(), message }
}
