// SPDX-License-Identifier: EUPL-1.2
//! Products of whole tiles by AMX: 16 rows of 64 bytes to a register, and one instruction for the product of two.
//!
//! The first operand lies row by row. Of the second, what a step along the inner axis takes of each column (two bf16
//! or four bytes, which is 32 bits) lies beside that of the next column, and the next step's a stride behind: as
//! [`crate::packed`] has weights. Sums are of f32 or of 32-bit integers. Of two bf16, the instruction sums the first
//! ones of 16 steps and the second ones, each in order, and adds both to the sum so far; numbers too small to be normal
//! count as zero (Intel's *Architecture Instruction Set Extensions Programming Reference*, `TDPBF16PS`). So a sum
//! depends on its own row and column only, whatever else is in the tiles.
//!
//! What is in the tiles never outlasts a block of assembly, so that none is in use where the compiler does not know of
//! it. Their configuration does, since it takes as long as several products: it lasts as long as an [`Own`] lives,
//! which releases the tiles.

pub(crate) mod many;
pub(crate) mod quads;
pub(crate) mod quants;
pub(crate) mod words;

mod heads;
mod panels;

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::sync::OnceLock;

pub(crate) use self::heads::{HeadsAhead, HeadsProduct, PlainProduct, multiply_heads_bf16, multiply_plain_bf16};
pub(crate) use self::panels::{PANEL, PanelProduct, multiply_few_panels_bf16, multiply_panels_bf16};

/// Rows of a tile, and 32-bit columns.
pub(crate) const SIDE: usize = 16;

/// Bytes of a row of a tile.
pub(crate) const ROW: usize = 64;

/// Whether the machine has the tiles and their products of bf16 and of bytes, and the system lets this process use them.
pub(crate) fn are_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| machine_has_them() && permitted())
}

fn machine_has_them() -> bool {
    /// `AMX-BF16`, `AMX-TILE`, `AMX-INT8`.
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// The tiles' configuration and the tiles, among what the system keeps of a thread.
    const STATE: u64 = 1 << 17 | 1 << 18;
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 || __cpuid_count(7, 0).edx & FEATURES != FEATURES {
        return false;
    }
    // SAFETY: asked just now: the system uses `xsave`, and so the instruction is there.
    unsafe { xgetbv0() & STATE == STATE }
}

#[target_feature(enable = "xsave")]
fn xgetbv0() -> u64 {
    // SAFETY: register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Linux gives tiles to a process that asks, since they make what it saves of a thread larger.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of each tile's rows.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Of tiles that are 64 bytes wide.
    fn new(rows: [usize; 8]) -> Config {
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, rows) in rows.into_iter().enumerate() {
            config.row_bytes[tile] = ROW as u16;
            config.rows[tile] = rows as u8;
        }
        config
    }

    /// For products of so many rows and of `steps` steps at a time.
    fn of(Shape { width, rows, steps }: Shape) -> Config {
        let (tiles, firsts) = match width {
            Width::One => ([rows, rows, steps, SIDE, SIDE, SIDE, SIDE, SIDE], 1..2),
            Width::Four => ([rows, rows, rows, rows, rows, steps, steps, steps], 4..5),
        };
        let mut config = Config::new(tiles);
        config.row_bytes[firsts].fill((4 * steps) as u16);
        config
    }
}

/// What tiles are configured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    width: Width,
    rows: usize,
    steps: usize,
}

/// This thread's tiles, released when dropped.
struct Own {
    /// Stays on its thread.
    _thread: PhantomData<*const u8>,
}

impl Own {
    /// # Safety
    /// The tiles [are available](are_available), and nothing else on this thread uses them as long as this lives.
    unsafe fn new() -> Own {
        Own { _thread: PhantomData }
    }

    /// Configures the tiles anew. What was in them is lost.
    #[inline]
    fn configure(&mut self, config: &Config) {
        // SAFETY: the tiles are there, by the promise made at `new`, and hold nothing that anybody needs; a `Config` is
        // one that they have.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly)) }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // SAFETY: the tiles are there, by the promise made at `new`, and nobody needs what they hold.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// This thread's tiles, for products of bf16 that follow each other.
pub(crate) struct Tiles {
    own: Own,
    configured: Option<Shape>,
}

impl Tiles {
    /// # Safety
    /// The tiles [are available](are_available), and nothing else on this thread uses them as long as this lives.
    pub(crate) unsafe fn new() -> Tiles {
        // SAFETY: the caller's promise, passed on.
        Tiles { own: unsafe { Own::new() }, configured: None }
    }

    #[inline]
    fn configure(&mut self, shape: Shape) {
        if self.configured != Some(shape) {
            self.own.configure(&Config::of(shape));
            self.configured = Some(shape);
        }
    }
}

/// A matrix of bytes, as tiles are read of it: where its first tile is, and bytes from one row to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<T> {
    pub(crate) at: T,
    pub(crate) stride: usize,
}

impl Matrix<*const u8> {
    fn skip(self, bytes: usize) -> Self {
        Matrix { at: self.at.wrapping_add(bytes), ..self }
    }
}

/// The product of some rows with 16 or 64 columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TileProduct {
    /// Rows of the first operand, `steps` words each.
    pub(crate) first: Matrix<*const u8>,
    /// Steps of the second, a row of words each.
    pub(crate) second: Matrix<*const u8>,
    /// Bytes from [`SIDE`] columns of the second to the next: [`ROW`] where they stand beside each other.
    pub(crate) columns_apart: usize,
    /// Words.
    pub(crate) steps: usize,
    pub(crate) sums: Matrix<*mut u8>,
    /// Whether the sums begin with what is there.
    pub(crate) adds: bool,
}

impl TileProduct {
    /// The second operand's columns from `SIDE · number` on.
    fn columns(&self, number: usize) -> *const u8 {
        self.second.at.wrapping_add(number * self.columns_apart)
    }
}

/// Assembly that differs in the product.
macro_rules! products {
    ($product:literal, $narrow:ident, $wide:ident) => {
        /// As many rows as the tiles are configured for with 16 columns, `steps` tiles of each.
        unsafe fn $narrow(part: &TileProduct, steps: usize) {
            // SAFETY: the caller vouches for the operands and sums, and that the machine has tiles.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "test {adds:e}, {adds:e}",
                    "jz 3f",
                    "tileloadd tmm0, [{sums} + {sums_stride}*1]",
                    "3:",
                    "tileloadd tmm1, [{first} + {first_stride}*1]",
                    "tileloadd tmm2, [{second} + {second_stride}*1]",
                    concat!($product, " tmm0, tmm1, tmm2"),
                    "add {first}, 64",
                    "add {second}, {second_step}",
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{sums} + {sums_stride}*1], tmm0",
                    adds = in(reg) u32::from(part.adds),
                    sums = in(reg) part.sums.at,
                    sums_stride = in(reg) part.sums.stride,
                    first = inout(reg) part.first.at => _,
                    first_stride = in(reg) part.first.stride,
                    second = inout(reg) part.second.at => _,
                    second_stride = in(reg) part.second.stride,
                    second_step = in(reg) SIDE * part.second.stride,
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        /// As many rows as the tiles are configured for with 64 columns, `steps` tiles of each.
        unsafe fn $wide(part: &TileProduct, steps: usize) {
            // SAFETY: the caller vouches for the operands and sums, and that the machine has tiles.
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
                    "tileloadd tmm0, [{sums} + {sums_stride}*1]",
                    "tileloadd tmm1, [{sums} + {sums_stride}*1 + 64]",
                    "tileloadd tmm2, [{sums} + {sums_stride}*1 + 128]",
                    "tileloadd tmm3, [{sums} + {sums_stride}*1 + 192]",
                    "3:",
                    "tileloadd tmm4, [{first} + {first_stride}*1]",
                    "tileloadd tmm5, [{second} + {second_stride}*1]",
                    "tileloadd tmm6, [{second1} + {second_stride}*1]",
                    "tileloadd tmm7, [{second2} + {second_stride}*1]",
                    // Few rows wait for memory, which is asked for well ahead: of a packed weight, whose rows of words
                    // follow each other, what comes two steps later into the second cache, and the next step into the
                    // first. Asked for into the first alone, it came more slowly.
                    ".irp row,0,256,512,768,1024,1280,1536,1792,2048,2304,2560,2816,3072,3328,3584,3840",
                    "prefetcht1 [{second} + \\row + 8192]",
                    "prefetcht0 [{second} + \\row + 4096]",
                    "prefetcht1 [{second} + \\row + 8256]",
                    "prefetcht0 [{second} + \\row + 4160]",
                    "prefetcht1 [{second} + \\row + 8320]",
                    "prefetcht0 [{second} + \\row + 4224]",
                    "prefetcht1 [{second} + \\row + 8384]",
                    "prefetcht0 [{second} + \\row + 4288]",
                    ".endr",
                    concat!($product, " tmm0, tmm4, tmm5"),
                    "tileloadd tmm5, [{second3} + {second_stride}*1]",
                    concat!($product, " tmm1, tmm4, tmm6"),
                    concat!($product, " tmm2, tmm4, tmm7"),
                    concat!($product, " tmm3, tmm4, tmm5"),
                    "add {first}, 64",
                    "add {second}, {second_step}",
                    "add {second1}, {second_step}",
                    "add {second2}, {second_step}",
                    "add {second3}, {second_step}",
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{sums} + {sums_stride}*1], tmm0",
                    "tilestored [{sums} + {sums_stride}*1 + 64], tmm1",
                    "tilestored [{sums} + {sums_stride}*1 + 128], tmm2",
                    "tilestored [{sums} + {sums_stride}*1 + 192], tmm3",
                    adds = in(reg) u32::from(part.adds),
                    sums = in(reg) part.sums.at,
                    sums_stride = in(reg) part.sums.stride,
                    first = inout(reg) part.first.at => _,
                    first_stride = in(reg) part.first.stride,
                    second = inout(reg) part.columns(0) => _,
                    second1 = inout(reg) part.columns(1) => _,
                    second2 = inout(reg) part.columns(2) => _,
                    second3 = inout(reg) part.columns(3) => _,
                    second_stride = in(reg) part.second.stride,
                    second_step = in(reg) SIDE * part.second.stride,
                    steps = inout(reg) steps => _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

products!("tdpbf16ps", narrow_bf16, wide_bf16);

/// How many columns are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// 16 columns, of up to 16 rows.
    One,
    /// 64 columns, of up to 16 rows.
    Four,
}

/// Products of bf16, summed in f32.
///
/// # Safety
/// The width is one for so many rows; there are as many of the first operand and
/// `steps` of the second, and room for the sums, which are written: all their columns, of so many rows.
pub(crate) unsafe fn multiply_bf16(tiles: &mut Tiles, width: Width, rows: usize, part: TileProduct) {
    debug_assert!((1..=SIDE).contains(&rows));
    let multiply: unsafe fn(&TileProduct, usize) = match width {
        Width::One => narrow_bf16,
        Width::Four => wide_bf16,
    };
    let (whole, rest) = (part.steps / SIDE, part.steps % SIDE);
    // SAFETY: the caller's promise.
    unsafe {
        if whole > 0 {
            tiles.configure(Shape { width, rows, steps: SIDE });
            multiply(&part, whole);
        }
        if rest > 0 {
            // Tiles of what is left: shorter rows of the first operand, fewer of the second.
            let (first, second) = (part.first.skip(whole * ROW), part.second.skip(whole * SIDE * part.second.stride));
            let part = TileProduct { first, second, adds: part.adds || whole > 0, ..part };
            tiles.configure(Shape { width, rows, steps: rest });
            multiply(&part, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// In the order of the instruction, in f64, which rounds less.
    pub(super) fn expected(first: &[bf16], second: &[bf16], begin: f32) -> f64 {
        f64::from(begin)
            + first.iter().zip(second).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum::<f64>()
    }

    #[test]
    fn tiles_multiply_good() {
        if !are_available() {
            eprintln!("this machine has no AMX: nothing was tested");
            return;
        }
        let number = |i: usize| bf16::from_f32(((i * 7919) % 257) as f32 / 128.0 - 1.0);
        let one = [4, 16].map(|rows| (rows, 16, Width::One));
        let four = [1, 5, 16].map(|rows| (rows, 64, Width::Four));
        for (rows, columns, width) in one.into_iter().chain(four) {
            // Tiles that are full, not full, and both.
            for (steps, adds) in [(16, false), (5, true), (37, true), (48, true), (3, false)] {
                let first: Vec<bf16> = (0..rows * 2 * steps).map(number).collect();
                let second: Vec<bf16> = (0..columns * 2 * steps).map(|i| number(i + 11)).collect();
                let begin = 0.5;
                let mut sums = vec![begin; (rows + 1) * columns];
                let part = TileProduct {
                    first: Matrix { at: first.as_ptr().cast(), stride: 4 * steps },
                    second: Matrix { at: second.as_ptr().cast(), stride: 4 * columns },
                    columns_apart: ROW,
                    steps,
                    sums: Matrix { at: sums.as_mut_ptr().cast(), stride: 4 * columns },
                    adds,
                };
                // SAFETY: they are available, and the operands are as long as they should be.
                unsafe { multiply_bf16(&mut Tiles::new(), width, rows, part) };
                for (row, sums) in sums.chunks(columns).enumerate() {
                    for (column, sum) in sums.iter().enumerate() {
                        if row == rows {
                            assert_eq!(*sum, begin, "a row past the last was written");
                            continue;
                        }
                        let second: Vec<bf16> =
                            (0..2 * steps).map(|k| second[(k / 2 * columns + column) * 2 + k % 2]).collect();
                        let begin = if adds { begin } else { 0.0 };
                        let expected = expected(&first[row * 2 * steps..][..2 * steps], &second, begin);
                        let close = (f64::from(*sum) - expected).abs() < 1e-5 * steps as f64;
                        assert!(close, "{rows} rows, {steps} steps, [{row}, {column}]: {sum}, {expected} expected");
                    }
                }
            }
        }
    }

    pub(super) fn numbers(count: usize, seed: usize) -> Vec<bf16> {
        (0..count).map(|i| bf16::from_f32(((i * 7919 + seed) % 257) as f32 / 128.0 - 1.0)).collect()
    }

    pub(super) fn check(found: f32, wanted: f64, what: [usize; 3]) {
        assert!((f64::from(found) - wanted).abs() < 1e-4, "{what:?}: {found}, {wanted} expected");
    }
}
