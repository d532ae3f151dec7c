// SPDX-License-Identifier: EUPL-1.2
//! One step's sequences as the ragged batch that a model computes.

use ingle_nn::{Activations, Batch, BlockTable, Routes};
use ingle_tensor::{DeviceHandle, Tensor};

use crate::Result;
use crate::sequence::Sequence;

/// Builds the batch of the chunks of `running`, for a cache of `groups` groups.
pub(crate) fn batch(device: &DeviceHandle, running: &[Sequence], groups: usize, block_size: usize) -> Result<Batch> {
    let chunks: Vec<&Sequence> = running.iter().filter(|sequence| sequence.chunk > 0).collect();
    let (mut tokens, mut positions, mut rows, mut outputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut routes, mut output_routes) = (Vec::new(), Vec::new());
    for (row, sequence) in chunks.iter().enumerate() {
        let (start, end) = (sequence.computed, sequence.computed + sequence.chunk);
        tokens.extend(sequence.tokens[start..end].iter().map(|&id| id as i32));
        positions.extend((start..end).map(|position| position as i32));
        rows.extend(std::iter::repeat_n(row as i32, sequence.chunk));
        routes.extend(std::iter::repeat_n(sequence.adapter, sequence.chunk));
        output_routes.extend(std::iter::repeat_n(sequence.adapter, sequence.rows()));
        outputs.extend((tokens.len() - sequence.rows()..tokens.len()).map(|token| token as i32));
    }

    let mut tables = Vec::with_capacity(groups);
    for group in 0..groups {
        let leases = || chunks.iter().map(|sequence| sequence.lease.as_ref().map_or(&[][..], |l| l.blocks(group)));
        let width = leases().map(<[u32]>::len).max().unwrap_or(0);
        let mut blocks = vec![0; chunks.len() * width];
        let mut slots = Vec::with_capacity(tokens.len());
        for (row, (sequence, lease)) in chunks.iter().zip(leases()).enumerate() {
            for (entry, &block) in blocks[row * width..].iter_mut().zip(lease) {
                *entry = block as i32;
            }
            for position in sequence.computed..sequence.computed + sequence.chunk {
                slots.push((lease[position / block_size] as usize * block_size + position % block_size) as i32);
            }
        }
        tables.push(BlockTable {
            blocks: Tensor::from_slice(device, &blocks, [chunks.len(), width])?,
            slots: vector(device, &slots)?,
        });
    }
    Ok(Batch {
        tokens: vector(device, &tokens)?,
        positions: vector(device, &positions)?,
        sequences: vector(device, &rows)?,
        tables,
        outputs: vector(device, &outputs)?,
        routes: Routes::new(device, &routes)?,
        output_routes: Routes::new(device, &output_routes)?,
        activations: Activations::Kept,
    })
}

fn vector(device: &DeviceHandle, values: &[i32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(device, values, [values.len()])?)
}
