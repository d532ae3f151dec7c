// SPDX-License-Identifier: EUPL-1.2
//! Products with a large operand as it lies in memory, a piece of each row to a head, that ask for what comes next.

use std::arch::asm;

use super::{Config, Matrix, ROW, SIDE};

/// Products of [`SIDE`] rows with a few columns, of several heads: of each head the rows have a piece, which follows
/// that of the head before, and the columns are its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadsProduct {
    pub(crate) first: Matrix<*const u8>,
    /// Head by head, a row of `columns` words for each step.
    pub(crate) second: *const u8,
    /// Of each head: up to [`SIDE`].
    pub(crate) columns: usize,
    /// At least one.
    pub(crate) heads: usize,
    /// Tiles along the inner axis, [`SIDE`] steps each: at least one.
    pub(crate) tiles: usize,
    /// Row by row, the columns of all heads beside each other.
    pub(crate) sums: Matrix<*mut u8>,
    pub(crate) ahead: HeadsAhead,
}

/// What is asked for meanwhile, into the second cache: [`SIDE`] lines for each tile of the large operand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadsAhead {
    /// It need not be valid.
    pub(crate) at: *const u8,
    /// Bytes from one line to the next.
    pub(crate) stride: usize,
    /// Bytes from a tile's first line to the next one's.
    pub(crate) step: usize,
}

/// Products of bf16, summed in f32.
///
/// # Safety
/// The tiles [are available](are_available). There are so many rows, columns and heads of the operands, and room for
/// the sums, which are written.
pub(crate) unsafe fn multiply_heads_bf16(part: HeadsProduct) {
    let HeadsProduct { first, second, columns, heads, tiles, sums, ahead } = part;
    debug_assert!(heads > 0 && tiles > 0 && (1..=SIDE).contains(&columns));
    let mut config = Config::new([SIDE; 8]);
    for tile in [0, 2] {
        config.row_bytes[tile] = (4 * columns) as u16;
    }
    // SAFETY: the caller's promise; to ask for a line is to touch no memory.
    unsafe {
        asm!(
            "ldtilecfg [{left}]",
            "2:",
            "tilezero tmm0",
            "mov {left}, {tiles}",
            "3:",
            "tileloadd tmm1, [{first} + {first_stride}*1]",
            "tileloadd tmm2, [{second} + {columns}*1]",
            ".rept 16",
            "prefetcht1 [{ahead}]",
            "add {ahead}, {ahead_stride}",
            ".endr",
            "tdpbf16ps tmm0, tmm1, tmm2",
            "add {first}, 64",
            "lea {second}, [{second} + {columns}*8]",
            "lea {second}, [{second} + {columns}*8]",
            "add {ahead}, {ahead_skip}",
            "dec {left}",
            "jnz 3b",
            "tilestored [{sums} + {sums_stride}*1], tmm0",
            "add {sums}, {columns}",
            "dec {heads}",
            "jnz 2b",
            "tilerelease",
            // The configuration at first.
            left = inout(reg) &raw const config => _,
            tiles = in(reg) tiles,
            first = inout(reg) first.at => _,
            first_stride = in(reg) first.stride,
            second = inout(reg) second => _,
            // Bytes of them.
            columns = in(reg) 4 * columns,
            heads = inout(reg) heads => _,
            sums = inout(reg) sums.at => _,
            sums_stride = in(reg) sums.stride,
            ahead = inout(reg) ahead.at => _,
            ahead_stride = in(reg) ahead.stride,
            ahead_skip = in(reg) ahead.step.wrapping_sub(SIDE * ahead.stride),
            out("tmm0") _, out("tmm1") _, out("tmm2") _,
            options(nostack),
        );
    }
}

/// Products of a few rows with words that lie as numbers do, two columns to a word: of each head, rows of its own with
/// columns that follow those of the head before. Where a word of the first operand has a number in its first half, and
/// zero in the second, its row's sums are those of the even columns; else of the odd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainProduct {
    /// Of each head two tiles, [`SIDE`] rows each, row behind row.
    pub(crate) first: *const u8,
    /// Up to [`SIDE`].
    pub(crate) rows: usize,
    /// Steps of the first tile and of the second, [`SIDE`] rows each.
    pub(crate) second: [*const u8; 2],
    /// Bytes from one step to the next.
    pub(crate) stride: usize,
    /// Tiles across a head: at least one.
    pub(crate) tiles: usize,
    /// At least one.
    pub(crate) heads: usize,
    /// Tile by tile of so many rows.
    pub(crate) sums: *mut u8,
    pub(crate) ahead: HeadsAhead,
    /// As [`HeadsAhead::at`], for each second tile.
    pub(crate) ahead_too: *const u8,
}

/// Products of bf16, summed in f32: the second tile's are added to the first's.
///
/// # Safety
/// The tiles [are available](are_available). There is so much of the operands, and room for the sums, which are
/// written.
pub(crate) unsafe fn multiply_plain_bf16(part: PlainProduct) {
    /// What does not fit in registers.
    #[repr(C, align(64))]
    struct Frame {
        config: Config,
        tiles: usize,
        /// Bytes of a tile of sums.
        tile: usize,
        /// Bytes from behind what was asked for to what is asked for next.
        skip: usize,
    }

    let PlainProduct { first, rows, second, stride, tiles, heads, sums, ahead, ahead_too } = part;
    debug_assert!(heads > 0 && tiles > 0 && (1..=SIDE).contains(&rows));
    let config = Config::new([rows, rows, rows, SIDE, SIDE, SIDE, SIDE, SIDE]);
    let frame = Frame { config, tiles, tile: rows * ROW, skip: ahead.step.wrapping_sub(SIDE * ahead.stride) };
    // SAFETY: the caller's promise; to ask for a line is to touch no memory.
    unsafe {
        asm!(
            "ldtilecfg [{frame}]",
            "2:",
            "tileloadd tmm1, [{first} + {row}*1]",
            "tileloadd tmm2, [{first} + {row}*1 + 1024]",
            "mov {left}, qword ptr [{frame} + {tiles}]",
            "3:",
            "tilezero tmm0",
            "tileloadd tmm3, [{second} + {stride}*1]",
            ".rept 16",
            "prefetcht1 [{ahead}]",
            "add {ahead}, {ahead_stride}",
            ".endr",
            "tileloadd tmm4, [{second2} + {stride}*1]",
            ".rept 16",
            "prefetcht1 [{ahead2}]",
            "add {ahead2}, {ahead_stride}",
            ".endr",
            "tdpbf16ps tmm0, tmm1, tmm3",
            "tdpbf16ps tmm0, tmm2, tmm4",
            "add {second}, 64",
            "add {second2}, 64",
            "add {ahead}, qword ptr [{frame} + {skip}]",
            "add {ahead2}, qword ptr [{frame} + {skip}]",
            "tilestored [{sums} + {row}*1], tmm0",
            "add {sums}, qword ptr [{frame} + {tile}]",
            "dec {left}",
            "jnz 3b",
            "add {first}, 2048",
            "dec {heads}",
            "jnz 2b",
            "tilerelease",
            frame = in(reg) &raw const frame,
            tiles = const std::mem::offset_of!(Frame, tiles),
            tile = const std::mem::offset_of!(Frame, tile),
            skip = const std::mem::offset_of!(Frame, skip),
            left = out(reg) _,
            first = inout(reg) first => _,
            row = in(reg) ROW,
            second = inout(reg) second[0] => _,
            second2 = inout(reg) second[1] => _,
            stride = in(reg) stride,
            heads = inout(reg) heads => _,
            sums = inout(reg) sums => _,
            ahead = inout(reg) ahead.at => _,
            ahead2 = inout(reg) ahead_too => _,
            ahead_stride = in(reg) ahead.stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::tests::{check, expected, numbers};
    use super::super::{PANEL, are_available};
    use super::*;

    #[test]
    fn heads_meet_their_own_columns_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        let (heads, tiles) = (3, 2);
        let depth = tiles * PANEL;
        let first = numbers(SIDE * heads * depth, 3);
        for columns in [1, 3, 8] {
            let second = numbers(heads * columns * depth, 5);
            let mut sums = vec![0.5; SIDE * SIDE * heads];
            let apart = SIDE * heads;
            let part = HeadsProduct {
                first: Matrix { at: first.as_ptr().cast(), stride: 2 * heads * depth },
                second: second.as_ptr().cast(),
                columns,
                heads,
                tiles,
                sums: Matrix { at: sums.as_mut_ptr().cast(), stride: 4 * apart },
                ahead: HeadsAhead { at: first.as_ptr().cast(), stride: ROW, step: 0 },
            };
            // SAFETY: they are available, and the operands are as long as they should be.
            unsafe { multiply_heads_bf16(part) }
            for (i, found) in sums.into_iter().enumerate() {
                let (row, head, column) = (i / apart, i % apart / columns, i % apart % columns);
                let at = |k: usize| ((head * depth + k) / 2 * columns + column) * 2 + k % 2;
                let wanted = if head < heads {
                    let second: Vec<bf16> = (0..depth).map(|k| second[at(k)]).collect();
                    expected(&first[(row * heads + head) * depth..], &second, 0.0)
                } else {
                    0.5
                };
                check(found, wanted, [columns, row, i % apart]);
            }
        }
    }

    #[test]
    fn rows_meet_either_half_of_words_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        let (heads, tiles, rows) = (2, 3, 4);
        let width = heads * tiles * PANEL;
        let second = numbers(2 * SIDE * width, 5);
        let weights = numbers(heads * 2 * SIDE * SIDE, 3);
        // Every other row meets first halves, the others second ones.
        let words: Vec<[bf16; 2]> = weights
            .iter()
            .enumerate()
            .map(|(i, &w)| if (i / SIDE).is_multiple_of(2) { [w, bf16::ZERO] } else { [bf16::ZERO, w] })
            .collect();
        let mut sums = vec![0.5f32; heads * tiles * rows * SIDE];
        let part = PlainProduct {
            first: words.as_ptr().cast(),
            rows,
            second: [second.as_ptr().cast(), second[SIDE * width..].as_ptr().cast()],
            stride: 2 * width,
            tiles,
            heads,
            sums: sums.as_mut_ptr().cast(),
            ahead: HeadsAhead { at: second.as_ptr().cast(), stride: ROW, step: 0 },
            ahead_too: second.as_ptr().cast(),
        };
        // SAFETY: they are available, and the operands are as long as they should be.
        unsafe { multiply_plain_bf16(part) }
        for (i, found) in sums.into_iter().enumerate() {
            let (tile, row, word) = (i / (rows * SIDE), i / SIDE % rows, i % SIDE);
            let term = |k: usize| {
                let weight = weights[(tile / tiles * 2 * SIDE + k / SIDE * SIDE + row) * SIDE + k % SIDE];
                f64::from(weight.to_f32()) * f64::from(second[k * width + tile * PANEL + 2 * word + row % 2].to_f32())
            };
            check(found, (0..2 * SIDE).map(term).sum(), [tile, row, word]);
        }
    }
}
