// SPDX-License-Identifier: EUPL-1.2
//! A packed batch as a model reads it: each sequence in fresh blocks of a cache of its own.

use ingle_models::Model;
use ingle_nn::{Activations, Batch, BlockTable, Dropout, KvCache, Routes};
use ingle_tensor::{DType, DeviceHandle, Tensor};

use crate::Result;
use crate::data::PackedBatch;

/// Slots in a block of the cache.
const BLOCK_SIZE: usize = 32;

/// What a forward pass over a batch needs, and what its logits are compared with.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub batch: Batch,
    pub cache: KvCache,
    /// `i32[R]`: what is to be predicted by each row of logits.
    pub targets: Tensor,
}

impl Inputs {
    /// Lays a batch out on the model's device.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn new(model: &dyn Model, packed: &PackedBatch, pass: Pass) -> Result<Self> {
        let Pass { cache: dtype, hidden, routes, activations, dropout } = pass;
        let device = model.device();
        let lists = Lists::new(packed);
        let list = |values: &[i32]| Tensor::from_slice(device, values, [values.len()]);
        let mut cache = KvCache::new(device, &model.cache_layers(), BLOCK_SIZE, dtype)?;
        let groups = cache.groups().len();
        for group in 0..groups {
            cache.grow(group, lists.blocks)?;
        }
        let table = || lists.table(device, packed.sequences.len());
        let batch = Batch {
            tokens: list(&lists.tokens)?,
            positions: list(&lists.positions)?,
            sequences: list(&lists.sequences)?,
            tables: (0..groups).map(|_| table()).collect::<Result<_>>()?,
            outputs: list(&lists.outputs)?,
            output_routes: routes.clone(),
            routes,
            activations,
            hidden,
            dropout,
        };
        Ok(Inputs { batch, cache, targets: list(&lists.targets)? })
    }
}

/// What a forward pass is like, whatever its batch.
pub(crate) struct Pass {
    /// Dtype of keys and values.
    pub cache: DType,
    /// Dtype of what an MLP computes within, if it is not the residual stream's.
    pub hidden: Option<DType>,
    /// The adapter that every token goes through, if one is trained.
    pub routes: Routes,
    pub activations: Activations,
    pub dropout: Option<Dropout>,
}

#[derive(Default)]
struct Lists {
    tokens: Vec<i32>,
    positions: Vec<i32>,
    sequences: Vec<i32>,
    slots: Vec<i32>,
    outputs: Vec<i32>,
    targets: Vec<i32>,
    /// Each sequence's blocks.
    tables: Vec<std::ops::Range<usize>>,
    blocks: usize,
}

impl Lists {
    fn new(packed: &PackedBatch) -> Self {
        let mut lists = Lists::default();
        for (number, sequence) in packed.sequences.iter().enumerate() {
            let first = lists.blocks;
            for (position, (&token, &target)) in sequence.tokens.iter().zip(&sequence.targets).enumerate() {
                if target >= 0 {
                    lists.outputs.push(lists.tokens.len() as i32);
                    lists.targets.push(target);
                }
                lists.tokens.push(token);
                lists.positions.push(position as i32);
                lists.sequences.push(number as i32);
                lists.slots.push((first * BLOCK_SIZE + position) as i32);
            }
            lists.blocks += sequence.tokens.len().div_ceil(BLOCK_SIZE);
            lists.tables.push(first..lists.blocks);
        }
        lists
    }

    fn table(&self, device: &DeviceHandle, sequences: usize) -> Result<BlockTable> {
        let width = self.tables.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        // Behind a sequence's last block stands any: nobody looks there.
        let row = |blocks: &std::ops::Range<usize>| {
            let (start, last) = (blocks.start, blocks.end.saturating_sub(1));
            (0..width).map(move |column| (start + column).min(last) as i32).collect::<Vec<_>>()
        };
        let blocks: Vec<i32> = self.tables.iter().flat_map(row).collect();
        Ok(BlockTable {
            blocks: Tensor::from_slice(device, &blocks, [sequences, width])?,
            slots: Tensor::from_slice(device, &self.slots, [self.slots.len()])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Sequence;

    #[test]
    fn sequences_lie_in_blocks_of_their_own_good() {
        let sequence = |tokens: usize, learnt: usize| Sequence {
            tokens: (0..tokens as i32).collect(),
            targets: (0..tokens).map(|t| if t < tokens - learnt { -1 } else { 7 }).collect(),
        };
        let packed = PackedBatch { sequences: vec![sequence(33, 1), sequence(2, 2)], ..PackedBatch::default() };
        let lists = Lists::new(&packed);
        assert_eq!((lists.blocks, &lists.tables[..]), (3, &[0..2, 2..3][..]));
        assert_eq!((&lists.slots[31..], &lists.positions[31..]), (&[31, 32, 64, 65][..], &[31, 32, 0, 1][..]));
        assert_eq!((lists.outputs, lists.targets), (vec![32, 33, 34], vec![7, 7, 7]));
    }
}
