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

/// The scales of a block of a K format: those of its groups in few bits, and what they all are multiplied by.
/// Group `g` has the scale `scale · scales[g]` and the offset `−min · mins[g]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuperScales {
    /// Of the scales.
    pub scale: f16,
    /// Of the offsets; 0 in a format without.
    pub min: f16,
    /// One for each group; formats with eight groups use the first eight.
    pub scales: [i8; 16],
    /// One for each group.
    pub mins: [u8; 16],
}

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
    #[inline]
    pub fn block_len(self) -> usize {
        match self {
            BlockFormat::Q2K | BlockFormat::Q3K | BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => SUPER,
            _ => PLAIN,
        }
    }

    /// Bytes of a block.
    #[inline]
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

    #[inline]
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

    /// The scales of one block as a K format stores them; `None` for the plain formats, or if bytes are missing.
    #[inline]
    pub fn super_scales(self, block: &[u8]) -> Option<SuperScales> {
        if block.len() < self.block_bytes() {
            return None;
        }
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let (mut scales, mut mins) = ([0; 16], [0; 16]);
        let (scale, min) = match self {
            BlockFormat::Q2K => {
                scales = std::array::from_fn(|group| (block[group] & 15) as i8);
                mins = std::array::from_fn(|group| block[group] >> 4);
                (half(80), half(82))
            }
            BlockFormat::Q3K => {
                scales = three_bit_scales(&block[96..108]);
                (half(108), f16::ZERO)
            }
            BlockFormat::Q4K | BlockFormat::Q5K => {
                six_bit_scales(&block[4..16], &mut scales, &mut mins);
                (half(0), half(2))
            }
            BlockFormat::Q6K => {
                scales = std::array::from_fn(|group| block[192 + group] as i8);
                (half(208), f16::ZERO)
            }
            _ => return None,
        };
        Some(SuperScales { scale, min, scales, mins })
    }

    /// The scale of one block as a plain format stores it, and behind it the offset in a format with offsets, as f16
    /// from the lowest byte on; `None` for the K formats, or if bytes are missing.
    #[inline]
    pub fn plain_scales(self, block: &[u8]) -> Option<&[u8]> {
        match (self.block_len(), self.form().offsets) {
            (PLAIN, Offsets::None) => block.get(..2),
            (PLAIN, Offsets::PerGroup) => block.get(..4),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn unpack_row(self, packed: &[u8], row: UnpackedRow<'_>) {
        let UnpackedRow { quants, scales, offsets } = row;
        let groups = self.block_len() / self.form().group_size;
        let parts = scales.chunks_exact_mut(groups).zip(offsets.chunks_exact_mut(groups));
        for ((scales, offsets), block) in parts.zip(packed.chunks_exact(self.block_bytes())) {
            offsets.fill(0.0);
            if let Some(supers) = self.super_scales(block) {
                let (scale, min) = (supers.scale.to_f32(), supers.min.to_f32());
                for (to, &own) in scales.iter_mut().zip(&supers.scales) {
                    *to = scale * f32::from(own);
                }
                for (to, &own) in offsets.iter_mut().zip(&supers.mins) {
                    *to = -(min * f32::from(own));
                }
            }
            if let Some(plain) = self.plain_scales(block) {
                for (to, half) in scales.iter_mut().chain(offsets).zip(plain.chunks_exact(2)) {
                    *to = f16::from_le_bytes([half[0], half[1]]).to_f32();
                }
            }
        }
        self.unpack_quants(packed, quants);
    }

    #[inline(always)]
    pub(super) fn unpack_quants(self, packed: &[u8], quants: &mut [u8]) {
        let blocks = quants.chunks_exact_mut(self.block_len()).zip(packed.chunks_exact(self.block_bytes()));
        for (quants, block) in blocks {
            match self {
                BlockFormat::Q4_0 | BlockFormat::Iq4Nl => nibbles(&block[2..], quants),
                BlockFormat::Q4_1 => nibbles(&block[4..], quants),
                BlockFormat::Q5_0 => {
                    nibbles(&block[6..], quants);
                    fifth_bits(&block[2..6], quants);
                }
                BlockFormat::Q5_1 => {
                    nibbles(&block[8..], quants);
                    fifth_bits(&block[4..8], quants);
                }
                BlockFormat::Q8_0 => {
                    // From two's complement to 128 more than the number.
                    words(&block[2..2 + PLAIN], quants, |_, word| word ^ (128 * ONES));
                }
                BlockFormat::Q2K => two_bits(&block[16..80], quants),
                BlockFormat::Q3K => {
                    two_bits(&block[32..96], quants);
                    high_bits(&block[..32], 2, quants);
                }
                BlockFormat::Q4K => nibble_pairs(&block[16..], quants),
                BlockFormat::Q5K => {
                    nibble_pairs(&block[48..], quants);
                    high_bits(&block[16..48], 4, quants);
                }
                BlockFormat::Q6K => six_bits(block, quants),
            }
        }
    }
}

/// Eight bytes at a time, as a word: the compiler makes vectors of words, and of bytes it often does not.
#[inline(always)]
fn words(bytes: &[u8], quants: &mut [u8], change: impl Fn(u64, u64) -> u64) {
    for (quants, bytes) in quants.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *quants = change(u64::from_le_bytes(*quants), u64::from_le_bytes(*bytes)).to_le_bytes();
    }
}

/// The lowest bit of every byte of a word.
const ONES: u64 = u64::from_le_bytes([1; 8]);

/// Sixteen bytes: their low halves, then their high ones.
#[inline(always)]
fn nibbles(bytes: &[u8], quants: &mut [u8]) {
    let (low, high) = quants[..PLAIN].split_at_mut(16);
    words(bytes, low, |_, word| word & (15 * ONES));
    words(bytes, high, |_, word| (word >> 4) & (15 * ONES));
}

/// 32 bytes for each 64 weights: their low halves, then their high ones.
#[inline(always)]
fn nibble_pairs(bytes: &[u8], quants: &mut [u8]) {
    for (quants, bytes) in quants.chunks_exact_mut(64).zip(bytes.chunks_exact(32)) {
        let (low, high) = quants.split_at_mut(32);
        words(bytes, low, |_, word| word & (15 * ONES));
        words(bytes, high, |_, word| (word >> 4) & (15 * ONES));
    }
}

/// The fifth bit of each of 32 weights.
#[inline(always)]
fn fifth_bits(bytes: &[u8], quants: &mut [u8]) {
    let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant |= ((word >> i) & 1) as u8 * 16;
    }
}

/// 32 bytes for each 128 weights: the lowest pair of bits of all of them, then the next.
#[inline(always)]
fn two_bits(bytes: &[u8], quants: &mut [u8]) {
    for (quants, bytes) in quants.chunks_exact_mut(128).zip(bytes.chunks_exact(32)) {
        for (pair, quants) in quants.chunks_exact_mut(32).enumerate() {
            words(bytes, quants, |_, word| (word >> (2 * pair)) & (3 * ONES));
        }
    }
}

/// 32 bytes: the lowest bit of all of them belongs to the first 32 weights, as bit `place` of each; and so on.
#[inline(always)]
fn high_bits(bytes: &[u8], place: usize, quants: &mut [u8]) {
    for (bit, quants) in quants.chunks_exact_mut(32).enumerate() {
        words(bytes, quants, |quants, word| quants | ((word >> bit) & ONES) << place);
    }
}

/// Q3_K's sixteen scales, six bits each: the low four, then the high two.
fn three_bit_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|group| {
        let low = (packed[group % 8] >> (group / 8 * 4)) & 15;
        let high = (packed[8 + group % 4] >> (group / 4 * 2)) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// The scales and minima of Q4_K and Q5_K: eight of either, six bits each, in twelve bytes.
fn six_bit_scales(packed: &[u8], scales: &mut [i8; 16], mins: &mut [u8; 16]) {
    for group in 0..8 {
        let (scale, min) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            let low = packed[group + 4];
            ((low & 15) | (packed[group - 4] >> 6) << 4, (low >> 4) | (packed[group] >> 6) << 4)
        };
        (scales[group], mins[group]) = (scale as i8, min);
    }
}

/// Q6_K: the low four bits in pairs of quarters, and the high two.
#[inline(always)]
fn six_bits(block: &[u8], quants: &mut [u8]) {
    for (half, quants) in quants.chunks_exact_mut(128).enumerate() {
        let (low, high) = (&block[half * 64..][..64], &block[128 + half * 32..][..32]);
        for (quarter, quants) in quants.chunks_exact_mut(32).enumerate() {
            let low = &low[quarter % 2 * 32..][..32];
            words(low, quants, |_, low| (low >> (quarter / 2 * 4)) & (15 * ONES));
            words(high, quants, |quants, high| quants | ((high >> (quarter * 2)) & (3 * ONES)) << 4);
        }
    }
}
