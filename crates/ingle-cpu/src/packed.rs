// SPDX-License-Identifier: EUPL-1.2
//! Weights laid out as [`crate::kernels::linear`] reads them: in panels of [`PANEL`] rows, each of which a thread
//! reads from its first byte to its last.
//!
//! The rows of a panel lie across vector registers, so that a register's lanes are as many outputs, each summed
//! along `k` in order. The sum of an output is the same whatever the number of rows of `x` beside it, and no lanes
//! need to be added up at the end.

pub(crate) mod groups;
#[cfg(target_arch = "x86_64")]
pub(crate) mod halves;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;
pub(crate) mod planes;

use ingle_tensor::{DType, Result, Shape};

use self::groups::GroupPanels;
use crate::kernels::Context;
#[cfg(target_arch = "x86_64")]
use crate::kernels::elements_mut;
use crate::layout::Layout;
use crate::memory::Buffer;
#[cfg(target_arch = "x86_64")]
use crate::memory::Contents;
use crate::simd::turned::{Words, turn};
use crate::simd::{Kernel, Simd};

/// Rows of a weight in a panel.
pub(crate) const PANEL: usize = 64;

/// How a packed weight lies in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// bf16 in rows of `k`; elements `2i` and `2i + 1` of a row side by side, those of the panel's next row beside them.
    #[cfg(target_arch = "x86_64")]
    Pairs { k: usize },
    /// Quants of a few bits, after the scales of their group.
    Groups(GroupPanels),
}

impl Packing {
    /// Rows of the packed matrix, of which `layout` is that of the whole or of the transpose.
    pub(crate) fn rows_of(&self, layout: &Layout) -> usize {
        let transposed = usize::from(!layout.is_contiguous());
        layout.shape()[transposed]
    }

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
pub(crate) struct Transpose<'a> {
    pub(crate) from: &'a [u32],
    pub(crate) stride: usize,
    pub(crate) to: &'a mut [u32],
    /// Whether `from` is a panel of a matrix in memory, whose next panel this thread is likely to pack next. If not, it is
    /// in a cache, and nothing is asked for.
    pub(crate) from_memory: bool,
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        /// Words of a row that are copied at a time: a cache line.
        const LINE: usize = 16;
        /// How far ahead a row is asked for, in words. The rows are too many for the processor to see where each goes
        /// on.
        const AHEAD: usize = 8 * LINE;
        let Transpose { from, stride, to, from_memory } = self;
        let rows = from.len().checked_div(stride).unwrap_or(0).min(PANEL);
        if rows == 0 {
            return;
        }
        for first in (0..stride).step_by(LINE) {
            let length = LINE.min(stride - first);
            let to = &mut to[first * PANEL..(first + length) * PANEL];
            if from_memory {
                let ahead = first + AHEAD;
                let ahead = if ahead < stride { ahead } else { PANEL * stride + (ahead - stride) % stride };
                for row in 0..rows {
                    S::prefetch(from.as_ptr().wrapping_add(row * stride + ahead).cast());
                }
            }
            let from = Words { at: from[first..].as_ptr(), apart: stride };
            // SAFETY: below `dispatch`; these words of these rows are there, and columns of `to` for them.
            unsafe { turn::<S>([rows, length], from, Words { at: to.as_mut_ptr(), apart: PANEL }) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn rows_become_columns_ugly() {
        for isa in Isa::available() {
            // Whole squares, and rows and words that are left over; none at all.
            let sizes = [(64, 64), (64, 160), (50, 40), (3, 7), (17, 16), (0, 50), (5, 0)];
            for ((rows, stride), from_memory) in sizes.into_iter().flat_map(|sizes| [(sizes, false), (sizes, true)]) {
                let from: Vec<u32> = (0..rows * stride).map(|word| word as u32 + 1).collect();
                let mut to = vec![0; stride * PANEL];
                isa.dispatch(Transpose { from: &from, stride, to: &mut to, from_memory });
                for (place, word) in to.into_iter().enumerate() {
                    let (row, column) = (place % PANEL, place / PANEL);
                    let expected = if row < rows { from[row * stride + column] } else { 0 };
                    assert_eq!(word, expected, "{isa}, {rows} rows of {stride}, {row}, {column}");
                }
            }
        }
    }
}
