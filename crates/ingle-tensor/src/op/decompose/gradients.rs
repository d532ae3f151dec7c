// SPDX-License-Identifier: EUPL-1.2
//! Gradients of the normalisations and non-linearities. They compute in f32.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, FRAC_2_SQRT_PI};

use super::{activate, mean};
use crate::{Activation, DType, Result, Shape, Tensor};

/// `x` in f32, and `1/√(mean(x²) + eps)` of each row.
fn deviation(x: &Tensor, eps: f32) -> Result<[Tensor; 2]> {
    let x = x.cast(DType::F32)?;
    let r = mean(&x.mul(&x)?, x.shape().len() - 1)?.shift(eps.into())?.rsqrt()?;
    Ok([x, r])
}

/// With `r = 1/√(mean(x²) + eps)`, `n = r·x` and `w` the weight with its offset: `r (w ∘ dy − n mean(w ∘ dy ∘ n))`.
pub(super) fn rms_norm([x, weight, gradient]: [&Tensor; 3], (eps, offset): (f32, f32)) -> Result<Tensor> {
    let [wide, r] = deviation(x, eps)?;
    let normal = wide.mul(&r)?;
    let weight = weight.cast(DType::F32)?.shift(offset.into())?;
    let g = gradient.cast(DType::F32)?.mul(&weight)?;
    let along = normal.mul(&mean(&g.mul(&normal)?, x.shape().len() - 1)?)?;
    g.sub(&along)?.mul(&r)?.cast(x.dtype())
}

/// `Σ dy ∘ n` over the rows, with `n` as of [`rms_norm`].
pub(super) fn rms_norm_weight(x: &Tensor, gradient: &Tensor, eps: f32) -> Result<Tensor> {
    let [wide, r] = deviation(x, eps)?;
    let (lead, width) = x.shape().split_at(x.shape().len() - 1);
    let rows = lead.iter().product();
    let products = gradient.cast(DType::F32)?.mul(&wide.mul(&r)?)?;
    products.reshape([rows, width[0]])?.sum_axis(0)?.reshape([width[0]])
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

/// The gradient times the slope.
pub(super) fn activation(x: &Tensor, gradient: &Tensor, activation: Activation) -> Result<Tensor> {
    let slope = slope(&x.cast(DType::F32)?, activation)?;
    gradient.cast(DType::F32)?.mul(&slope)?.cast(x.dtype())
}

/// `dgate = dy ∘ up ∘ slope(gate)` and `dup = dy ∘ activation(gate)`, one after the other.
pub(super) fn glu([gate, up, gradient]: [&Tensor; 3], activation: Activation) -> Result<Tensor> {
    let wide = gate.cast(DType::F32)?;
    let gradient = gradient.cast(DType::F32)?;
    let of_gate = gradient.mul(&up.cast(DType::F32)?)?.mul(&slope(&wide, activation)?)?;
    let of_up = gradient.mul(&activate(&wide, activation)?)?;
    let own: Shape = std::iter::once(1).chain(gate.shape().iter().copied()).collect();
    Tensor::concat(&[of_gate.reshape(&own)?, of_up.reshape(&own)?], 0)?.cast(gate.dtype())
}
