// SPDX-License-Identifier: EUPL-1.2
//! The CPU device of Ingle: SIMD kernels, a thread pool, a buffer pool.
//!
//! [`CpuDevice`] implements [`ingle_tensor::Device`]. Kernels are written once and compiled for every
//! instruction set ([`Isa`]); the fastest that the machine has is chosen at run time, or the one that the
//! environment variable `INGLE_CPU` names (`scalar`, `avx2`, `avx512f`, `avx512`, `amx`,
//! `neon`).
//!
//! Sums are of f32 whatever the dtype of the operands, and rounded once, to nearest even, when a result is
//! stored. What products meet is rounded before: activations to 8-bit integers beside quantised weights, and to
//! bf16 beside weights of bf16 where the machine has its products, or that become bf16, as quants of 4 and 8 bits do
//! with AMX; queries and weights of attention to bf16 beside a cache of bf16 there, and to 16-bit integers beside one of
//! 8 bits. Each element is computed in an order of its own: the same row gives the same bits alone and in a batch, on one
//! thread and on many.
//!
//! ```
//! use std::sync::Arc;
//!
//! use ingle_cpu::{CpuDevice, CpuOptions};
//! use ingle_tensor::{DeviceHandle, Tensor};
//!
//! let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions { threads: Some(2), ..Default::default() })?);
//! let x = Tensor::from_slice(&device, &[1.0f32, 2.0, 3.0, 4.0], [2, 2])?;
//! let weight = Tensor::from_slice(&device, &[1.0f32, 0.0, 0.5, 0.5], [2, 2])?;
//! assert_eq!(x.linear(&weight, None)?.to_vec::<f32>()?, [1.0, 1.5, 3.0, 3.5]);
//! assert_eq!(x.permute(&[1, 0])?.to_vec::<f32>()?, [1.0, 3.0, 2.0, 4.0]);
//! # Ok::<(), ingle_tensor::Error>(())
//! ```

mod ahead;
mod device;
mod kernels;
mod layout;
mod machine;
mod math;
mod memory;
mod number;
mod packed;
mod pool;
mod simd;
mod storage;

pub use device::{CpuDevice, CpuOptions};
pub use simd::Isa;
