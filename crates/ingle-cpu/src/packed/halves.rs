// SPDX-License-Identifier: EUPL-1.2
//! Quantised weights that become bf16 on the way to the tiles of AMX ([`crate::simd::tiles::quants`]), and their scales.
//!
//! On the way weights are f16, whose range is small. So the scales of a row are stored as f16 that are some power of two
//! larger, as large as they and their offsets can be, and a panel begins with what takes it back: a multiplier for each
//! row. Scales of f16 and bf16 stay as exact as they were, unless some 2^29 times smaller than the row's largest; offsets,
//! unless 2^17 times smaller than that. A row that has a scale which is not finite has NaN for a multiplier.

use std::array;

use half::{bf16, f16};
use ingle_tensor::{DType, GroupForm, Offsets};

use super::PANEL;
use super::groups::{Block, GroupPanels};
use crate::kernels::matmul::Operand;
use crate::number::Number;
use crate::simd::tiles::quants::{OFFSET, are_available};
use crate::simd::{Isa, Simd};

/// Bytes of the multipliers that a panel begins with.
pub(super) const MULTIPLIERS: usize = PANEL * size_of::<bf16>();

/// The exponent of the largest scale of a row.
const LARGEST: i32 = 15;

/// Whether weights of this form with such scales become bf16 on the way.
pub(super) fn suits(form: &GroupForm, scales: DType, isa: Isa) -> bool {
    isa == Isa::Amx
        && are_available()
        && matches!(form.bits, 4 | 8)
        && form.group_size >= 32
        && form.codebook.is_none()
        && matches!(scales, DType::F16 | DType::BF16)
}

/// The multipliers of a panel's rows.
pub(crate) fn multipliers(panel: &[u8]) -> &[bf16; PANEL] {
    bytemuck::from_bytes(&panel[..MULTIPLIERS])
}

/// Makes a panel's scales and offsets, which are there as they were stored, what this module says, and writes the
/// multipliers.
///
/// # Safety
/// Below `dispatch`.
#[inline(always)]
pub(super) unsafe fn enlarge<S: Simd, T: Operand + Number<Wide = f32>>(panels: &GroupPanels, panel: &mut [u8]) {
    let offsets_from = |block: &Block| match panels.form.offsets {
        Offsets::None => block.header,
        Offsets::PerGroup => block.header / 2,
    };
    // The bits of magnitudes are in their order, infinity and NaN last.
    let mut largest = [[0u16; PANEL]; 2];
    for block in panels.blocks() {
        let (scales, offsets) = panel[block.start..][..block.header].split_at(offsets_from(&block));
        for (numbers, largest) in [scales, offsets].into_iter().zip(&mut largest) {
            for numbers in numbers.chunks_exact(MULTIPLIERS) {
                for (largest, bits) in largest.iter_mut().zip(numbers.chunks_exact(2)) {
                    *largest = (u16::from_le_bytes([bits[0], bits[1]]) & 0x7fff).max(*largest);
                }
            }
        }
    }
    let exponents: [Option<i32>; PANEL] = array::from_fn(|row| {
        let [scale, offset] = [0, 1].map(|which| bytemuck::cast::<u16, T>(largest[which][row]).widen());
        let room = |number: f32| (number > 0.0).then(|| LARGEST - number.log2().floor() as i32);
        let exponent = match [room(scale), room(offset).map(|exponent| exponent - OFFSET)] {
            [Some(scale), Some(offset)] => scale.min(offset),
            [one, other] => one.or(other).unwrap_or(0),
        };
        (scale.is_finite() && offset.is_finite()).then(|| exponent.clamp(-112, 120))
    });
    for (exponent, multiplier) in exponents.iter().zip(panel.chunks_exact_mut(2)) {
        let smaller = exponent.map_or(f32::NAN, |exponent| f32::exp2(-exponent as f32));
        multiplier.copy_from_slice(&bf16::from_f32(smaller).to_le_bytes());
    }
    let larger = |beside: i32| exponents.map(|exponent| f32::exp2((exponent.unwrap_or(0) + beside) as f32));
    for block in panels.blocks() {
        let (scales, offsets) = panel[block.start..][..block.header].split_at_mut(offsets_from(&block));
        for (numbers, larger) in [(scales, larger(0)), (offsets, larger(OFFSET))] {
            for numbers in numbers.chunks_exact_mut(MULTIPLIERS) {
                let mut wide = [0.0; PANEL];
                for lane in (0..PANEL).step_by(S::LANES) {
                    // SAFETY: below `dispatch`, and in bounds; numbers are aligned as panels and blocks are.
                    unsafe {
                        let number = T::load::<S>(numbers[2 * lane..].as_ptr().cast());
                        S::store(wide[lane..].as_mut_ptr(), S::mul(number, S::load(larger[lane..].as_ptr())));
                    }
                }
                let mut narrow = [f16::ZERO; PANEL];
                f16::narrow_all(&wide, &mut narrow);
                numbers.copy_from_slice(bytemuck::cast_slice(&narrow));
            }
        }
    }
}

/// Scales and offsets as they were before [`enlarge`], of groups of a panel.
pub(super) fn as_they_were(panel: &[u8], scales: &mut [f32], offsets: &mut [f32]) {
    let multipliers = multipliers(panel);
    for (numbers, exponent) in [(scales, 0), (offsets, -OFFSET)] {
        for numbers in numbers.chunks_exact_mut(PANEL) {
            for (number, multiplier) in numbers.iter_mut().zip(multipliers) {
                *number *= multiplier.to_f32() * f32::exp2(exponent as f32);
            }
        }
    }
}
