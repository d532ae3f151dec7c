// SPDX-License-Identifier: EUPL-1.2
//! GGUF's block formats (Gerganov et al., ggml): how each lays out its bits.

use half::f16;

use super::{GroupForm, Offsets, UnpackedRow};

/// A block format of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each name is its own definition
pub enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
}

/// Weights in a block of the plain formats.
const PLAIN: usize = 32;
/// Weights in a block of the K formats.
const SUPER: usize = 256;

/// What the 16 quants of IQ4_NL stand for, with 128 added.
const IQ4_NL: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

impl BlockFormat {
    /// Every block format.
    pub const ALL: [BlockFormat; 11] = [
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Iq4Nl,
    ];

    /// The name that ggml gives it.
    pub fn name(self) -> &'static str {
        match self {
            BlockFormat::Q4_0 => "Q4_0",
            BlockFormat::Q4_1 => "Q4_1",
            BlockFormat::Q5_0 => "Q5_0",
            BlockFormat::Q5_1 => "Q5_1",
            BlockFormat::Q8_0 => "Q8_0",
            BlockFormat::Q2K => "Q2_K",
            BlockFormat::Q3K => "Q3_K",
            BlockFormat::Q4K => "Q4_K",
            BlockFormat::Q5K => "Q5_K",
            BlockFormat::Q6K => "Q6_K",
            BlockFormat::Iq4Nl => "IQ4_NL",
        }
    }

    /// Weights in a block.
    pub fn block_len(self) -> usize {
        match self {
            BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => SUPER,
            _ => PLAIN,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            BlockFormat::Q4_0 | BlockFormat::Iq4Nl => 18,
            BlockFormat::Q4_1 => 20,
            BlockFormat::Q5_0 => 22,
            BlockFormat::Q5_1 => 24,
            BlockFormat::Q8_0 => 34,
            BlockFormat::Q2K => 84,
            BlockFormat::Q3K => 110,
            BlockFormat::Q4K => 144,
            BlockFormat::Q5K => 176,
            BlockFormat::Q6K => 210,
        }
    }

    pub(super) fn form(self) -> GroupForm {
        let form = |bits, group_size, zero, offsets| GroupForm { bits, group_size, zero, offsets, codebook: None };
        match self {
            BlockFormat::Q4_0 => form(4, 32, 8, Offsets::None),
            BlockFormat::Q4_1 => form(4, 32, 0, Offsets::PerGroup),
            BlockFormat::Q5_0 => form(5, 32, 16, Offsets::None),
            BlockFormat::Q5_1 => form(5, 32, 0, Offsets::PerGroup),
            BlockFormat::Q8_0 => form(8, 32, 128, Offsets::None),
            BlockFormat::Q2K => form(2, 16, 0, Offsets::PerGroup),
            BlockFormat::Q3K => form(3, 16, 4, Offsets::None),
            BlockFormat::Q4K => form(4, 32, 0, Offsets::PerGroup),
            BlockFormat::Q5K => form(5, 32, 0, Offsets::PerGroup),
            BlockFormat::Q6K => form(6, 16, 32, Offsets::None),
            BlockFormat::Iq4Nl => GroupForm { codebook: Some(&IQ4_NL), ..form(4, 32, 128, Offsets::None) },
        }
    }

    pub(super) fn unpack_row(self, packed: &[u8], row: UnpackedRow<'_>) {
        let UnpackedRow { quants, scales, offsets } = row;
        let groups = self.block_len() / self.form().group_size;
        let parts = quants.chunks_exact_mut(self.block_len()).zip(scales.chunks_exact_mut(groups));
        let parts = parts.zip(offsets.chunks_exact_mut(groups)).zip(packed.chunks_exact(self.block_bytes()));
        for (((quants, scales), offsets), block) in parts {
            offsets.fill(0.0);
            let row = UnpackedRow { quants, scales, offsets };
            match self {
                BlockFormat::Q4_0 | BlockFormat::Iq4Nl => {
                    row.scales[0] = float(&block[..2]);
                    nibbles(&block[2..], row.quants);
                }
                BlockFormat::Q4_1 => {
                    (row.scales[0], row.offsets[0]) = (float(&block[..2]), float(&block[2..4]));
                    nibbles(&block[4..], row.quants);
                }
                BlockFormat::Q5_0 => {
                    row.scales[0] = float(&block[..2]);
                    nibbles(&block[6..], row.quants);
                    fifth_bits(&block[2..6], row.quants);
                }
                BlockFormat::Q5_1 => {
                    (row.scales[0], row.offsets[0]) = (float(&block[..2]), float(&block[2..4]));
                    nibbles(&block[8..], row.quants);
                    fifth_bits(&block[4..8], row.quants);
                }
                BlockFormat::Q8_0 => {
                    row.scales[0] = float(&block[..2]);
                    for (quant, &byte) in row.quants.iter_mut().zip(&block[2..]) {
                        // From two's complement to 128 more than the number.
                        *quant = byte ^ 0x80;
                    }
                }
                BlockFormat::Q2K => q2_k(block, row),
                BlockFormat::Q3K => q3_k(block, row),
                BlockFormat::Q4K => {
                    six_bit_scales(block, row.scales, row.offsets);
                    nibble_pairs(&block[16..], row.quants);
                }
                BlockFormat::Q5K => {
                    six_bit_scales(block, row.scales, row.offsets);
                    nibble_pairs(&block[48..], row.quants);
                    for (i, quant) in row.quants.iter_mut().enumerate() {
                        *quant |= ((block[16 + i % 32] >> (i / 32)) & 1) << 4;
                    }
                }
                BlockFormat::Q6K => q6_k(block, row),
            }
        }
    }
}

fn float(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Sixteen bytes: their low halves, then their high ones.
fn nibbles(bytes: &[u8], quants: &mut [u8]) {
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant = (bytes[i % 16] >> (i / 16 * 4)) & 15;
    }
}

/// Quarters of 64 weights, 32 bytes each: their low halves, then their high ones.
fn nibble_pairs(bytes: &[u8], quants: &mut [u8]) {
    for (quants, bytes) in quants.chunks_exact_mut(64).zip(bytes.chunks_exact(32)) {
        for (i, quant) in quants.iter_mut().enumerate() {
            *quant = (bytes[i % 32] >> (i / 32 * 4)) & 15;
        }
    }
}

fn fifth_bits(bytes: &[u8], quants: &mut [u8]) {
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant |= ((bytes[i / 8] >> (i % 8)) & 1) << 4;
    }
}

/// Two bits each: 32 bytes hold 128 weights, first the lowest pair of bits of all of them.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    (bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3
}

fn q2_k(block: &[u8], row: UnpackedRow<'_>) {
    let (scale, min) = (float(&block[80..82]), float(&block[82..84]));
    for (group, &packed) in block[..16].iter().enumerate() {
        row.scales[group] = scale * f32::from(packed & 15);
        row.offsets[group] = -(min * f32::from(packed >> 4));
    }
    for (i, quant) in row.quants.iter_mut().enumerate() {
        *quant = two_bits(&block[16..80], i);
    }
}

fn q3_k(block: &[u8], row: UnpackedRow<'_>) {
    let (high, low, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = float(&block[108..110]);
    for (group, to) in row.scales.iter_mut().enumerate() {
        let low = (packed[group % 8] >> (group / 8 * 4)) & 15;
        let high = (packed[8 + group % 4] >> (group / 4 * 2)) & 3;
        *to = scale * (f32::from(low | high << 4) - 32.0);
    }
    for (i, quant) in row.quants.iter_mut().enumerate() {
        *quant = two_bits(low, i) | ((high[i % 32] >> (i / 32)) & 1) << 2;
    }
}

/// The scales and offsets of Q4_K and Q5_K: eight of either, six bits each, in twelve bytes.
fn six_bit_scales(block: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    let (scale, min) = (float(&block[..2]), float(&block[2..4]));
    let packed = &block[4..16];
    for group in 0..8 {
        let (s, m) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let low = packed[group + 4];
            ((low & 15) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
        };
        scales[group] = scale * f32::from(s);
        offsets[group] = -(min * f32::from(m));
    }
}

fn q6_k(block: &[u8], row: UnpackedRow<'_>) {
    let scale = float(&block[208..210]);
    for (to, &packed) in row.scales.iter_mut().zip(&block[192..208]) {
        *to = scale * f32::from(packed as i8);
    }
    for (i, quant) in row.quants.iter_mut().enumerate() {
        let (half, quarter, lane) = (i / 128, i % 128 / 32, i % 32);
        let low = block[half * 64 + quarter % 2 * 32 + lane] >> (quarter / 2 * 4);
        let high = block[128 + half * 32 + lane] >> (quarter * 2);
        *quant = (low & 15) | (high & 3) << 4;
    }
}
