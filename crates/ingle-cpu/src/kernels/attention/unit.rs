// SPDX-License-Identifier: EUPL-1.2
//! A unit of work: some heads of one tile against some chunks.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::{Pod, cast_slice_mut};

use super::dots::Queries;
use super::few;
use super::gather::{Cache, Gather};
use super::many;
use super::rounding::Rounding;
use super::softmax::{Extent, Finish, Merge, Settle, Weights};
use super::tile::{Table, Tile, within};
#[cfg(target_arch = "x86_64")]
use super::tiled;
use super::{CHUNK, padded};
use crate::kernels::{Context, Pointer};
use crate::simd::{Kernel, Multiplier, Simd, Source};

/// What a unit computes. One with several heads has one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) tile: usize,
    /// Heads of the cache.
    pub(super) heads: Range<usize>,
    pub(super) chunks: Range<usize>,
}

/// The whole operation, its indices checked.
pub(super) struct Attention<'a, F: Source> {
    pub(super) table: Table<'a>,
    pub(super) q: &'a [f32],
    pub(super) keys: Cache<'a, F::Element>,
    pub(super) values: Cache<'a, F::Element>,
    /// Heads of a query that share one of the cache.
    pub(super) group: usize,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    pub(super) multiplier: Multiplier<F>,
    /// Whether products are those of whole tiles.
    pub(super) tiled: bool,
}

/// The rows' results of a unit: their values are `padded` features apart.
pub(super) struct Result<'a> {
    pub(super) extents: &'a mut [Extent],
    pub(super) values: &'a mut [f32],
}

/// Lengths of what a unit works in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    queries: usize,
    keys: usize,
    scores: usize,
    partial: usize,
    extents: usize,
    values: usize,
    /// Of keys and as many of values.
    scales: usize,
    /// One for each query.
    units: usize,
}

impl Room {
    /// For a few rows of each head, `rows` together.
    pub(super) fn few(rows: usize, heads: usize, width: usize) -> Room {
        let (queries, scores, scales) = (rows * width, rows * CHUNK, heads * CHUNK);
        Room { queries, keys: 0, scores, partial: 0, extents: rows, values: rows * width, scales, units: rows }
    }

    /// For many rows of one head.
    pub(super) fn many(rows: usize, width: usize) -> Room {
        let (keys, scores, partial) = (CHUNK * width, many::ROWS * CHUNK, many::ROWS * width);
        let (queries, values) = (rows * width, rows * width);
        Room { queries, keys, scores, partial, extents: rows, values, scales: CHUNK, units: rows }
    }

    /// As [`Room::few`], with room for packed queries or weights, a step of values, the scores of whole tiles of rows, and
    /// the sums of a step and of all.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn few_by_tiles(rows: usize, heads: usize, width: usize) -> Room {
        let (keys, whole) = (rows.max(heads * tiled::STEP) * width, rows.next_multiple_of(tiled::ROWS));
        let partial = (whole * tiled::ROWS).max(2 * rows * width);
        Room { keys, scores: whole * CHUNK, partial, ..Room::few(rows, heads, width) }
    }

    /// As [`Room::many`], with room for whole tiles of rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn many_by_tiles(rows: usize, width: usize) -> Room {
        let queries = rows.next_multiple_of(tiled::ROWS) * width;
        Room { queries, scores: tiled::ROWS * CHUNK, partial: tiled::ROWS * width, ..Room::many(rows, width) }
    }

    /// Enough for either.
    pub(super) fn or(self, other: Room) -> Room {
        Room {
            queries: self.queries.max(other.queries),
            keys: self.keys.max(other.keys),
            scores: self.scores.max(other.scores),
            partial: self.partial.max(other.partial),
            extents: self.extents.max(other.extents),
            values: self.values.max(other.values),
            scales: self.scales.max(other.scales),
            units: self.units.max(other.units),
        }
    }

    /// Bytes of all together.
    pub(super) fn bytes<F: Pod>(&self) -> usize {
        let factors = [self.queries, self.keys, self.keys, self.scores].map(|len| aligned(len * size_of::<F>()));
        let floats = [self.scores, self.partial, self.values, self.scales, self.scales, self.units];
        let floats = floats.map(|len| aligned(len * size_of::<f32>()));
        factors.into_iter().chain(floats).sum::<usize>() + aligned(self.extents * size_of::<Extent>())
    }

    pub(super) fn cut<'a, F: Pod>(&self, bytes: &'a mut [u8]) -> Parts<'a, F> {
        let mut rest = bytes;
        Parts {
            queries: next(&mut rest, self.queries),
            keys: next(&mut rest, self.keys),
            values: next(&mut rest, self.keys),
            weights: next(&mut rest, self.scores),
            scores: next(&mut rest, self.scores),
            partial: next(&mut rest, self.partial),
            key_scales: next(&mut rest, self.scales),
            value_scales: next(&mut rest, self.scales),
            units: next(&mut rest, self.units),
            result: Result { extents: next(&mut rest, self.extents), values: next(&mut rest, self.values) },
        }
    }
}

/// Cache lines that hold so many bytes, in bytes.
fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(64)
}

/// Takes `len` elements off the front.
pub(super) fn next<'a, T: Pod>(rest: &mut &'a mut [u8], len: usize) -> &'a mut [T] {
    let bytes = std::mem::take(rest);
    let (front, back) = bytes.split_at_mut(aligned(len * size_of::<T>()).min(bytes.len()));
    *rest = back;
    &mut cast_slice_mut(front)[..len]
}

pub(super) struct Parts<'a, F> {
    pub(super) queries: &'a mut [F],
    pub(super) keys: &'a mut [F],
    pub(super) values: &'a mut [F],
    pub(super) weights: &'a mut [F],
    pub(super) scores: &'a mut [f32],
    pub(super) partial: &'a mut [f32],
    pub(super) key_scales: &'a mut [f32],
    pub(super) value_scales: &'a mut [f32],
    pub(super) units: &'a mut [f32],
    pub(super) result: Result<'a>,
}

/// Where a unit's results go.
pub(super) enum Target<'a> {
    /// To be merged with those of other units.
    Stored(Result<'a>),
    /// Straight into the operation's result, which begins here.
    Final(Pointer<f32>),
}

impl<F: Source<Factor: Rounding>> Attention<'_, F> {
    fn width(&self) -> usize {
        padded(self.keys.width)
    }

    /// The number of a row's head among those of all tokens, where rows are those of `kv_head`.
    fn head(&self, tile: &Tile, kv_head: usize, row: usize) -> usize {
        ((tile.token + row / self.group) * self.keys.kv_heads + kv_head) * self.group + row % self.group
    }

    /// A few rows of each of a unit's heads against its one chunk.
    pub(super) fn few(&self, cx: &Context, (tile, unit): (&Tile, &Unit), room: &mut [u8], target: Target<'_>) {
        let (chunk, heads) = (unit.chunks.start, unit.heads.clone());
        let width = self.width();
        let rows = tile.tokens * self.group;
        let parts = Room::few(rows * heads.len(), heads.len(), width).cut::<F::Factor>(room);
        let Parts { queries, weights, scores, value_scales, units, result: own, .. } = parts;
        let (result, out) = match target {
            Target::Stored(result) => (result, None),
            Target::Final(out) => (own, Some(out)),
        };
        self.round(cx, tile, heads.clone(), queries, units);
        let span = within(tile.all(), chunk);
        let slots = &self.slots(tile, chunk, span.clone());
        let part = |cache| few::Part { cache, slots, span: span.clone(), heads: heads.clone() };
        let seen: Vec<_> = (0..rows).map(|row| within(tile.attended(row / self.group), chunk)).collect();

        let queries = Queries { factors: queries, width };
        let scores_of = few::Scores::<F> { keys: part(self.keys), next: self.values, queries, scores };
        self.multiplier.dispatch(scores_of);
        if F::BESIDE > 0 {
            few::Scales::<F> { values: part(self.values), scales: value_scales }.read();
        }
        for (row, (scores, weights)) in scores.chunks_mut(CHUNK).zip(weights.chunks_mut(CHUNK)).enumerate() {
            let scales = &value_scales[row / rows * CHUNK..];
            (result.extents[row], units[row]) =
                self.weights(cx, &seen[row % rows], (scores, units[row]), scales, weights);
        }
        result.values.fill(0.0);
        let sums = cast_slice_mut(&mut *result.values);
        self.multiplier.dispatch(few::Values::<F> { values: part(self.values), weights, seen: &seen, sums, width });
        self.settle(cx, result.values, units);
        if let Some(out) = out {
            self.finish(cx, tile, heads, &result, out);
        }
    }

    /// Many rows of a unit's one head against its chunks.
    pub(super) fn many(&self, cx: &Context, (tile, unit): (&Tile, &Unit), room: &mut [u8], target: Target<'_>) {
        let head = unit.heads.start;
        let width = self.width();
        let rows = tile.tokens * self.group;
        let sizes = Room::many(rows, width);
        let parts = sizes.cut::<F::Factor>(room);
        let Parts { queries, keys, values, weights, scores, partial, key_scales, value_scales, units, result: own } =
            parts;
        let (result, out) = match target {
            Target::Stored(result) => (result, None),
            Target::Final(out) => (own, Some(out)),
        };
        self.round(cx, tile, unit.heads.clone(), queries, units);
        for chunk in unit.chunks.clone() {
            let span = within(tile.all(), chunk);
            let slots = &self.slots(tile, chunk, span.clone());
            self.multiplier.dispatch(Gather::<F> {
                keys: self.keys,
                values: self.values,
                slots,
                span,
                head,
                key_room: keys,
                value_room: values,
                key_scales,
                value_scales,
            });
            for first in (0..rows).step_by(many::ROWS) {
                let count = many::ROWS.min(rows - first);
                let seen: [Range<usize>; many::ROWS] =
                    std::array::from_fn(|r| within(tile.attended((first + r).min(rows - 1) / self.group), chunk));
                let seen = &seen[..count];
                if seen.iter().all(Range::is_empty) {
                    continue;
                }
                let factors = &queries[first * width..(first + count) * width];
                let queries = Queries { factors, width };
                self.multiplier.dispatch(many::Scores::<F> { queries, keys, scales: key_scales, seen, scores });
                let mut extents = [Extent::default(); many::ROWS];
                let mut weight_units = [1.0; many::ROWS];
                for (r, (scores, weights)) in
                    scores.chunks_mut(CHUNK).zip(weights.chunks_mut(CHUNK)).enumerate().take(count)
                {
                    let scores = (scores, units[first + r]);
                    (extents[r], weight_units[r]) = self.weights(cx, &seen[r], scores, value_scales, weights);
                }
                let partial = &mut partial[..count * width];
                partial.fill(0.0);
                self.multiplier.dispatch(many::Values::<F> {
                    weights,
                    values,
                    seen,
                    sums: cast_slice_mut(partial),
                    width,
                });
                self.settle(cx, partial, &weight_units);
                let extents = &mut extents[..count];
                let from = Result { extents, values: partial };
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

    /// The first element of each position's slot.
    pub(super) fn slots(&self, tile: &Tile, chunk: usize, span: Range<usize>) -> [usize; CHUNK] {
        self.table.slots(tile.sequence, chunk, span, self.keys.kv_heads * self.keys.row)
    }

    /// Rounds the queries of a tile, head by head; to each what one unit of it stands for.
    pub(super) fn round(
        &self,
        cx: &Context,
        tile: &Tile,
        heads: Range<usize>,
        queries: &mut [F::Factor],
        units: &mut [f32],
    ) {
        let rows = tile.tokens * self.group;
        let width = self.keys.width;
        for (i, (to, unit)) in queries.chunks_exact_mut(self.width()).zip(units).enumerate() {
            let head = self.head(tile, heads.start + i / rows, i % rows);
            *unit = cx.isa.dispatch(Round { from: &self.q[head * width..(head + 1) * width], to });
        }
    }

    /// One row's weights, and what one unit of them stands for; `unit` is that of the query.
    pub(super) fn weights(
        &self,
        cx: &Context,
        seen: &Range<usize>,
        (scores, unit): (&mut [f32], f32),
        value_scales: &[f32],
        weights: &mut [F::Factor],
    ) -> (Extent, f32) {
        let (seen, scale, soft_cap) = (seen.clone(), self.scale * unit, self.soft_cap);
        let value_scales = (F::BESIDE > 0).then_some(value_scales);
        cx.isa.dispatch(Weights { scores, seen, scale, soft_cap, value_scales, weights })
    }

    /// Makes f32 of sums of products, row by row.
    fn settle(&self, cx: &Context, sums: &mut [f32], units: &[f32]) {
        if F::BESIDE > 0 {
            for (sums, &unit) in sums.chunks_exact_mut(self.width()).zip(units) {
                cx.isa.dispatch(Settle { sums, unit, factor: PhantomData::<F::Factor> });
            }
        }
    }

    /// Takes what rows from `first` on saw in a chunk into the total of those of the unit's chunks before it.
    pub(super) fn merge(
        &self,
        cx: &Context,
        (tile, unit, chunk): (&Tile, &Unit, usize),
        first: usize,
        from: &Result<'_>,
        total: &mut Result<'_>,
    ) {
        let width = self.width();
        let rows = tile.tokens * self.group;
        for (r, extent) in from.extents.iter().enumerate() {
            let attended = tile.attended((first + r) % rows / self.group);
            let place = r * width..(r + 1) * width;
            if chunk == unit.chunks.start.max(attended.start / CHUNK) {
                total.extents[r] = *extent;
                for (total, value) in total.values[place.clone()].iter_mut().zip(&from.values[place]) {
                    // As where they are merged.
                    *total = value + 0.0;
                }
            } else if !within(attended, chunk).is_empty() {
                let (values, total_values) = (&from.values[place.clone()], &mut total.values[place]);
                cx.isa.dispatch(Merge { extent, values, total: &mut total.extents[r], total_values });
            }
        }
    }

    /// Divides totals by the sums of their weights, into the result that starts at `out`.
    pub(super) fn finish(&self, cx: &Context, tile: &Tile, heads: Range<usize>, total: &Result<'_>, out: Pointer<f32>) {
        let width = self.keys.width;
        let rows = tile.tokens * self.group;
        for (i, (extent, values)) in total.extents.iter().zip(total.values.chunks_exact(self.width())).enumerate() {
            let head = self.head(tile, heads.start + i / rows, i % rows);
            // SAFETY: the result has `width` elements for each head of each token, and only units of this tile and
            // these heads write to this one's, one after the other.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(head * width), width) };
            cx.isa.dispatch(Finish { extent, values: &values[..width], out });
        }
    }
}

/// Rounds one query; the rest of the vectors is zero.
struct Round<'a, F> {
    from: &'a [f32],
    to: &'a mut [F],
}

impl<F: Rounding> Kernel for Round<'_, F> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        let (to, rest) = self.to.split_at_mut(self.from.len());
        rest.fill(F::default());
        F::query(self.from, to)
    }
}
