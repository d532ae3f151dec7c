// SPDX-License-Identifier: EUPL-1.2
//! Rows of `x` as 8-bit integers: each unit of a row, a group or a block, from −127 to 127 against its own largest
//! magnitude.

use ingle_tensor::{GroupForm, Result};

use crate::kernels::{Context, Pointer, elements_mut};
use crate::memory::{Buffer, Contents};
use crate::packed::groups::{BLOCK, GroupPanels, Scales};
use crate::simd::{QuadKernel, Quads, Simd};

/// Rows of `x` as integers, and what they stand for.
pub(in crate::kernels::linear) struct QuantisedRows {
    /// The parts of [`Rounded`] one after another: quants of `m` rows, then the numbers of the groups of `m` rows.
    memory: Buffer,
    pub(super) k: usize,
    /// Groups of a row.
    pub(super) groups: usize,
    lie: Lie,
}

/// How the quants and numbers of rows lie.
#[derive(Clone, Copy)]
struct Lie {
    m: usize,
    k: usize,
    group_size: usize,
    groups: usize,
    /// Numbers that are rounded against the same one: whole groups.
    unit: usize,
    /// Rows whose parts lie together: those of a tile, or one.
    together: usize,
}

/// The most quants in a part of a row.
const PART: usize = 64;

/// The quants from some row and group on, and the numbers of its groups.
pub(super) struct Rounded {
    /// Row by row; or of the rows that lie together the first part, row by row, then the next.
    pub(super) quants: *const u8,
    /// What a step of a group's quants stands for.
    pub(super) scales: *const f32,
    /// The sums of the quants.
    pub(super) totals: *const i32,
    /// What the dot products with whole weights begin with, so that they end as if `GroupForm::zero` and
    /// `Quads::SHIFT`, or `Quads::NARROW_SHIFT`, were not.
    pub(super) starts: *const i32,
    /// The sums of what the quants stand for, if a unit is a group.
    pub(super) sums: *const f32,
    /// The negative sums of the quants of two neighbouring groups, 16 bits each, if a unit is a block: at the first one's.
    pub(super) pairs: *const i32,
}

/// Units whose largest magnitudes are found before the first is rounded: from one to the next it takes many steps, each
/// of which waits for the last.
const UNITS: usize = 16;

/// Whether weights are below 128 where they are multiplied: a codebook's are not, however few bits name them.
const fn is_narrow(form: GroupForm) -> bool {
    form.bits < 8 && form.codebook.is_none()
}

/// Numbers of each group.
const NUMBERS: usize = 4;

impl QuantisedRows {
    /// Rounds `x [m, k]` to meet weights that are packed so: group by group, or, if the scales of a block have one
    /// multiplier, block by block. The parts of `together` rows lie together.
    pub(in crate::kernels::linear) fn new(
        cx: &Context,
        x: &[f32],
        [m, k]: [usize; 2],
        panels: &GroupPanels,
        together: usize,
    ) -> Result<Self> {
        let GroupForm { group_size, zero, .. } = panels.form;
        let narrow = is_narrow(panels.form);
        let unit = if panels.scales == Scales::Super { BLOCK } else { group_size };
        let lie = Lie { m, k, group_size, groups: k / group_size, unit, together };
        let mut memory = cx.buffer::<u8>(lie.bytes(), Contents::Anything)?;
        let to = Pointer(elements_mut::<u8>(&mut memory).as_mut_ptr());
        cx.parallel("linear", (m, m * k), |row| {
            let to = lie.at(to.get(), row, 0);
            cx.isa.dispatch_quads(Round { x: &x[row * k..(row + 1) * k], lie, zero: i32::from(zero), narrow, to });
        })?;
        Ok(QuantisedRows { memory, k, groups: lie.groups, lie })
    }

    /// How many rows lie together.
    pub(super) fn together(&self) -> usize {
        self.lie.together
    }

    /// What was made of row `row` from its group `group` on.
    #[inline(always)]
    pub(super) fn from(&self, row: usize, group: usize) -> Rounded {
        self.lie.at(self.memory.bytes().as_ptr(), row, group)
    }
}

impl Lie {
    /// Bytes of the quants: those of rows that lie together with others that are there as well.
    fn quants(&self) -> usize {
        self.m.next_multiple_of(self.together) * self.k
    }

    fn bytes(&self) -> usize {
        self.quants() + NUMBERS * self.m * self.groups * size_of::<u32>()
    }

    /// Quants in a part of a row.
    #[inline(always)]
    fn part(&self) -> usize {
        self.unit.min(PART)
    }

    /// Where the numbers of a row are from a group on.
    #[inline(always)]
    fn at(&self, memory: *const u8, row: usize, group: usize) -> Rounded {
        let Lie { m, k, group_size, groups, together, .. } = *self;
        // Groups are whole registers, so that what follows the quants is aligned.
        let numbers = memory.wrapping_add(self.quants()).cast::<u32>();
        let numbers = |which: usize| numbers.wrapping_add((which * m + row) * groups + group);
        let (first, behind) = (row - row % together, row % together);
        Rounded {
            quants: memory.wrapping_add(first * k + group * group_size * together + behind * self.part()),
            scales: numbers(0).cast(),
            totals: numbers(1).cast(),
            starts: numbers(2).cast(),
            sums: numbers(3).cast(),
            pairs: numbers(3).cast(),
        }
    }
}

/// One row, to be rounded. Made only with a `to` in memory that may be written.
struct Round<'a> {
    x: &'a [f32],
    lie: Lie,
    zero: i32,
    /// What is met [is narrow](is_narrow).
    narrow: bool,
    to: Rounded,
}

impl QuadKernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<Q: Quads>(self) {
        let Round { x, lie: Lie { unit, .. }, .. } = self;
        let mut row = Row { quants: self.to.quants.cast_mut().cast(), in_part: 0, group: 0 };
        for x in x.chunks(UNITS * unit) {
            let mut largest = [0.0; UNITS];
            for (largest, x) in largest.iter_mut().zip(x.chunks_exact(unit)) {
                // SAFETY: below `dispatch_quads`; units are whole registers.
                *largest = unsafe { largest_magnitude::<Q>(x) };
            }
            let steps = largest.map(|largest| {
                let steps = 127.0 / largest;
                // Next to nothing, which no quant stands for, or not finite.
                if steps.is_finite() { steps } else { 0.0 }
            });
            // What is not finite must not vanish.
            let scales = largest.map(|largest| if largest.is_finite() { largest / 127.0 } else { f32::NAN });
            for (x, (steps, scale)) in x.chunks_exact(unit).zip(steps.into_iter().zip(scales)) {
                // SAFETY: below `dispatch_quads`; these are the row's units, one after the other.
                unsafe { self.unit::<Q>(x, steps, scale, &mut row) }
            }
        }
    }
}

/// The largest magnitude in `x`.
///
/// # Safety
/// Below `dispatch_quads`; `x` is whole registers.
#[inline(always)]
unsafe fn largest_magnitude<Q: Quads>(x: &[f32]) -> f32 {
    // SAFETY: the caller's promise: what is loaded lies in `x`.
    unsafe {
        let mut largest = Q::splat(0);
        let mut at = 0;
        while at < x.len() {
            largest = Q::larger(largest, Q::Floats::load(x.as_ptr().add(at)));
            at += Q::Floats::LANES;
        }
        f32::from_bits(Q::largest(largest).cast_unsigned())
    }
}

/// How far a row is rounded.
struct Row {
    /// Where the part that is being written begins.
    quants: *mut i8,
    /// Quants of it.
    in_part: usize,
    group: usize,
}

impl Round<'_> {
    /// Rounds the numbers of a unit: `steps` quants to one, each of which stands for `scale`.
    ///
    /// # Safety
    /// Below `dispatch_quads`; `x` is a whole unit, and `row` says where the one before it ended.
    #[inline(always)]
    unsafe fn unit<Q: Quads>(&self, x: &[f32], steps: f32, scale: f32, row: &mut Row) {
        let Round { lie, zero, narrow, ref to, .. } = *self;
        let shift = if narrow { Q::NARROW_SHIFT } else { Q::SHIFT };
        let (unit, group_size, part) = (lie.unit, lie.group_size, lie.part());
        // Of a part that lies in one piece and of one group.
        let piece = group_size.min(part);
        let (mut at, mut before) = (0, 0);
        // SAFETY: the caller's promise; pieces are whole registers, and there is room for what is made of them.
        unsafe {
            let steps = Q::Floats::splat(steps);
            while at < unit {
                let mut total = Q::splat(0);
                let group_end = at + group_size;
                while at < group_end {
                    let piece_end = row.in_part + piece;
                    while row.in_part < piece_end {
                        let rounded = Q::round(Q::Floats::mul(Q::Floats::load(x.as_ptr().add(at)), steps));
                        Q::store_bytes(row.quants.add(row.in_part), rounded);
                        total = Q::add(total, rounded);
                        at += Q::Floats::LANES;
                        row.in_part += Q::Floats::LANES;
                    }
                    if row.in_part == part {
                        row.quants = row.quants.wrapping_add(part * lie.together);
                        row.in_part = 0;
                    }
                }
                let (sum, group) = (Q::total(total), row.group);
                to.scales.add(group).cast_mut().write(scale);
                to.totals.add(group).cast_mut().write(sum);
                to.starts.add(group).cast_mut().write(sum.wrapping_mul(shift - zero));
                if unit == group_size {
                    to.sums.add(group).cast_mut().write(scale * sum as f32);
                } else if group % 2 == 0 {
                    before = sum;
                } else {
                    let pair = before.wrapping_neg() & 0xffff | sum.wrapping_neg() << 16;
                    to.pairs.add(group - 1).cast_mut().write(pair);
                }
                row.group += 1;
            }
        }
    }
}
