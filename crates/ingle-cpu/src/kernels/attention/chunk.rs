// SPDX-License-Identifier: EUPL-1.2
//! One tile against one chunk of positions, and the merging of chunks.

use std::ops::Range;

use super::rows::{Dots, Finish, Gather, Merge, Places, Weigh, Weights};
use super::{Attention, CHUNK, Partial, Tile, within};
use crate::kernels::matmul::Operand;
use crate::kernels::{Context, Pointer};

/// Rows whose scores are computed together, so that they stay near.
pub(super) const ROWS: usize = 6;

/// One tile's heads that share `kv_head`.
pub(super) struct Side<'a, C> {
    pub(super) attention: &'a Attention<'a, C>,
    pub(super) tile: &'a Tile,
    pub(super) kv_head: usize,
}

impl<C> Clone for Side<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Side<'_, C> {}

impl<C: Operand> Side<'_, C> {
    /// How many rows.
    pub(super) fn rows(self) -> usize {
        self.tile.tokens * self.attention.group()
    }

    /// The number of a row's head among those of all tokens.
    fn head(self, row: usize) -> usize {
        let group = self.attention.group();
        (self.tile.token + row / group) * self.attention.heads + self.kv_head * group + row % group
    }

    /// The positions in a chunk that a row attends to.
    fn seen(self, row: usize, chunk: usize) -> Range<usize> {
        within(self.tile.attended(row / self.attention.group()), chunk)
    }

    /// Fills `partial` from one chunk; the rows of tokens that attend to nothing there are left without
    /// meaning. Keys and values are gathered in `room`, if there is any.
    pub(super) fn chunk(self, cx: &Context, chunk: usize, partial: &mut Partial, room: Option<&mut [f32]>) {
        let span = within(self.tile.all(), chunk);
        let places = self.places(span.clone());
        match room {
            Some(room) => {
                let width = self.attention.width;
                let gathered = cx.isa.dispatch(Gather { places: &places, width, room });
                self.against(cx, (chunk, span.start), &gathered, partial);
            }
            None => self.against(cx, (chunk, span.start), &places, partial),
        }
    }

    /// Where the keys and values of some positions lie.
    fn places(self, span: Range<usize>) -> Places<C> {
        let Attention { table, parameters, width, kv_heads, keys, values, .. } = self.attention;
        let blocks = &table.blocks[self.tile.sequence * table.width..][..table.width];
        let mut places = Places::new(span.len());
        for (i, position) in span.enumerate() {
            let block = blocks[position / parameters.block_size] as usize;
            let slot = block * parameters.block_size + position % parameters.block_size;
            let start = (slot * kv_heads + self.kv_head) * width;
            places.set(i, [&keys[start..start + width], &values[start..start + width]]);
        }
        places
    }

    /// Against the positions of `chunk`, which `places` holds from position `origin` on.
    fn against<K: Operand>(
        self,
        cx: &Context,
        (chunk, origin): (usize, usize),
        places: &Places<K>,
        partial: &mut Partial,
    ) {
        let width = self.attention.width;
        let mut scores = [0.0f32; ROWS * CHUNK];
        let rows = self.rows();
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let seen: [Range<usize>; ROWS] = std::array::from_fn(|r| {
                let seen = self.seen((first + r).min(rows - 1), chunk);
                seen.start.saturating_sub(origin)..seen.end.saturating_sub(origin)
            });
            let seen = &seen[..count];
            let queries: [&[f32]; ROWS] = std::array::from_fn(|r| {
                let head = self.head((first + r).min(rows - 1));
                &self.attention.q[head * width..(head + 1) * width]
            });
            // Tokens are in order of position.
            let positions = seen[0].start..seen[count - 1].end;
            cx.isa.dispatch(Dots { queries: &queries[..count], places, positions, scores: &mut scores });

            for (r, seen) in seen.iter().enumerate() {
                let scores = &mut scores[r * CHUNK..][seen.clone()];
                let parameters = &self.attention.parameters;
                (partial.max[first + r], partial.sum[first + r]) =
                    cx.isa.dispatch(Weights { scores, scale: parameters.scale, soft_cap: parameters.soft_cap });
            }

            let values = &mut partial.values[first * width..(first + count) * width];
            values.fill(0.0);
            let mut weigh = |rows: Range<usize>, positions: Range<usize>| {
                if !positions.is_empty() {
                    let weights = &scores[rows.start * CHUNK..rows.end * CHUNK];
                    let values = &mut values[rows.start * width..rows.end * width];
                    cx.isa.dispatch(Weigh { weights, places, positions, values, width });
                }
            };
            // Each row's positions in order: alone where only it attends, else beside the others.
            let start = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
            let end = seen.iter().map(|seen| seen.end).min().unwrap_or(0);
            if start >= end {
                seen.iter().enumerate().for_each(|(r, seen)| weigh(r..r + 1, seen.clone()));
                continue;
            }
            seen.iter().enumerate().for_each(|(r, seen)| weigh(r..r + 1, seen.start..start));
            weigh(0..count, start..end);
            seen.iter().enumerate().for_each(|(r, seen)| weigh(r..r + 1, end..seen.end));
        }
    }

    /// Takes a chunk's partial result into the total of those before it.
    pub(super) fn merge(self, cx: &Context, chunk: usize, partial: &Partial, total: &mut Partial) {
        for row in 0..self.rows() {
            // A row that saw nothing there must not be touched: even adding zero may change a bit.
            if !self.seen(row, chunk).is_empty() {
                cx.isa.dispatch(Merge { row, width: self.attention.width, partial, total });
            }
        }
    }

    /// Divides the totals by the sums of their weights, into the result that starts at `out`.
    pub(super) fn finish(self, cx: &Context, total: &Partial, out: Pointer<f32>) {
        let width = self.attention.width;
        for (row, &sum) in total.sum.iter().enumerate() {
            // SAFETY: the result has `width` elements for each head of each token, and only this tile and
            // key head write to this one's.
            let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(self.head(row) * width), width) };
            cx.isa.dispatch(Finish { values: &total.values[row * width..][..width], sum, out });
        }
    }
}
