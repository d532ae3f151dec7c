// SPDX-License-Identifier: EUPL-1.2
//! Products of rows with panels, a row of 32 words to a step.

use std::arch::asm;

use super::{Config, Matrix, ROW, SIDE};

/// The product of some rows with panels of [`PANEL`] columns each, which lie one behind the other: of a panel, a row of
/// words for each step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelProduct {
    /// Rows of the first operand.
    pub(crate) first: Matrix<*const u8>,
    /// The first panel.
    pub(crate) second: *const u8,
    /// Bytes from one panel to the next.
    pub(crate) panel: usize,
    /// At least one.
    pub(crate) panels: usize,
    /// Tiles along the inner axis, [`SIDE`] steps each: at least one.
    pub(crate) tiles: usize,
    /// Row by row, the columns of all panels beside each other.
    pub(crate) sums: Matrix<*mut u8>,
}

/// Columns of a panel: two tiles.
pub(crate) const PANEL: usize = 2 * SIDE;

/// Bytes from one step of a panel to the next.
const PANEL_ROW: usize = 2 * ROW;

/// Products of bf16, summed in f32, of two tiles of rows, which are 32.
///
/// # Safety
/// The tiles [are available](are_available). There are so many rows of the first operand and panels of the second, and
/// room for the sums, which are written: of all rows and panels.
pub(crate) unsafe fn multiply_panels_bf16(part: PanelProduct) {
    let PanelProduct { first, second, panel, panels, tiles, sums } = part;
    debug_assert!(panels > 0 && tiles > 0);
    let config = Config::new([SIDE; 8]);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "ldtilecfg [{steps}]",
            "2:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "mov {steps}, {row}",
            "3:",
            "tileloadd tmm4, [{first} + {first_stride}*1]",
            "tileloadd tmm6, [{second} + {second_stride}*1]",
            "tileloadd tmm7, [{second} + {second_stride}*1 + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm5, [{first2} + {first_stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {first}, 64",
            "add {first2}, 64",
            "add {second}, 2048",
            "sub {steps}, 64",
            "jnz 3b",
            "tilestored [{sums} + {sums_stride}*1], tmm0",
            "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
            "tilestored [{sums2} + {sums_stride}*1], tmm2",
            "tilestored [{sums2} + {sums_stride}*1 + 64], tmm3",
            "sub {first}, {row}",
            "sub {first2}, {row}",
            "add {second}, {skip}",
            "add {sums}, 128",
            "add {sums2}, 128",
            "dec {panels}",
            "jnz 2b",
            "tilerelease",
            // The configuration at first.
            steps = inout(reg) &raw const config => _,
            row = in(reg) tiles * ROW,
            first = inout(reg) first.at => _,
            first2 = inout(reg) first.at.wrapping_add(SIDE * first.stride) => _,
            first_stride = in(reg) first.stride,
            second = inout(reg) second => _,
            second_stride = in(reg) PANEL_ROW,
            skip = in(reg) panel.wrapping_sub(tiles * SIDE * PANEL_ROW),
            sums = inout(reg) sums.at => _,
            sums2 = inout(reg) sums.at.wrapping_add(SIDE * sums.stride) => _,
            sums_stride = in(reg) sums.stride,
            panels = inout(reg) panels => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// As [`multiply_panels_bf16`], of up to [`SIDE`] rows; where it `adds`, the sums begin with what is there.
///
/// # Safety
/// As of [`multiply_panels_bf16`].
pub(crate) unsafe fn multiply_few_panels_bf16(rows: usize, part: PanelProduct, adds: bool) {
    let PanelProduct { first, second, panel, panels, tiles, sums } = part;
    debug_assert!(panels > 0 && tiles > 0 && (1..=SIDE).contains(&rows));
    let config = Config::new([rows, rows, rows, SIDE, SIDE, SIDE, SIDE, SIDE]);
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "ldtilecfg [{steps}]",
            "2:",
            "test {adds:e}, {adds:e}",
            "jnz 4f",
            "tilezero tmm0",
            "tilezero tmm1",
            "jmp 5f",
            "4:",
            "tileloadd tmm0, [{sums} + {sums_stride}*1]",
            "tileloadd tmm1, [{sums} + {sums_stride}*1 + 64]",
            "5:",
            "mov {steps}, {row}",
            "3:",
            "tileloadd tmm2, [{first} + {first_stride}*1]",
            "tileloadd tmm3, [{second} + {second_stride}*1]",
            "tileloadd tmm4, [{second} + {second_stride}*1 + 64]",
            "tdpbf16ps tmm0, tmm2, tmm3",
            "tdpbf16ps tmm1, tmm2, tmm4",
            "add {first}, 64",
            "add {second}, 2048",
            "sub {steps}, 64",
            "jnz 3b",
            "tilestored [{sums} + {sums_stride}*1], tmm0",
            "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
            "sub {first}, {row}",
            "add {second}, {skip}",
            "add {sums}, 128",
            "dec {panels}",
            "jnz 2b",
            "tilerelease",
            // The configuration at first.
            steps = inout(reg) &raw const config => _,
            adds = in(reg) u32::from(adds),
            row = in(reg) tiles * ROW,
            first = inout(reg) first.at => _,
            first_stride = in(reg) first.stride,
            second = inout(reg) second => _,
            second_stride = in(reg) PANEL_ROW,
            skip = in(reg) panel.wrapping_sub(tiles * SIDE * PANEL_ROW),
            sums = inout(reg) sums.at => _,
            sums_stride = in(reg) sums.stride,
            panels = inout(reg) panels => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
            options(nostack),
        );
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::are_available;
    use super::super::tests::{check, expected, numbers};
    use super::*;

    #[test]
    fn rows_meet_panels_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        let (panels, tiles) = (3, 2);
        let (depth, columns) = (tiles * PANEL, panels * PANEL);
        // Panels with a gap between them.
        let panel = tiles * SIDE * PANEL * 2 + 10;
        let (first, second) = (numbers(2 * SIDE * depth, 3), numbers(panels * panel, 5));
        for rows in [1, 7, 16, 32] {
            for adds in [false, true] {
                let mut sums = vec![0.5; 2 * SIDE * columns];
                let part = PanelProduct {
                    first: Matrix { at: first.as_ptr().cast(), stride: 2 * depth },
                    second: second.as_ptr().cast(),
                    panel: 2 * panel,
                    panels,
                    tiles,
                    sums: Matrix { at: sums.as_mut_ptr().cast(), stride: 4 * columns },
                };
                // SAFETY: they are available, and the operands are as long as they should be.
                unsafe {
                    match rows {
                        32 => multiply_panels_bf16(part),
                        _ => multiply_few_panels_bf16(rows, part, adds),
                    }
                }
                let begin = if adds && rows < 32 { 0.5 } else { 0.0 };
                for (i, found) in sums.into_iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let at = |k: usize| column / PANEL * panel + (k / 2 * PANEL + column % PANEL) * 2 + k % 2;
                    let second: Vec<bf16> = (0..depth).map(|k| second[at(k)]).collect();
                    let wanted = if row < rows { expected(&first[row * depth..], &second, begin) } else { 0.5 };
                    check(found, wanted, [rows, row, column]);
                }
            }
        }
    }
}
