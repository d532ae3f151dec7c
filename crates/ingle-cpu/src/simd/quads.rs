// SPDX-License-Identifier: EUPL-1.2
//! Dot products of four 8-bit numbers: weights from 0 to 255, each four with the same four from −128 to 127.

use super::Simd;

/// Work made of dot products of quads. Implementations of `run` must be `#[inline(always)]`.
pub(crate) trait QuadKernel {
    type Output;
    fn run<Q: Quads>(self) -> Self::Output;
}

/// Dot products of four 8-bit numbers, as many as [`Quads::Floats`] has lanes.
///
/// # Safety
///
/// As of [`Simd`], below [`super::Isa::dispatch_quads`].
#[allow(clippy::missing_safety_doc)] // said above
pub(crate) trait Quads: Copy + 'static {
    /// What sums become.
    type Floats: Simd;
    /// A 32-bit integer in each lane.
    type Sums: Copy;
    /// What is taken from every weight before it is multiplied.
    const SHIFT: i32;

    unsafe fn splat(value: i32) -> Self::Sums;
    /// To each lane the products of its four weights, less [`Quads::SHIFT`] each, with the four bytes of `x`.
    unsafe fn dot(sums: Self::Sums, weights: *const u8, x: i32) -> Self::Sums;
    unsafe fn to_floats(sums: Self::Sums) -> <Self::Floats as Simd>::Vector;
}
