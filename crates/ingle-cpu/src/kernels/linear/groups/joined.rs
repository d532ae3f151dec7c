// SPDX-License-Identifier: EUPL-1.2
//! Some rows by quants whose planes are joined in registers.
//!
//! Too few rows to pay for quants that are unpacked into memory, enough to pay for planes that are joined before
//! they are multiplied.

use ingle_tensor::GroupForm;

use super::rounding::{QuantisedRows, Rounded};
use super::supers::{Columns, Scaling, may_have};
use super::{Part, STEP, rows_of};
use crate::packed::PANEL;
use crate::packed::groups::{SUB_BLOCK, SUB_QUANTS};
use crate::simd::{Quads, Simd};

/// Registers across that are computed at a time.
const WIDTH: usize = 2;

/// Rows in the largest tile.
pub(super) const TILE: usize = 4;

/// Times that [`Part::joined`] says where it is, of a tile and a sub-block.
pub(super) const fn steps<Q: Quads>() -> usize {
    PANEL / (WIDTH * Q::Floats::LANES)
}

/// Rows that planes as they are packed serve: more are better off with quants that are unpacked once.
#[inline(always)]
pub(super) fn most_rows<Q: Quads>(form: GroupForm) -> usize {
    match form {
        GroupForm { codebook: Some(_), .. } => 1,
        GroupForm { bits: 4 | 5, group_size: SUB_BLOCK.., .. } | GroupForm { bits: 6, .. }
            if const { rows_of::<Q>() > 3 } =>
        {
            8
        }
        _ => 1,
    }
}

impl Part<'_> {
    /// Adds the products of a tile of more than one row.
    #[inline(always)]
    pub(super) fn joined<Q: Quads, C: Scaling>(self, rows: usize) {
        if const { rows_of::<Q>() > 3 } {
            match self.product.panels.form.bits {
                4 if const { may_have::<C>(4) } => self.joined_rows::<Q, C, 4, 0, 1>(rows),
                5 if const { may_have::<C>(5) } => self.joined_rows::<Q, C, 4, 1, 1>(rows),
                6 if const { may_have::<C>(6) && C::HALVES } => self.joined_rows::<Q, C, 4, 2, 2>(rows),
                6 if const { may_have::<C>(6) && !C::HALVES } => self.joined_rows::<Q, C, 4, 2, 1>(rows),
                // Others do not come here.
                _ => {}
            }
        }
    }

    #[inline(always)]
    fn joined_rows<Q: Quads, C: Scaling, const LOW: usize, const HIGH: usize, const GROUPS: usize>(self, rows: usize) {
        match rows {
            2 => self.joined_columns::<Q, C, LOW, HIGH, GROUPS, 2>(),
            3 => self.joined_columns::<Q, C, LOW, HIGH, GROUPS, 3>(),
            // No tile has more rows than `TILE`.
            _ => self.joined_columns::<Q, C, LOW, HIGH, GROUPS, TILE>(),
        }
    }

    #[inline(always)]
    fn joined_columns<
        Q: Quads,
        C: Scaling,
        const LOW: usize,
        const HIGH: usize,
        const GROUPS: usize,
        const ROWS: usize,
    >(
        self,
    ) {
        let mut column = 0;
        while column < self.columns {
            // SAFETY: below `dispatch_quads`; columns past the last wanted are computed, and dropped by `add`.
            unsafe {
                let sums = self.joined_products::<Q, C, LOW, HIGH, GROUPS, ROWS>(column);
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
    /// `HIGH` in another. A sub-block has `GROUPS` groups, or is a part of one.
    #[inline(always)]
    unsafe fn joined_products<
        Q: Quads,
        C: Scaling,
        const LOW: usize,
        const HIGH: usize,
        const GROUPS: usize,
        const ROWS: usize,
    >(
        &self,
        column: usize,
    ) -> [[<Q::Floats as Simd>::Vector; WIDTH]; ROWS] {
        let QuantisedRows { k, groups, .. } = *self.product.rows;
        let panels = &self.product.panels;
        let group_size = panels.form.group_size;
        // SAFETY: the rows and the groups lie inside the buffers, the planes inside the block.
        unsafe {
            let Rounded { quants: mut x, scales, starts, sums, pairs, .. } =
                self.product.rows.from(self.first, self.groups.start);
            let header = panels.super_header(self.header.as_ptr());
            let mut packed = self.packed.as_ptr().add(4 * column);
            let mut totals = [[Q::Floats::splat(0.0); WIDTH]; ROWS];
            let mut of_block = [[Q::splat(0); WIDTH]; ROWS];
            // Loops over arrays of constant length: the compiler keeps those in registers.
            let mut group = 0;
            while group < self.groups.len() {
                let mut sub_blocks = group_size.div_ceil(SUB_BLOCK);
                let mut dots = [[Q::splat(0); WIDTH]; ROWS];
                while sub_blocks > 0 {
                    self.ahead.step::<Q::Floats>();
                    for half in 0..2 {
                        if GROUPS == 2 || half == 0 && sub_blocks == group_size.div_ceil(SUB_BLOCK) {
                            for (r, dots) in dots.iter_mut().enumerate() {
                                *dots = [Q::splat(*starts.add(r * groups + group)); WIDTH];
                            }
                        }
                        for step in 4 * half..4 * half + 4 {
                            let mut weights = [Q::load(packed); WIDTH];
                            for (c, weights) in weights.iter_mut().enumerate() {
                                let lanes = packed.add(4 * c * Q::Floats::LANES);
                                *weights = Q::bits::<LOW>(Q::load(lanes.add(step % LOW * STEP)), step / LOW);
                                if HIGH > 0 {
                                    let high = lanes.add(SUB_QUANTS * LOW / 8 + step % HIGH * STEP);
                                    let high = Q::bits::<HIGH>(Q::load(high), step / HIGH);
                                    // A plane above another lies above its 4 bits.
                                    *weights = Q::join::<4>(*weights, high);
                                }
                            }
                            for (r, dots) in dots.iter_mut().enumerate() {
                                let x = x.add(r * k + 4 * step).cast::<i32>().read_unaligned();
                                for (dot, weights) in dots.iter_mut().zip(weights) {
                                    *dot = Q::dot_narrow(*dot, weights, x);
                                }
                            }
                        }
                        if GROUPS == 2 || half == 1 && sub_blocks == 1 {
                            for c in 0..WIDTH {
                                let place = group * PANEL + column + c * Q::Floats::LANES;
                                if C::SUPER {
                                    let scale = Q::load_bytes(header.scales.add(place));
                                    for (r, of_block) in of_block.iter_mut().enumerate() {
                                        of_block[c] = Q::add(of_block[c], Q::mul(dots[r][c], scale));
                                    }
                                    continue;
                                }
                                let scale = Q::Floats::load(self.strip.scales.as_ptr().add(place));
                                for (r, totals) in totals.iter_mut().enumerate() {
                                    let at = r * groups + group;
                                    let value = Q::Floats::mul(Q::to_floats(dots[r][c]), scale);
                                    totals[c] = Q::Floats::mul_add(value, Q::Floats::splat(*scales.add(at)), totals[c]);
                                    if C::OFFSETS {
                                        let offset = Q::Floats::load(self.strip.offsets.as_ptr().add(place));
                                        let sum = Q::Floats::splat(*sums.add(at));
                                        totals[c] = Q::Floats::mul_add(offset, sum, totals[c]);
                                    }
                                }
                            }
                            group += 1;
                        }
                    }
                    // Wraps: after the last step it is `4 * column` bytes past the end, perhaps outside the buffer.
                    packed = packed.wrapping_add(SUB_QUANTS * (LOW + HIGH) / 8);
                    x = x.add(SUB_BLOCK);
                    sub_blocks -= 1;
                }
            }
            if C::SUPER {
                for c in 0..WIDTH {
                    let columns = Columns::<Q>::new::<C>(header, column + c * Q::Floats::LANES);
                    for (r, totals) in totals.iter_mut().enumerate() {
                        totals[c] = columns.of::<C>(of_block[r][c], pairs.add(r * groups), *scales.add(r * groups));
                    }
                }
            }
            totals
        }
    }
}
