// SPDX-License-Identifier: EUPL-1.2
//! Products of many rows with 64 columns, which lie tile by tile.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Config, Matrix, Own, ROW, SIDE};

/// Numbers of a row, or of a column, that a tile takes at a time.
pub(crate) const DEPTH: usize = ROW / 2;

/// Bytes of a tile.
pub(crate) const TILE: usize = SIDE * ROW;

/// Columns that are multiplied.
pub(crate) const COLUMNS: usize = 4 * SIDE;

/// Steps of [`DEPTH`] that are laid out at a time, at most.
pub(crate) const STEPS: usize = 8;

/// Some steps of [`COLUMNS`] columns as bf16: for each 16 columns the tiles of the steps one behind the other, so that the
/// first cache holds all of them beside the rows that come.
#[repr(C, align(64))]
pub(crate) struct Unpacked([[[[u32; SIDE]; SIDE]; STEPS]; COLUMNS / SIDE]);

impl Unpacked {
    pub(crate) const EMPTY: Unpacked = Unpacked([[[[0; SIDE]; SIDE]; STEPS]; COLUMNS / SIDE]);

    pub(crate) fn columns(&self) -> Columns {
        Columns { at: self.0.as_ptr().cast(), row: ROW, tile: STEPS * TILE, step: TILE }
    }

    /// Lays out pairs of columns that lie beside each other, those of the next step behind them. What the last tile lacks
    /// becomes zero: its products change no sum, but for the sign of one that is still zero.
    ///
    /// # Panics
    /// If there are more than [`STEPS`] tiles' pairs.
    ///
    /// # Safety
    /// The machine has tiles, and so AVX-512.
    #[target_feature(enable = "avx512f")]
    pub(crate) unsafe fn lay_out(&mut self, pairs: &[[u32; COLUMNS]]) {
        let steps = pairs.len().div_ceil(SIDE);
        assert!(steps <= STEPS, "more pairs than there is room for");
        for (step, tile) in pairs.chunks(SIDE).enumerate() {
            for (row, pair) in tile.iter().enumerate() {
                for column in 0..COLUMNS / SIDE {
                    let to = self.0[column][step][row].as_mut_ptr();
                    // SAFETY: there are so many columns of a pair and of the tiles, which are aligned.
                    unsafe {
                        let from = pair.as_ptr().add(column * SIDE);
                        _mm512_store_si512(to.cast(), _mm512_loadu_si512(from.cast()));
                    }
                }
            }
            for row in tile.len()..SIDE {
                for column in &mut self.0 {
                    column[step][row] = [0; SIDE];
                }
            }
        }
    }
}

/// Some steps of [`COLUMNS`] columns: where the first tile begins, and bytes from there on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    pub(crate) at: *const u8,
    /// To the tile's next row, which is the next two numbers of its columns.
    pub(crate) row: usize,
    /// To the next 16 columns.
    pub(crate) tile: usize,
    /// To the next step.
    pub(crate) step: usize,
}

/// What is asked for meanwhile, into the second cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) at: *const u8,
    /// Cache lines for each step, of each half of the columns.
    pub(crate) lines: usize,
}

/// The products of two tiles of rows at a time.
pub(crate) struct Many {
    _own: Own,
}

impl Many {
    /// # Safety
    /// The tiles [are available](super::are_available), and nothing else on this thread uses tiles as long as this lives.
    pub(crate) unsafe fn new() -> Many {
        // SAFETY: the caller's promise, passed on.
        let mut own = unsafe { Own::new() };
        own.configure(&Config::new([SIDE; 8]));
        Many { _own: own }
    }

    /// The products of 32 rows with `steps` of some columns, [`COLUMNS`] or the first half of them. If it `adds`, it does to
    /// the `sums`, [`COLUMNS`] for each row. Something is asked for meanwhile.
    ///
    /// # Safety
    /// So many steps, one at least, of the rows and of the columns are there, one half of these or two, and room for 32 rows
    /// of sums.
    pub(crate) unsafe fn multiply(
        &mut self,
        rows: Matrix<*const u8>,
        (columns, halves): (Columns, usize),
        steps: usize,
        (sums, adds): (*mut f32, bool),
        ahead: Ahead,
    ) {
        const { assert!(COLUMNS * size_of::<f32>() == 256 && SIDE == 16) };
        debug_assert!(steps > 0 && (1..=2).contains(&halves));
        let mut at = ahead.at;
        for half in 0..halves {
            let first = columns.at.wrapping_add(2 * half * columns.tile);
            // Few registers are free: `spare` says at first whether it adds, then holds the stride of the sums, and a
            // count in between.
            // SAFETY: the caller's promise; the tiles are configured as long as this lives. What is asked for need not be
            // there.
            unsafe {
                asm!(
                    "test {spare}, {spare}",
                    "mov {spare:e}, 256",
                    "jnz 2f",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "jmp 3f",
                    "2:",
                    "tileloadd tmm0, [{sums} + {spare}*1]",
                    "tileloadd tmm1, [{sums} + {spare}*1 + 64]",
                    "tileloadd tmm2, [{sums} + {spare}*1 + 4096]",
                    "tileloadd tmm3, [{sums} + {spare}*1 + 4160]",
                    "3:",
                    "tileloadd tmm4, [{first} + {apart}*1]",
                    "tileloadd tmm6, [{columns} + {row}*1]",
                    "tileloadd tmm7, [{columns2} + {row}*1]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{first2} + {apart}*1]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "mov {spare}, {lines}",
                    "test {spare}, {spare}",
                    "jz 5f",
                    "4:",
                    "prefetcht1 [{ahead}]",
                    "add {ahead}, 64",
                    "dec {spare}",
                    "jnz 4b",
                    "5:",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {first}, 64",
                    "add {first2}, 64",
                    "add {columns}, {step}",
                    "add {columns2}, {step}",
                    "dec {steps}",
                    "jnz 3b",
                    "mov {spare:e}, 256",
                    "tilestored [{sums} + {spare}*1], tmm0",
                    "tilestored [{sums} + {spare}*1 + 64], tmm1",
                    "tilestored [{sums} + {spare}*1 + 4096], tmm2",
                    "tilestored [{sums} + {spare}*1 + 4160], tmm3",
                    spare = inout(reg) usize::from(adds) => _,
                    sums = in(reg) sums.wrapping_add(half * 2 * SIDE),
                    first = inout(reg) rows.at => _,
                    first2 = inout(reg) rows.at.wrapping_add(SIDE * rows.stride) => _,
                    apart = in(reg) rows.stride,
                    columns = inout(reg) first => _,
                    columns2 = inout(reg) first.wrapping_add(columns.tile) => _,
                    row = in(reg) columns.row,
                    step = in(reg) columns.step,
                    steps = inout(reg) steps => _,
                    ahead = inout(reg) at,
                    lines = in(reg) ahead.lines,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::are_available;
    use super::super::tests::{check, numbers};
    use super::*;

    #[test]
    fn rows_meet_columns_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        // Whole tiles, and a last one that is not full; rows a few numbers apart.
        for words in [SIDE, STEPS * SIDE, 2 * SIDE + 5] {
            let steps = words.div_ceil(SIDE);
            let apart = (steps + 1) * DEPTH;
            let mut rows = numbers(2 * SIDE * apart, 3);
            for row in rows.chunks_mut(apart) {
                row[2 * words..].fill(bf16::ZERO);
            }
            let columns = numbers(2 * words * COLUMNS, 5);
            let pairs: &[[u32; COLUMNS]] = bytemuck::cast_slice(&columns);
            let mut room = Box::new(Unpacked::EMPTY);
            // SAFETY: the machine has tiles.
            unsafe { room.lay_out(&numbers_of_ones(STEPS * SIDE)) };
            // SAFETY: as above.
            unsafe { room.lay_out(pairs) };
            let row = COLUMNS * size_of::<u32>();
            let own = Columns { at: pairs.as_ptr().cast(), row, tile: ROW, step: SIDE * row };
            let forms = if words.is_multiple_of(SIDE) { vec![room.columns(), own] } else { vec![room.columns()] };
            for (columns_at, halves, adds) in forms
                .into_iter()
                .flat_map(|form| [(form, 1, false), (form, 1, true), (form, 2, false), (form, 2, true)])
            {
                let mut sums = vec![0.5f32; 2 * SIDE * COLUMNS];
                let first = Matrix { at: rows.as_ptr().cast(), stride: 2 * apart };
                let ahead = Ahead { at: columns.as_ptr().cast(), lines: 2 };
                // SAFETY: the tiles are there, and used by nobody else; so are the operands, and room for the sums.
                unsafe {
                    let to = sums.as_mut_ptr();
                    Many::new().multiply(first, (columns_at, halves), steps, (to, adds), ahead);
                }
                for (i, found) in sums.into_iter().enumerate() {
                    let (row, column) = (i / COLUMNS, i % COLUMNS);
                    if column >= halves * COLUMNS / 2 {
                        assert_eq!(found, 0.5, "a column that was left out was written");
                        continue;
                    }
                    let begin = if adds { 0.5 } else { 0.0 };
                    let wanted = (0..2 * words).fold(begin, |sum, k| {
                        let second = columns[(k / 2 * COLUMNS + column) * 2 + k % 2];
                        sum + f64::from(rows[row * apart + k].to_f32()) * f64::from(second.to_f32())
                    });
                    check(found, wanted, [words, row, column]);
                }
            }
        }
    }

    /// Pairs that are not zero, so that what is left of them would be seen.
    fn numbers_of_ones(words: usize) -> Vec<[u32; COLUMNS]> {
        vec![[0x3f80_3f80; COLUMNS]; words]
    }
}
