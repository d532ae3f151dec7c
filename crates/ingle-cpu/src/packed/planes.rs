// SPDX-License-Identifier: EUPL-1.2
//! Quants of fewer than 8 bits as planes of 4, 2 and 1 bits, and back.
//!
//! The numbers that share a byte lie far apart in the order of [`super::groups`], so that shifts and masks of whole
//! registers put them back into it.

use super::groups::SUB_QUANTS;
use crate::simd::Simd;

/// The widths of the planes that quants are cut into, lowest bits first.
#[inline(always)]
fn planes(bits: usize) -> &'static [usize] {
    match bits {
        2 => &[2],
        3 => &[2, 1],
        4 => &[4],
        5 => &[4, 1],
        6 => &[4, 2],
        _ => &[8],
    }
}

/// A sub-block's quants, in order, to planes one after another.
#[inline(always)]
pub(super) fn split_planes(bits: usize, quants: &[u8], out: &mut [u8]) {
    match bits {
        2 => split_plane::<2, 0>(quants, out),
        3 => {
            split_plane::<2, 0>(quants, out);
            split_plane::<1, 2>(quants, &mut out[SUB_QUANTS / 4..]);
        }
        4 => split_plane::<4, 0>(quants, out),
        5 => {
            split_plane::<4, 0>(quants, out);
            split_plane::<1, 4>(quants, &mut out[SUB_QUANTS / 2..]);
        }
        6 => {
            split_plane::<4, 0>(quants, out);
            split_plane::<2, 4>(quants, &mut out[SUB_QUANTS / 2..]);
        }
        _ => out.copy_from_slice(quants),
    }
}

/// The `WIDTH` bits from `SHIFT` on of each quant.
#[inline(always)]
fn split_plane<const WIDTH: usize, const SHIFT: usize>(quants: &[u8], out: &mut [u8]) {
    let length = SUB_QUANTS * WIDTH / 8;
    let mask = ((1u16 << WIDTH) - 1) as u8;
    let (out, quants) = (&mut out[..length], &quants[..SUB_QUANTS]);
    for (i, to) in out.iter_mut().enumerate() {
        let mut byte = 0;
        for place in 0..8 / WIDTH {
            byte |= ((quants[place * length + i] >> SHIFT) & mask) << (place * WIDTH);
        }
        *to = byte;
    }
}

/// [`split_planes`] undone.
///
/// # Safety
/// Below `dispatch`; `packed` holds the planes of a sub-block, and `quants` all its quants.
#[inline(always)]
pub(crate) unsafe fn join_planes<S: Simd>(bits: usize, packed: *const u8, quants: *mut u8) {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        match bits {
            2 => join_plane::<S, 2, 0>(packed, quants),
            3 => {
                join_plane::<S, 2, 0>(packed, quants);
                join_plane::<S, 1, 2>(packed.add(SUB_QUANTS / 4), quants);
            }
            4 => join_plane::<S, 4, 0>(packed, quants),
            5 => {
                join_plane::<S, 4, 0>(packed, quants);
                join_plane::<S, 1, 4>(packed.add(SUB_QUANTS / 2), quants);
            }
            6 => {
                join_plane::<S, 4, 0>(packed, quants);
                join_plane::<S, 2, 4>(packed.add(SUB_QUANTS / 2), quants);
            }
            _ => quants.copy_from_nonoverlapping(packed, SUB_QUANTS),
        }
    }
}

/// Sets the bits from `SHIFT` on of each quant.
///
/// # Safety
/// As of [`join_planes`].
#[inline(always)]
unsafe fn join_plane<S: Simd, const WIDTH: usize, const SHIFT: usize>(packed: *const u8, quants: *mut u8) {
    let length = SUB_QUANTS * WIDTH / 8;
    for line in (0..length).step_by(64) {
        // SAFETY: the caller's promise, passed on.
        unsafe { S::spread::<WIDTH, SHIFT>(packed.add(line), quants.add(line), length) }
    }
}

/// One quant of a sub-block.
#[inline(always)]
pub(super) fn quant_at(bits: usize, packed: &[u8], index: usize) -> u8 {
    let (mut shift, mut start, mut quant) = (0, 0, 0);
    for &width in planes(bits) {
        let length = SUB_QUANTS * width / 8;
        let mask = ((1u16 << width) - 1) as u8;
        quant |= ((packed[start + index % length] >> (index / length * width)) & mask) << shift;
        (shift, start) = (shift + width, start + length);
    }
    quant
}

#[cfg(test)]
mod tests {
    use ingle_tensor::Quantization;

    use super::*;
    use crate::simd::{Isa, Kernel};

    struct Join<'a> {
        bits: usize,
        packed: &'a [u8],
        quants: &'a mut [u8],
    }

    impl Kernel for Join<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            // SAFETY: both hold a sub-block.
            unsafe { join_planes::<S>(self.bits, self.packed.as_ptr(), self.quants.as_mut_ptr()) }
        }
    }

    #[test]
    fn planes_join_what_they_split_good() {
        for bits in Quantization::AFFINE_BITS {
            let quants: Vec<u8> = (0..SUB_QUANTS).map(|i| ((i * 37 + i / 64) % (1 << bits)) as u8).collect();
            let mut planes = vec![0xff; SUB_QUANTS * bits / 8];
            split_planes(bits, &quants, &mut planes);
            let mut joined = vec![0xff; SUB_QUANTS];
            Isa::best().dispatch(Join { bits, packed: &planes, quants: &mut joined });
            assert_eq!(joined, quants, "{bits} bits");
            assert!((0..SUB_QUANTS).all(|i| quant_at(bits, &planes, i) == quants[i]), "{bits} bits, one by one");
        }
    }
}
