// SPDX-License-Identifier: EUPL-1.2
//! bf16 weights by the tiles of AMX, or by the BF16 dot product of AVX-512.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;
use ingle_tensor::{DType, Result};

use super::{FEW, Outputs, PanelKernel, Product, ROWS, Reading, SHORT, Start, tiles};
use crate::kernels::{Context, Pieces, cast, contiguous, elements_mut, rows::packed};
use crate::layout::Layout;
use crate::memory::Contents;
use crate::packed::{PANEL, pairs::padded};
use crate::simd::Isa;
use crate::simd::tiles::{self, Matrix, TileProduct, Tiles, Width, multiply_bf16};
use crate::storage::CpuStorage;

/// Pairs of the inner axis in a strip: 128 KiB of weights, which stay in the second cache while every tile meets them.
const STRIP: usize = 512;

/// The most rows in a tile: with 4 registers for each, all but eight.
const TILE: usize = 6;

/// Registers across a panel.
const WIDTH: usize = PANEL / 16;

/// `x [m, k]` as bf16, each row with its last pair full.
pub(super) fn padded_rows(cx: &Context, x: CpuStorage, k: usize) -> Result<CpuStorage> {
    let x = contiguous(cx, cast::cast(cx, x, DType::BF16)?)?;
    if k.is_multiple_of(2) {
        return Ok(x);
    }
    let rows = x.elements() / k.max(1);
    let mut buffer = cx.buffer::<bf16>(rows * padded(k), Contents::Zeros)?;
    let from = packed::<bf16>(&x);
    cx.pieces("linear", elements_mut(&mut buffer), Pieces { size: padded(k), cost: 1 }, |row, out| {
        out[..k].copy_from_slice(&from[row * k..][..k]);
    })?;
    Ok(CpuStorage::new(buffer, Layout::contiguous(&[rows, padded(k)].into()), DType::BF16))
}

/// A product of bf16 rows with a packed bf16 weight.
pub(super) struct Pairs<'a> {
    x: &'a [bf16],
    weight: &'a [u8],
    /// Pairs of the inner axis.
    pairs: usize,
    start: Start,
    isa: Isa,
}

impl<'a> Pairs<'a> {
    /// `x` has `m` padded rows; the weight is packed, `[n, k]`. The instruction set has pairs.
    pub(super) fn new(x: &'a [bf16], weight: &'a [u8], product: &Product<'_>, isa: Isa) -> Self {
        let &Product { m, n, k, bias } = product;
        let pairs = padded(k) / 2;
        // Without pairs there is no sum to begin.
        let start = if bias.is_none() && pairs > 0 { Start::Zero } else { Start::There };
        // The bounds that the kernel relies on.
        assert!(x.len() >= m * pairs * 2, "x is shorter than its shape");
        assert!(weight.len() >= n.next_multiple_of(PANEL) * pairs * 4, "the weight is shorter than its shape");
        Pairs { x, weight, pairs, start, isa }
    }
}

impl PanelKernel for Pairs<'_> {
    fn reading(&self) -> Reading<'_> {
        Reading {
            weight: Some(self.weight),
            panel_bytes: self.pairs * PANEL * 4,
            few: FEW,
            short: SHORT,
            rows: ROWS,
            together: 1,
            weights: 1,
        }
    }

    fn start(&self) -> Start {
        self.start
    }

    unsafe fn panel(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs) {
        // SAFETY: weights are packed this way only where the machine has the instructions; the pointers stay inside
        // what `new` has checked, and the caller vouches for `out`.
        unsafe {
            match self.isa {
                Isa::Amx => self.tiles(panel, rows, columns, out),
                _ => self.strips(panel, rows, columns, out),
            }
        }
    }
}

impl Pairs<'_> {
    /// With tiles: all of a panel's columns at once, so that it is read from its first byte to its last.
    ///
    /// # Safety
    /// As of [`PanelKernel::panel`]; the machine has tiles.
    unsafe fn tiles(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs) {
        // SAFETY: the caller's promise; nothing below uses them otherwise.
        let mut own = unsafe { Tiles::new() };
        let mut spare = MaybeUninit::<[[f32; PANEL]; tiles::SIDE]>::uninit();
        for strip in (0..self.pairs).step_by(STRIP) {
            let length = STRIP.min(self.pairs - strip);
            for tile in tiles(rows.len(), tiles::SIDE) {
                let adds = strip > 0 || self.start == Start::There;
                // SAFETY: the strip and the rows lie inside the weight and `x`, whose lengths were checked. Where the
                // panel has fewer columns than the tiles, the sums are in `spare`, of which is read what was written.
                unsafe {
                    let Outputs { at: out, stride } = out.from(tile.start);
                    let part = |sums| TileProduct {
                        first: Matrix {
                            at: self.x.as_ptr().add(((rows.start + tile.start) * self.pairs + strip) * 2).cast(),
                            stride: self.pairs * 4,
                        },
                        second: Matrix {
                            at: self.weight.as_ptr().add((panel * self.pairs + strip) * PANEL * 4),
                            stride: PANEL * 4,
                        },
                        columns_apart: tiles::ROW,
                        steps: length,
                        sums,
                        adds,
                    };
                    if columns == PANEL {
                        multiply_bf16(
                            &mut own,
                            Width::Four,
                            tile.len(),
                            part(Matrix { at: out.cast(), stride: stride * 4 }),
                        );
                        continue;
                    }
                    let sums = spare.as_mut_ptr().cast::<f32>();
                    if adds {
                        sums.write_bytes(0, tile.len() * PANEL);
                        for row in 0..tile.len() {
                            out.add(row * stride).copy_to_nonoverlapping(sums.add(row * PANEL), columns);
                        }
                    }
                    multiply_bf16(
                        &mut own,
                        Width::Four,
                        tile.len(),
                        part(Matrix { at: sums.cast(), stride: PANEL * 4 }),
                    );
                    for row in 0..tile.len() {
                        sums.add(row * PANEL).copy_to_nonoverlapping(out.add(row * stride), columns);
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn strips(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs) {
        let masks: [__mmask16; WIDTH] = std::array::from_fn(|i| {
            let lanes = columns.saturating_sub(16 * i).min(16);
            ((1u32 << lanes) - 1) as __mmask16
        });
        for strip in (0..self.pairs).step_by(STRIP) {
            let length = STRIP.min(self.pairs - strip);
            for tile in tiles(rows.len(), TILE) {
                let first = rows.start + tile.start;
                // SAFETY: the strip and the rows lie inside the weight and `x`, whose lengths were checked.
                unsafe {
                    let part = Part {
                        weight: self.weight.as_ptr().add((panel * self.pairs + strip) * PANEL * 4),
                        x: self.x.as_ptr().cast::<i32>().add(first * self.pairs + strip),
                        x_stride: self.pairs,
                        length,
                        out: out.from(tile.start),
                        start: if strip == 0 { self.start } else { Start::There },
                        masks,
                    };
                    match tile.len() {
                        1 => part.product::<1>(),
                        2 => part.product::<2>(),
                        3 => part.product::<3>(),
                        4 => part.product::<4>(),
                        5 => part.product::<5>(),
                        // No tile has more rows than `TILE`.
                        _ => part.product::<6>(),
                    }
                }
            }
        }
    }
}

/// The same bits, as the dot product has its operands.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, of which all are valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

/// A strip of a panel and the rows of `x` that meet it.
struct Part {
    weight: *const u8,
    x: *const i32,
    x_stride: usize,
    /// Pairs.
    length: usize,
    out: Outputs,
    start: Start,
    /// The lanes of each register that are wanted.
    masks: [__mmask16; WIDTH],
}

impl Part {
    /// Adds the products of `R` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn product<const R: usize>(&self) {
        // SAFETY: the caller's pointers hold as many rows, pairs and outputs as it says.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); WIDTH]; R];
            if self.start == Start::There {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_maskz_loadu_ps(self.masks[c], self.out.at.add(r * self.out.stride + 16 * c));
                    }
                }
            }
            for pair in 0..self.length {
                let from = self.weight.add(pair * PANEL * 4);
                let mut weights = [_mm512_setzero_si512(); WIDTH];
                for (c, weight) in weights.iter_mut().enumerate() {
                    *weight = _mm512_load_si512(from.add(64 * c).cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(self.x.add(r * self.x_stride + pair).read_unaligned());
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbf16_ps(*sum, bf16_pairs(x), bf16_pairs(weight));
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (c, sum) in sums.into_iter().enumerate() {
                    _mm512_mask_storeu_ps(self.out.at.add(r * self.out.stride + 16 * c), self.masks[c], sum);
                }
            }
        }
    }
}
