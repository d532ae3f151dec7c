// SPDX-License-Identifier: EUPL-1.2
//! bf16 weights in panels of pairs, as the BF16 dot product of AVX-512 takes them.

use half::bf16;
use ingle_tensor::Result;

use super::{PANEL, Transpose, panels};
use crate::kernels::{Context, Pieces, elements_mut};
use crate::memory::{Buffer, Contents};

/// Elements of a row with its last pair full.
pub(crate) fn padded(k: usize) -> usize {
    k.next_multiple_of(2)
}

/// Packs a row-major weight `[n, k]`.
pub(crate) fn pack(cx: &Context, weight: &[bf16], [n, k]: [usize; 2]) -> Result<Buffer> {
    let words = padded(k) / 2;
    // Rows that the last panel lacks are zeros.
    let contents = if n.is_multiple_of(PANEL) { Contents::Anything } else { Contents::Zeros };
    let mut buffer = cx.memory.take_lasting(panels(n) * PANEL * words * size_of::<u32>(), contents)?;
    let work = Pieces { size: (PANEL * words).max(1), cost: 1 };
    cx.pieces("pack", elements_mut::<u32>(&mut buffer), work, |panel, out| {
        let rows = &weight[panel * PANEL * k..((panel + 1) * PANEL).min(n) * k];
        match bytemuck::try_cast_slice::<bf16, u32>(rows) {
            Ok(pairs) if k.is_multiple_of(2) => {
                cx.isa.dispatch(Transpose { from: pairs, stride: words, to: out, from_memory: true });
            }
            _ => {
                for (row, from) in rows.chunks(k.max(1)).enumerate() {
                    for (word, pair) in from.chunks(2).enumerate() {
                        let high = pair.get(1).map_or(0, |x| x.to_bits());
                        out[word * PANEL + row] = u32::from(pair[0].to_bits()) | u32::from(high) << 16;
                    }
                }
            }
        }
    })?;
    Ok(buffer)
}

/// Row-major elements of some rows of a packed weight.
pub(crate) fn unpack(cx: &Context, packed: &[u8], rows: &[usize], k: usize, out: &mut [bf16]) -> Result<()> {
    let words = padded(k) / 2;
    let packed: &[u32] = bytemuck::cast_slice(&packed[..packed.len() / 4 * 4]);
    cx.pieces("unpack", out, Pieces { size: k.max(1), cost: 4 }, |at, out| {
        let row = rows[at];
        let panel = &packed[row / PANEL * PANEL * words..];
        for (pair, word) in out.chunks_mut(2).zip(panel.iter().skip(row % PANEL).step_by(PANEL)) {
            pair[0] = bf16::from_bits(*word as u16);
            if let Some(second) = pair.get_mut(1) {
                *second = bf16::from_bits((*word >> 16) as u16);
            }
        }
    })
}
