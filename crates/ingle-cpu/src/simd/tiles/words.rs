// SPDX-License-Identifier: EUPL-1.2
//! Products of tiles of bytes with words of 16 bits, whose low and high bytes are operands of their own: sums of 32-bit
//! integers, which are exact.

use std::arch::asm;

use super::quads::{Configured, GroupSums, STEP, SUMS, SUMS_ROW, TILE};
use super::{ROW, SIDE};

/// The products of the rows with [`COLUMNS`](super::quads::COLUMNS) columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WordProduct {
    /// Signed bytes, [`ROW`] of each of [`SIDE`] rows, and the next ones of each behind.
    pub(crate) first: *const u8,
    /// Steps of four low bytes of each column, one behind the other.
    pub(crate) low: *const u8,
    /// Of the high bytes as well.
    pub(crate) high: *const u8,
    /// Bytes of a row, over [`ROW`].
    pub(crate) tiles: usize,
    /// What is overwritten.
    pub(crate) sums: *mut WordSums,
}

/// The sums of each row and column with the low bytes, and with the high ones.
pub(crate) type WordSums = [GroupSums; 2];

impl Configured {
    /// Computes the sums.
    ///
    /// # Safety
    /// The tiles are configured for groups of [`ROW`] bytes or more. As many rows as configured are there of the first
    /// operand, and [`COLUMNS`](super::quads::COLUMNS) of the others; all hold that many tiles, at least one. There is room for the sums.
    #[inline(always)]
    pub(crate) unsafe fn multiply_words(&self, part: WordProduct) {
        // SAFETY: the caller vouches for the operands and sums, and that the tiles are configured.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{first} + {first_stride}*1]",
                "tileloadd tmm5, [{low} + {stride}*1]",
                "tdpbsud tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{low} + {stride}*1 + 64]",
                "tdpbsud tmm1, tmm4, tmm6",
                "tileloadd tmm5, [{high} + {stride}*1]",
                "tdpbssd tmm2, tmm4, tmm5",
                "tileloadd tmm6, [{high} + {stride}*1 + 64]",
                "tdpbssd tmm3, tmm4, tmm6",
                "add {first}, {next}",
                "add {low}, {tile}",
                "add {high}, {tile}",
                "dec {tiles}",
                "jnz 2b",
                "tilestored [{sums} + {sums_stride}*1], tmm0",
                "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
                "tilestored [{sums} + {sums_stride}*1 + {others}], tmm2",
                "tilestored [{sums} + {sums_stride}*1 + {others} + 64], tmm3",
                first = inout(reg) part.first => _,
                first_stride = in(reg) ROW,
                low = inout(reg) part.low => _,
                high = inout(reg) part.high => _,
                stride = in(reg) STEP,
                tiles = inout(reg) part.tiles => _,
                sums = in(reg) part.sums,
                sums_stride = in(reg) SUMS_ROW,
                tile = const TILE,
                next = const SIDE * ROW,
                others = const SUMS,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _,
                options(nostack),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::are_available;
    use super::super::quads::COLUMNS;
    use super::*;

    #[test]
    fn words_are_their_low_and_high_bytes_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        let word = |i: usize| (i * 7919 % 65_521) as u16 as i16;
        for tiles in [1, 4] {
            let k = tiles * ROW;
            let first: Vec<u8> = (0..SIDE * k).map(|i| (i * 31 % 251) as u8).collect();
            let low: Vec<u8> = (0..COLUMNS * k).map(|i| word(i).to_le_bytes()[0]).collect();
            let high: Vec<u8> = (0..COLUMNS * k).map(|i| word(i).to_le_bytes()[1]).collect();
            // SAFETY: they are available, and no test uses them otherwise meanwhile on this thread.
            let mut configured = unsafe { Configured::new(SIDE, ROW) };
            for rows in [SIDE, 7, 1] {
                configured.set_rows(rows);
                let mut sums: WordSums = [[[i32::MIN; COLUMNS]; SIDE]; 2];
                let [first, low, high] = [&first, &low, &high].map(|operand| operand.as_ptr());
                // SAFETY: the operands are as long as they should be.
                unsafe { configured.multiply_words(WordProduct { first, low, high, tiles, sums: &mut sums }) };
                let places = (0..SIDE).flat_map(|row| (0..COLUMNS).map(move |c| (row, c)));
                for (row, c) in places {
                    if row >= rows {
                        assert_eq!([sums[0][row][c], sums[1][row][c]], [i32::MIN; 2], "row {row} of {rows}");
                        continue;
                    }
                    let term = |i: usize| {
                        let at = (i / ROW * SIDE + row) * ROW + i % ROW;
                        i32::from((at * 31 % 251) as u8 as i8) * i32::from(word(i / 4 * STEP + 4 * c + i % 4))
                    };
                    let expected: i32 = (0..k).map(term).sum();
                    let found = sums[0][row][c] + (sums[1][row][c] << 8);
                    assert_eq!(found, expected, "{tiles} tiles, {rows} rows: [{row}, {c}]");
                }
            }
        }
    }
}
