// SPDX-License-Identifier: EUPL-1.2
//! Quantised matrices: the formats, and what each stored row stands for.
//!
//! However a format packs its bits, a weight is `scale · (quant − zero) + offset`, with a scale (and perhaps an
//! offset) for each group of neighbours in a row. [`Quantization::unpack_row`] brings any format to that form,
//! which is the specification of [`Op::Dequantize`](crate::Op::Dequantize) and where every kernel starts from.

mod blocks;

pub use blocks::{BlockFormat, SuperScales};

/// How a matrix is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// MLX's: `bits` for each weight, packed from the lowest bit of each 32-bit word upwards, and beside them a
    /// scale and an offset for each group of a row.
    Affine {
        /// 2, 3, 4, 5, 6 or 8.
        bits: usize,
        /// 32, 64 or 128.
        group_size: usize,
    },
    /// GGUF's: blocks that hold their scales themselves.
    Blocks(BlockFormat),
}

/// What a format's groups have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupForm {
    /// Bits of a quant, before any [`GroupForm::codebook`].
    pub bits: usize,
    /// Neighbours in a row that share a scale.
    pub group_size: usize,
    /// The quant that stands for zero.
    pub zero: u8,
    /// Whether groups have offsets.
    pub offsets: Offsets,
    /// What each quant of 4 bits stands for, if not itself.
    pub codebook: Option<&'static [u8; 16]>,
}

/// Whether a format's groups have offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offsets {
    /// Every offset is 0.
    None,
    /// Each group has one.
    PerGroup,
}

/// A row in plain form, to be filled: `k` quants and, for each group, its scale and offset.
#[derive(Debug)]
pub struct UnpackedRow<'a> {
    /// One byte for each weight.
    pub quants: &'a mut [u8],
    /// One for each group.
    pub scales: &'a mut [f32],
    /// One for each group.
    pub offsets: &'a mut [f32],
}

impl Quantization {
    /// The bits of MLX's format.
    pub const AFFINE_BITS: [usize; 6] = [2, 3, 4, 5, 6, 8];

    /// The group sizes of MLX's format.
    pub const AFFINE_GROUPS: [usize; 3] = [32, 64, 128];

    /// What its groups have in common.
    #[inline]
    pub fn form(self) -> GroupForm {
        match self {
            Quantization::Affine { bits, group_size } => {
                GroupForm { bits, group_size, zero: 0, offsets: Offsets::PerGroup, codebook: None }
            }
            Quantization::Blocks(format) => format.form(),
        }
    }

    /// Weights that are packed together: a row is a whole number of these.
    #[inline]
    pub fn block_len(self) -> usize {
        match self {
            Quantization::Affine { group_size, .. } => group_size,
            Quantization::Blocks(format) => format.block_len(),
        }
    }

    /// Bytes that [`Quantization::block_len`] weights take, scales and offsets apart for
    /// [`Quantization::Affine`].
    #[inline]
    pub fn block_bytes(self) -> usize {
        match self {
            Quantization::Affine { bits, group_size } => bits * group_size / 8,
            Quantization::Blocks(format) => format.block_bytes(),
        }
    }

    /// Bytes of a row of `k` weights; `None` if `k` is no multiple of [`Quantization::block_len`].
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        (k.is_multiple_of(self.block_len())).then(|| k / self.block_len())?.checked_mul(self.block_bytes())
    }

    /// Unpacks a row. Of [`Quantization::Affine`], whose scales and offsets lie elsewhere, only the quants are
    /// written. Bytes that are missing leave their weights as they were.
    #[inline]
    pub fn unpack_row(self, packed: &[u8], row: UnpackedRow<'_>) {
        match self {
            Quantization::Affine { bits, .. } => unpack_bits(bits, packed, row.quants),
            Quantization::Blocks(format) => format.unpack_row(packed, row),
        }
    }

    /// The quants of whole blocks of a row, as [`Quantization::unpack_row`] gives them. It becomes part of who calls
    /// it, and so is compiled for whatever instruction set that is.
    #[inline(always)]
    pub fn unpack_quants(self, packed: &[u8], quants: &mut [u8]) {
        match self {
            Quantization::Affine { bits, .. } => unpack_bits(bits, packed, quants),
            Quantization::Blocks(format) => format.unpack_quants(packed, quants),
        }
    }

    /// The weights that an unpacked row stands for.
    pub fn weights<'a>(self, row: &'a UnpackedRow<'_>) -> impl Iterator<Item = f32> + 'a {
        let GroupForm { group_size, zero, codebook, .. } = self.form();
        row.quants.iter().enumerate().map(move |(i, &quant)| {
            let value = codebook.map_or(quant, |codebook| codebook[usize::from(quant & 15)]);
            let group = i / group_size;
            row.scales[group] * (f32::from(value) - f32::from(zero)) + row.offsets[group]
        })
    }
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantization::Affine { bits, group_size } => write!(f, "{bits}-bit, groups of {group_size}"),
            Quantization::Blocks(format) => f.write_str(format.name()),
        }
    }
}

/// Numbers of `bits` each, from the lowest bit of the first byte upwards.
#[inline(always)]
fn unpack_bits(bits: usize, packed: &[u8], quants: &mut [u8]) {
    if bits == 8 {
        quants.iter_mut().zip(packed).for_each(|(quant, byte)| *quant = *byte);
        return;
    }
    if bits == 4 {
        for (pair, byte) in quants.chunks_exact_mut(2).zip(packed) {
            (pair[0], pair[1]) = (byte & 15, byte >> 4);
        }
        return;
    }
    let mask = ((1u16 << bits) - 1) as u8;
    // Eight numbers take `bits` bytes, whatever `bits` is.
    for (eight, packed) in quants.chunks_mut(8).zip(packed.chunks(bits.max(1))) {
        let mut bytes = [0; 8];
        bytes[..packed.len()].copy_from_slice(packed);
        let word = u64::from_le_bytes(bytes);
        for (i, quant) in eight.iter_mut().enumerate() {
            *quant = (word >> (i * bits)) as u8 & mask;
        }
    }
}

#[cfg(test)]
mod tests;
