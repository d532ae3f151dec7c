// SPDX-License-Identifier: EUPL-1.2
//! A unit of work: one head of the cache and the tokens of one part.

use std::ops::Range;

use bytemuck::Pod;

use super::Floats;
use super::lay::{Across, Beside, Order, Round, Rows};
use super::parts::{Heads, Part, Token};
use super::product::{COLUMNS, Left, Product, ROWS, Right, Start, Sums};
use super::scores::Scores;
#[cfg(target_arch = "x86_64")]
use super::tiled::Tiled;
use crate::kernels::attention::gather::Cache;
use crate::kernels::attention::padded;
use crate::kernels::attention::unit::next;
use crate::kernels::{Context, Pointer};
#[cfg(target_arch = "x86_64")]
use crate::simd::Isa;
use crate::simd::{Factor, Multiplier};

/// Rows (tokens times the heads that share a key) computed together, if a token has not more alone: keys and values
/// are read, and their gradients added to, once for all of them.
const TOGETHER: usize = 64;

/// The whole operation, its indices checked.
pub(super) struct Grad<'a, F: Floats> {
    pub(super) q: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) keys: Cache<'a, F::Element>,
    pub(super) values: Cache<'a, F::Element>,
    pub(super) heads: Heads,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    pub(super) window: usize,
    pub(super) multiplier: Multiplier<F>,
}

/// Lengths of what units work in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Factors of all keys, or values, of a part.
    cached: usize,
    /// Factors of the queries of some tokens.
    queries: usize,
    /// What these and the keys they attend to have between them.
    scores: usize,
    columns: usize,
}

impl Room {
    /// Enough for either.
    pub(super) fn or(self, other: Room) -> Room {
        Room {
            cached: self.cached.max(other.cached),
            queries: self.queries.max(other.queries),
            scores: self.scores.max(other.scores),
            columns: self.columns.max(other.columns),
        }
    }

    /// Bytes of all together.
    pub(super) fn bytes<T: Pod>(&self) -> usize {
        let Room { cached, queries, scores, columns } = *self;
        let factors = [cached; 4].into_iter().chain([queries; 4]).chain([scores; 4]).map(|len| len * size_of::<T>());
        let floats = [scores, scores, columns, queries].map(|len| len * size_of::<f32>());
        factors.chain(floats).map(|bytes| bytes.next_multiple_of(64)).sum()
    }
}

/// Keys and values of a part as the products read them.
struct Cached<'a, T> {
    keys_across: &'a [T],
    values_across: &'a [T],
    /// In twos where products sum two at once.
    keys: &'a [T],
}

/// What some tokens of a part work in, and on.
struct Block<'a, T> {
    cached: &'a Cached<'a, T>,
    /// Where the queries of each row, and their gradients, begin.
    starts: Vec<usize>,
    /// The positions of the part, in whole vectors, that any row attends to.
    columns: Range<usize>,
    /// Those of these that each row attends to.
    seen: Vec<Range<usize>>,
    queries: [&'a mut [T]; 4],
    scores: [&'a mut [T]; 4],
    products: [&'a mut [f32]; 2],
    slopes: &'a mut [f32],
    of_queries: &'a mut [f32],
}

impl<F: Floats> Grad<'_, F> {
    fn width(&self) -> usize {
        padded(self.keys.width)
    }

    fn together(&self) -> usize {
        (TOGETHER / self.heads.group.max(1)).max(1)
    }

    /// The positions that a token attends to, counted from the start of the part.
    fn attended(&self, part: &Part, token: &Token) -> Range<usize> {
        let end = token.position + 1;
        end.saturating_sub(self.window) - part.span.start..end - part.span.start
    }

    /// Whole vectors of the positions that any of some tokens attends to.
    fn columns(&self, part: &Part, tokens: &[Token]) -> Range<usize> {
        let attended = tokens.iter().map(|token| self.attended(part, token));
        let all = attended.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0);
        all.start / COLUMNS * COLUMNS..all.end.next_multiple_of(COLUMNS)
    }

    /// What a part needs.
    pub(super) fn room(&self, part: &Part) -> Room {
        let columns = part.tokens.chunks(self.together()).map(|tokens| self.columns(part, tokens).len());
        let columns = columns.max().unwrap_or(0);
        let tokens = self.together().min(part.tokens.len());
        let rows = (tokens * self.heads.group).next_multiple_of(ROWS);
        let width = self.width();
        let cached = part.span.len().next_multiple_of(COLUMNS) * width;
        Room { cached, queries: rows * width, scores: rows * columns, columns }
    }

    /// The gradients of the keys and of the values of one head, [`padded`] rows, and, straight into the result, of
    /// the queries.
    pub(super) fn unit(
        &self,
        cx: &Context,
        (part, head): (&Part, usize),
        (room, bytes): (Room, &mut [u8]),
        [of_keys, of_values]: [&mut [f32]; 2],
        out: Pointer<f32>,
    ) {
        let mut rest = bytes;
        let rest = &mut rest;
        let columns = part.slots.len().next_multiple_of(COLUMNS);
        let width = self.width();
        let mut lay = || &mut next::<F::Factor>(rest, room.cached)[..columns * width];
        let (rows, keys_across, values_across, pairs) = (lay(), lay(), lay(), lay());
        let slots = &part.slots[..];
        self.multiplier.dispatch(Rows::<F> { cache: self.values, head, slots, to: rows });
        cx.isa.dispatch(Across { rows, width, to: values_across });
        self.multiplier.dispatch(Rows::<F> { cache: self.keys, head, slots, to: rows });
        cx.isa.dispatch(Across { rows, width, to: keys_across });
        let keys = self.beside(cx, (rows, width, Order::Lanes), pairs);
        let cached = Cached { keys_across, values_across, keys };
        of_keys.fill(0.0);
        of_values.fill(0.0);

        let queries: [&mut [F::Factor]; 4] = std::array::from_fn(|_| next(rest, room.queries));
        let scores: [&mut [F::Factor]; 4] = std::array::from_fn(|_| next(rest, room.scores));
        let products: [&mut [f32]; 2] = std::array::from_fn(|_| next(rest, room.scores));
        let (slopes, of_queries) = (next(rest, room.columns), next(rest, room.queries));
        let (starts, seen) = (vec![], vec![]);
        let mut block =
            Block { cached: &cached, starts, columns: 0..0, seen, queries, scores, products, slopes, of_queries };
        for tokens in part.tokens.chunks(self.together()) {
            block.columns = self.columns(part, tokens);
            block.starts.clear();
            block.seen.clear();
            for token in tokens {
                let attended = self.attended(part, token);
                let seen = attended.start - block.columns.start..attended.end - block.columns.start;
                for member in 0..self.heads.group {
                    let heads = self.heads.cached * self.heads.group;
                    let query = token.number * heads + head * self.heads.group + member;
                    block.starts.push(query * self.keys.width);
                    block.seen.push(seen.clone());
                }
            }
            self.block(cx, &mut block, [&mut *of_keys, &mut *of_values]);
            for (&start, row) in block.starts.iter().zip(block.of_queries.chunks_exact(width)) {
                // SAFETY: the result has as many elements as there are queries, and each is one row of one unit.
                let out = unsafe { std::slice::from_raw_parts_mut(out.get().add(start), self.keys.width) };
                out.copy_from_slice(&row[..self.keys.width]);
            }
        }
    }

    fn multiply(&self, cx: &Context, product: Product<'_, F>) {
        #[cfg(target_arch = "x86_64")]
        if cx.isa == Isa::Amx && F::Factor::DEPTH == 2 {
            return cx.isa.dispatch(Tiled(product));
        }
        let _ = cx;
        self.multiplier.dispatch(product);
    }

    /// Rows in twos where products sum two at once, else as they are.
    fn beside<'b>(
        &self,
        cx: &Context,
        (rows, width, order): (&'b [F::Factor], usize, Order),
        to: &'b mut [F::Factor],
    ) -> &'b [F::Factor] {
        if F::Factor::DEPTH == 1 {
            return rows;
        }
        cx.isa.dispatch(Beside { rows, width, order, to: &mut *to });
        to
    }

    /// Adds what some tokens give to the gradients of the keys and values.
    fn block(&self, cx: &Context, block: &mut Block<'_, F::Factor>, [of_keys, of_values]: [&mut [f32]; 2]) {
        let depth = F::Factor::DEPTH;
        let (width, columns) = (self.width(), block.columns.len());
        let rows = block.starts.len().next_multiple_of(ROWS);
        let cached = block.cached;
        let (starts, len) = (&block.starts[..], self.keys.width);
        let [q, gradient, q_room, gradient_room] = block.queries.each_mut().map(|room| &mut room[..rows * width]);
        cx.isa.dispatch(Round { from: self.q, starts, len, to: &mut *q });
        cx.isa.dispatch(Round { from: self.gradient, starts, len, to: &mut *gradient });

        // Every query with every key, and the gradient of every result with every value.
        let [products, by_weight] = block.products.each_mut().map(|room| &mut room[..rows * columns]);
        let across = [(&*q, cached.keys_across, &mut *products), (&*gradient, cached.values_across, &mut *by_weight)];
        for (left, right, to) in across {
            self.multiply(
                cx,
                Product {
                    rows,
                    lanes: width / depth,
                    columns,
                    left: Left::rows(left, width),
                    right: Right::panels(&right[block.columns.start * width..], width / depth),
                    sums: Sums { to, row: columns, from: Start::Zero },
                },
            );
        }

        let [weights, by_product, weight_room, product_room] =
            block.scores.each_mut().map(|room| &mut room[..rows * columns]);
        cx.isa.dispatch(Scores {
            products,
            by_weight,
            columns,
            seen: &block.seen,
            scale: self.scale,
            soft_cap: self.soft_cap,
            slopes: &mut *block.slopes,
            weights: &mut *weights,
            by_product: &mut *by_product,
        });
        self.multiply(
            cx,
            Product {
                rows,
                lanes: columns / depth,
                columns: width,
                left: Left::rows(by_product, columns),
                right: Right::lanes(&cached.keys[block.columns.start * width..], width),
                sums: Sums { to: &mut *block.of_queries, row: width, from: Start::Zero },
            },
        );

        // Columns of the scores are now the rows; as they are where a lane has one factor.
        let order = if depth == 1 { Order::Lanes } else { Order::Panels };
        let sums = block.columns.start * width..block.columns.end * width;
        let down = [
            (
                self.beside(cx, (by_product, columns, order), product_room),
                self.beside(cx, (q, width, Order::Lanes), q_room),
                of_keys,
            ),
            (
                self.beside(cx, (weights, columns, order), weight_room),
                self.beside(cx, (gradient, width, Order::Lanes), gradient_room),
                of_values,
            ),
        ];
        for (left, right, to) in down {
            let left = match order {
                Order::Lanes => Left { factors: left, row: depth, lane: columns * depth, panel: COLUMNS * depth },
                Order::Panels => Left::panels(left, rows / depth),
            };
            self.multiply(
                cx,
                Product {
                    rows: columns,
                    lanes: rows / depth,
                    columns: width,
                    left,
                    right: Right::lanes(right, width),
                    sums: Sums { to: &mut to[sums.clone()], row: width, from: Start::There },
                },
            );
        }
    }
}
