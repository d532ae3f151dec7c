// SPDX-License-Identifier: EUPL-1.2
//! Tensors, the vocabulary of operations, and the door into a device.
//!
//! Three ideas live here:
//!
//! - [`Op`] is one enum of every operation Ingle knows, with its parameters as plain data. Some are
//!   primitive; the others are *fused*, and [`Op::decompose`] writes each as a composition of primitives,
//!   which is its specification.
//! - [`Device`] is what runs an operation. It owns how bytes lie; a [`Tensor`] shows only shape and dtype, so
//!   a transposed, sliced or broadcast view cannot be misread.
//! - In place means donated: an operation that receives the last handle to a tensor may write into its
//!   memory. Nobody mutates through a shared handle.
//!
//! [`grad`] differentiates functions of tensors: an operation being data, a tensor can remember the one that it
//! is the result of.
//!
//! Shape and dtype rules ([`Op::infer`]) are checked here, once for all devices. The module `conformance`
//! (feature `conformance`) holds the tests that any device must pass.
//!
//! ```
//! use ingle_tensor::{DType, Error, Op, Spec};
//!
//! let x = Spec::new([3, 8], DType::F32);
//! let weight = Spec::new([16, 8], DType::BF16);
//! assert_eq!(Op::Linear.infer(&[x.clone(), weight])?, Spec::new([3, 16], DType::F32));
//!
//! let narrow = Spec::new([16, 4], DType::BF16);
//! let refused = Op::Linear.infer(&[x, narrow]).unwrap_err();
//! assert_eq!(
//!     refused.to_string(),
//!     "linear: expected x […, k], weight [n, k] and, if any, bias [n], found shapes f32[3, 8], bf16[16, 4]"
//! );
//! # Ok::<(), Error>(())
//! ```

//!
//! Derivatives of a function of tensors, as it stands:
//!
//! ```
//! # #[cfg(not(feature = "conformance"))] fn main() {}
//! # #[cfg(feature = "conformance")] fn main() -> Result<(), ingle_tensor::Error> {
//! # use std::sync::Arc;
//! use ingle_tensor::conformance::Reference; // any device
//! use ingle_tensor::{DeviceHandle, Error, Tensor, grad};
//!
//! let device: DeviceHandle = Arc::new(Reference::new());
//! let x = [Tensor::from_slice(&device, &[1f32, 2.0, 3.0], [3])?];
//! let cube = |x: &[Tensor]| x[0].mul(&x[0])?.mul(&x[0]);
//!
//! // A loss, and its gradient: 3x².
//! let (loss, gradients) = grad::value_and_grad(|x| Ok::<_, Error>(cube(x)?.sum_axis(0)?), &x)?;
//! assert_eq!((loss.to_vec::<f32>()?, gradients[0].to_vec::<f32>()?), (vec![36.0], vec![3.0, 12.0, 27.0]));
//!
//! // A result, and what pulls a cotangent back through it.
//! let (y, pullback) = grad::vjp(cube, &x)?;
//! let pulled = pullback.pull(&y)?;
//! assert_eq!(pulled[0].to_vec::<f32>()?, [3.0, 96.0, 729.0]);
//!
//! // A result, and its derivative along a tangent.
//! let tangent = Tensor::from_slice(&device, &[1f32, 0.0, -1.0], [3])?;
//! let (_, derivative) = grad::jvp(cube, &x, &[tangent])?;
//! assert_eq!(derivative.to_vec::<f32>()?, [3.0, 0.0, -27.0]);
//! # Ok(()) }
//! ```

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod device;
mod dtype;
mod error;
pub mod grad;
mod op;
mod quantization;
mod shape;
mod tensor;
#[cfg(test)]
mod tensor_tests;

pub use device::{Device, DeviceHandle, Evaluation, Invariance, Memory, Storage};
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use op::{
    Activation, Adam, BinaryOp, CompareOp, Momentum, Op, PagedAttention, ReduceOp, RopeLayout, Sgd, UnaryOp,
    WeightDecay,
};
pub use quantization::{BlockFormat, GroupForm, Offsets, Quantization, SuperScales, UnpackedRow};
pub use shape::{Shape, Spec};
pub use tensor::Tensor;

/// Host bytes that a tensor can be made of without a copy: see [`Tensor::from_bytes`].
pub use bytes::Bytes;
