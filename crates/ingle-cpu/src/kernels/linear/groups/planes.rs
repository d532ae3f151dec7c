// SPDX-License-Identifier: EUPL-1.2
//! Few rows by planes of quants as they are packed.
//!
//! A quant is the sum of its planes' numbers, each shifted to its place, and so is the dot product. Nothing is
//! unpacked into memory: bits go from a register that was loaded to the one that is multiplied.

use ingle_tensor::GroupForm;

use super::{Part, STEP, rows_of};
use crate::kernels::linear::groups::QuantisedRows;
use crate::packed::PANEL;
use crate::packed::groups::{SUB_BLOCK, SUB_QUANTS};
use crate::simd::{Quads, Simd};

/// Registers across that are computed at a time.
const WIDTH: usize = 4;

/// For each row and each register across the sums of one group, or of two neighbouring ones.
type Sums<Q, const GROUPS: usize, const ROWS: usize> = [[[<Q as Quads>::Sums; GROUPS]; WIDTH]; ROWS];

/// Rows for which the planes serve; more are better off with quants that are unpacked once. The table of a codebook
/// has to be looked up first.
#[inline(always)]
pub(super) fn most_rows<Q: Quads>(form: GroupForm) -> usize {
    match form {
        GroupForm { codebook: Some(_), .. } => 0,
        // One plane, and one group at a time: the registers hold the sums of a tile.
        GroupForm { bits: 4, group_size: SUB_BLOCK.., .. } if const { rows_of::<Q>() > 3 } => 8,
        _ => 1,
    }
}

/// Rows in the largest tile.
pub(super) const TILE: usize = 2;

impl Part<'_> {
    /// Adds the products of a tile.
    #[inline(always)]
    pub(super) fn planes<Q: Quads, const OFFSETS: bool>(self, rows: usize) {
        match self.product.panels.form.bits {
            2 => self.groups::<Q, 2, 0, OFFSETS>(),
            3 => self.groups::<Q, 2, 1, OFFSETS>(),
            4 => match rows {
                TILE => self.all_columns::<Q, 4, 0, OFFSETS, 1, TILE>(),
                _ => self.groups::<Q, 4, 0, OFFSETS>(),
            },
            5 => self.groups::<Q, 4, 1, OFFSETS>(),
            _ => self.groups::<Q, 4, 2, OFFSETS>(),
        }
    }

    /// One row, in whichever groups.
    #[inline(always)]
    fn groups<Q: Quads, const LOW: usize, const HIGH: usize, const OFFSETS: bool>(self) {
        if self.product.panels.form.group_size < SUB_BLOCK {
            self.all_columns::<Q, LOW, HIGH, OFFSETS, 2, 1>();
        } else {
            self.all_columns::<Q, LOW, HIGH, OFFSETS, 1, 1>();
        }
    }

    #[inline(always)]
    fn all_columns<
        Q: Quads,
        const LOW: usize,
        const HIGH: usize,
        const OFFSETS: bool,
        const GROUPS: usize,
        const ROWS: usize,
    >(
        self,
    ) {
        let mut column = 0;
        while column < self.columns {
            // SAFETY: below `dispatch_quads`; columns past the last wanted are computed, and dropped by `add`.
            unsafe {
                let sums = self.products::<Q, LOW, HIGH, OFFSETS, GROUPS, ROWS>(column);
                for (r, sums) in sums.into_iter().enumerate() {
                    for (c, sum) in sums.into_iter().enumerate() {
                        self.add::<Q::Floats>(r, column + c * Q::Floats::LANES, sum);
                    }
                }
            }
            column += WIDTH * Q::Floats::LANES;
        }
    }

    /// The products of `ROWS` rows with `WIDTH` registers of columns, of quants with `LOW` bits in one plane and
    /// `HIGH` in another, `GROUPS` groups at a time.
    #[inline(always)]
    unsafe fn products<
        Q: Quads,
        const LOW: usize,
        const HIGH: usize,
        const OFFSETS: bool,
        const GROUPS: usize,
        const ROWS: usize,
    >(
        &self,
        column: usize,
    ) -> [[<Q::Floats as Simd>::Vector; WIDTH]; ROWS] {
        let QuantisedRows { k, groups, .. } = *self.product.rows;
        let GroupForm { group_size, zero, .. } = self.product.panels.form;
        // Each plane is off by the shift.
        let planes = 1 + if HIGH > 0 { 1 << LOW } else { 0 };
        let shift = Q::SHIFT * planes - i32::from(zero);
        // SAFETY: the rows and the groups lie inside the buffers, the planes inside the block.
        unsafe {
            let (mut x, scales, sums) = self.product.rows.from(self.first, self.groups.start);
            let mut packed = self.packed.as_ptr().add(4 * column);
            // Loops over arrays of constant length below: the compiler keeps those in registers.
            let mut totals = [[Q::Floats::splat(0.0); WIDTH]; ROWS];
            let mut group = 0;
            while group < self.groups.len() {
                let mut low: Sums<Q, GROUPS, ROWS> = [[[Q::splat(0); GROUPS]; WIDTH]; ROWS];
                let mut high = low;
                for (r, low) in low.iter_mut().enumerate() {
                    for g in 0..GROUPS {
                        let start = Q::splat((*sums.add(r * groups + group + g)).wrapping_mul(shift));
                        for low in low.iter_mut() {
                            low[g] = start;
                        }
                    }
                }
                for _ in 0..(GROUPS * group_size) / SUB_BLOCK {
                    // A single row is read as fast as memory gives: the processor fetches ahead by itself.
                    if ROWS > 1 {
                        self.ahead.step::<Q::Floats>();
                    }
                    low = plane::<Q, LOW, GROUPS, ROWS>(low, packed, (x, k));
                    high = plane::<Q, HIGH, GROUPS, ROWS>(high, packed.add(SUB_QUANTS * LOW / 8), (x, k));
                    packed = packed.add(SUB_QUANTS * (LOW + HIGH) / 8);
                    x = x.add(SUB_BLOCK);
                }
                for g in 0..GROUPS {
                    for c in 0..WIDTH {
                        let place = (group + g) * PANEL + column + c * Q::Floats::LANES;
                        let scale = Q::Floats::load(self.strip.scales.as_ptr().add(place));
                        for (r, totals) in totals.iter_mut().enumerate() {
                            let at = r * groups + group + g;
                            let mut dot = low[r][c][g];
                            if HIGH > 0 {
                                dot = match LOW {
                                    2 => Q::add_shifted::<2>(dot, high[r][c][g]),
                                    _ => Q::add_shifted::<4>(dot, high[r][c][g]),
                                };
                            }
                            let value = Q::Floats::mul(Q::to_floats(dot), scale);
                            totals[c] = Q::Floats::mul_add(value, Q::Floats::splat(*scales.add(at)), totals[c]);
                            if OFFSETS {
                                let offset = Q::Floats::load(self.strip.offsets.as_ptr().add(place));
                                let sum = Q::Floats::splat(*scales.add(at) * *sums.add(at) as f32);
                                totals[c] = Q::Floats::mul_add(offset, sum, totals[c]);
                            }
                        }
                    }
                }
                group += GROUPS;
            }
            totals
        }
    }
}

/// The dot products of one plane of a sub-block, whose numbers have `BITS` bits, with rows of `x` that are `k` apart:
/// of all of it, or of either half.
///
/// # Safety
/// Below `dispatch_quads`; the plane and a sub-block of each row of `x` are there.
#[inline(always)]
unsafe fn plane<Q: Quads, const BITS: usize, const GROUPS: usize, const ROWS: usize>(
    mut sums: Sums<Q, GROUPS, ROWS>,
    packed: *const u8,
    (x, k): (*const u8, usize),
) -> Sums<Q, GROUPS, ROWS> {
    if BITS == 0 {
        return sums;
    }
    let places = 8 / BITS;
    // SAFETY: the caller's promise, passed on.
    unsafe {
        for line in 0..BITS {
            for c in 0..WIDTH {
                let weights = Q::load(packed.add(line * STEP + 4 * c * Q::Floats::LANES));
                for place in 0..places {
                    let weights = Q::bits::<BITS>(weights, place);
                    let group = place * GROUPS / places;
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = x.add(r * k + 4 * (line + place * BITS)).cast::<i32>().read_unaligned();
                        sums[c][group] = Q::dot(sums[c][group], weights, x);
                    }
                }
            }
        }
    }
    sums
}
