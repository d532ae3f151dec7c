// SPDX-License-Identifier: EUPL-1.2
//! Attention over the paged cache, by MLX's attention kernel, or on CUDA by one of ours where that is faster.
//!
//! MLX's kernel takes a padded batch. A [`Plan`] says which queries and which slots of the cache make one: it is
//! made on the host, of the numbers that the step's tables were uploaded from, once for all layers that share
//! those tables. A sequence alone whose blocks lie side by side is read in place; others are gathered, only the
//! slots that somebody attends to. Sequences are padded to a common length only as long as that costs less than
//! another call. Our kernel needs nothing of that: it reads the tables itself. It goes through each query's keys by
//! itself, too, so it is for few queries of a sequence, or for short ones.

mod plan;

use std::sync::Arc;

use ingle_tensor::{DType, PagedAttention, Result, Shape, Spec};

use crate::array::{Array, arrays};
use crate::bridge::{self, Engine};
use crate::derived::Derived;
use crate::layout;
use crate::linear::upload;

use plan::{Group, Mask, Rows};
pub(crate) use plan::{Kernel, Key, Places, Plan};

/// The plans of a step.
pub(crate) type Plans = Derived<Key, Arc<Plan>>;

impl Kernel {
    /// What can compute the attention of such queries to such a cache.
    pub(crate) fn for_shapes(engine: Engine, q: &Spec, cache: &Spec) -> Kernel {
        let width = matches!(q.shape[2], 32 | 64 | 128 | 256);
        // It counts threads and heads in 32 and 16 bits.
        let counted = q.shape.elements() < 1 << 28 && q.shape[1] < 1 << 16;
        match engine == Engine::Cuda && width && counted && cache.dtype.is_float() {
            true => Kernel::Paged,
            false => Kernel::Padded,
        }
    }
}

/// Queries, keys and values, each with what it is, and the tables.
pub(crate) struct Operands<'a> {
    pub(crate) q: (Array, &'a Spec),
    pub(crate) keys: (Array, &'a Spec),
    pub(crate) values: Array,
    /// Blocks, sequences and positions.
    pub(crate) tables: [Array; 3],
}

/// Every token's attention.
pub(crate) fn paged_attention(
    op: &'static str,
    plan: &Plan,
    operands: &Operands<'_>,
    parameters: &PagedAttention,
) -> Result<Array> {
    let (groups, order) = match plan {
        Plan::Paged { warps, how } => return paged(op, (*warps, how), operands),
        Plan::Padded { groups, order } => (groups, order),
    };
    let mut parts = Vec::with_capacity(groups.len());
    for group in groups {
        parts.push(attend(op, group, operands, parameters)?);
    }
    let joined = match parts.len() {
        1 => parts.remove(0),
        _ => layout::concat(op, &parts, 0)?,
    };
    match order {
        Some(order) => Array::new(op, bridge::take(joined.get(), order.get())),
        None => Ok(joined),
    }
}

/// By our own kernel.
fn paged(op: &'static str, (warps, how): (i32, &Array), operands: &Operands<'_>) -> Result<Array> {
    let Operands { q: (q, _), keys: (keys, _), values, tables: [blocks, sequences, positions] } = operands;
    let tables = arrays([blocks, sequences, positions, how]);
    Array::new(op, bridge::paged_attention(q.get(), keys.get(), values.get(), &tables, warps))
}

/// The attention of one padded batch: `[B · T, H, D]`.
fn attend(op: &'static str, group: &Group, operands: &Operands<'_>, parameters: &PagedAttention) -> Result<Array> {
    let Group { batch, queries, keys, mask, .. } = group;
    let (q, q_spec) = &operands.q;
    let (heads, width) = (q_spec.shape[1], q_spec.shape[2]);
    let kv_spec = operands.keys.1;
    let kv_heads = kv_spec.shape[1];

    // [B · T, H, D] → [B, H, T, D]
    let batched = |x: &Array, rows: usize, heads: usize| -> Result<Array> {
        let x = layout::reshape(op, x, &Shape::from([*batch, rows, heads, width]))?;
        layout::permute(op, &x, &[0, 2, 1, 3])
    };
    let q = batched(&chosen(op, q, &q_spec.shape, queries)?, group.query_len, heads)?;
    let [k, v] = [&operands.keys.0, &operands.values].map(|cache| -> Result<Array> {
        let rows = chosen(op, cache, &kv_spec.shape, keys)?;
        let floats = match kv_spec.dtype {
            DType::I8 => Array::new(op, bridge::dequantize_rows(rows.get()))?,
            _ => rows,
        };
        batched(&floats, group.key_len, kv_heads)
    });
    let (k, v) = (k?, v?);
    let scale = parameters.scale;
    let attended = match (mask, parameters.soft_cap) {
        (Mask::At(mask), Some(cap)) => bridge::capped_attention(q.get(), k.get(), v.get(), mask.get(), scale, cap),
        (Mask::At(mask), None) => bridge::masked_attention(q.get(), k.get(), v.get(), mask.get(), scale),
        (Mask::Causal, _) => bridge::causal_attention(q.get(), k.get(), v.get(), scale),
        (Mask::None, _) => bridge::attention(q.get(), k.get(), v.get(), scale),
    };
    let attended = Array::new(op, attended)?;
    let rows = layout::permute(op, &attended, &[0, 2, 1, 3])?;
    layout::reshape(op, &rows, &Shape::from([batch * group.query_len, heads, width]))
}

/// Some rows of `x`.
fn chosen(op: &'static str, x: &Array, shape: &Shape, rows: &Rows) -> Result<Array> {
    match rows {
        Rows::All => Ok(x.clone()),
        Rows::Range { start, end } => layout::slice(op, x, shape, 0, [*start, *end, 1]),
        Rows::At(index) => Array::new(op, bridge::take(x.get(), index.get())),
    }
}

/// An index, uploaded.
fn index(op: &'static str, numbers: &[i32], shape: &[usize]) -> Result<Array> {
    let spec = Spec::new(shape, DType::I32);
    upload(op, bytemuck::cast_slice(numbers), &spec)
}
