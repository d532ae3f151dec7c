// SPDX-License-Identifier: EUPL-1.2
//! How GGUF's blocks lay out their bits: the inverse of [`ingle_tensor::Quantization::unpack_row`].

use half::f16;
use ingle_tensor::{BlockFormat, SuperScales};

/// A block of 32 weights in plain form.
pub(super) struct PlainBlock {
    pub scale: f16,
    /// Of Q4_1 and Q5_1 only.
    pub offset: f16,
    pub quants: [u8; 32],
}

/// A block of 256 weights in plain form.
pub(super) struct SuperBlock {
    pub supers: SuperScales,
    pub quants: [u8; 256],
}

pub(super) fn plain(format: BlockFormat, plain: &PlainBlock, block: &mut [u8]) {
    let PlainBlock { scale, offset, quants } = plain;
    block[..2].copy_from_slice(&scale.to_le_bytes());
    let fifth_bits = || {
        let bits = quants.iter().rev().fold(0u32, |bits, quant| bits << 1 | u32::from(quant >> 4 & 1));
        bits.to_le_bytes()
    };
    match format {
        BlockFormat::Q4_1 => {
            block[2..4].copy_from_slice(&offset.to_le_bytes());
            nibbles(quants, &mut block[4..]);
        }
        BlockFormat::Q5_0 => {
            block[2..6].copy_from_slice(&fifth_bits());
            nibbles(quants, &mut block[6..]);
        }
        BlockFormat::Q5_1 => {
            block[2..4].copy_from_slice(&offset.to_le_bytes());
            block[4..8].copy_from_slice(&fifth_bits());
            nibbles(quants, &mut block[8..]);
        }
        BlockFormat::Q8_0 => {
            // From 128 more than the number to two's complement.
            block[2..].iter_mut().zip(quants).for_each(|(byte, quant)| *byte = quant ^ 0x80);
        }
        _ => nibbles(quants, &mut block[2..]),
    }
}

pub(super) fn supers(format: BlockFormat, packed: &SuperBlock, block: &mut [u8]) {
    let SuperBlock { supers: SuperScales { scale, min, scales, mins }, quants } = packed;
    let (scale, min) = (scale.to_le_bytes(), min.to_le_bytes());
    match format {
        BlockFormat::Q2K => {
            for (byte, (scale, min)) in block.iter_mut().zip(scales.iter().zip(mins)) {
                *byte = *scale as u8 & 15 | min << 4;
            }
            two_bits(quants, &mut block[16..80]);
            block[80..82].copy_from_slice(&scale);
            block[82..84].copy_from_slice(&min);
        }
        BlockFormat::Q3K => {
            high_bits(quants, 2, &mut block[..32]);
            two_bits(quants, &mut block[32..96]);
            three_bit_scales(scales, &mut block[96..108]);
            block[108..110].copy_from_slice(&scale);
        }
        BlockFormat::Q4K | BlockFormat::Q5K => {
            block[..2].copy_from_slice(&scale);
            block[2..4].copy_from_slice(&min);
            six_bit_scales(scales, mins, &mut block[4..16]);
            if format == BlockFormat::Q5K {
                high_bits(quants, 4, &mut block[16..48]);
                nibble_pairs(quants, &mut block[48..]);
            } else {
                nibble_pairs(quants, &mut block[16..]);
            }
        }
        _ => {
            six_bits(quants, block);
            for (byte, scale) in block[192..208].iter_mut().zip(scales) {
                *byte = *scale as u8;
            }
            block[208..210].copy_from_slice(&scale);
        }
    }
}

/// Sixteen bytes: the first half in their low halves, the second in the high ones.
fn nibbles(quants: &[u8], bytes: &mut [u8]) {
    let (low, high) = quants.split_at(16);
    for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
        *byte = low & 15 | high << 4;
    }
}

fn nibble_pairs(quants: &[u8], bytes: &mut [u8]) {
    for (quants, bytes) in quants.chunks_exact(64).zip(bytes.chunks_exact_mut(32)) {
        let (low, high) = quants.split_at(32);
        for (byte, (low, high)) in bytes.iter_mut().zip(low.iter().zip(high)) {
            *byte = low & 15 | high << 4;
        }
    }
}

fn two_bits(quants: &[u8], bytes: &mut [u8]) {
    for (quants, bytes) in quants.chunks_exact(128).zip(bytes.chunks_exact_mut(32)) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = (0..4).fold(0, |byte, pair| byte | (quants[32 * pair + index] & 3) << (2 * pair));
        }
    }
}

/// Bit `place` of each quant, those of 32 neighbours in bits of the same place.
fn high_bits(quants: &[u8], place: usize, bytes: &mut [u8]) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (0..8).fold(0, |byte, bit| {
            byte | match quants.get(32 * bit + index) {
                Some(quant) => (quant >> place & 1) << bit,
                None => 0,
            }
        });
    }
}

fn three_bit_scales(scales: &[i8; 16], bytes: &mut [u8]) {
    bytes.fill(0);
    for (group, scale) in scales.iter().enumerate() {
        let six = (scale + 32) as u8;
        bytes[group % 8] |= (six & 15) << (group / 8 * 4);
        bytes[8 + group % 4] |= (six >> 4) << (group / 4 * 2);
    }
}

fn six_bit_scales(scales: &[i8; 16], mins: &[u8; 16], bytes: &mut [u8]) {
    for group in 0..4 {
        let (scale, min) = (scales[group] as u8, mins[group]);
        let (later_scale, later_min) = (scales[group + 4] as u8, mins[group + 4]);
        bytes[group] = scale & 63 | (later_scale >> 4) << 6;
        bytes[group + 4] = min & 63 | (later_min >> 4) << 6;
        bytes[group + 8] = later_scale & 15 | later_min << 4;
    }
}

fn six_bits(quants: &[u8], block: &mut [u8]) {
    for (half, quants) in quants.chunks_exact(128).enumerate() {
        for index in 0..32 {
            let [a, b, c, d] = std::array::from_fn(|quarter| quants[32 * quarter + index]);
            block[64 * half + index] = a & 15 | (c & 15) << 4;
            block[64 * half + 32 + index] = b & 15 | (d & 15) << 4;
            block[128 + 32 * half + index] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (d >> 4) << 6;
        }
    }
}
