// SPDX-License-Identifier: EUPL-1.2
//! The portable path of 16-bit integers.

use super::super::scalar::Scalar;
use super::{Products, QuantisedRows};

const LANES: usize = 8;

#[derive(Clone, Copy)]
pub(super) struct ScalarWords;

impl Products<QuantisedRows> for ScalarWords {
    type Floats = Scalar;
    type Vector = [i16; 2 * LANES];
    type Sums = [i32; LANES];
    const TILES: usize = 1;

    #[inline(always)]
    unsafe fn read(from: *const i8) -> Self::Vector {
        // SAFETY: the caller vouches for what is read and written; so below.
        std::array::from_fn(|i| i16::from(unsafe { *from.add(i) }))
    }

    #[inline(always)]
    unsafe fn read_beside(rows: [*const i8; 2]) -> [Self::Vector; 2] {
        // SAFETY: as above.
        [0, LANES].map(|first| std::array::from_fn(|i| i16::from(unsafe { *rows[i % 2].add(first + i / 2) })))
    }

    #[inline(always)]
    unsafe fn load(from: *const i16) -> Self::Vector {
        // SAFETY: as above.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut i16, v: Self::Vector) {
        // SAFETY: as above.
        unsafe { to.cast::<Self::Vector>().write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const i16) -> Self::Vector {
        // SAFETY: as above.
        std::array::from_fn(|i| unsafe { *from.add(i % 2) })
    }

    #[inline(always)]
    unsafe fn only(v: Self::Vector, i: usize) -> Self::Vector {
        std::array::from_fn(|j| if j % 2 == i { v[j] } else { 0 })
    }

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        [0; LANES]
    }

    #[inline(always)]
    unsafe fn load_sums(from: *const i32) -> Self::Sums {
        // SAFETY: as above.
        unsafe { from.cast::<Self::Sums>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_sums(to: *mut i32, sums: Self::Sums) {
        // SAFETY: as above.
        unsafe { to.cast::<Self::Sums>().write_unaligned(sums) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, sums: Self::Sums) -> Self::Sums {
        let product = |j: usize| i32::from(a[j]).wrapping_mul(i32::from(b[j]));
        std::array::from_fn(|i| sums[i].wrapping_add(product(2 * i)).wrapping_add(product(2 * i + 1)))
    }

    #[inline(always)]
    unsafe fn sum8(sums: [Self::Sums; 8]) -> [f32; 8] {
        sums.map(|lanes| lanes.into_iter().fold(0i32, i32::wrapping_add) as f32)
    }
}
