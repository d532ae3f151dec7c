// SPDX-License-Identifier: EUPL-1.2
//! Blocks whose groups have integers for scales and offsets, and one multiplier of either: GGUF's K formats.
//!
//! With `x` rounded block by block, the sum of a block is `x`'s scale times
//! `multiplier · Σ scale · dot product − multiplier of offsets · Σ offset · sum of x`, and both sums are of integers:
//! exact, in whatever order, as ggml has them.

use crate::packed::PANEL;
use crate::packed::groups::{BLOCK, SuperHeader};
use crate::simd::{Quads, Simd};

/// What makes a weight of a quant.
pub(super) trait Scaling {
    /// Whether scales and offsets are integers.
    const SUPER: bool;
    /// Whether groups have offsets.
    const OFFSETS: bool;
    /// The pairs of groups in a block, if they have integers for offsets.
    const PAIRS: usize = 0;
    /// Whether a group is half a sub-block.
    const HALVES: bool = false;
    /// Whether quants name the weights of a codebook, which are whole bytes.
    const CODEBOOK: bool = false;
    /// The bits that quants have, a bit of this for each: code for others is not compiled.
    const BITS: u32;
}

/// Whether quants may have so many bits.
pub(super) const fn may_have<C: Scaling>(bits: u32) -> bool {
    C::BITS >> bits & 1 == 1
}

/// Scales, and perhaps offsets, that are floats.
pub(super) struct Plain<const OFFSETS: bool>;

/// Scales that are floats, of the weights of a codebook.
pub(super) struct Codebook;

/// Scales that are integers, and perhaps offsets, of so many pairs of groups.
pub(super) struct Super<const PAIRS: usize>;

impl<const OFFSETS: bool> Scaling for Plain<OFFSETS> {
    const SUPER: bool = false;
    const OFFSETS: bool = OFFSETS;
    // GGUF's of 4, 5 and 8 bits; with offsets MLX's as well.
    const BITS: u32 = if OFFSETS { 0b1_0111_1100 } else { 0b1_0011_0000 };
}

impl Scaling for Codebook {
    const SUPER: bool = false;
    const OFFSETS: bool = false;
    const CODEBOOK: bool = true;
    // IQ4_NL.
    const BITS: u32 = 0b1_0000;
}

impl<const PAIRS: usize> Scaling for Super<PAIRS> {
    const SUPER: bool = true;
    const OFFSETS: bool = PAIRS > 0;
    const PAIRS: usize = PAIRS;
    const HALVES: bool = PAIRS != 4;
    // Q3_K and Q6_K; Q4_K and Q5_K; Q2_K.
    const BITS: u32 = match PAIRS {
        0 => 0b100_1000,
        4 => 0b11_0000,
        _ => 0b100,
    };
}

/// Pairs of groups in a block, at most.
const MOST_PAIRS: usize = BLOCK / 16 / 2;

/// A register of columns of a block.
#[derive(Clone, Copy)]
pub(super) struct Columns<Q: Quads> {
    /// What their integer sums are multiplied by.
    scale: <Q::Floats as Simd>::Vector,
    /// What the sums of their offsets are multiplied by.
    min: <Q::Floats as Simd>::Vector,
    /// Their offsets, of as many pairs of groups as there are.
    mins: [Q::Sums; MOST_PAIRS],
}

impl<Q: Quads> Columns<Q> {
    /// Those of a panel from `column` on.
    ///
    /// # Safety
    /// Below `dispatch_quads`; the header is that of a block.
    #[inline(always)]
    pub(super) unsafe fn new<C: Scaling>(header: SuperHeader, column: usize) -> Self {
        // SAFETY: the caller's promise; what offsets need is there if there are offsets.
        unsafe {
            let scale = Q::Floats::load_f16(header.scale.add(column));
            let (mut min, mut mins) = (scale, [Q::splat(0); MOST_PAIRS]);
            if C::OFFSETS {
                min = Q::Floats::load_f16(header.min.add(column));
            }
            // An index, since through an iterator the compiler keeps them in memory.
            #[allow(clippy::needless_range_loop)]
            for pair in 0..C::PAIRS {
                mins[pair] = Q::load_pairs(header.mins.add(2 * (PANEL * pair + column)));
            }
            Columns { scale, min, mins }
        }
    }

    /// What the block is to a row: `sums` of its quants and scales, the pairs and the scale of the row's block.
    ///
    /// # Safety
    /// As of [`Columns::new`]; the pairs of the row's block are there.
    #[inline(always)]
    pub(super) unsafe fn of<C: Scaling>(
        &self,
        sums: Q::Sums,
        pairs: *const i32,
        scale: f32,
    ) -> <Q::Floats as Simd>::Vector {
        // SAFETY: the caller's promise.
        unsafe {
            let mut value = Q::Floats::mul(Q::to_floats(sums), self.scale);
            if C::OFFSETS {
                let mut offsets = Q::splat(0);
                for pair in 0..C::PAIRS {
                    offsets = Q::dot_pairs(offsets, self.mins[pair], *pairs.add(2 * pair));
                }
                value = Q::Floats::mul_add(Q::to_floats(offsets), self.min, value);
            }
            Q::Floats::mul(value, Q::Floats::splat(scale))
        }
    }
}
