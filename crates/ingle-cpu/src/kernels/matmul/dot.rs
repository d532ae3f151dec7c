// SPDX-License-Identifier: EUPL-1.2
//! The dot product, and tiles of it.

use std::marker::PhantomData;

use half::{bf16, f16};
use ingle_tensor::Element;

#[cfg(target_arch = "x86_64")]
use crate::simd::Pairs;
use crate::simd::Simd;

/// How a dot product takes its terms: which elements, how many at a time.
///
/// # Safety
///
/// As of [`Simd`].
pub(in crate::kernels) trait Dot {
    type X: Element;
    type W: Element;
    type XVector: Copy;
    type WVector: Copy;
    /// What the terms are summed in.
    type Sums: Simd;
    /// Elements taken at a time.
    const STEP: usize;

    unsafe fn x(from: *const Self::X) -> Self::XVector;
    unsafe fn x_part(from: *const Self::X, n: usize) -> Self::XVector;
    unsafe fn w(from: *const Self::W) -> Self::WVector;
    unsafe fn w_part(from: *const Self::W, n: usize) -> Self::WVector;
    unsafe fn mul_add(x: Self::XVector, w: Self::WVector, sums: Sum<Self>) -> Sum<Self>;
}

/// A vector of sums.
type Sum<D> = <<D as Dot>::Sums as Simd>::Vector;

/// The lanes of the dot products of `R` rows with `C` rows, `k` long. Lane by lane the same for every `R` and `C`.
///
/// # Safety
///
/// Below `dispatch`; every row holds `k` elements.
#[inline(always)]
pub(in crate::kernels) unsafe fn dot_tile<D: Dot, const R: usize, const C: usize>(
    x: [*const D::X; R],
    w: [*const D::W; C],
    k: usize,
) -> [[Sum<D>; C]; R] {
    // SAFETY: the caller vouches for `k` elements in each row.
    unsafe {
        let mut sums = [[D::Sums::splat(0.0); C]; R];
        let mut at = 0;
        while at + D::STEP <= k {
            for c in 0..C {
                let w = D::w(w[c].add(at));
                for r in 0..R {
                    sums[r][c] = D::mul_add(D::x(x[r].add(at)), w, sums[r][c]);
                }
            }
            at += D::STEP;
        }
        if at < k {
            for c in 0..C {
                let w = D::w_part(w[c].add(at), k - at);
                for r in 0..R {
                    sums[r][c] = D::mul_add(D::x_part(x[r].add(at), k - at), w, sums[r][c]);
                }
            }
        }
        sums
    }
}

/// Elements that widen to f32 as they are loaded.
///
/// # Safety
///
/// As of [`Simd`].
pub(crate) trait Operand: Element {
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector;
    unsafe fn load_part<S: Simd>(from: *const Self, n: usize) -> S::Vector;
}

macro_rules! operands {
    ($($rust:ty: $load:ident $load_part:ident,)*) => {
        $(impl Operand for $rust {
            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
                // SAFETY: the caller's promise, passed on.
                unsafe { S::$load(from) }
            }

            #[inline(always)]
            unsafe fn load_part<S: Simd>(from: *const Self, n: usize) -> S::Vector {
                // SAFETY: the caller's promise, passed on.
                unsafe { S::$load_part(from, n) }
            }
        })*
    };
}

operands! {
    f32: load load_part,
    bf16: load_bf16 load_bf16_part,
    f16: load_f16 load_f16_part,
}

/// Products in f32, `W` widened.
pub(in crate::kernels) struct Single<S, W>(PhantomData<(S, W)>);

impl<S: Simd, W: Operand> Dot for Single<S, W> {
    type X = f32;
    type W = W;
    type XVector = S::Vector;
    type WVector = S::Vector;
    type Sums = S;
    const STEP: usize = S::LANES;

    #[inline(always)]
    unsafe fn x(from: *const f32) -> S::Vector {
        // SAFETY: the caller's promise, passed on; so below.
        unsafe { S::load(from) }
    }

    #[inline(always)]
    unsafe fn x_part(from: *const f32, n: usize) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::load_part(from, n) }
    }

    #[inline(always)]
    unsafe fn w(from: *const W) -> S::Vector {
        // SAFETY: as above.
        unsafe { W::load::<S>(from) }
    }

    #[inline(always)]
    unsafe fn w_part(from: *const W, n: usize) -> S::Vector {
        // SAFETY: as above.
        unsafe { W::load_part::<S>(from, n) }
    }

    #[inline(always)]
    unsafe fn mul_add(x: S::Vector, w: S::Vector, sums: S::Vector) -> S::Vector {
        // SAFETY: as above.
        unsafe { S::mul_add(x, w, sums) }
    }
}

/// Products of bf16 pairs.
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) struct Paired<P>(PhantomData<P>);

#[cfg(target_arch = "x86_64")]
impl<P: Pairs> Dot for Paired<P> {
    type X = bf16;
    type W = bf16;
    type XVector = P::Vector;
    type WVector = P::Vector;
    type Sums = P::Sums;
    const STEP: usize = 2 * P::Sums::LANES;

    #[inline(always)]
    unsafe fn x(from: *const bf16) -> P::Vector {
        // SAFETY: the caller's promise, passed on; so below.
        unsafe { P::load(from) }
    }

    #[inline(always)]
    unsafe fn x_part(from: *const bf16, n: usize) -> P::Vector {
        // SAFETY: as above.
        unsafe { P::load_part(from, n) }
    }

    #[inline(always)]
    unsafe fn w(from: *const bf16) -> P::Vector {
        // SAFETY: as above.
        unsafe { P::load(from) }
    }

    #[inline(always)]
    unsafe fn w_part(from: *const bf16, n: usize) -> P::Vector {
        // SAFETY: as above.
        unsafe { P::load_part(from, n) }
    }

    #[inline(always)]
    unsafe fn mul_add(x: P::Vector, w: P::Vector, sums: Sum<Self>) -> Sum<Self> {
        // SAFETY: as above.
        unsafe { P::mul_add(x, w, sums) }
    }
}
