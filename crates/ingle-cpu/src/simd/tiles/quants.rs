// SPDX-License-Identifier: EUPL-1.2
//! Products with quants of 4 and 8 bits, which become bf16 on the way to the tiles.
//!
//! A weight is computed in f16, whose 11 bits of precision are more than bf16 has. A quant in the low bits of a word is an
//! f16 already, if one too small to be normal: that many times a power of two. Times its group's scale, plus its offset,
//! rounded once, it becomes a weight. Three bits fewer, and three zeros below the sign, make of that the bf16 that is
//! 2^-112 times as large: both have the sign above the exponent above the mantissa, and the biases of the exponents are
//! 112 apart. So 32 weights take less than five instructions, where by way of f32 they would take nine. That needs
//! AVX-512 FP16, which every processor with tiles has had. It computes with numbers that are not normal as fast as with
//! others; but the tiles take them for zero, so that a weight some 2^12 times smaller than its row's largest is lost.
//!
//! Rows of the first operand have each four neighbours along the inner axis in [another order](reorder), in which the packed
//! quants come out.

mod recipe;

use std::arch::asm;
use std::mem::offset_of;

use half::f16;

use self::recipe::{Arguments, Kind};
pub(crate) use self::recipe::{Blocks, Form, Recipe};
use super::many::{COLUMNS, DEPTH, STEPS, TILE, Unpacked};
use super::{Config, Own, ROW, SIDE};

/// The order that each four neighbours of a row have in the first operand, the first of which are the lowest bits: the
/// inner two change places, since of four bytes of quants the first and the third are the low ones of two words.
#[inline(always)]
pub(crate) fn reorder(four: u64) -> u64 {
    const OUTER: u64 = 0xffff_0000_0000_ffff;
    const SECOND: u64 = 0xffff_0000;
    four & OUTER | (four & SECOND) << 16 | four >> 16 & SECOND
}

/// The exponent of offsets beside what they are stored as: between that of scales, which would leave them too little
/// room above, and that of the weights, below.
pub(crate) const OFFSET: i32 = -12;

/// The exponent of a quant of so many bits that is read as f16: of the lowest bit of a word, or that of its next digit.
const fn quant(bits: usize) -> i32 {
    if bits == 4 { -20 } else { -24 }
}

/// The exponent of what comes out as bf16, beside the products of quants of so many bits and scales.
pub(crate) const fn exponent(bits: usize) -> i32 {
    quant(bits) - 112
}

/// Scales of a group of a panel, in bytes.
const SCALES: usize = COLUMNS * size_of::<f16>();

/// Whether the machine has the vectors of f16.
pub(crate) fn are_available() -> bool {
    super::are_available() && std::arch::is_x86_feature_detected!("avx512fp16")
}

/// Constants to the upper registers.
macro_rules! constants {
    () => {
        "mov {q}, [{arguments}]
         vmovdqa64 zmm20, [{q}]
         vmovdqa64 zmm21, [{q} + 64]
         vmovdqa64 zmm22, [{q} + 128]
         vmovdqa64 zmm23, [{q} + 192]
         vmovdqa64 zmm24, [{q} + 256]
         vmovdqa64 zmm25, [{q} + 320]"
    };
}

/// Scales of the 16 columns of a tile, and what their weights are beside them.
macro_rules! scales {
    ($offsets:ident, $twice:literal, $half:literal) => {
        concat!("vpermw zmm16, ", $twice, ", [{scales} + ", $half, "]\n", offsets!($offsets, $twice, $half),)
    };
}

/// What the weights of 16 columns are beside their scales.
macro_rules! offsets {
    (own, $twice:literal, $half:literal) => {
        concat!(
            "mov {other}, [{arguments} + {OFFSETS}]\n",
            "vpermw zmm15, ",
            $twice,
            ", [{scales} + {other} + ",
            $half,
            "]\n",
            "vmulph zmm15, zmm15, zmm24\n",
        )
    };
    (zero, $twice:literal, $half:literal) => {
        "vmulph zmm15, zmm16, zmm24\n"
    };
}

/// Quants with their scale to bf16.
macro_rules! weigh {
    ($register:literal) => {
        concat!(
            "vfmadd213ph ",
            $register,
            ", zmm16, zmm15\n",
            "vpmulhrsw ",
            $register,
            ", ",
            $register,
            ", zmm22\n",
            "vpandd ",
            $register,
            ", ",
            $register,
            ", zmm23\n",
        )
    };
}

/// The quants at one place of a word with their scale to bf16.
macro_rules! masked {
    ($register:literal, $from:literal) => {
        concat!("vpandd ", $register, ", ", $from, ", zmm25\n", weigh!($register))
    };
}

/// The weights of 16 columns in a step, from `{q}` on, to a tile at `{to}`.
macro_rules! unpack {
    (8, $column:literal, $tile:literal) => {
        concat!(
            ".irp line,0,1,2,3,4,5,6,7\n",
            "prefetcht1 [{q} + \\line*256 + ",
            $column,
            " + 4096]\n",
            "prefetcht0 [{q} + \\line*256 + ",
            $column,
            " + 1024]\n",
            "vmovdqu64 zmm0, [{q} + \\line*256 + ",
            $column,
            "]\n",
            masked!("zmm1", "zmm0"),
            "vpsrlw zmm2, zmm0, 8\n",
            weigh!("zmm2"),
            "vmovdqa64 [{to} + \\line*128 + ",
            $tile,
            "], zmm1\n",
            "vmovdqa64 [{to} + \\line*128 + 64 + ",
            $tile,
            "], zmm2\n",
            ".endr\n",
        )
    };
    (4, $column:literal, $tile:literal) => {
        concat!(
            ".irp line,0,1,2,3\n",
            "prefetcht1 [{q} + \\line*256 + ",
            $column,
            " + 4096]\n",
            "prefetcht0 [{q} + \\line*256 + ",
            $column,
            " + 1024]\n",
            "vmovdqu64 zmm0, [{q} + \\line*256 + ",
            $column,
            "]\n",
            "vpsllw zmm1, zmm0, 4\n",
            "vpsrlw zmm3, zmm0, 4\n",
            "vpsrlw zmm4, zmm0, 8\n",
            masked!("zmm1", "zmm1"),
            masked!("zmm2", "zmm0"),
            masked!("zmm3", "zmm3"),
            masked!("zmm4", "zmm4"),
            "vmovdqa64 [{to} + \\line*128 + ",
            $tile,
            "], zmm1\n",
            "vmovdqa64 [{to} + \\line*128 + 512 + ",
            $tile,
            "], zmm2\n",
            "vmovdqa64 [{to} + \\line*128 + 64 + ",
            $tile,
            "], zmm3\n",
            "vmovdqa64 [{to} + \\line*128 + 576 + ",
            $tile,
            "], zmm4\n",
            ".endr\n",
        )
    };
}

/// The first block's scales and quants.
macro_rules! begin {
    () => {
        // Some have no offsets.
        "/* {other} {OFFSETS} */
         mov {scales}, {header}
         mov {q}, {header}
         add {q}, [{arguments} + {HEADER}]
         xor {step:e}, {step:e}"
    };
}

/// The next step's scales and quants.
macro_rules! next {
    ($bytes:literal) => {
        concat!(
            "add {q}, ",
            $bytes,
            "\n",
            "inc {step}\n",
            "cmp {step}, [{arguments} + {STEPS}]\n",
            "jne 7f\n",
            "xor {step:e}, {step:e}\n",
            "dec qword ptr [{arguments} + {BLOCKS}]\n",
            "jnz 6f\n",
            // The other kind of blocks, or the next panel's.
            "mov {other}, [{arguments} + {NEXT}]\n",
            "add {q}, [{other} + {BEHIND_OF_KIND}]\n",
            "vmovdqu ymm5, [{other}]\n",
            "vmovdqu [{arguments} + {KIND}], ymm5\n",
            "mov {other}, [{other} + {NEXT_OF_KIND}]\n",
            "mov [{arguments} + {NEXT}], {other}\n",
            "6:\n",
            // Past the scales, for which more is asked for ahead as well.
            "mov {header}, {q}\n",
            "mov {other}, [{arguments} + {HEADER}]\n",
            "8:\n",
            "prefetcht1 [{q} + 4096]\n",
            "prefetcht0 [{q} + 1024]\n",
            "add {q}, 64\n",
            "sub {other}, 64\n",
            "jnz 8b\n",
            "7:\n",
            "mov {scales}, {step}\n",
            "imul {scales}, [{arguments} + {GROUP}]\n",
            "and {scales}, -128\n",
            "add {scales}, {header}\n",
        )
    };
}

/// A tile of weights, those of 16 columns, with the rows.
macro_rules! multiply {
    ($from:literal, $sums:literal, $weights:literal, $place:literal) => {
        concat!(
            "tileloadd ",
            $weights,
            ", [",
            $from,
            " + {row}*1 + ",
            $place,
            "]\n",
            "tdpbf16ps ",
            $sums,
            ", tmm4, ",
            $weights,
            "\n",
        )
    };
}

/// A panel's sums to memory.
macro_rules! store {
    () => {
        "mov {other}, [{arguments} + {SUMS}]
         mov {scales:e}, 256
         tilestored [{other} + {scales}*1], tmm0
         tilestored [{other} + {scales}*1 + 64], tmm1
         tilestored [{other} + {scales}*1 + 128], tmm2
         tilestored [{other} + {scales}*1 + 192], tmm3"
    };
}

macro_rules! zero {
    () => {
        "tilezero tmm0
         tilezero tmm1
         tilezero tmm2
         tilezero tmm3"
    };
}

/// Assembly that differs in what quants are.
macro_rules! products {
    ($few:ident, $unpack:ident, $bits:tt, $offsets:ident, $bytes:literal) => {
        /// The products of the rows that the tiles are configured for with panels of `steps` in all.
        unsafe fn $few(arguments: &mut Arguments, at: *const u8, steps: usize, tiles: *mut [u8; 8 * TILE]) {
            // SAFETY: the caller vouches for the operands and sums, and that the tiles are configured.
            unsafe {
                asm!(
                    constants!(),
                    zero!(),
                    begin!(),
                    scales!($offsets, "zmm20", "0"),
                    unpack!($bits, "0", "0"),
                    scales!($offsets, "zmm21", "0"),
                    unpack!($bits, "64", "1024"),
                    scales!($offsets, "zmm20", "64"),
                    unpack!($bits, "128", "2048"),
                    scales!($offsets, "zmm21", "64"),
                    unpack!($bits, "192", "3072"),
                    "dec {count}",
                    "jz 3f",
                    // A tile is multiplied while the next step's is made: vectors wait for nothing then.
                    "2:",
                    next!($bytes),
                    "mov {from}, {to}",
                    "xor {to}, 4096",
                    "tileloadd tmm4, [{first} + {row}*1]",
                    multiply!("{from}", "tmm0", "tmm5", "0"),
                    scales!($offsets, "zmm20", "0"),
                    unpack!($bits, "0", "0"),
                    multiply!("{from}", "tmm1", "tmm6", "1024"),
                    scales!($offsets, "zmm21", "0"),
                    unpack!($bits, "64", "1024"),
                    multiply!("{from}", "tmm2", "tmm7", "2048"),
                    scales!($offsets, "zmm20", "64"),
                    unpack!($bits, "128", "2048"),
                    multiply!("{from}", "tmm3", "tmm5", "3072"),
                    scales!($offsets, "zmm21", "64"),
                    unpack!($bits, "192", "3072"),
                    "add {first}, [{arguments} + {STEP}]",
                    "dec qword ptr [{arguments} + {LEFT}]",
                    "jnz 5f",
                    // The end of a panel.
                    store!(),
                    zero!(),
                    "add {other}, [{arguments} + {PANEL}]",
                    "mov [{arguments} + {SUMS}], {other}",
                    "mov {other}, [{arguments} + {STEPS_OF_PANEL}]",
                    "mov [{arguments} + {LEFT}], {other}",
                    "mov {first}, [{arguments} + {ROWS}]",
                    "5:",
                    "dec {count}",
                    "jnz 2b",
                    "3:",
                    "tileloadd tmm4, [{first} + {row}*1]",
                    multiply!("{to}", "tmm0", "tmm5", "0"),
                    multiply!("{to}", "tmm1", "tmm6", "1024"),
                    multiply!("{to}", "tmm2", "tmm7", "2048"),
                    multiply!("{to}", "tmm3", "tmm5", "3072"),
                    store!(),
                    "vzeroupper",
                    first = inout(reg) arguments.rows => _,
                    arguments = in(reg) arguments,
                    header = inout(reg) at => _,
                    count = inout(reg) steps => _,
                    row = in(reg) ROW,
                    to = inout(reg) tiles => _,
                    from = out(reg) _,
                    q = out(reg) _,
                    scales = out(reg) _,
                    step = out(reg) _,
                    other = out(reg) _,
                    KIND = const offset_of!(Arguments, kind),
                    HEADER = const offset_of!(Arguments, kind.header),
                    STEPS = const offset_of!(Arguments, kind.steps),
                    OFFSETS = const offset_of!(Arguments, kind.offsets),
                    BLOCKS = const offset_of!(Arguments, kind.blocks),
                    NEXT = const offset_of!(Arguments, kind.next),
                    BEHIND_OF_KIND = const offset_of!(Kind, behind),
                    NEXT_OF_KIND = const offset_of!(Kind, next),
                    GROUP = const offset_of!(Arguments, group),
                    STEP = const offset_of!(Arguments, step),
                    STEPS_OF_PANEL = const offset_of!(Arguments, steps),
                    LEFT = const offset_of!(Arguments, left),
                    ROWS = const offset_of!(Arguments, rows),
                    SUMS = const offset_of!(Arguments, sums),
                    PANEL = const offset_of!(Arguments, panel),
                    // Of the first sixteen all, of which `vzeroupper` clears the upper parts.
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                    out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm20") _, out("zmm21") _, out("zmm22") _,
                    out("zmm23") _, out("zmm24") _, out("zmm25") _,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }

        /// The weights of a block to `to`: for each 16 columns their tiles, step by step.
        unsafe fn $unpack(arguments: &mut Arguments, at: *const u8, steps: usize, to: *mut Unpacked) {
            // SAFETY: the caller vouches for the block, and that there is room for its weights.
            unsafe {
                asm!(
                    constants!(),
                    begin!(),
                    "2:",
                    scales!($offsets, "zmm20", "0"),
                    unpack!($bits, "0", "0"),
                    scales!($offsets, "zmm21", "0"),
                    unpack!($bits, "64", "8192"),
                    scales!($offsets, "zmm20", "64"),
                    unpack!($bits, "128", "16384"),
                    scales!($offsets, "zmm21", "64"),
                    unpack!($bits, "192", "24576"),
                    "add {to}, 1024",
                    concat!("add {q}, ", $bytes),
                    "inc {step}",
                    "mov {scales}, {step}",
                    "imul {scales}, [{arguments} + {GROUP}]",
                    "and {scales}, -128",
                    "add {scales}, {header}",
                    "cmp {step}, {count}",
                    "jne 2b",
                    "vzeroupper",
                    arguments = in(reg) arguments,
                    header = in(reg) at,
                    count = in(reg) steps,
                    to = inout(reg) to => _,
                    q = out(reg) _,
                    scales = out(reg) _,
                    step = out(reg) _,
                    other = out(reg) _,
                    HEADER = const offset_of!(Arguments, kind.header),
                    OFFSETS = const offset_of!(Arguments, kind.offsets),
                    GROUP = const offset_of!(Arguments, group),
                    // Of the first sixteen all, of which `vzeroupper` clears the upper parts.
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
                    out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm20") _, out("zmm21") _, out("zmm22") _,
                    out("zmm23") _, out("zmm24") _, out("zmm25") _,
                    options(nostack),
                );
            }
        }
    };
}

products!(few_bytes, unpack_bytes, 8, zero, "2048");
products!(few_bytes_offset, unpack_bytes_offset, 8, own, "2048");
products!(few_nibbles, unpack_nibbles, 4, zero, "1024");
products!(few_nibbles_offset, unpack_nibbles_offset, 4, own, "1024");

impl Recipe {
    /// Makes bf16 of the weights of a block, of so many steps, [`STEPS`] at most.
    ///
    /// # Safety
    /// The instructions [are available](are_available), and the block is there.
    pub(crate) unsafe fn unpack(&self, block: *const u8, steps: usize, to: &mut Unpacked) {
        debug_assert!((1..=STEPS).contains(&steps));
        let unpack = match (self.form.bits, self.form.offsets) {
            (4, false) => unpack_nibbles,
            (4, true) => unpack_nibbles_offset,
            (_, false) => unpack_bytes,
            (_, true) => unpack_bytes_offset,
        };
        let mut arguments = self.arguments(self.kind(Blocks { count: 1, steps, behind: 0 }));
        // SAFETY: the caller's promise.
        unsafe { unpack(&mut arguments, block, steps, to) }
    }
}

/// Room for the tiles of two steps.
#[repr(C, align(8192))]
pub(crate) struct TwoSteps([u8; 8 * TILE]);

impl TwoSteps {
    pub(crate) const EMPTY: TwoSteps = TwoSteps([0; 8 * TILE]);
}

/// The products of up to [`SIDE`] rows, whose weights become bf16 as they are met.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FewRows<'a> {
    pub(crate) recipe: &'a Recipe,
    /// The blocks of a panel, with what is before them in it: those that are whole, and the last, if it is not whole.
    pub(crate) blocks: [Blocks; 2],
    /// Of each step the [`DEPTH`] bf16 of one row after the other.
    pub(crate) first: *const u8,
    /// From 1 to [`SIDE`].
    pub(crate) rows: usize,
}

impl FewRows<'_> {
    /// The products with panels that follow each other, to `sums`: of each panel, of each row, [`COLUMNS`]. `tiles` is
    /// room to work in.
    ///
    /// # Safety
    /// The instructions [are available](are_available), and nothing else on this thread uses tiles. The panels and the
    /// rows are there, and room for the sums.
    pub(crate) unsafe fn multiply(&self, panels: (*const u8, usize), sums: *mut f32, tiles: &mut TwoSteps) {
        let FewRows { recipe, blocks, first, rows } = *self;
        let steps: usize = blocks.iter().map(|blocks| blocks.count * blocks.steps).sum();
        let (panel, count) = panels;
        if steps * count == 0 {
            return;
        }
        debug_assert!((1..=SIDE).contains(&rows));
        let mut kinds = blocks.map(|blocks| recipe.kind(blocks));
        // Each is followed by the other, if there is another.
        let [one, other] = match blocks.map(|blocks| blocks.count > 0) {
            [true, last] => [0, usize::from(last)],
            [false, _] => [1, 1],
        };
        let at = kinds.as_mut_ptr();
        for (kind, next) in [(one, other), (other, one)] {
            // SAFETY: both are among them.
            unsafe { (*at.add(kind)).next = at.add(next) };
        }
        let mut arguments = Arguments {
            step: rows * ROW,
            steps,
            left: steps,
            rows: first,
            sums,
            panel: rows * COLUMNS * size_of::<f32>(),
            // SAFETY: it is among them.
            ..recipe.arguments(unsafe { *at.add(one) })
        };
        let multiply = match (recipe.form.bits, recipe.form.offsets) {
            (4, false) => few_nibbles,
            (4, true) => few_nibbles_offset,
            (_, false) => few_bytes,
            (_, true) => few_bytes_offset,
        };
        // SAFETY: the caller's promise; the tiles are configured for as many rows.
        unsafe {
            let mut own = Own::new();
            own.configure(&Config::new([rows, rows, rows, rows, rows, SIDE, SIDE, SIDE]));
            let first_block = panel.wrapping_add(arguments.kind.behind);
            multiply(&mut arguments, first_block, steps * count, &raw mut tiles.0);
        }
    }
}
