// SPDX-License-Identifier: EUPL-1.2
//! The paged key-value cache, and the ragged batch that reads and writes it.

use ingle_tensor::{DType, DeviceHandle, PagedAttention, Tensor};

use crate::{Dropout, Error, Result, Routes};

/// The tokens of one forward pass, as a flat list: a ragged batch without padding.
///
/// Below, `T` is the number of tokens, `S` of sequences, `R` of rows of logits wanted.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Token ids, `i32[T]`; tokens of one sequence stand together, in order.
    pub tokens: Tensor,
    /// Each token's position in its sequence, `i32[T]`.
    pub positions: Tensor,
    /// Which row of the block tables each token's sequence has, `i32[T]`.
    pub sequences: Tensor,
    /// Where keys and values lie, for each of the cache's groups ([`KvCache::groups`]).
    pub tables: Vec<BlockTable>,
    /// The tokens whose logits are wanted, `i32[R]`.
    pub outputs: Tensor,
    /// The adapters that the tokens go through.
    pub routes: Routes,
    /// The adapters that the outputs go through, by their place among `outputs`.
    pub output_routes: Routes,
    /// What is kept of the way forward for the way back.
    pub activations: Activations,
    /// What an MLP computes in between the norm before it and the residual stream, if not in their dtype. It is most of
    /// what training keeps, and bf16 takes half.
    pub hidden: Option<DType>,
    /// What drops out of what enters the residual stream, in training.
    pub dropout: Option<Dropout>,
}

/// What is kept of the way forward for the way back, where there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// All that the gradients' rules read.
    #[default]
    Kept,
    /// What goes into each block, which is computed again (Chen et al. 2016). The batch's sequences must begin with it,
    /// for the cache is left as it was.
    Recomputed,
}

/// Where one group of layers keeps the batch's keys and values.
#[derive(Clone, Debug)]
pub struct BlockTable {
    /// The block of each `block_size` positions of each sequence, `i32[S, B]`.
    pub blocks: Tensor,
    /// The slot that each token of the batch is written to, `i32[T]`.
    pub slots: Tensor,
}

/// What one decoder layer keeps for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLayer {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// How many positions a token sees, its own included; all if `None`.
    pub window: Option<usize>,
}

impl CacheLayer {
    /// Elements of one head's key, or value, in a cache of `dtype`: beside integers stands their scale, as
    /// [`Op::QuantizeRows`](ingle_tensor::Op::QuantizeRows) puts it.
    fn row(&self, dtype: DType) -> usize {
        match dtype {
            DType::I8 => self.head_dim + size_of::<f32>(),
            _ => self.head_dim,
        }
    }

    /// Bytes that the keys and values of one token take in a cache of `dtype`.
    pub fn token_bytes(&self, dtype: DType) -> usize {
        2 * self.kv_heads * self.row(dtype) * dtype.size()
    }
}

/// Layers that see equally far, and so share block tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheGroup {
    /// How many positions a token sees, its own included; all if `None`.
    pub window: Option<usize>,
    /// Bytes that one block takes, over all layers of the group.
    pub block_bytes: usize,
    /// Blocks there are.
    pub blocks: usize,
}

/// Keys and values of all layers, in blocks of a fixed number of slots.
///
/// The cache knows storage only; which sequence owns which block is the engine's business.
#[derive(Debug)]
pub struct KvCache {
    device: DeviceHandle,
    dtype: DType,
    block_size: usize,
    groups: Vec<CacheGroup>,
    layers: Vec<Layer>,
}

/// How one layer of a cache is kept, without what is kept.
#[derive(Clone, Debug)]
pub struct CacheForm {
    device: DeviceHandle,
    shape: CacheLayer,
    dtype: DType,
    block_size: usize,
    blocks: usize,
    group: usize,
}

impl CacheForm {
    /// Which of [`Batch::tables`] is the layer's.
    pub fn group(&self) -> usize {
        self.group
    }

    /// A cache that has this layer only, and nothing in it yet.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn empty(&self) -> Result<KvCache> {
        let mut cache = KvCache::new(&self.device, &[self.shape], self.block_size, self.dtype)?;
        cache.grow(0, self.blocks)?;
        Ok(cache)
    }
}

#[derive(Debug)]
struct Layer {
    shape: CacheLayer,
    group: usize,
    /// Taken out while it is donated to a write; `None` for good if that write failed.
    store: Option<[Tensor; 2]>,
}

impl KvCache {
    /// An empty cache for `layers`, in blocks of `block_size` slots of `dtype`: a float, or i8 for keys and values
    /// that are quantised as they are written, each head's with a scale of its own.
    ///
    /// # Errors
    /// Those of making an empty tensor on the device.
    pub fn new(device: &DeviceHandle, layers: &[CacheLayer], block_size: usize, dtype: DType) -> Result<Self> {
        let mut groups: Vec<CacheGroup> = Vec::new();
        let mut stores = Vec::with_capacity(layers.len());
        for &shape in layers {
            let group = groups.iter().position(|g| g.window == shape.window).unwrap_or_else(|| {
                groups.push(CacheGroup { window: shape.window, block_bytes: 0, blocks: 0 });
                groups.len() - 1
            });
            groups[group].block_bytes += block_size * shape.token_bytes(dtype);
            let empty = Tensor::full(device, [0, shape.kv_heads, shape.row(dtype)], dtype, 0.0)?;
            stores.push(Layer { shape, group, store: Some([empty.clone(), empty]) });
        }
        Ok(KvCache { device: device.clone(), dtype, block_size, groups, layers: stores })
    }

    /// Of keys and values: a float, or i8 for quantised rows.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes that the keys and values of one token take, over all layers.
    pub fn token_bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.shape.token_bytes(self.dtype)).sum()
    }

    /// Slots in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// The groups of layers; [`Batch::tables`] has one table for each, in this order.
    pub fn groups(&self) -> &[CacheGroup] {
        &self.groups
    }

    /// How layer `layer` is kept here.
    ///
    /// # Errors
    /// [`Error::CacheLost`] for a layer that the cache has not.
    pub fn layer(&self, layer: usize) -> Result<CacheForm> {
        let Layer { shape, group, .. } = self.layers.get(layer).ok_or(Error::CacheLost { layer })?;
        let (device, blocks) = (self.device.clone(), self.groups[*group].blocks);
        Ok(CacheForm { device, shape: *shape, dtype: self.dtype, block_size: self.block_size, blocks, group: *group })
    }

    /// Bytes that all blocks take.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(|group| group.blocks * group.block_bytes).sum()
    }

    /// Grows a group to `blocks` blocks, keeping what is in it. A group out of range or a smaller number
    /// changes nothing.
    ///
    /// # Errors
    /// Past the device's memory; the cache then holds what it held, in as many blocks.
    pub fn grow(&mut self, group: usize, blocks: usize) -> Result<()> {
        if self.groups.get(group).is_none_or(|g| blocks <= g.blocks) {
            return Ok(());
        }
        let slots = blocks * self.block_size;
        for (index, layer) in self.layers.iter_mut().enumerate().filter(|(_, layer)| layer.group == group) {
            let (kv_heads, row) = (layer.shape.kv_heads, layer.shape.row(self.dtype));
            let longer = |old: &Tensor| -> Result<Tensor> {
                // Fresh zeros, which a device may have without touching them.
                let zeros = Tensor::full(&self.device, [slots, kv_heads, row], self.dtype, 0.0)?;
                match old.shape()[0] {
                    0 => Ok(zeros),
                    held => Ok(zeros.write_rows(old, &Tensor::arange(&self.device, held)?)?),
                }
            };
            let [keys, values] = layer.store.as_ref().ok_or(Error::CacheLost { layer: index })?;
            let held = keys.shape()[0];
            // An earlier attempt may have got this far.
            if held < slots {
                // Keys and values get memory of their own, so that each is its only handle and can be donated.
                layer.store = Some([longer(keys)?, longer(values)?]);
                // What was there before is of a size that nothing else has, and would be kept for nothing. Where nothing
                // was, as in every step of a training, what the device keeps is what the step is about to use.
                if held > 0 {
                    self.device.clear_cache();
                }
            }
        }
        self.groups[group].blocks = blocks;
        Ok(())
    }

    /// Gives all blocks back. Needed after a failed forward pass, which may have taken a layer's blocks with it.
    ///
    /// # Errors
    /// Those of making an empty tensor on the device.
    pub fn reset(&mut self) -> Result<()> {
        let shapes: Vec<CacheLayer> = self.layers.iter().map(|layer| layer.shape).collect();
        *self = KvCache::new(&self.device, &shapes, self.block_size, self.dtype)?;
        Ok(())
    }

    /// Writes the keys and values of the batch's tokens into layer `layer`, then lets their queries attend.
    ///
    /// `q [T, H, D]`, `k` and `v [T, KH, D]` → `[T, H, D]`. Scores are multiplied by `scale` and pass through
    /// a soft cap if there is one.
    ///
    /// # Errors
    /// [`Error::CacheLost`] after an earlier failure; those of the tensor operations, after which the cache
    /// must be [reset](KvCache::reset).
    pub fn attend(
        &mut self,
        layer: usize,
        [q, k, v]: [&Tensor; 3],
        batch: &Batch,
        scale: f32,
        soft_cap: Option<f32>,
    ) -> Result<Tensor> {
        let block_size = self.block_size;
        let lost = || Error::CacheLost { layer };
        let entry = self.layers.get_mut(layer).ok_or_else(lost)?;
        let table = batch.tables.get(entry.group).ok_or_else(lost)?;
        let [keys, values] = entry.store.take().ok_or_else(lost)?;
        let written = |store: Tensor, rows: &Tensor| match self.dtype {
            DType::I8 => store.write_rows(&rows.quantize_rows()?, &table.slots),
            _ => store.write_rows(rows, &table.slots),
        };
        let (keys, values) = (written(keys, k)?, written(values, v)?);
        let parameters = PagedAttention { block_size, scale, window: entry.shape.window, soft_cap };
        let attended =
            q.paged_attention([&keys, &values], [&table.blocks, &batch.sequences, &batch.positions], parameters)?;
        entry.store = Some([keys, values]);
        Ok(attended)
    }
}

#[cfg(test)]
mod tests;
