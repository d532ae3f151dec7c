// SPDX-License-Identifier: EUPL-1.2
//! The MLX device of Ingle: Metal on Apple Silicon, MLX's CPU and CUDA builds on Linux.
//!
//! `MlxDevice` implements [`ingle_tensor::Device`] on Apple's MLX through its C++ API. MLX is lazy: an operation
//! adds to a graph, and reading a tensor computes what it needs. It has its own fast kernels for normalisation,
//! attention and quantised products, and updates a cache in place when it is given away.
//!
//! It needs the feature `mlx`; without it this crate is empty, so that the workspace builds where MLX is not
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
#![cfg(feature = "mlx")]

mod array;
mod attention;
mod bridge;
mod derived;
mod device;
mod elementwise;
mod engine;
mod layout;
mod linear;
mod normal;
mod pending;
mod rope;
mod rows;
mod storage;

pub use device::MlxDevice;
pub use engine::{has_gpu, name};
