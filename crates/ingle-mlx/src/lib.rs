// SPDX-License-Identifier: EUPL-1.2
//! The MLX device of Ingle: Metal on Apple Silicon, MLX's CPU and CUDA builds on Linux.
//!
//! `MlxDevice` implements [`ingle_tensor::Device`] on Apple's MLX through its C++ API. MLX is lazy: an operation
//! adds to a graph, and reading a tensor computes what it needs. It has its own fast kernels for normalisation,
//! attention and quantised products, and updates a cache in place when it is given away.
//!
//! It needs the feature `mlx`; without it this crate has no device, so that the workspace builds where MLX is not
//! installed. The build looks for MLX in the folder that `MLX_ROOT` names, then in the Python package (of
//! the interpreter that `INGLE_PYTHON` names, else of `VIRTUAL_ENV`, else `python3`), then in Homebrew's.
//!
//! MLX does not promise that a row's bits are the same whatever stands beside it
//! ([`ingle_tensor::Invariance::Rounding`]): its kernels are chosen by the number of rows.
//!
//! **What has been run where.** The whole of it on Linux with MLX's CPU build. The code for Metal is the
//! same, but for the choice of the device and of fused kernels; it has not been run on a Mac by its authors. With MLX's
//! CUDA build, on an H200, the conformance suite holds (13,054 cases, in five minutes, most of them MLX's compiler's), and
//! models generate and classify. There some operations are kernels of our own (`bridge/cuda.cc`).
//!
#![cfg_attr(feature = "mlx", doc = "```")]
#![cfg_attr(not(feature = "mlx"), doc = "```text")]
//! use std::sync::Arc;
//!
//! use ingle_mlx::MlxDevice;
//! use ingle_tensor::{DeviceHandle, Tensor};
//!
//! let device: DeviceHandle = Arc::new(MlxDevice::new()?);
//! let x = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
//! let weight = Tensor::from_slice(&device, &[1.0f32, 0.0, 0.5, 0.5], [2, 2])?;
//! assert_eq!(x.linear(&weight, None)?.to_vec::<f32>()?, [1.0, 1.5, 3.0, 3.5]);
//! # Ok::<(), ingle_tensor::Error>(())
//! ```

#[cfg(feature = "mlx")]
mod array;
#[cfg(feature = "mlx")]
mod attention;
#[cfg(feature = "mlx")]
mod bridge;
#[cfg(feature = "mlx")]
mod derived;
#[cfg(feature = "mlx")]
mod device;
#[cfg(feature = "mlx")]
mod elementwise;
#[cfg(feature = "mlx")]
mod engine;
#[cfg(feature = "mlx")]
mod layout;
#[cfg(feature = "mlx")]
mod linear;
#[cfg(feature = "mlx")]
mod normal;
#[cfg(feature = "mlx")]
mod pending;
#[cfg(feature = "mlx")]
mod rope;
#[cfg(feature = "mlx")]
mod rows;
#[cfg(feature = "mlx")]
mod storage;

#[cfg(feature = "mlx")]
pub use device::MlxDevice;
#[cfg(feature = "mlx")]
pub use engine::{has_gpu, name};

/// A device on MLX where this was built with it: for tests that run on every device there is. (A feature of their own would
/// have their crate, and all that depends on it, built twice.)
///
/// # Errors
/// Those of MLX where it cannot start.
#[cfg(feature = "mlx")]
pub fn device() -> Option<ingle_tensor::Result<ingle_tensor::DeviceHandle>> {
    Some(MlxDevice::new().map(|device| std::sync::Arc::new(device) as _))
}

/// None, as this was built without MLX.
///
/// # Errors
/// None, either.
#[cfg(not(feature = "mlx"))]
pub fn device() -> Option<ingle_tensor::Result<ingle_tensor::DeviceHandle>> {
    None
}
