// SPDX-License-Identifier: EUPL-1.2
//! Products of tiles of bytes, group by group: sums of 32-bit integers, which are exact.
//!
//! Sums leave the tiles after every group, and vectors take them on before the next rows come. To configure the tiles
//! takes as long as several products do, so that the configuration alone outlasts a block of assembly here, as
//! long as [`Configured`] lives. What is in the tiles does not.

use std::arch::asm;

use super::{Config, Own, ROW, SIDE};

/// Columns that rows of a tile meet at a time.
pub(crate) const COLUMNS: usize = 2 * SIDE;

/// The tiles of this thread as products of groups take them.
pub(crate) struct Configured {
    own: Own,
    rows: usize,
    width: usize,
}

impl Configured {
    /// For up to [`SIDE`] rows, of which [`ROW`] bytes are multiplied at a time, or a whole group if that is shorter.
    ///
    /// # Safety
    /// The tiles [are available](super::are_available), and nothing else on this thread uses them as long as this
    /// lives. The group is of 16, 32 or a multiple of 64 bytes.
    pub(crate) unsafe fn new(rows: usize, group_size: usize) -> Self {
        // SAFETY: the caller's promise, passed on.
        let own = unsafe { Own::new() };
        let mut configured = Configured { own, rows: rows.clamp(1, SIDE), width: group_size.min(ROW) };
        configured.load();
        configured
    }

    /// From now on for so many rows, up to [`SIDE`].
    #[inline(always)]
    pub(crate) fn set_rows(&mut self, rows: usize) {
        let rows = rows.clamp(1, SIDE);
        if rows != self.rows {
            self.rows = rows;
            self.load();
        }
    }

    fn load(&mut self) {
        let (rows, steps) = (self.rows, self.width / 4);
        let mut config = Config::new([rows, rows, rows, rows, rows, steps, steps, rows]);
        for first in [4, 7] {
            config.row_bytes[first] = self.width as u16;
        }
        self.own.configure(&config);
    }
}

/// The products of the rows with [`COLUMNS`] columns, of some groups apart from each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupProducts {
    /// Signed bytes, up to [`ROW`] of them of each of [`SIDE`] rows, and the next group's, or the same group's next ones,
    /// behind.
    pub(crate) first: *const u8,
    /// Steps of four bytes of each column, each group after the one before.
    pub(crate) second: *const u8,
    pub(crate) groups: usize,
    pub(crate) group_size: usize,
    /// What is overwritten: a [`GroupSums`] of each group, and the one before the first.
    pub(crate) sums: *mut GroupSums,
}

/// The sums of a group: of each row and column.
pub(crate) type GroupSums = [[i32; COLUMNS]; SIDE];

/// Bytes of [`GroupSums`].
pub(super) const SUMS: usize = size_of::<GroupSums>();

/// Bytes of a row of them.
pub(super) const SUMS_ROW: usize = size_of::<[i32; COLUMNS]>();

/// Bytes of a step of the columns.
pub(super) const STEP: usize = 4 * COLUMNS;

/// Bytes of a step's columns that fill a tile's rows, and of that many steps.
pub(super) const TILE: usize = SIDE * STEP;

/// Assembly that differs in the product.
macro_rules! products {
    ($product:literal, $pairs:ident, $one:ident) => {
        /// The products of `pairs` times two groups. Storing a tile waits for its product, and products wait for a tile
        /// that is stored: so those of one group are stored while the next one's are computed.
        #[inline(always)]
        unsafe fn $pairs(part: &GroupProducts, pairs: usize) {
            // SAFETY: the caller vouches for the operands and sums, and that the tiles are configured.
            unsafe {
                asm!(
                    "2:",
                    "tileloadd tmm4, [{first} + {first_stride}*1]",
                    "tileloadd tmm5, [{second} + {second_stride}*1]",
                    "tileloadd tmm6, [{second} + {second_stride}*1 + 64]",
                    "tilezero tmm0",
                    concat!($product, " tmm0, tmm4, tmm5"),
                    "tilestored [{sums} + {sums_stride}*1 - {before}], tmm2",
                    "tilezero tmm1",
                    concat!($product, " tmm1, tmm4, tmm6"),
                    "tilestored [{sums} + {sums_stride}*1 - {before} + 64], tmm3",
                    // A group of two tiles.
                    "cmp {group}, 128",
                    "jne 3f",
                    "tileloadd tmm4, [{first} + {first_stride}*1 + {next}]",
                    "tileloadd tmm5, [{second} + {second_stride}*1 + {tile}]",
                    "tileloadd tmm6, [{second} + {second_stride}*1 + {tile} + 64]",
                    concat!($product, " tmm0, tmm4, tmm5"),
                    concat!($product, " tmm1, tmm4, tmm6"),
                    "3:",
                    "add {first}, {first_group}",
                    "add {second}, {second_group}",
                    "tileloadd tmm7, [{first} + {first_stride}*1]",
                    "tileloadd tmm5, [{second} + {second_stride}*1]",
                    "tileloadd tmm6, [{second} + {second_stride}*1 + 64]",
                    "tilezero tmm2",
                    concat!($product, " tmm2, tmm7, tmm5"),
                    "tilestored [{sums} + {sums_stride}*1], tmm0",
                    "tilezero tmm3",
                    concat!($product, " tmm3, tmm7, tmm6"),
                    "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
                    "cmp {group}, 128",
                    "jne 3f",
                    "tileloadd tmm7, [{first} + {first_stride}*1 + {next}]",
                    "tileloadd tmm5, [{second} + {second_stride}*1 + {tile}]",
                    "tileloadd tmm6, [{second} + {second_stride}*1 + {tile} + 64]",
                    concat!($product, " tmm2, tmm7, tmm5"),
                    concat!($product, " tmm3, tmm7, tmm6"),
                    "3:",
                    "add {first}, {first_group}",
                    "add {second}, {second_group}",
                    "add {sums}, 2 * {before}",
                    "dec {pairs}",
                    "jnz 2b",
                    "tilestored [{sums} + {sums_stride}*1 - {before}], tmm2",
                    "tilestored [{sums} + {sums_stride}*1 - {before} + 64], tmm3",
                    first = inout(reg) part.first => _,
                    first_stride = in(reg) part.group_size.min(ROW),
                    second = inout(reg) part.second => _,
                    second_stride = in(reg) STEP,
                    first_group = in(reg) part.group_size * SIDE,
                    group = in(reg) part.group_size,
                    second_group = in(reg) part.group_size / 4 * STEP,
                    sums = inout(reg) part.sums => _,
                    sums_stride = in(reg) SUMS_ROW,
                    pairs = inout(reg) pairs => _,
                    before = const SUMS,
                    tile = const TILE,
                    next = const SIDE * ROW,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        /// The products of one group.
        #[inline(always)]
        unsafe fn $one(part: &GroupProducts) {
            // SAFETY: as above.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "2:",
                    "tileloadd tmm4, [{first} + {first_stride}*1]",
                    "tileloadd tmm5, [{second} + {second_stride}*1]",
                    "tileloadd tmm6, [{second} + {second_stride}*1 + 64]",
                    concat!($product, " tmm0, tmm4, tmm5"),
                    concat!($product, " tmm1, tmm4, tmm6"),
                    "add {first}, {next}",
                    "add {second}, {tile}",
                    "dec {tiles}",
                    "jnz 2b",
                    "tilestored [{sums} + {sums_stride}*1], tmm0",
                    "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
                    first = inout(reg) part.first => _,
                    first_stride = in(reg) part.group_size.min(ROW),
                    second = inout(reg) part.second => _,
                    second_stride = in(reg) STEP,
                    tiles = inout(reg) part.group_size.div_ceil(ROW) => _,
                    sums = in(reg) part.sums,
                    sums_stride = in(reg) SUMS_ROW,
                    tile = const TILE,
                    next = const SIDE * ROW,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

products!("tdpbssd", signed_pairs, signed_one);
products!("tdpbsud", unsigned_pairs, unsigned_one);

impl Configured {
    /// Computes the sums. The second operand is of signed bytes if `SIGNED`, else of unsigned ones.
    ///
    /// # Safety
    /// As many rows as configured are there of the first operand, and [`COLUMNS`] of the second; both hold the groups,
    /// whose size is as configured and at most 128. There is room for the sums, and for those of a group before.
    #[inline(always)]
    pub(crate) unsafe fn multiply<const SIGNED: bool>(&self, part: GroupProducts) {
        let pairs = part.groups / 2;
        // SAFETY: the caller's promise, passed on.
        unsafe {
            if pairs > 0 {
                if SIGNED { signed_pairs(&part, pairs) } else { unsigned_pairs(&part, pairs) }
            }
            if part.groups % 2 == 1 {
                let (last, before) = (2 * pairs, 2 * pairs * part.group_size);
                let first = part.first.wrapping_add(before * SIDE);
                let second = part.second.wrapping_add(before / 4 * STEP);
                let part = GroupProducts { first, second, sums: part.sums.add(last), ..part };
                if SIGNED { signed_one(&part) } else { unsigned_one(&part) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::are_available;
    use super::*;

    #[test]
    fn groups_are_summed_apart_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        let byte = |i: usize| (i * 7919 % 251) as u8;
        for (group_size, groups) in [(16, 16), (32, 1), (32, 7), (64, 4), (128, 1), (128, 2)] {
            let k = group_size * groups;
            let part = group_size.min(ROW);
            let first: Vec<u8> = (0..SIDE * k).map(byte).collect();
            let second: Vec<u8> = (0..COLUMNS * k).map(|i| byte(i + 5)).collect();
            // SAFETY: they are available, and no test uses them otherwise meanwhile on this thread.
            let mut tiles = unsafe { Configured::new(SIDE, group_size) };
            for rows in [SIDE, 7, 1] {
                tiles.set_rows(rows);
                for signed in [true, false] {
                    let mut sums = vec![[[i32::MIN; COLUMNS]; SIDE]; 1 + groups];
                    let product = GroupProducts {
                        first: first.as_ptr(),
                        second: second.as_ptr(),
                        groups,
                        group_size,
                        sums: sums.as_mut_ptr().wrapping_add(1),
                    };
                    // SAFETY: the operands are as long as they should be.
                    unsafe { if signed { tiles.multiply::<true>(product) } else { tiles.multiply::<false>(product) } };
                    for (group, sums) in sums[1..].iter().enumerate() {
                        for (row, sums) in sums.iter().enumerate() {
                            for (c, &sum) in sums.iter().enumerate() {
                                let term = |i: usize| {
                                    let weight = second[i / 4 * STEP + 4 * c + i % 4];
                                    let weight = if signed { i32::from(weight as i8) } else { i32::from(weight) };
                                    i32::from(first[(i / part * SIDE + row) * part + i % part] as i8) * weight
                                };
                                let expected: i32 = (group * group_size..(group + 1) * group_size).map(term).sum();
                                let expected = if row < rows { expected } else { i32::MIN };
                                assert_eq!(sum, expected, "{group_size}, {rows} rows: group {group}, [{row}, {c}]");
                            }
                        }
                    }
                }
            }
        }
    }
}
