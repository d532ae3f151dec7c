// SPDX-License-Identifier: EUPL-1.2
//! GGUF's formats of 32 weights in a block.

use half::f16;
use ingle_tensor::{BlockFormat, GroupForm, Quantization};

use super::fit::{self, nearest};
use super::pack::{self, PlainBlock};

/// Writes one block.
pub(super) fn encode(format: BlockFormat, weights: &[f32], block: &mut [u8]) {
    let plain = match format {
        BlockFormat::Q4_0 => towards_extreme(weights, 8.0),
        BlockFormat::Q5_0 => towards_extreme(weights, 16.0),
        BlockFormat::Q4_1 => between_extremes(weights, 15.0),
        BlockFormat::Q5_1 => between_extremes(weights, 31.0),
        BlockFormat::Iq4Nl => by_codebook(weights),
        _ => symmetric(weights),
    };
    pack::plain(format, &plain, block);
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn block(scale: f32, offset: f32, quant: impl Fn(f32) -> f32, weights: &[f32]) -> PlainBlock {
    let mut quants = [0; 32];
    // The conversion saturates.
    quants.iter_mut().zip(weights).for_each(|(to, weight)| *to = quant(*weight) as u8);
    PlainBlock { scale: f16::from_f32(scale), offset: f16::from_f32(offset), quants }
}

/// Quants from `−zero` to `zero − 1`, the weight of largest magnitude being the first of them.
fn towards_extreme(weights: &[f32], zero: f32) -> PlainBlock {
    let extreme = weights.iter().copied().fold(0.0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    let scale = extreme / -zero;
    let inverse = inverse(scale);
    block(scale, 0.0, |x| (x * inverse + (zero + 0.5)).min(2.0 * zero - 1.0).trunc(), weights)
}

/// Quants from 0, the least weight, to `most`, the largest.
fn between_extremes(weights: &[f32], most: f32) -> PlainBlock {
    let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = (largest - least) / most;
    let inverse = inverse(scale);
    block(scale, least, |x| ((x - least) * inverse + 0.5).min(most).trunc(), weights)
}

/// Quants from −127 to 127, with 128 added.
fn symmetric(weights: &[f32]) -> PlainBlock {
    let largest = weights.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    block(scale, 0.0, |x| (x * inverse).round() + 128.0, weights)
}

/// Quants that stand for numbers in a table.
fn by_codebook(weights: &[f32]) -> PlainBlock {
    let GroupForm { zero, codebook, .. } = Quantization::Blocks(BlockFormat::Iq4Nl).form();
    let Some(codebook) = codebook else { return symmetric(weights) };
    let values = codebook.map(|value| f32::from(value) - f32::from(zero));
    let scale = f16::from_f32(fit::to_values(weights, &values));
    let inverse = inverse(scale.to_f32());
    block(scale.to_f32(), 0.0, |x| nearest(&values, x * inverse) as f32, weights)
}
