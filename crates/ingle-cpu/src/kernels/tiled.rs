// SPDX-License-Identifier: EUPL-1.2
//! Products of many rows by the tiles of AMX.
//!
//! Of a panel of the weight all rows of a unit meet a few steps at a time, which stay in the first cache meanwhile: laid out
//! there, if they were packed otherwise, or as they lie. Rows come from the second cache; of long ones a part at a time. A
//! sum leaves the tiles after those steps and comes back for the next, exactly.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;
use ingle_tensor::Result;

use super::gemm::{ROWS, UNITS};
use super::matmul::Operand;
use super::{Context, Pointer, elements_mut};
use crate::memory::{Buffer, Contents};
use crate::number::Number;
use crate::packed::{PANEL, panels};
use crate::simd::tiles::many::{Ahead, Columns, DEPTH, Many, STEPS, Unpacked};
use crate::simd::tiles::{Matrix, SIDE};
use crate::simd::{Kernel, Simd};

/// Steps of the rows of a unit that are met at a time: 1 MiB, which the second cache holds.
const CHUNK: usize = 64;

/// Panels that meet such a chunk one after another where there are more: 512 KiB of sums.
const TOGETHER: usize = 8;

/// Bytes of a cache line.
const LINE: usize = 64;

/// What becomes of a row's numbers on the way to a tile.
pub(super) trait Change {
    /// They become 2^this times as large.
    const EXPONENT: i32;
    /// Puts four neighbours in another order, the first of which are the lowest bits.
    fn reorder(four: u64) -> u64;
}

/// Nothing.
pub(super) enum Unchanged {}

impl Change for Unchanged {
    const EXPONENT: i32 = 0;

    #[inline(always)]
    fn reorder(four: u64) -> u64 {
        four
    }
}

/// Rows of `x` as bf16, as tiles take them two at a time: as they are, or copied if they must change. The last rows are
/// copied as well if they fill no two tiles, and all if their length fills none; what is missing is zero.
pub(super) struct Rows<'a> {
    own: &'a [bf16],
    /// Numbers from one row to the next.
    own_apart: usize,
    /// Whole pairs of tiles.
    own_rows: usize,
    copied: Buffer,
    copied_apart: usize,
    steps: usize,
}

impl<'a> Rows<'a> {
    /// `m` rows of `k` numbers, `apart` from one to the next.
    pub(super) fn new(
        cx: &Context,
        op: &'static str,
        x: &'a [bf16],
        [m, k]: [usize; 2],
        apart: usize,
    ) -> Result<Rows<'a>> {
        let own_rows = if k.is_multiple_of(DEPTH) { m / (2 * SIDE) * (2 * SIDE) } else { 0 };
        let rest = x.get(own_rows * apart..).unwrap_or_default();
        let copied = Rows::changed::<bf16, Unchanged>(cx, op, rest, [m - own_rows, k], apart)?;
        Ok(Rows { own: x, own_apart: apart, own_rows, ..copied })
    }

    /// The same, changed.
    pub(super) fn changed<T: Operand, C: Change>(
        cx: &Context,
        op: &'static str,
        x: &[T],
        [m, k]: [usize; 2],
        apart: usize,
    ) -> Result<Rows<'a>> {
        let steps = k.div_ceil(DEPTH);
        // Beginnings of rows that are a power of two apart would be in each other's way in the caches.
        let copied_apart = (steps + 1) * DEPTH;
        let rows = m.next_multiple_of(2 * SIDE);
        let copied = lay_out::<T, C>(cx, op, (x, apart), [m, k], rows, [copied_apart, DEPTH])?;
        Ok(Rows { own: &[], own_apart: 0, own_rows: 0, copied, copied_apart, steps })
    }

    /// Whether there are whole pairs of tiles for so many rows.
    fn hold(&self, m: usize) -> bool {
        let copied = m.saturating_sub(self.own_rows).next_multiple_of(2 * SIDE) * self.copied_apart;
        let own = self.own_rows.saturating_sub(1) * self.own_apart + self.steps * DEPTH;
        (self.own_rows == 0 || self.own.len() >= own) && self.copied.bytes().len() >= copied * size_of::<bf16>()
    }

    /// Two tiles of rows, from a step on.
    fn tiles(&self, row: usize, step: usize) -> Matrix<*const u8> {
        let own = row < self.own_rows;
        let (from, row, apart) = match own {
            true => (bytemuck::cast_slice(self.own), row, self.own_apart),
            false => (self.copied.bytes(), row - self.own_rows, self.copied_apart),
        };
        let first = (row * apart + step * DEPTH) * size_of::<bf16>();
        Matrix { at: from.as_ptr().wrapping_add(first), stride: apart * size_of::<bf16>() }
    }
}

/// `m` rows of `k` numbers, `apart` from one to the next, in parts of [`DEPTH`]: so far apart are the rows and the parts of
/// a row. Rows past the last are zeros, up to `rows`.
pub(super) fn lay_out<T: Operand, C: Change>(
    cx: &Context,
    op: &'static str,
    (x, apart): (&[T], usize),
    [m, k]: [usize; 2],
    rows: usize,
    to_apart: [usize; 2],
) -> Result<Buffer> {
    let steps = k.div_ceil(DEPTH);
    let [row_apart, step_apart] = to_apart;
    let mut memory = cx.buffer::<bf16>(rows * row_apart.max(steps * DEPTH), Contents::Anything)?;
    let to = Pointer(elements_mut::<bf16>(&mut memory).as_mut_ptr());
    cx.parallel(op, (rows, rows * k), |row| {
        let x = if row < m { &x[row * apart..][..k] } else { &[] };
        // SAFETY: the row lies inside the memory.
        let to = Pointer(unsafe { to.get().add(row * row_apart) });
        cx.isa.dispatch(Turn::<T, C> { x, steps, to, apart: step_apart, change: PhantomData });
    })?;
    Ok(memory)
}

/// One row, laid out in parts. Made only with room for all of them.
struct Turn<'a, T, C> {
    /// Empty for zeros.
    x: &'a [T],
    steps: usize,
    to: Pointer<bf16>,
    /// From one part to the next.
    apart: usize,
    change: PhantomData<C>,
}

impl<T: Operand, C: Change> Kernel for Turn<'_, T, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Turn { x, steps, to, apart, .. } = self;
        for step in 0..steps {
            // SAFETY: the maker's promise.
            let to = unsafe { &mut *to.get().add(step * apart).cast::<[bf16; DEPTH]>() };
            let Some(part) = x.get(step * DEPTH..).filter(|rest| !rest.is_empty()) else {
                to.fill(bf16::ZERO);
                continue;
            };
            let mut wide = [0.0; DEPTH];
            if let Some(part) = part.get(..DEPTH) {
                for lane in (0..DEPTH).step_by(S::LANES) {
                    // SAFETY: below `dispatch`; both hold so many, a multiple of the lanes.
                    unsafe { S::store(wide[lane..].as_mut_ptr(), T::load::<S>(part[lane..].as_ptr())) }
                }
            } else {
                for lane in (0..part.len()).step_by(S::LANES) {
                    let lanes = S::LANES.min(part.len() - lane);
                    // SAFETY: as above, of as many as there are; the lanes after them are zero.
                    unsafe { S::store(wide[lane..].as_mut_ptr(), T::load_part::<S>(part[lane..].as_ptr(), lanes)) }
                }
            }
            if C::EXPONENT != 0 {
                wide.iter_mut().for_each(|x| *x *= f32::exp2(C::EXPONENT as f32));
            }
            let mut narrow = [bf16::ZERO; DEPTH];
            bf16::narrow_all(&wide, &mut narrow);
            let fours: [u64; DEPTH / 4] = bytemuck::cast(narrow);
            *to = bytemuck::cast(fours.map(C::reorder));
        }
    }
}

/// A weight in panels of [`PANEL`] columns, which are met as they lie or laid out on the way.
///
/// # Safety
/// The columns that [`Weight::columns`] gives may be read until its room is used again: as many steps of a whole panel.
pub(super) unsafe trait Weight: Sync {
    /// Steps of [`DEPTH`] along a panel.
    fn steps(&self) -> usize;

    /// `count` steps of a panel, from one on that is a multiple of [`STEPS`]: no more than that, and fewer only if they are
    /// the last. They are laid out in the room if they have to be.
    ///
    /// # Safety
    /// The panel is there, and the instructions that the weight was made for.
    unsafe fn columns(&self, panel: usize, step: usize, count: usize, room: &mut Unpacked) -> Columns;

    /// Where the bytes of [`STEPS`] steps begin, and how many they are, if they are to be asked for before they are met.
    fn bytes(&self, _panel: usize, _step: usize) -> Option<(*const u8, usize)> {
        None
    }
}

/// The sums of a unit's rows with a panel.
#[derive(Clone)]
#[repr(C, align(64))]
struct Sums([[f32; PANEL]; ROWS]);

/// What a thread works on: 32 KiB, and 64 KiB of sums for each weight or, with long rows, 512 KiB, which it keeps.
struct Work {
    unpacked: Unpacked,
    sums: Vec<Sums>,
}

thread_local! {
    /// Each thread's own, so that it is not cleared for every panel.
    static WORK: RefCell<Box<Work>> =
        RefCell::new(Box::new(Work { unpacked: Unpacked::EMPTY, sums: Vec::new() }));
}

/// `m` rows with `n` columns of each of the weights, which are as long.
pub(super) struct Product<'a, W, const N: usize> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) rows: &'a Rows<'a>,
    pub(super) weights: [&'a W; N],
    /// What each column's sums with each weight begin with.
    pub(super) bias: Option<&'a [f32]>,
}

impl<W: Weight, const N: usize> Product<'_, W, N> {
    /// Computes the sums and hands them on, those of some rows with a panel of each weight at a time:
    /// `done(sums, panel, rows)`. Each are handed on once.
    ///
    /// # Safety
    /// The machine has tiles, and the instructions that the weight was made for; there are as many panels of each weight as
    /// `n` columns take.
    pub(super) unsafe fn run(
        &self,
        cx: &Context,
        op: &'static str,
        done: impl Fn([&[[f32; PANEL]]; N], usize, Range<usize>) + Sync,
    ) -> Result<()> {
        let (m, panels, steps) = (self.m, panels(self.n), self.steps());
        if m == 0 || panels == 0 {
            return Ok(());
        }
        let alike = self.weights.iter().all(|weight| weight.steps() == self.rows.steps);
        assert!(alike && self.rows.hold(m), "the rows are not those of the product");
        // Units that are equally long. Those of the same rows follow each other, which then stay in the second cache.
        let blocks = m.div_ceil(ROWS);
        let rows = m.div_ceil(blocks).next_multiple_of(2 * SIDE);
        let blocks = m.div_ceil(rows);
        let all = panels * blocks;
        // Long rows are worth bringing for many panels only.
        let fewest = if steps > CHUNK { TOGETHER.min(all / cx.pool.threads()) } else { 1 };
        let together = (all / (UNITS * cx.pool.threads())).max(fewest).clamp(1, panels);
        let chunks = panels.div_ceil(together);
        let work = m.saturating_mul(self.n * N).saturating_mul(steps * DEPTH);
        cx.parallel(op, (blocks * chunks, work), |unit| {
            let (block, chunk) = (unit / chunks, unit % chunks);
            let panels = chunk * panels / chunks..(chunk + 1) * panels / chunks;
            WORK.with_borrow_mut(|work| {
                // SAFETY: the caller's promise, passed on.
                unsafe { self.unit(work, panels, block * rows..((block + 1) * rows).min(m), &done) }
            });
        })
    }

    /// # Safety
    /// As of [`Product::run`].
    unsafe fn unit(
        &self,
        work: &mut Work,
        panels: Range<usize>,
        rows: Range<usize>,
        done: &impl Fn([&[[f32; PANEL]]; N], usize, Range<usize>),
    ) {
        let steps = self.steps();
        let parts = steps.div_ceil(CHUNK).max(1);
        let part = steps.div_ceil(parts).max(1).next_multiple_of(STEPS);
        // Groups of panels that are equally large.
        let most = if parts > 1 { (TOGETHER / N).max(1) } else { 1 };
        let together = panels.len().div_ceil(panels.len().div_ceil(most));
        if work.sums.len() < together * N {
            work.sums.resize(together * N, Sums([[0.0; PANEL]; ROWS]));
        }
        // SAFETY: the caller's promise; nothing else here uses tiles.
        let mut many = unsafe { Many::new() };
        for first in panels.clone().step_by(together) {
            let group = first..(first + together).min(panels.end);
            // One after another a panel of each weight, then the next panel of each.
            let places = group.len() * N;
            let place = |place: usize| (self.weights[place % N], first + place / N);
            if self.bias.is_some() || steps == 0 {
                for at in 0..places {
                    self.begin(&mut work.sums[at].0[..rows.len()], place(at).1);
                }
            }
            if steps == 0 {
                for (number, panel) in group.clone().enumerate() {
                    done(sums_of(&work.sums[number * N..], 0..rows.len()), panel, rows.clone());
                }
            }
            for start in (0..steps).step_by(part) {
                let end = steps.min(start + part);
                for at in 0..places {
                    let (weight, panel) = place(at);
                    let halves = (self.n - panel * PANEL).div_ceil(PANEL / 2).min(2);
                    for step in (start..end).step_by(STEPS) {
                        let count = STEPS.min(steps - step);
                        let adds = self.bias.is_some() || step > 0;
                        // What comes next: more of the panel, the same part of the next one, or the next part.
                        let (mut next, bytes) = match (step + count < end, at + 1 < places) {
                            (true, _) => weight.bytes(panel, step + count),
                            (false, true) => place(at + 1).0.bytes(place(at + 1).1, start),
                            (false, false) if end < steps => self.weights[0].bytes(first, end),
                            (false, false) => self.weights[0].bytes(group.end, 0),
                        }
                        .unwrap_or((std::ptr::null(), 0));
                        // SAFETY: the caller's promise.
                        let columns = unsafe { weight.columns(panel, step, count, &mut work.unpacked) };
                        let steps_of_rows = rows.len().div_ceil(2 * SIDE) * halves * count;
                        let lines = bytes.div_ceil(LINE * steps_of_rows);
                        for row in rows.clone().step_by(2 * SIDE) {
                            let tiles = self.rows.tiles(row, step);
                            let from = row - rows.start;
                            // SAFETY: the rows are whole pairs of tiles, and there is room for their sums,
                            // of which a unit has whole pairs as well.
                            unsafe {
                                let to = work.sums[at].0[from..].as_mut_ptr().cast();
                                many.multiply(tiles, (columns, halves), count, (to, adds), Ahead { at: next, lines });
                                next = next.wrapping_add(halves * count * lines * LINE);
                            }
                            if step + count == steps && at % N == N - 1 {
                                let here = row..(row + 2 * SIDE).min(rows.end);
                                let sums = sums_of(&work.sums[at + 1 - N..], from..from + here.len());
                                done(sums, panel, here);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Steps along each of the weights.
    fn steps(&self) -> usize {
        self.rows.steps
    }

    /// What the sums of a panel begin with.
    fn begin(&self, sums: &mut [[f32; PANEL]], panel: usize) {
        let columns = panel * PANEL..(panel * PANEL + PANEL).min(self.n);
        for sums in sums {
            sums.fill(0.0);
            if let Some(bias) = self.bias {
                sums[..columns.len()].copy_from_slice(&bias[columns.clone()]);
            }
        }
    }
}

/// The sums of some rows with a panel of each weight.
fn sums_of<const N: usize>(sums: &[Sums], rows: Range<usize>) -> [&[[f32; PANEL]]; N] {
    std::array::from_fn(|which| &sums[which].0[rows.clone()])
}
