// SPDX-License-Identifier: EUPL-1.2
//! Rows as 8-bit integers with a scale behind them.

use ingle_tensor::{Result, Spec};

use super::rows::packed;
use super::{Context, Pieces, contiguous, contiguous_f32};
use crate::math::ROUND;
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// [`ingle_tensor::Op::QuantizeRows`].
pub(crate) fn quantize(cx: &Context, x: CpuStorage, output: &Spec) -> Result<CpuStorage> {
    let row = output.shape.last().copied().unwrap_or(0);
    let width = row.saturating_sub(size_of::<f32>());
    let x = contiguous_f32(cx, x)?;
    let x = packed::<f32>(&x);
    cx.make::<i8>(&output.shape, |out| {
        cx.pieces("quantize_rows", out, Pieces { size: row, cost: 2 }, |i, out| {
            cx.isa.dispatch(Quantize { x: &x[i * width..(i + 1) * width], out });
        })
    })
}

/// One row.
struct Quantize<'a> {
    x: &'a [f32],
    out: &'a mut [i8],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Quantize { x, out } = self;
        // The bits of magnitudes are in their order, infinity and NaN last.
        let largest = x.iter().fold(0, |largest, x| x.abs().to_bits().max(largest));
        let largest = f32::from_bits(largest);
        let scale = match largest / 127.0 {
            _ if !largest.is_finite() => f32::from_bits(0x7fc0_0000),
            scale if scale < f32::MIN_POSITIVE => 0.0,
            scale => scale,
        };
        let (quants, last) = out.split_at_mut(x.len());
        if scale > 0.0 {
            for (x, quant) in x.iter().zip(quants) {
                *quant = (x / scale + ROUND).to_bits() as i8;
            }
        } else {
            quants.fill(0);
        }
        last.copy_from_slice(&scale.to_le_bytes().map(u8::cast_signed));
    }
}

/// [`ingle_tensor::Op::DequantizeRows`].
pub(crate) fn dequantize(cx: &Context, x: CpuStorage, output: &Spec) -> Result<CpuStorage> {
    let width = output.shape.last().copied().unwrap_or(0);
    let row = width + size_of::<f32>();
    let x = contiguous(cx, x)?;
    let x = packed::<i8>(&x);
    cx.make::<f32>(&output.shape, |out| {
        cx.pieces("dequantize_rows", out, Pieces { size: width, cost: 1 }, |i, out| {
            cx.isa.dispatch(Dequantize { x: &x[i * row..(i + 1) * row], out });
        })
    })
}

/// One row.
struct Dequantize<'a> {
    x: &'a [i8],
    out: &'a mut [f32],
}

impl Kernel for Dequantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (quants, last) = self.x.split_at(self.out.len());
        let scale = last.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(byte.cast_unsigned()));
        let scale = f32::from_bits(scale);
        for (out, quant) in self.out.iter_mut().zip(quants) {
            *out = f32::from(*quant) * scale;
        }
    }
}
