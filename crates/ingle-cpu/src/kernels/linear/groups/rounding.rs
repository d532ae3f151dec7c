// SPDX-License-Identifier: EUPL-1.2
//! Rows of `x` as 8-bit integers: each group from −127 to 127 against its own largest magnitude.

use ingle_tensor::{GroupForm, Result};

use crate::kernels::{Context, Pointer, elements_mut};
use crate::memory::{Buffer, Contents};
use crate::simd::{QuadKernel, Quads, Simd};

/// Rows of `x` as integers, and what they stand for.
pub(in crate::kernels::linear) struct QuantisedRows {
    /// The parts of [`Rounded`] one after another: quants of `m` rows, then the numbers of the groups of `m` rows.
    memory: Buffer,
    m: usize,
    pub(super) k: usize,
    group_size: usize,
    /// Groups of a row.
    pub(super) groups: usize,
}

/// The quants from some row and group on, and the numbers of its groups.
pub(super) struct Rounded {
    pub(super) quants: *const u8,
    /// What a step of the quants stands for.
    pub(super) scales: *const f32,
    /// The sums of the quants.
    pub(super) totals: *const i32,
    /// What the dot products with whole weights begin with, so that they end as if `GroupForm::zero` and
    /// `Quads::SHIFT` were not.
    pub(super) starts: *const i32,
    /// The sums of what the quants stand for.
    pub(super) sums: *const f32,
}

/// Numbers of each group.
const NUMBERS: usize = 4;

impl QuantisedRows {
    /// Rounds `x [m, k]` group by group, to meet weights of a form.
    pub(in crate::kernels::linear) fn new(
        cx: &Context,
        x: &[f32],
        [m, k]: [usize; 2],
        GroupForm { group_size, zero, .. }: GroupForm,
    ) -> Result<Self> {
        let groups = k / group_size;
        let bytes = m * k + NUMBERS * m * groups * size_of::<u32>();
        let mut rows = QuantisedRows { memory: cx.buffer::<u8>(bytes, Contents::Anything)?, m, k, group_size, groups };
        let memory = Pointer(elements_mut::<u8>(&mut rows.memory).as_mut_ptr());
        cx.parallel("linear", (m, m * k), |row| {
            let to = Rounded::new(memory.get(), [m, k, groups], [row, 0], group_size);
            cx.isa.dispatch_quads(Round { x: &x[row * k..(row + 1) * k], group_size, zero: i32::from(zero), to });
        })?;
        Ok(rows)
    }

    /// What was made of row `row` from its group `group` on.
    #[inline(always)]
    pub(super) fn from(&self, row: usize, group: usize) -> Rounded {
        let QuantisedRows { m, k, group_size, groups, .. } = *self;
        Rounded::new(self.memory.bytes().as_ptr(), [m, k, groups], [row, group], group_size)
    }
}

impl Rounded {
    /// Where the numbers of `[row, group]` are in the memory of `[m, k, groups]`.
    #[inline(always)]
    fn new(memory: *const u8, [m, k, groups]: [usize; 3], [row, group]: [usize; 2], group_size: usize) -> Self {
        // Groups are whole registers, so that what follows the quants is aligned.
        let numbers = memory.wrapping_add(m * k).cast::<u32>();
        let numbers = |which: usize| numbers.wrapping_add((which * m + row) * groups + group);
        Rounded {
            quants: memory.wrapping_add(row * k + group * group_size),
            scales: numbers(0).cast(),
            totals: numbers(1).cast(),
            starts: numbers(2).cast(),
            sums: numbers(3).cast(),
        }
    }
}

/// One row, to be rounded. Made only with a `to` in memory that may be written.
struct Round<'a> {
    x: &'a [f32],
    group_size: usize,
    zero: i32,
    to: Rounded,
}

impl QuadKernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<Q: Quads>(self) {
        let Round { x, group_size, zero, to } = self;
        for (group, x) in x.chunks_exact(group_size).enumerate() {
            let quants = to.quants.wrapping_add(group * group_size).cast_mut().cast::<i8>();
            // SAFETY: below `dispatch_quads`; groups are whole registers, and there is room for what is made of them.
            unsafe {
                let mut largest = Q::splat(0);
                let mut at = 0;
                while at < group_size {
                    largest = Q::larger(largest, Q::Floats::load(x.as_ptr().add(at)));
                    at += Q::Floats::LANES;
                }
                let largest = f32::from_bits(Q::largest(largest).cast_unsigned());
                let steps = 127.0 / largest;
                // Next to nothing, which no quant stands for, or not finite.
                let steps = Q::Floats::splat(if steps.is_finite() { steps } else { 0.0 });
                let mut total = Q::splat(0);
                at = 0;
                while at < group_size {
                    let rounded = Q::round(Q::Floats::mul(Q::Floats::load(x.as_ptr().add(at)), steps));
                    Q::store_bytes(quants.add(at), rounded);
                    total = Q::add(total, rounded);
                    at += Q::Floats::LANES;
                }
                let total = Q::total(total);
                // What is not finite must not vanish.
                let scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
                to.scales.add(group).cast_mut().write(scale);
                to.totals.add(group).cast_mut().write(total);
                to.starts.add(group).cast_mut().write(total.wrapping_mul(Q::SHIFT - zero));
                to.sums.add(group).cast_mut().write(scale * total as f32);
            }
        }
    }
}
