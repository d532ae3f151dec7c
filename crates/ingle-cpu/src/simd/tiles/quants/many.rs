// SPDX-License-Identifier: EUPL-1.2
//! Products of many rows with quants that have become bf16.

use std::arch::asm;

use super::super::{Config, Own, ROW, SIDE};
use super::{COLUMNS, TILE};

/// Steps whose weights are made bf16 at a time, at most.
pub(crate) const STEPS: usize = 8;

/// Weights of some steps as bf16: for each 16 columns the tiles of the steps one behind the other, so that the first
/// cache holds all of them beside the rows that come.
#[repr(C, align(64))]
pub(crate) struct Unpacked([[[u8; TILE]; STEPS]; COLUMNS / SIDE]);

impl Unpacked {
    pub(crate) const EMPTY: Unpacked = Unpacked([[[0; TILE]; STEPS]; COLUMNS / SIDE]);
}

/// The products of two tiles of rows at a time with weights that are bf16 already.
pub(crate) struct Many {
    _own: Own,
}

impl Many {
    /// # Safety
    /// The instructions [are available](are_available), and nothing else on this thread uses tiles as long as this lives.
    pub(crate) unsafe fn new() -> Many {
        // SAFETY: the caller's promise, passed on.
        let mut own = unsafe { Own::new() };
        own.configure(&Config::new([SIDE; 8]));
        Many { _own: own }
    }

    /// The products of 32 rows with the weights of `steps`: of the first 16 rows there is a tile for each step from
    /// `first` on, and of the others from `apart` on. If it `adds`, it does to the `sums`, [`COLUMNS`] for each row.
    ///
    /// # Safety
    /// The tiles and so many steps of weights are there, and room for the sums.
    pub(crate) unsafe fn multiply(
        &mut self,
        [first, apart]: [*const u8; 2],
        weights: &Unpacked,
        steps: usize,
        (sums, adds): (*mut f32, bool),
    ) {
        debug_assert!((1..=STEPS).contains(&steps));
        for half in 0..2 {
            let weights = weights.0[2 * half..].as_ptr();
            let sums = sums.wrapping_add(half * 2 * SIDE);
            // SAFETY: the caller's promise; the tiles are configured as long as this lives.
            unsafe {
                asm!(
                    "test {adds:e}, {adds:e}",
                    "jnz 2f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 3f",
                    "2:",
                    "tileloadd tmm0, [{sums} + {sums_row}*1]",
                    "tileloadd tmm1, [{sums} + {sums_row}*1 + 64]",
                    "tileloadd tmm2, [{sums2} + {sums_row}*1]",
                    "tileloadd tmm3, [{sums2} + {sums_row}*1 + 64]",
                    "3:",
                    "tileloadd tmm4, [{first} + {row}*1]",
                    "tileloadd tmm6, [{weights} + {row}*1]",
                    "tileloadd tmm7, [{weights} + {row}*1 + 8192]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{first2} + {row}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {first}, 1024",
                    "add {first2}, 1024",
                    "add {weights}, 1024",
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{sums} + {sums_row}*1], tmm0",
                    "tilestored [{sums} + {sums_row}*1 + 64], tmm1",
                    "tilestored [{sums2} + {sums_row}*1], tmm2",
                    "tilestored [{sums2} + {sums_row}*1 + 64], tmm3",
                    adds = in(reg) u32::from(adds),
                    sums = in(reg) sums,
                    sums2 = in(reg) sums.wrapping_add(SIDE * COLUMNS),
                    sums_row = in(reg) COLUMNS * size_of::<f32>(),
                    row = in(reg) ROW,
                    first = inout(reg) first => _,
                    first2 = inout(reg) apart => _,
                    weights = inout(reg) weights => _,
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}
