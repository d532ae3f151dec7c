// SPDX-License-Identifier: EUPL-1.2
//! One step's sequences as the ragged batch that a model computes.

use ingle_nn::{Activations, Batch, BlockTable, Routes};
use ingle_tensor::{DeviceHandle, Tensor};

use crate::Result;
use crate::sequence::Sequence;

/// Builds the batch of the chunks of `running`, for a cache of `groups` groups. `under_way` are the tokens that the
/// pass before it gives, which nobody may have read.
pub(crate) fn batch(
    device: &DeviceHandle,
    running: &[Sequence],
    under_way: Option<&Tensor>,
    groups: usize,
    block_size: usize,
) -> Result<Batch> {
    let chunks: Vec<&Sequence> = running.iter().filter(|sequence| sequence.chunk > 0).collect();
    let (mut tokens, mut positions, mut rows, mut outputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut routes, mut output_routes) = (Vec::new(), Vec::new());
    let mut awaited = Vec::new();
    for (row, sequence) in chunks.iter().enumerate() {
        let (start, end) = (sequence.computed, sequence.computed + sequence.chunk);
        tokens.extend(sequence.tokens[start..end].iter().map(|&id| id as i32));
        if end > sequence.known
            && let Some(row) = sequence.awaited
        {
            awaited.push((tokens.len() - 1, row));
        }
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
        tokens: match under_way {
            Some(under_way) if !awaited.is_empty() => joined(device, &tokens, under_way, &awaited)?,
            _ => vector(device, &tokens)?,
        },
        positions: vector(device, &positions)?,
        sequences: vector(device, &rows)?,
        tables,
        outputs: vector(device, &outputs)?,
        routes: Routes::new(device, &routes)?,
        output_routes: Routes::new(device, &output_routes)?,
        activations: Activations::Kept,
        hidden: None,
        dropout: None,
    })
}

/// `tokens`, of which some are rows of `under_way`: each given as its place and its row.
fn joined(device: &DeviceHandle, tokens: &[i32], under_way: &Tensor, awaited: &[(usize, usize)]) -> Result<Tensor> {
    let count = under_way.shape()[0];
    let in_order = awaited.iter().enumerate().all(|(index, &pair)| pair == (index, index));
    if in_order && awaited.len() == tokens.len() && count == tokens.len() {
        return Ok(under_way.clone());
    }
    // Known tokens behind those to come.
    let mut places: Vec<i32> = (0..tokens.len()).map(|place| (count + place) as i32).collect();
    for &(place, row) in awaited {
        places[place] = row as i32;
    }
    let all = Tensor::concat(&[under_way.clone(), vector(device, tokens)?], 0)?;
    let all = all.reshape([count + tokens.len(), 1])?;
    Ok(all.take_rows(&vector(device, &places)?)?.reshape([tokens.len()])?)
}

fn vector(device: &DeviceHandle, values: &[i32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(device, values, [values.len()])?)
}
