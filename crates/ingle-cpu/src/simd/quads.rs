// SPDX-License-Identifier: EUPL-1.2
//! Dot products of four 8-bit numbers: weights from 0 to 255, each four with the same four from −127 to 127.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::Simd;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::Avx512Vnni;

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
    /// What [`Quads::dot`] takes from every weight before it is multiplied.
    const SHIFT: i32;
    /// The same of [`Quads::dot_narrow`].
    const NARROW_SHIFT: i32 = Self::SHIFT;

    /// Four weights for each lane.
    type Weights: Copy;

    unsafe fn splat(value: i32) -> Self::Sums;
    unsafe fn load(from: *const u8) -> Self::Weights;
    /// Of each byte the `WIDTH` bits from bit `place · WIDTH` on.
    unsafe fn bits<const WIDTH: usize>(weights: Self::Weights, place: usize) -> Self::Weights;
    /// What [`Quads::look_up`] looks up.
    unsafe fn table(numbers: &[u8; 16]) -> Self::Weights;
    /// Of each byte, below 16, the number of the table at that place.
    unsafe fn look_up(table: Self::Weights, places: Self::Weights) -> Self::Weights;
    /// `low | high << PLACES` of each byte, out of which nothing is shifted.
    unsafe fn join<const PLACES: u32>(low: Self::Weights, high: Self::Weights) -> Self::Weights;
    /// To each lane the products of its four weights, less [`Quads::SHIFT`] each, with the four bytes of `x`.
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, x: i32) -> Self::Sums;
    /// As [`Quads::dot`] of weights below 128, less [`Quads::NARROW_SHIFT`] each. Where two products of whole bytes would
    /// overflow what they are added up in, these do not.
    #[inline(always)]
    unsafe fn dot_narrow(sums: Self::Sums, weights: Self::Weights, x: i32) -> Self::Sums {
        // SAFETY: the caller's promise.
        unsafe { Self::dot(sums, weights, x) }
    }
    /// `sums + more · 2^PLACES`.
    unsafe fn add_shifted<const PLACES: u32>(sums: Self::Sums, more: Self::Sums) -> Self::Sums;
    unsafe fn to_floats(sums: Self::Sums) -> <Self::Floats as Simd>::Vector;

    #[cfg(target_arch = "x86_64")] // Only tiles leave sums in memory.
    unsafe fn load_sums(from: *const i32) -> Self::Sums;
    /// A signed byte for each lane.
    unsafe fn load_bytes(from: *const i8) -> Self::Sums;
    /// Two numbers from 0 to 255 for each lane, each in 16 bits.
    unsafe fn load_pairs(from: *const u8) -> Self::Sums;
    /// To each lane the products of its two numbers of 16 bits with those of `x`.
    unsafe fn dot_pairs(sums: Self::Sums, pairs: Self::Sums, x: i32) -> Self::Sums;
    /// Wraps around.
    unsafe fn mul(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// Wraps around.
    unsafe fn add(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// All lanes together; wraps around.
    unsafe fn total(sums: Self::Sums) -> i32;
    /// Of each lane the larger of `largest` and the bits of `x`'s magnitude. Those are in the order of magnitudes,
    /// and what is not finite is above them all.
    unsafe fn larger(largest: Self::Sums, x: <Self::Floats as Simd>::Vector) -> Self::Sums;
    /// The largest lane.
    unsafe fn largest(lanes: Self::Sums) -> i32;
    /// The nearest integers, ties to even. Anything for what is beyond ±127.
    unsafe fn round(x: <Self::Floats as Simd>::Vector) -> Self::Sums;
    /// Stores a byte for each lane. Anything for what is beyond ±127.
    unsafe fn store_bytes(to: *mut i8, numbers: Self::Sums);
}
