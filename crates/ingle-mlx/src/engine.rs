// SPDX-License-Identifier: EUPL-1.2
//! MLX itself: what it computes on, and its errors.

use std::sync::OnceLock;

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

/// MLX's own limits, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) memory: usize,
    pub(crate) cache: usize,
}

/// The limits that MLX began with: they are the process's, and another device may have changed them since.
pub(crate) fn default_limits() -> Limits {
    static LIMITS: OnceLock<Limits> = OnceLock::new();
    *LIMITS.get_or_init(|| {
        // MLX tells this one only when it is changed.
        let cache = bridge::set_cache_limit(0);
        bridge::set_cache_limit(cache);
        Limits { memory: bridge::memory_limit(), cache }
    })
}

/// An error in MLX's own words.
pub(crate) fn failed(op: &'static str, exception: &cxx::Exception) -> Error {
    unsuited(op, exception.what().to_owned())
}

/// An error of this device.
pub(crate) fn unsuited(op: &'static str, message: String) -> Error {
    Error::Device { op, device: name(), message }
}
