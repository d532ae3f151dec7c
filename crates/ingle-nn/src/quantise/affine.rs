// SPDX-License-Identifier: EUPL-1.2
//! MLX's affine format.

/// Where a row's words, scales and offsets go.
#[derive(Debug)]
pub struct AffineRow<'a> {
    /// `bits / 8` bytes for each weight.
    pub words: &'a mut [u8],
    /// One for each group.
    pub scales: &'a mut [f32],
    /// One for each group.
    pub offsets: &'a mut [f32],
}

/// Quantises a row of weights to `bits` each, in groups of `group_size`, as `mlx.core.quantize` does: of each group
/// the weight of largest magnitude is an offset that comes out exactly, and so does zero.
pub fn encode_affine(bits: usize, group_size: usize, row: &[f32], into: AffineRow<'_>) {
    let AffineRow { words, scales, offsets } = into;
    let groups = row.chunks_exact(group_size).zip(words.chunks_exact_mut(group_size * bits / 8));
    for (((group, words), scale), offset) in groups.zip(scales).zip(offsets) {
        let most = ((1u32 << bits) - 1) as f32;
        (*scale, *offset) = range(group, most);
        // Eight quants take `bits` bytes, whatever `bits` is.
        for (weights, bytes) in group.chunks_exact(8).zip(words.chunks_exact_mut(bits)) {
            let quant = |weight: &f32| ((weight - *offset) / *scale).round_ties_even().clamp(0.0, most) as u64;
            let word = weights.iter().rev().fold(0, |word, weight| word << bits | quant(weight));
            bytes.copy_from_slice(&word.to_le_bytes()[..bits]);
        }
    }
}

/// The scale and offset of a group.
fn range(group: &[f32], most: f32) -> (f32, f32) {
    /// The least scale, so that nothing is divided by 0.
    const LEAST: f32 = 1e-7;
    let least = group.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let step = ((largest - least) / most).max(LEAST);
    let (step, edge) = if least.abs() > largest.abs() { (step, least) } else { (-step, largest) };
    // So many steps from zero to the edge, made a whole number.
    let steps = (edge / step).round_ties_even();
    if steps == 0.0 { (step, 0.0) } else { (edge / steps, edge) }
}
