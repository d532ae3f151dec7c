// SPDX-License-Identifier: EUPL-1.2
//! What the instructions want to know of quants.

use half::f16;

use super::{DEPTH, OFFSET, SCALES, quant};

/// What a panel's quants are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Of a quant: 4 or 8.
    pub(crate) bits: usize,
    /// The quant that stands for zero where groups have no offsets.
    pub(crate) zero: u8,
    /// Whether groups have offsets.
    pub(crate) offsets: bool,
    /// Weights of a column that share a scale: 32, 64 or 128.
    pub(crate) group_size: usize,
}

/// Blocks of a panel that follow each other: each has the scales of its groups for all columns as f16, then the offsets, if
/// there are any, which are 2^[`OFFSET`] of what they are beside scales, and then its quants, as [`crate::packed::groups`] has them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub(crate) count: usize,
    /// Weights of a column in each, divided by [`DEPTH`].
    pub(crate) steps: usize,
    /// Bytes before the first.
    pub(crate) behind: usize,
}

/// What the instructions keep in registers.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Constants {
    /// What lanes of scales go to the lanes of weights: each twice, of the lower and of the upper half.
    twice: [[u16; 32]; 2],
    /// What rounds three bits off, in `vpmulhrsw`.
    round: [u16; 32],
    /// Where a bf16 has bits.
    keep: [u16; 32],
    /// What offsets are multiplied by, or scales where those are the offsets.
    offset: [f16; 32],
    /// Where a quant is in a word.
    quant: [u16; 32],
}

/// How weights of a form become bf16.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(super) form: Form,
    constants: Constants,
}

impl Recipe {
    pub(crate) fn new(form: Form) -> Recipe {
        let power = |exponent: i32| f32::exp2(exponent as f32);
        let own = quant(form.bits);
        let offset = if form.offsets { power(own - OFFSET) } else { -f32::from(form.zero) * power(own) };
        let constants = Constants {
            twice: [0, 16].map(|from| std::array::from_fn(|lane| from + lane as u16 / 2)),
            round: [1 << 12; 32],
            keep: [0x8fff; 32],
            offset: [f16::from_f32(offset); 32],
            quant: [if form.bits == 4 { 0xf0 } else { 0xff }; 32],
        };
        Recipe { form, constants }
    }

    /// For blocks of so many steps.
    pub(super) fn kind(&self, blocks: Blocks) -> Kind {
        let scales = blocks.steps * DEPTH / self.form.group_size * SCALES;
        Kind {
            steps: blocks.steps,
            header: if self.form.offsets { 2 * scales } else { scales },
            offsets: scales,
            blocks: blocks.count,
            behind: blocks.behind,
            next: std::ptr::null(),
        }
    }

    pub(super) fn arguments(&self, kind: Kind) -> Arguments {
        Arguments {
            constants: &self.constants,
            kind,
            group: SCALES * DEPTH / self.form.group_size,
            step: 0,
            steps: 0,
            left: 0,
            rows: std::ptr::null(),
            sums: std::ptr::null_mut(),
            panel: 0,
        }
    }
}

/// Blocks of a kind.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Kind {
    /// Steps of a block.
    pub(super) steps: usize,
    /// Bytes of a block's scales and offsets.
    pub(super) header: usize,
    /// Bytes from the scales to the offsets.
    pub(super) offsets: usize,
    /// How many there are, and while they are met, how many are left.
    pub(super) blocks: usize,
    /// Bytes before the first.
    pub(super) behind: usize,
    /// The kind that follows.
    pub(super) next: *const Kind,
}

/// What the instructions want to know, and where they keep account.
#[repr(C)]
pub(super) struct Arguments {
    pub(super) constants: *const Constants,
    /// Of the block that becomes bf16.
    pub(super) kind: Kind,
    /// What a step is multiplied by, and rounded down to whole [`SCALES`], to find its scales.
    pub(super) group: usize,
    /// Bytes of the rows for a step.
    pub(super) step: usize,
    /// Of a panel, and how many of them are left to be multiplied.
    pub(super) steps: usize,
    pub(super) left: usize,
    pub(super) rows: *const u8,
    pub(super) sums: *mut f32,
    /// Bytes of a panel's sums.
    pub(super) panel: usize,
}
