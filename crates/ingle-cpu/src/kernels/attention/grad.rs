// SPDX-License-Identifier: EUPL-1.2
//! The gradient of attention over a paged cache (Dao et al. 2022).
//!
//! The tokens of a sequence are cut into parts ([`parts`]); a unit of work is a part and a head of the cache ([`unit`]).
//! It lays the keys and values of the part's positions out once, and then takes some rows at a time: their scores are
//! computed from the queries and the keys again, and exist for these rows only. A unit sums the gradients of keys and
//! values in memory of its own; in the end those of each slot are added up in the order of the parts. Nothing of this
//! depends on the number of threads.

mod lay;
mod parts;
mod product;
mod scores;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod unit;

use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use ingle_tensor::{DType, PagedAttention, Result, Spec};

use self::parts::{Heads, Part, parts};
use self::product::COLUMNS;
use self::unit::{Grad, Room};
use super::gather::Cache;
use super::rounding::Rounding;
use super::tile::{Table, tiles};
use super::{COST, padded};
use crate::kernels::rows::packed;
use crate::kernels::{Context, Pieces, Pointer, contiguous, contiguous_f32, elements_mut};
use crate::memory::Contents;
use crate::simd::{Factor, Multiplier, Source, Widened};
use crate::storage::CpuStorage;

const OP: &str = "paged_attention_grad";

/// Sources whose products are summed in f32.
trait Floats: Source<Factor: Rounding + Factor<Lane = f32>> {}

impl<F: Source<Factor: Rounding + Factor<Lane = f32>>> Floats for F {}

/// [`ingle_tensor::Op::PagedAttentionGrad`].
pub(crate) fn paged_attention_grad(
    cx: &Context,
    inputs: [CpuStorage; 7],
    parameters: &PagedAttention,
    output: &Spec,
) -> Result<CpuStorage> {
    let [q, keys, values, blocks, sequences, positions, gradient] = inputs;
    let (q, gradient) = (contiguous_f32(cx, q)?, contiguous_f32(cx, gradient)?);
    let (keys, values) = (contiguous(cx, keys)?, contiguous(cx, values)?);
    let blocks = contiguous(cx, blocks)?;
    let (sequences, positions) = (contiguous(cx, sequences)?, contiguous(cx, positions)?);
    let table = Table {
        op: OP,
        blocks: packed(&blocks),
        sequences: blocks.layout().shape()[0],
        width: blocks.layout().shape()[1],
        slots: keys.layout().shape()[0],
        block_size: parameters.block_size,
    };
    let cached = keys.layout().shape()[1];
    let heads = Heads { cached, group: q.layout().shape()[1] / cached };
    let tiles = tiles(&table, parameters, (packed(&sequences), packed(&positions)), usize::MAX)?;
    let work = Work {
        cx,
        parameters,
        parts: parts(&table, &tiles, heads),
        heads,
        q: packed(&q),
        gradient: packed(&gradient),
        keys: &keys,
        values: &values,
        output,
    };
    match keys.dtype() {
        DType::F32 => work.run(Multiplier::<Widened<f32>>::widened(cx.isa)),
        DType::F16 => work.run(Multiplier::<Widened<f16>>::widened(cx.isa)),
        _ => {
            #[cfg(target_arch = "x86_64")]
            if let Some(multiplier) = Multiplier::pairs(cx.isa) {
                return work.run(multiplier);
            }
            work.run(Multiplier::<Widened<bf16>>::widened(cx.isa))
        }
    }
}

/// The operation, its indices checked.
struct Work<'a> {
    cx: &'a Context,
    parameters: &'a PagedAttention,
    parts: Vec<Part>,
    heads: Heads,
    q: &'a [f32],
    gradient: &'a [f32],
    keys: &'a CpuStorage,
    values: &'a CpuStorage,
    output: &'a Spec,
}

impl Work<'_> {
    fn run<F: Floats>(&self, multiplier: Multiplier<F>) -> Result<CpuStorage> {
        let &Work { cx, parameters, heads, q, gradient, .. } = self;
        let width = self.keys.layout().shape()[2];
        let cache = |storage| Cache { elements: packed(storage), kv_heads: heads.cached, width, row: width };
        let grad = Grad {
            q,
            gradient,
            keys: cache(self.keys),
            values: cache(self.values),
            heads,
            scale: parameters.scale,
            soft_cap: parameters.soft_cap,
            window: parameters.window.unwrap_or(usize::MAX),
            multiplier,
        };
        cx.make::<f32>(&self.output.shape, |out| self.fill(&grad, out))
    }

    fn fill<F: Floats>(&self, grad: &Grad<'_, F>, out: &mut [f32]) -> Result<()> {
        let (of_queries, rest) = out.split_at_mut(self.q.len());
        let (of_keys, of_values) = rest.split_at_mut(rest.len() / 2);
        if of_queries.is_empty() {
            rest.fill(0.0);
            return Ok(());
        }
        let sums = self.units(grad, Pointer(of_queries.as_mut_ptr()))?;
        self.collect(&sums, of_keys, 0)?;
        self.collect(&sums, of_values, 1)
    }

    /// Elements of the gradients of keys and of values of each part and head.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        let width = padded(self.keys.layout().shape()[2]);
        self.parts.iter().map(move |part| part.slots.len().next_multiple_of(COLUMNS) * width)
    }

    /// Runs every unit; gives what they sum: part by part and head by head, keys before values.
    fn units<F: Floats>(&self, grad: &Grad<'_, F>, of_queries: Pointer<f32>) -> Result<crate::memory::Buffer> {
        let &Work { cx, heads, .. } = self;
        let lengths: Vec<usize> = self.lengths().collect();
        let firsts = firsts(&lengths, heads);
        let total = lengths.iter().map(|len| 2 * len * heads.cached).sum();
        let mut sums = cx.buffer::<f32>(total, Contents::Anything)?;
        let start = Pointer(elements_mut::<f32>(&mut sums).as_mut_ptr());
        let count = self.parts.len() * heads.cached;
        let room = self.parts.iter().map(|part| grad.room(part)).fold(Room::default(), Room::or);
        let rooms: Vec<_> = (0..cx.pool.threads().min(count))
            .map(|_| cx.buffer::<u8>(room.bytes::<F::Factor>(), Contents::Anything))
            .collect::<Result<_>>()?;
        let rooms = Mutex::new(rooms);
        let cost = self.parts.iter().map(|part| part.tokens.len() * part.slots.len()).sum::<usize>();
        let cost = cost.saturating_mul(heads.cached * heads.group * (grad.keys.width + COST));
        cx.parallel(OP, (count, cost), |index| {
            // The last tokens of a sequence attend to most: they go first, so that the threads end together.
            let index = count - 1 - index;
            let (number, head) = (index / heads.cached, index % heads.cached);
            let Some(mut bytes) = rooms.lock().unwrap_or_else(PoisonError::into_inner).pop() else { return };
            let len = lengths[number];
            // SAFETY: each part and head has elements of its own, and `sums` outlives the call.
            let sums =
                unsafe { std::slice::from_raw_parts_mut(start.get().add(firsts[number] + head * 2 * len), 2 * len) };
            let (of_keys, of_values) = sums.split_at_mut(len);
            let place = (room, elements_mut::<u8>(&mut bytes));
            grad.unit(cx, (&self.parts[number], head), place, [of_keys, of_values], of_queries);
            rooms.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        })?;
        Ok(sums)
    }

    /// Adds up what the parts have for each slot, of keys (0) or of values (1).
    fn collect(&self, sums: &crate::memory::Buffer, out: &mut [f32], which: usize) -> Result<()> {
        let shape = self.keys.layout().shape();
        let (slots, cached, width) = (shape[0], shape[1], shape[2]);
        let lengths: Vec<usize> = self.lengths().collect();
        let firsts = firsts(&lengths, self.heads);
        let sums: &[f32] = bytemuck::cast_slice(sums.bytes());
        // The parts and positions for each slot, in their order: those of slot `i` are `order[starts[i]..starts[i + 1]]`.
        let mut starts = vec![0; slots + 1];
        for &slot in self.parts.iter().flat_map(|part| &part.slots) {
            starts[slot + 1] += 1;
        }
        for slot in 0..slots {
            starts[slot + 1] += starts[slot];
        }
        let mut next = starts.clone();
        let mut order = vec![(0, 0); starts[slots]];
        for (number, part) in self.parts.iter().enumerate() {
            for (position, &slot) in part.slots.iter().enumerate() {
                order[next[slot]] = (number, position);
                next[slot] += 1;
            }
        }
        let work = Pieces { size: cached * width, cost: 1 + order.len() / slots.max(1) };
        self.cx.pieces(OP, out, work, |slot, out| {
            for (head, out) in out.chunks_exact_mut(width).enumerate() {
                let row = |&(number, position): &(usize, usize)| {
                    let len = lengths[number];
                    &sums[firsts[number] + (2 * head + which) * len + position * padded(width)..][..width]
                };
                match &order[starts[slot]..starts[slot + 1]] {
                    [] => out.fill(0.0),
                    [first, others @ ..] => {
                        out.copy_from_slice(row(first));
                        for other in others {
                            out.iter_mut().zip(row(other)).for_each(|(out, x)| *out += x);
                        }
                    }
                }
            }
        })
    }
}

/// Where the sums of each part begin.
fn firsts(lengths: &[usize], heads: Heads) -> Vec<usize> {
    let mut total = 0;
    lengths.iter().map(|len| (total, total += 2 * len * heads.cached).0).collect()
}
