// SPDX-License-Identifier: EUPL-1.2
//! From weights to quantised ones: the encoders of every format that [`ingle_tensor::Quantization`] knows.
//!
//! [`encode_affine`] and the plain block formats give, bit for bit, what MLX and the `gguf` package give. The K formats
//! and IQ4_NL leave it to the encoder how to choose scales; here they are fitted by least squares (see `fit.rs`).
//!
//! ```
//! use ingle_nn::quantise::encode_blocks;
//! use ingle_tensor::{BlockFormat, Quantization, UnpackedRow};
//!
//! let row: Vec<f32> = (0..64).map(|i| (i as f32 * 0.7).sin()).collect();
//! let mut blocks = vec![0; 2 * BlockFormat::Q8_0.block_bytes()];
//! encode_blocks(BlockFormat::Q8_0, &row, &mut blocks);
//!
//! let (mut quants, mut scales, mut offsets) = ([0; 64], [0.0; 2], [0.0; 2]);
//! let mut unpacked = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
//! let UnpackedRow { quants, scales, offsets } = &mut unpacked;
//! let q8_0 = Quantization::Blocks(BlockFormat::Q8_0);
//! q8_0.unpack_row(&blocks, UnpackedRow { quants, scales, offsets });
//! assert!(q8_0.weights(&unpacked).zip(&row).all(|(found, expected)| (found - expected).abs() < 0.005));
//! ```

mod affine;
mod convert;
mod fit;
mod pack;
mod plain;
mod supers;

use ingle_tensor::BlockFormat;

pub use affine::{AffineRow, encode_affine};
pub use convert::{Conversion, Form, Original, RowOrder};

/// Writes the blocks of a row of weights. Weights past the last whole block, and blocks for which there is no room, are
/// left out.
pub fn encode_blocks(format: BlockFormat, row: &[f32], blocks: &mut [u8]) {
    let groups = row.chunks_exact(format.block_len()).zip(blocks.chunks_exact_mut(format.block_bytes()));
    for (weights, block) in groups {
        match format {
            BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => {
                supers::encode(format, weights, block);
            }
            _ => plain::encode(format, weights, block),
        }
    }
}

#[cfg(test)]
mod tests;
