// SPDX-License-Identifier: EUPL-1.2
//! Rules of fused operations that are cheaper than those of their compositions. They compute in f32.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

use super::{Gradients, Saved, in_f32, sum_to};
use crate::{Activation, DType, Op, PagedAttention, Result, RopeLayout, Shape, Tensor};

/// `dx = y ∘ (dy − Σ dy ∘ y)`.
pub(super) fn softmax(g: &Tensor, y: &Tensor) -> Result<Tensor> {
    in_f32([g, y], g.dtype(), |[g, y]| {
        let weighted = g.mul(&y)?;
        weighted.sub(&y.mul(&weighted.sum_axis(y.shape().len() - 1)?)?)
    })
}

fn mean(x: &Tensor) -> Result<Tensor> {
    let last = x.shape().len() - 1;
    x.sum_axis(last)?.scale(1.0 / x.shape()[last] as f64)
}

/// With `r = 1/√(mean(x²) + eps)`, `n = r·x` and `w` the weight with its offset:
/// `dx = r (w ∘ dy − n mean(w ∘ dy ∘ n))`, `dw = Σ dy ∘ n`.
pub(super) fn rms_norm(saved: &Saved, eps: f32, offset: f32) -> Result<Gradients> {
    let (x, weight) = (&saved.inputs[0], &saved.inputs[1]);
    let wide = x.cast(DType::F32)?;
    let r = mean(&wide.mul(&wide)?)?.shift(eps.into())?.rsqrt()?;
    let normal = wide.mul(&r)?;
    let of_x = saved.of(0, |g| {
        let g = g.cast(DType::F32)?.mul(&weight.cast(DType::F32)?.shift(offset.into())?)?;
        g.sub(&normal.mul(&mean(&g.mul(&normal)?)?)?)?.mul(&r)?.cast(x.dtype())
    })?;
    let of_weight = saved.of(1, |g| sum_to(&g.cast(DType::F32)?.mul(&normal)?, weight.spec()))?;
    Ok(vec![of_x, of_weight])
}

/// As [`rms_norm`], with `n` centred: `dx = r (w ∘ dy − mean(w ∘ dy) − n mean(w ∘ dy ∘ n))`, `db = Σ dy`.
pub(super) fn layer_norm(saved: &Saved, eps: f32) -> Result<Gradients> {
    let (x, weight, bias) = (&saved.inputs[0], &saved.inputs[1], &saved.inputs[2]);
    let wide = x.cast(DType::F32)?;
    let centred = wide.sub(&mean(&wide)?)?;
    let r = mean(&centred.mul(&centred)?)?.shift(eps.into())?.rsqrt()?;
    let normal = centred.mul(&r)?;
    let of_x = saved.of(0, |g| {
        let g = g.cast(DType::F32)?.mul(&weight.cast(DType::F32)?)?;
        let along = normal.mul(&mean(&g.mul(&normal)?)?)?;
        g.sub(&mean(&g)?)?.sub(&along)?.mul(&r)?.cast(x.dtype())
    })?;
    let of_weight = saved.of(1, |g| sum_to(&g.cast(DType::F32)?.mul(&normal)?, weight.spec()))?;
    let of_bias = saved.of(2, |g| sum_to(g, bias.spec()))?;
    Ok(vec![of_x, of_weight, of_bias])
}

/// A rotation's transpose is the rotation back.
pub(super) fn rope(saved: &Saved, layout: RopeLayout) -> Result<Gradients> {
    let (positions, frequencies) = (&saved.inputs[1], &saved.inputs[2]);
    let of_x = saved.of(0, |g| g.rope(positions, &frequencies.neg()?, layout))?;
    Ok(vec![of_x, None, None])
}

/// The derivative of an activation at `x`, in f32.
fn slope(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        // s + x s (1 − s)
        Activation::Silu => {
            let s = x.sigmoid()?;
            s.add(&x.mul(&s.sub(&s.mul(&s)?)?)?)
        }
        // Φ(x) + x φ(x)
        Activation::Gelu => {
            let below = x.scale(FRAC_1_SQRT_2)?.erf()?.shift(1.0)?.scale(0.5)?;
            let density = x.mul(x)?.scale(-0.5)?.exp()?.scale(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2)?;
            below.add(&x.mul(&density)?)
        }
        // (1 + t)/2 + x/2 (1 − t²) √(2/π) (1 + 3 · 0.044715 x²), with t the tangent
        Activation::GeluTanh => {
            let square = x.mul(x)?;
            let cubed = square.mul(x)?.scale(0.044715)?;
            let t = x.add(&cubed)?.scale(FRAC_2_PI.sqrt())?.tanh()?;
            let inner = square.scale(3.0 * 0.044715)?.shift(1.0)?.scale(FRAC_2_PI.sqrt())?;
            let bend = x.mul(&t.mul(&t)?.neg()?.shift(1.0)?)?.mul(&inner)?;
            t.shift(1.0)?.add(&bend)?.scale(0.5)
        }
    }
}

pub(super) fn activate(g: &Tensor, x: &Tensor, activation: Activation) -> Result<Tensor> {
    in_f32([g, x], x.dtype(), |[g, x]| g.mul(&slope(&x, activation)?))
}

pub(super) fn glu(saved: &Saved, activation: Activation) -> Result<Gradients> {
    let (gate, up) = (&saved.inputs[0], &saved.inputs[1]);
    let of_gate = saved
        .of(0, |g| in_f32([g, gate, up], gate.dtype(), |[g, gate, up]| g.mul(&up)?.mul(&slope(&gate, activation)?)))?;
    // The very operation, with the gradient in the place of what the gate multiplied.
    let of_up = saved.of(1, |g| gate.glu(g, activation))?;
    Ok(vec![of_gate, of_up])
}

/// All three gradients come from one operation, which makes the scores once. Quantised keys and values have none, but
/// that of the queries needs the floats they stand for.
pub(super) fn paged_attention(saved: &Saved, attention: &PagedAttention) -> Result<Gradients> {
    let mut inputs = saved.inputs.clone();
    for cached in &mut inputs[1..3] {
        if cached.dtype() == DType::I8 {
            *cached = cached.dequantize_rows()?;
        }
    }
    let lengths = [0, 1, 2].map(|i| inputs[i].shape().clone());
    inputs.push(saved.cotangent.clone());
    let all = Tensor::apply(&Op::PagedAttentionGrad(*attention), inputs)?;
    let mut end = 0;
    let part = |(i, shape): (usize, Shape)| {
        let first = end;
        end += shape.elements();
        saved.of(i, |_| all.slice(0, first, first + shape.elements())?.reshape(shape)?.cast(saved.inputs[i].dtype()))
    };
    lengths.into_iter().enumerate().map(part).chain([Ok(None), Ok(None), Ok(None)]).collect()
}

/// The logits are given away, so that their gradient may take their place.
pub(super) fn cross_entropy(saved: Saved) -> Result<Gradients> {
    let Saved { mut inputs, cotangent, .. } = saved;
    inputs.push(cotangent);
    Ok(vec![Some(Tensor::apply(&Op::CrossEntropyGrad, inputs)?), None])
}
