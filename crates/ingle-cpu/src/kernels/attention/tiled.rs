// SPDX-License-Identifier: EUPL-1.2
//! Units whose products are those of whole tiles, of bf16 ([`crate::simd::tiles`]).
//!
//! A score sums 32 features at a time: the even and the odd ones, each in order, and then both. A weighted value sums 32
//! positions at a time, which begin at absolute multiples of it, the first half and the second one likewise. What a row
//! does not attend to among them weighs zero, and zeros change no sum: so rows share tiles, and few rows and many have
//! the same bits. Only what is not finite must be kept from the rows that do not attend to it.

mod few;
mod pack;
mod weights;

use std::ops::Range;

use bytemuck::cast_slice_mut;

use self::few::{Part, Scores, Values};
use self::pack::{GROUP, PackKeys, PackValues, Slots};
use self::weights::Weights;
use super::rounding::Rounding;
use super::softmax::Extent;
use super::tile::{Tile, within};
use super::unit::{Attention, Parts, Result, Room, Target, Unit};
use super::{CHUNK, padded};
use crate::kernels::Context;
use crate::simd::Source;
use crate::simd::tiles::{Matrix, PANEL, PanelProduct, SIDE, multiply_few_panels_bf16, multiply_panels_bf16};

/// Rows whose products are taken together.
pub(super) const ROWS: usize = 2 * SIDE;

/// Factors in a tile's row (features of a score, positions of a weighted value), and columns of a panel.
pub(super) const STEP: usize = PANEL;

/// The whole steps that `positions` lie in.
fn steps(positions: &Range<usize>) -> Range<usize> {
    positions.start / STEP..positions.end.div_ceil(STEP)
}

/// What any row attends to; no row to a position before those of the row above.
fn union(seen: &[Range<usize>]) -> Range<usize> {
    seen.first().map_or(0, |seen| seen.start)..seen.last().map_or(0, |seen| seen.end)
}

impl<F: Source<Factor: Rounding>> Attention<'_, F> {
    /// As [`Attention::few`].
    pub(super) fn few_by_tiles(&self, cx: &Context, (tile, unit): (&Tile, &Unit), room: &mut [u8], target: Target<'_>) {
        let (chunk, heads) = (unit.chunks.start, unit.heads.clone());
        let width = padded(self.keys.width);
        let rows = tile.tokens * self.group;
        let parts = Room::few_by_tiles(rows * heads.len(), heads.len(), width).cut::<F::Factor>(room);
        let Parts { queries, keys: spare, values: packed, weights, scores, partial, units, result: own, .. } = parts;
        let (result, out) = match target {
            Target::Stored(result) => (result, None),
            Target::Final(out) => (own, Some(out)),
        };
        self.round(cx, tile, heads.clone(), queries, units);
        let span = within(tile.all(), chunk);
        let table = self.slots(tile, chunk, span.clone());
        let slots = self.slots_of(&table, span.clone());
        let seen: Vec<_> = (0..rows).map(|row| within(tile.attended(row / self.group), chunk)).collect();

        let keys = Part { cache: self.keys, slots: slots.clone(), heads: heads.clone(), next: self.values };
        self.multiplier.dispatch(Scores::<F> {
            keys,
            rows,
            queries,
            packed,
            spare: &mut *spare,
            sums: partial,
            scores: &mut *scores,
        });
        let rooms = scores.chunks_mut(CHUNK).zip(weights.chunks_mut(CHUNK));
        for (row, (scores, weights)) in rooms.enumerate().take(rows * heads.len()) {
            result.extents[row] = self.weights_in(cx, &seen[row % rows], &span, scores, weights);
        }
        let values = Part { cache: self.values, slots, heads: heads.clone(), next: self.values };
        let sums = &mut *result.values;
        self.multiplier.dispatch(Values::<F> { values, weights, seen: &seen, packed, spare, partial, sums });
        if let Some(out) = out {
            self.finish(cx, tile, heads, &result, out);
        }
    }

    /// As [`Attention::many`].
    pub(super) fn many_by_tiles(
        &self,
        cx: &Context,
        (tile, unit): (&Tile, &Unit),
        room: &mut [u8],
        target: Target<'_>,
    ) {
        let head = unit.heads.start;
        let width = padded(self.keys.width);
        let rows = tile.tokens * self.group;
        let parts = Room::many_by_tiles(rows, width).cut::<F::Factor>(room);
        let Parts { queries, keys, values, weights, scores, partial, units, result: own, .. } = parts;
        let (result, out) = match target {
            Target::Stored(result) => (result, None),
            Target::Final(out) => (own, Some(out)),
        };
        self.round(cx, tile, unit.heads.clone(), &mut queries[..rows * width], units);
        for chunk in unit.chunks.clone() {
            let span = within(tile.all(), chunk);
            let table = self.slots(tile, chunk, span.clone());
            let slots = self.slots_of(&table, span);
            let spare = &mut cast_slice_mut(partial)[..GROUP * width];
            self.multiplier.dispatch(PackKeys::<F> {
                keys: self.keys,
                slots: slots.clone(),
                head,
                spare,
                panels: keys,
            });
            let pack_values = |values: &mut [F::Factor], slots: Slots<'_>| {
                self.multiplier.dispatch(PackValues::<F> {
                    values: self.values,
                    slots,
                    head,
                    apart: CHUNK,
                    panels: values,
                    checks: true,
                })
            };
            let are_finite = pack_values(values, slots.clone());
            for first in (0..rows).step_by(ROWS) {
                let count = ROWS.min(rows - first);
                let seen: [Range<usize>; ROWS] =
                    std::array::from_fn(|r| within(tile.attended((first + r).min(rows - 1) / self.group), chunk));
                let seen = &seen[..count];
                let all = union(seen);
                if all.is_empty() {
                    continue;
                }
                multiply_scores::<F>((&queries[first * width..], count), keys, (width, &all), scores);
                let mut extents = [Extent::default(); ROWS];
                let rooms = scores.chunks_mut(CHUNK).zip(weights.chunks_mut(CHUNK));
                for (r, (scores, weights)) in rooms.enumerate().take(count) {
                    extents[r] = self.weights_in(cx, &seen[r], &all, scores, weights);
                }
                if are_finite {
                    multiply_values::<F>((weights, count), values, (width, &all), partial);
                } else {
                    // Each row meets only what it attends to.
                    for (r, seen) in seen.iter().enumerate() {
                        let sums = &mut partial[r * width..][..width];
                        if seen.is_empty() {
                            sums.fill(0.0);
                            continue;
                        }
                        pack_values(values, Slots { span: seen.clone(), ..slots });
                        multiply_values::<F>((&weights[r * CHUNK..], 1), values, (width, seen), sums);
                    }
                }
                let from = Result { extents: &mut extents[..count], values: &mut partial[..count * width] };
                self.merge(
                    cx,
                    (tile, unit, chunk),
                    first,
                    &from,
                    &mut Result {
                        extents: &mut result.extents[first..first + count],
                        values: &mut result.values[first * width..(first + count) * width],
                    },
                );
            }
        }
        if let Some(out) = out {
            self.finish(cx, tile, unit.heads.clone(), &result, out);
        }
    }

    fn slots_of<'a>(&self, firsts: &'a [usize; CHUNK], span: Range<usize>) -> Slots<'a> {
        let pitch = self.table.block_size.is_multiple_of(GROUP).then_some(self.keys.kv_heads * self.keys.row);
        Slots { firsts, span, pitch }
    }

    /// One row's weights, zero where others attend to positions in the whole steps of `all` and it does not.
    fn weights_in(
        &self,
        cx: &Context,
        seen: &Range<usize>,
        all: &Range<usize>,
        scores: &mut [f32],
        weights: &mut [F::Factor],
    ) -> Extent {
        let (seen, all, weights) = (seen.clone(), all.clone(), cast_slice_mut(weights));
        cx.isa.dispatch(Weights { scores, seen, all, scale: self.scale, soft_cap: self.soft_cap, weights })
    }
}

/// The scores of `count` queries with the keys of the whole steps of `all`, [`CHUNK`] apart.
fn multiply_scores<F: Source>(
    (queries, count): (&[F::Factor], usize),
    keys: &[F::Factor],
    (width, all): (usize, &Range<usize>),
    scores: &mut [f32],
) {
    let panels = steps(all);
    let (panel, tiles) = (STEP * width, width / STEP);
    debug_assert!(queries.len() >= count.next_multiple_of(SIDE) * width && keys.len() >= panels.end * panel);
    debug_assert!(scores.len() >= count.next_multiple_of(SIDE) * CHUNK && panels.end * STEP <= CHUNK);
    let part = PanelProduct {
        first: Matrix { at: queries.as_ptr().cast(), stride: 2 * width },
        second: keys[panels.start * panel..].as_ptr().cast(),
        panel: 2 * panel,
        panels: panels.len(),
        tiles,
        sums: Matrix { at: scores[panels.start * STEP..].as_mut_ptr().cast(), stride: 4 * CHUNK },
    };
    // SAFETY: attention goes by tiles only where they are available; what the operands and sums hold is said above.
    unsafe { multiply(count, part) }
}

/// The values at the whole steps of `all`, weighted by `count` rows of weights, `width` apart.
fn multiply_values<F: Source>(
    (weights, count): (&[F::Factor], usize),
    values: &[F::Factor],
    (width, all): (usize, &Range<usize>),
    sums: &mut [f32],
) {
    let steps = steps(all);
    debug_assert!(weights.len() >= (count - 1) * CHUNK + steps.end * STEP && values.len() >= CHUNK * width);
    debug_assert!(sums.len() >= count * width);
    let part = PanelProduct {
        first: Matrix { at: weights[steps.start * STEP..].as_ptr().cast(), stride: 2 * CHUNK },
        // Steps of a panel are as many factors as there are positions, for each of its columns.
        second: values[steps.start * STEP * STEP..].as_ptr().cast(),
        panel: 2 * CHUNK * STEP,
        panels: width / STEP,
        tiles: steps.len(),
        sums: Matrix { at: sums.as_mut_ptr().cast(), stride: 4 * width },
    };
    // SAFETY: as above.
    unsafe { multiply(count, part) }
}

/// Products of up to [`ROWS`] rows; of more than half as many, there is room for all.
///
/// # Safety
///
/// As of [`multiply_panels_bf16`].
unsafe fn multiply(count: usize, part: PanelProduct) {
    // SAFETY: the caller's promise.
    unsafe {
        if count > SIDE {
            multiply_panels_bf16(part);
        } else {
            multiply_few_panels_bf16(count, part, false);
        }
    }
}
