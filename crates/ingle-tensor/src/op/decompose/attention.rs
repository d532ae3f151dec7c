// SPDX-License-Identifier: EUPL-1.2
//! Attention over a paged cache, and its gradient.

use super::{soft_cap, softmax};
use crate::{DType, Op, PagedAttention, Result, Shape, Tensor};

/// Where each sequence's positions lie in the cache, and where each token stands.
pub(super) struct Table<'a> {
    pub(super) blocks: &'a Tensor,
    pub(super) sequences: &'a Tensor,
    pub(super) positions: &'a Tensor,
}

/// Every token against every slot that any sequence owns, with the slots a token may not see masked out. Weights
/// pass through `round`.
pub(super) fn paged_attention(
    parameters: &PagedAttention,
    [q, keys, values]: [&Tensor; 3],
    table: &Table<'_>,
    round: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let heads = Heads::new(q, keys);
    let slots = table.slots(parameters.block_size)?;
    let (keys, values) = (heads.gather(keys, &slots)?, heads.gather(values, &slots)?);
    let q = heads.grouped(q)?;
    let scores = capped(&heads.products(&q, &keys, parameters)?, parameters)?;
    let weights = round(&heads.weights(&scores, &table.visible(parameters)?)?)?;
    heads.apart(&weights.matmul(&values)?)
}

/// The gradients of [`paged_attention`], one after the other. With `P` the weights, `S` the scores, `O = P·V` the result
/// and `dO` its gradient: `dV = Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P ∘ (dP − rowsum(P ∘ dP))`, and `dQ = dS·K`,
/// `dK = dSᵀ·Q` times the scale. `P` and `dS` pass through `round` where they meet a matrix.
pub(super) fn paged_attention_grad(
    parameters: &PagedAttention,
    [q, keys, values, gradient]: [&Tensor; 4],
    table: &Table<'_>,
    round: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let heads = Heads::new(q, keys);
    let count = keys.shape()[0];
    let slots = table.slots(parameters.block_size)?;
    let (keys, values) = (heads.gather(keys, &slots)?, heads.gather(values, &slots)?);
    let (q, gradient) = (heads.grouped(&q.cast(DType::F32)?)?, heads.grouped(&gradient.cast(DType::F32)?)?);
    let products = heads.products(&q, &keys, parameters)?;
    let weights = heads.weights(&capped(&products, parameters)?, &table.visible(parameters)?)?;
    let by_weight = gradient.matmul(&transposed(&values)?)?;
    let mean = by_weight.mul(&weights)?.sum_axis(2)?;
    let mut by_product = weights.mul(&by_weight.sub(&mean)?)?;
    if let Some(cap) = parameters.soft_cap {
        let t = products.scale(1.0 / f64::from(cap))?.tanh()?;
        by_product = by_product.mul(&t.mul(&t)?.neg()?.shift(1.0)?)?;
    }
    let by_product = round(&by_product.scale(parameters.scale.into())?)?;
    // [KH, context, D] → [slots, KH, D]
    let scatter = |x: Tensor| Tensor::apply(&Op::AddRows { count }, vec![x.permute(&[1, 0, 2])?, slots.clone()]);
    let flat = |x: Tensor| x.reshape([x.shape().elements()]);
    let of_q = heads.apart(&by_product.matmul(&keys)?)?;
    let of_keys = scatter(transposed(&by_product)?.matmul(&q)?)?;
    let of_values = scatter(transposed(&round(&weights)?)?.matmul(&gradient)?)?;
    Tensor::concat(&[flat(of_q)?, flat(of_keys)?, flat(of_values)?], 0)
}

fn capped(products: &Tensor, parameters: &PagedAttention) -> Result<Tensor> {
    parameters.soft_cap.map_or_else(|| Ok(products.clone()), |cap| soft_cap(products, cap))
}

fn transposed(x: &Tensor) -> Result<Tensor> {
    x.permute(&[0, 2, 1])
}

/// How queries share the heads of a cache: `KH` heads of the cache, a group of `G` queries for each.
struct Heads {
    tokens: usize,
    kv_heads: usize,
    group: usize,
    width: usize,
}

impl Heads {
    fn new(q: &Tensor, keys: &Tensor) -> Heads {
        let kv_heads = keys.shape()[1];
        Heads { tokens: q.shape()[0], kv_heads, group: q.shape()[1] / kv_heads, width: q.shape()[2] }
    }

    /// `[T, KH · G, D]` → `[KH, G · T, D]`.
    fn grouped(&self, q: &Tensor) -> Result<Tensor> {
        let Heads { tokens, kv_heads, group, width } = *self;
        let q = q.reshape([tokens, kv_heads, group, width])?.permute(&[1, 2, 0, 3])?;
        q.reshape([kv_heads, group * tokens, width])
    }

    /// `[KH, G · T, D]` → `[T, KH · G, D]`.
    fn apart(&self, x: &Tensor) -> Result<Tensor> {
        let Heads { tokens, kv_heads, group, width } = *self;
        let x = x.reshape([kv_heads, group, tokens, width])?.permute(&[2, 0, 1, 3])?;
        x.reshape([tokens, kv_heads * group, width])
    }

    /// `[slots, KH, D]` → `[KH, context, D]` in f32.
    fn gather(&self, cache: &Tensor, slots: &Tensor) -> Result<Tensor> {
        let rows = cache.take_rows(slots)?;
        let floats = if rows.dtype() == DType::I8 { rows.dequantize_rows()? } else { rows.cast(DType::F32)? };
        floats.permute(&[1, 0, 2])
    }

    /// Of every query with every key, scaled: `[KH, G · T, context]`.
    fn products(&self, q: &Tensor, keys: &Tensor, parameters: &PagedAttention) -> Result<Tensor> {
        q.matmul(&transposed(keys)?)?.scale(parameters.scale.into())
    }

    /// The softmax of what is visible.
    fn weights(&self, scores: &Tensor, visible: &Tensor) -> Result<Tensor> {
        let Heads { tokens, kv_heads, group, .. } = *self;
        let context = scores.shape()[2];
        let scores = scores.reshape([kv_heads, group, tokens, context])?;
        let hidden = Tensor::full(scores.device(), Shape::default(), DType::F32, f64::NEG_INFINITY)?;
        softmax(&visible.select(&scores, &hidden)?)?.reshape([kv_heads, group * tokens, context])
    }
}

impl Table<'_> {
    /// Slot of every position of every sequence, sequence by sequence: `i32[S · B · block_size]`.
    fn slots(&self, block_size: usize) -> Result<Tensor> {
        let device = self.blocks.device();
        let (sequences, blocks) = (self.blocks.shape()[0], self.blocks.shape()[1]);
        let size = Tensor::full(device, Shape::default(), DType::I32, block_size as f64)?;
        let first = self.blocks.mul(&size)?.reshape([sequences, blocks, 1])?;
        first.add(&Tensor::arange(device, block_size)?)?.reshape([sequences * blocks * block_size])
    }

    /// `u8[T, S · B · block_size]`: 1 where the token may attend to the slot.
    fn visible(&self, parameters: &PagedAttention) -> Result<Tensor> {
        let device = self.blocks.device();
        let (sequences, context) = (self.blocks.shape()[0], self.blocks.shape()[1] * parameters.block_size);
        let tokens = self.positions.shape()[0];
        let column = |x: &Tensor| x.reshape([tokens, 1]);
        let spread = |x: Tensor| x.broadcast([sequences, context])?.reshape([1, sequences * context]);

        let slot_sequence = spread(Tensor::arange(device, sequences)?.reshape([sequences, 1])?)?;
        let slot_position = spread(Tensor::arange(device, context)?)?;
        let own = column(self.sequences)?.equal(&slot_sequence)?;
        let past = slot_position.less_equal(&column(self.positions)?)?;
        let visible = own.mul(&past)?;
        match parameters.window {
            None => Ok(visible),
            Some(window) => {
                let window = Tensor::full(device, Shape::default(), DType::I32, window.min(i32::MAX as usize) as f64)?;
                let before = column(self.positions)?.sub(&window)?;
                visible.mul(&before.less(&slot_position)?)
            }
        }
    }
}
