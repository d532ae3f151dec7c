// SPDX-License-Identifier: EUPL-1.2
//! Weights laid out as [`crate::kernels::linear`] reads them: in panels of [`PANEL`] rows, each of which a thread
//! reads from its first byte to its last.
//!
//! The rows of a panel lie across vector registers, so that a register's lanes are as many outputs, each summed
//! along `k` in order. The sum of an output is the same whatever the number of rows of `x` beside it, and no lanes
//! need to be added up at the end.

pub(crate) mod groups;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;

use ingle_tensor::{DType, Result, Shape};

use self::groups::GroupPanels;
use crate::kernels::Context;
#[cfg(target_arch = "x86_64")]
use crate::kernels::elements_mut;
use crate::memory::Buffer;
#[cfg(target_arch = "x86_64")]
use crate::memory::Contents;
#[cfg(target_arch = "x86_64")]
use crate::simd;

/// Rows of a weight in a panel.
pub(crate) const PANEL: usize = 64;

/// How a packed weight lies in its buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    /// bf16 in rows of `k`; elements `2i` and `2i + 1` of a row side by side, those of the panel's next row beside them.
    #[cfg(target_arch = "x86_64")]
    Pairs { k: usize },
    /// Quants of a few bits, after the scales of their group.
    Groups(GroupPanels),
}

impl Packing {
    /// Row-major elements of the rows `rows` of a packed weight, one after another, as `dtype`.
    pub(crate) fn rows(&self, cx: &Context, packed: &[u8], rows: &[usize], dtype: DType) -> Result<Buffer> {
        match self {
            #[cfg(target_arch = "x86_64")]
            &Packing::Pairs { k } => {
                let mut buffer = cx.memory.take(rows.len() * k * dtype.size(), Contents::Anything)?;
                pairs::unpack(cx, packed, rows, k, elements_mut(&mut buffer))?;
                Ok(buffer)
            }
            Packing::Groups(panels) => panels.unpack(cx, packed, rows, dtype),
        }
    }
}

/// Panels that hold `n` rows; the last may hold some that are only zeros.
pub(crate) fn panels(n: usize) -> usize {
    n.div_ceil(PANEL)
}

/// Rows and columns of a weight.
pub(crate) fn sizes(shape: &Shape) -> [usize; 2] {
    [shape[0], shape[1]]
}

/// Copies 32-bit words from rows of `from`, each `stride` words long, to columns of `to`, [`PANEL`] words apart.
/// Absent rows leave their column as it is.
#[cfg(target_arch = "x86_64")]
pub(crate) fn transpose(from: &[u32], stride: usize, to: &mut [u32]) {
    /// Words of a row that are copied at a time: a cache line.
    const LINE: usize = 16;
    /// How far ahead a row is asked for, in words. The rows are too many for the processor to see where each goes on.
    const AHEAD: usize = 8 * LINE;
    if stride == 0 {
        return;
    }
    let rows = from.len() / stride;
    for first in (0..stride).step_by(LINE) {
        let length = LINE.min(stride - first);
        let to = &mut to[first * PANEL..(first + length) * PANEL];
        for row in 0..rows {
            let from = &from[row * stride + first..];
            simd::prefetch(from.as_ptr().wrapping_add(AHEAD).cast());
            let from = &from[..length];
            for (word, from) in from.iter().enumerate() {
                to[word * PANEL + row] = *from;
            }
        }
    }
}
