// SPDX-License-Identifier: EUPL-1.2
//! One row by planes of quants as they are packed.
//!
//! A quant is the sum of its planes' numbers, each shifted to its place, and so is the dot product. Nothing is
//! unpacked into memory: bits go from a register that was loaded to the one that is multiplied.

use ingle_tensor::GroupForm;

use super::rounding::Rounded;
use super::supers::{Columns, Scaling, may_have};
use super::{FAR, LINE, NEAR, Part, SOON, STEP, all_columns};
use crate::packed::PANEL;
use crate::packed::groups::{SUB_BLOCK, SUB_QUANTS};
use crate::simd::{Isa, Quads, Simd};

/// For each register across the sums of one group, or of two neighbouring ones.
type Sums<Q, const WIDTH: usize, const GROUPS: usize> = [[<Q as Quads>::Sums; GROUPS]; WIDTH];

impl Part<'_> {
    /// Adds the products of a row.
    #[inline(always)]
    pub(super) fn planes<Q: Quads, C: Scaling>(self) {
        match self.product.isa {
            Isa::Amx if const { Q::Floats::LANES == 16 } => self.planes_ahead::<Q, C, true>(),
            _ => self.planes_ahead::<Q, C, false>(),
        }
    }

    /// They are asked for [far](FAR) ahead, or [soon](SOON) before they are met.
    #[inline(always)]
    fn planes_ahead<Q: Quads, C: Scaling, const FAR_AHEAD: bool>(self) {
        match self.product.panels.form.bits {
            2 if const { may_have::<C>(2) } => self.groups::<Q, C, 2, 0, FAR_AHEAD>(),
            3 if const { may_have::<C>(3) } => self.groups::<Q, C, 2, 1, FAR_AHEAD>(),
            4 if const { may_have::<C>(4) } => self.groups::<Q, C, 4, 0, FAR_AHEAD>(),
            5 if const { may_have::<C>(5) } => self.groups::<Q, C, 4, 1, FAR_AHEAD>(),
            6 if const { may_have::<C>(6) } => self.groups::<Q, C, 4, 2, FAR_AHEAD>(),
            // There are no others.
            _ => {}
        }
    }

    #[inline(always)]
    fn groups<Q: Quads, C: Scaling, const LOW: usize, const HIGH: usize, const FAR_AHEAD: bool>(self) {
        match (const { all_columns::<Q>() == 8 }, const { C::HALVES }) {
            (true, true) => self.panel_columns::<Q, C, LOW, HIGH, FAR_AHEAD, 8, 2>(),
            (true, false) => self.panel_columns::<Q, C, LOW, HIGH, FAR_AHEAD, 8, 1>(),
            (false, true) => self.panel_columns::<Q, C, LOW, HIGH, FAR_AHEAD, 4, 2>(),
            (false, false) => self.panel_columns::<Q, C, LOW, HIGH, FAR_AHEAD, 4, 1>(),
        }
    }

    #[inline(always)]
    fn panel_columns<
        Q: Quads,
        C: Scaling,
        const LOW: usize,
        const HIGH: usize,
        const FAR_AHEAD: bool,
        const WIDTH: usize,
        const GROUPS: usize,
    >(
        self,
    ) {
        let mut column = 0;
        while column < self.columns {
            // SAFETY: below `dispatch_quads`; columns past the last wanted are computed, and dropped by `add`.
            unsafe {
                let sums = self.products::<Q, C, LOW, HIGH, FAR_AHEAD, WIDTH, GROUPS>(column);
                for (c, sum) in sums.into_iter().enumerate() {
                    self.add::<Q::Floats>(0, column + c * Q::Floats::LANES, sum);
                }
            }
            column += WIDTH * Q::Floats::LANES;
        }
    }

    /// The products with `WIDTH` registers of columns, of quants with `LOW` bits in one plane and `HIGH` in another,
    /// `GROUPS` groups at a time.
    #[inline(always)]
    unsafe fn products<
        Q: Quads,
        C: Scaling,
        const LOW: usize,
        const HIGH: usize,
        const FAR_AHEAD: bool,
        const WIDTH: usize,
        const GROUPS: usize,
    >(
        &self,
        column: usize,
    ) -> [<Q::Floats as Simd>::Vector; WIDTH] {
        let panels = &self.product.panels;
        let GroupForm { group_size, zero, codebook, .. } = panels.form;
        // Each plane is off by the shift.
        let planes = 1 + if HIGH > 0 { 1 << LOW } else { 0 };
        let shift = if C::CODEBOOK { Q::SHIFT } else { Q::NARROW_SHIFT } * planes - i32::from(zero);
        // SAFETY: the row and the groups lie inside the buffers, the planes inside the block.
        unsafe {
            let Rounded { quants: mut x, scales, totals: x_totals, sums, pairs, .. } =
                self.product.rows.from(self.first, self.groups.start);
            let header = panels.super_header(self.header.as_ptr());
            let numbers = panels.numbers_of(self.groups.len(), self.header.as_ptr());
            let mut packed = self.packed.as_ptr().add(4 * column);
            let table = Q::table(codebook.unwrap_or(&[0; 16]));
            // Loops over arrays of constant length below: the compiler keeps those in registers, if there are enough.
            let mut totals = [Q::Floats::splat(0.0); WIDTH];
            let mut of_block = [Q::splat(0); WIDTH];
            let mut group = 0;
            while group < self.groups.len() {
                let mut low: Sums<Q, WIDTH, GROUPS> = [[Q::splat(0); GROUPS]; WIDTH];
                let mut high = low;
                for g in 0..GROUPS {
                    let start = Q::splat((*x_totals.add(group + g)).wrapping_mul(shift));
                    for low in low.iter_mut() {
                        low[g] = start;
                    }
                }
                for _ in 0..(GROUPS * group_size) / SUB_BLOCK {
                    if !FAR_AHEAD && column == 0 {
                        for line in (0..SUB_QUANTS * (LOW + HIGH) / 8).step_by(LINE) {
                            Q::Floats::prefetch_far(packed.wrapping_add(SOON + line));
                        }
                    }
                    low = plane::<Q, C, LOW, FAR_AHEAD, WIDTH, GROUPS>(low, table, packed, x);
                    // Where there is no such plane, that may be past the end, too.
                    let plane_above = packed.wrapping_add(SUB_QUANTS * LOW / 8);
                    high = plane::<Q, C, HIGH, FAR_AHEAD, WIDTH, GROUPS>(high, table, plane_above, x);
                    // Wraps: after the last step it is `4 * column` bytes past the end, perhaps outside the buffer.
                    packed = packed.wrapping_add(SUB_QUANTS * (LOW + HIGH) / 8);
                    x = x.add(SUB_BLOCK);
                }
                for g in 0..GROUPS {
                    for c in 0..WIDTH {
                        let place = (group + g) * PANEL + column + c * Q::Floats::LANES;
                        let mut dot = low[c][g];
                        if HIGH > 0 {
                            dot = match LOW {
                                2 => Q::add_shifted::<2>(dot, high[c][g]),
                                _ => Q::add_shifted::<4>(dot, high[c][g]),
                            };
                        }
                        if C::SUPER {
                            let scale = Q::load_bytes(header.scales.add(place));
                            of_block[c] = Q::add(of_block[c], Q::mul(dot, scale));
                            continue;
                        }
                        let scale = numbers.scale::<Q::Floats>(place);
                        let value = Q::Floats::mul(Q::to_floats(dot), scale);
                        totals[c] = Q::Floats::mul_add(value, Q::Floats::splat(*scales.add(group + g)), totals[c]);
                        if C::OFFSETS {
                            let offset = numbers.offset::<Q::Floats>(place);
                            let sum = Q::Floats::splat(*sums.add(group + g));
                            totals[c] = Q::Floats::mul_add(offset, sum, totals[c]);
                        }
                    }
                }
                group += GROUPS;
            }
            if C::SUPER {
                for (c, totals) in totals.iter_mut().enumerate() {
                    let columns = Columns::<Q>::new::<C>(header, column + c * Q::Floats::LANES);
                    *totals = columns.of::<C>(of_block[c], pairs, *scales);
                }
            }
            totals
        }
    }
}

/// The dot products of one plane of a sub-block, whose numbers have `BITS` bits, with a row of `x`: of all of it, or
/// of either half.
///
/// # Safety
/// Below `dispatch_quads`; the plane and a sub-block of `x` are there.
#[inline(always)]
unsafe fn plane<
    Q: Quads,
    C: Scaling,
    const BITS: usize,
    const FAR_AHEAD: bool,
    const WIDTH: usize,
    const GROUPS: usize,
>(
    mut sums: Sums<Q, WIDTH, GROUPS>,
    table: Q::Weights,
    packed: *const u8,
    x: *const u8,
) -> Sums<Q, WIDTH, GROUPS> {
    if BITS == 0 {
        return sums;
    }
    let places = 8 / BITS;
    // SAFETY: the caller's promise, passed on.
    unsafe {
        for line in 0..BITS {
            for (c, sums) in sums.iter_mut().enumerate() {
                let weights = packed.add(line * STEP + 4 * c * Q::Floats::LANES);
                if FAR_AHEAD {
                    Q::Floats::prefetch_far(weights.wrapping_add(FAR));
                    Q::Floats::prefetch(weights.wrapping_add(NEAR));
                }
                let weights = Q::load(weights);
                for place in 0..places {
                    let weights = Q::bits::<BITS>(weights, place);
                    let x = x.add(4 * (line + place * BITS)).cast::<i32>().read_unaligned();
                    let sum = &mut sums[place * GROUPS / places];
                    *sum = if C::CODEBOOK {
                        Q::dot(*sum, Q::look_up(table, weights), x)
                    } else {
                        Q::dot_narrow(*sum, weights, x)
                    };
                }
            }
        }
    }
    sums
}
