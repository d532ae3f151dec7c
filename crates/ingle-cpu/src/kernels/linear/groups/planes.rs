// SPDX-License-Identifier: EUPL-1.2
//! One row by planes of quants as they are packed.
//!
//! A quant is the sum of its planes' numbers, each shifted to its place, and so is the dot product. Nothing is
//! unpacked into memory: bits go from a register that was loaded to the one that is multiplied.

use ingle_tensor::GroupForm;

use super::{Part, STEP};
use crate::kernels::linear::groups::QuantisedRows;
use crate::packed::groups::{SUB_BLOCK, SUB_QUANTS};
use crate::simd::{Quads, Simd};

/// Registers across that are computed at a time.
const WIDTH: usize = 4;

/// For each register the sums of two neighbouring groups; larger groups use the first.
type Sums<Q> = [[<Q as Quads>::Sums; 2]; WIDTH];

impl Part<'_> {
    /// Adds the products of one row.
    #[inline(always)]
    pub(super) fn planes<Q: Quads, const OFFSETS: bool>(self, bits: usize) {
        match bits {
            2 => self.all_columns::<Q, 2, 0, OFFSETS>(),
            3 => self.all_columns::<Q, 2, 1, OFFSETS>(),
            4 => self.all_columns::<Q, 4, 0, OFFSETS>(),
            5 => self.all_columns::<Q, 4, 1, OFFSETS>(),
            _ => self.all_columns::<Q, 4, 2, OFFSETS>(),
        }
    }

    #[inline(always)]
    fn all_columns<Q: Quads, const LOW: usize, const HIGH: usize, const OFFSETS: bool>(self) {
        let mut column = 0;
        while column < self.columns {
            // SAFETY: below `dispatch_quads`; columns past the last wanted are computed, and dropped by `add`.
            unsafe {
                let sums = self.row::<Q, LOW, HIGH, OFFSETS>(column);
                for (c, sum) in sums.into_iter().enumerate() {
                    self.add::<Q::Floats>(0, column + c * Q::Floats::LANES, sum);
                }
            }
            column += WIDTH * Q::Floats::LANES;
        }
    }

    /// The products with [`WIDTH`] registers of columns, of quants with `LOW` bits in one plane and `HIGH` in another.
    #[inline(always)]
    unsafe fn row<Q: Quads, const LOW: usize, const HIGH: usize, const OFFSETS: bool>(
        &self,
        column: usize,
    ) -> [<Q::Floats as Simd>::Vector; WIDTH] {
        let QuantisedRows { quants, scales, sums, k, groups } = self.product.rows;
        let GroupForm { group_size, zero, .. } = self.product.panels.form;
        // Each plane is off by the shift.
        let planes = 1 + if HIGH > 0 { 1 << LOW } else { 0 };
        let shift = Q::SHIFT * planes - i32::from(zero);
        let first = self.first * groups + self.groups.start;
        // SAFETY: the row and the groups lie inside the buffers, the planes inside the block.
        unsafe {
            let mut x = quants.bytes().as_ptr().add(self.first * k + self.groups.start * group_size);
            let scales = scales.bytes().as_ptr().cast::<f32>().add(first);
            let sums = sums.bytes().as_ptr().cast::<i32>().add(first);
            let mut packed = self.packed.as_ptr().add(4 * column);
            let mut totals = [Q::Floats::splat(0.0); WIDTH];
            let together = if group_size < SUB_BLOCK { 2 } else { 1 };
            let mut group = 0;
            while group < self.groups.len() {
                let start = |g: usize| Q::splat((*sums.add(group + g)).wrapping_mul(shift));
                let mut low: Sums<Q> = [[start(0), start(together - 1)]; WIDTH];
                let mut high: Sums<Q> = [[Q::splat(0); 2]; WIDTH];
                for _ in 0..(together * group_size) / SUB_BLOCK {
                    if together == 2 {
                        low = plane::<Q, LOW, 2>(low, packed, x);
                        high = plane::<Q, HIGH, 2>(high, packed.add(SUB_QUANTS * LOW / 8), x);
                    } else {
                        low = plane::<Q, LOW, 1>(low, packed, x);
                        high = plane::<Q, HIGH, 1>(high, packed.add(SUB_QUANTS * LOW / 8), x);
                    }
                    packed = packed.add(SUB_QUANTS * (LOW + HIGH) / 8);
                    x = x.add(SUB_BLOCK);
                }
                for g in 0..together {
                    let x_scale = *scales.add(group + g);
                    for c in 0..WIDTH {
                        let place = (group + g) * crate::packed::PANEL + column + c * Q::Floats::LANES;
                        let mut dot = low[c][g];
                        if HIGH > 0 {
                            dot = match LOW {
                                2 => Q::add_shifted::<2>(dot, high[c][g]),
                                _ => Q::add_shifted::<4>(dot, high[c][g]),
                            };
                        }
                        let scale = Q::Floats::load(self.strip.scales.as_ptr().add(place));
                        let value = Q::Floats::mul(Q::to_floats(dot), scale);
                        totals[c] = Q::Floats::mul_add(value, Q::Floats::splat(x_scale), totals[c]);
                        if OFFSETS {
                            let offset = Q::Floats::load(self.strip.offsets.as_ptr().add(place));
                            let sum = Q::Floats::splat(x_scale * *sums.add(group + g) as f32);
                            totals[c] = Q::Floats::mul_add(offset, sum, totals[c]);
                        }
                    }
                }
                group += together;
            }
            totals
        }
    }
}

/// The dot products of one plane of a sub-block, whose numbers have `BITS` bits: of all of it, or of either half.
///
/// # Safety
/// Below `dispatch_quads`; the plane and a sub-block of `x` are there.
#[inline(always)]
unsafe fn plane<Q: Quads, const BITS: usize, const PARTS: usize>(
    sums: Sums<Q>,
    packed: *const u8,
    x: *const u8,
) -> Sums<Q> {
    let mut sums = sums;
    if BITS == 0 {
        return sums;
    }
    let places = 8 / BITS;
    // SAFETY: the caller's promise, passed on.
    unsafe {
        for line in 0..BITS {
            for (c, sums) in sums.iter_mut().enumerate() {
                let from = packed.add(line * STEP + 4 * c * Q::Floats::LANES);
                let weights = Q::load(from);
                for place in 0..places {
                    let x = x.add(4 * (line + place * BITS)).cast::<i32>().read_unaligned();
                    let part = place * PARTS / places;
                    sums[part] = Q::dot(sums[part], Q::bits::<BITS>(weights, place), x);
                }
            }
        }
    }
    sums
}
