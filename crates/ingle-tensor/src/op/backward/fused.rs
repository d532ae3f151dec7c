// SPDX-License-Identifier: EUPL-1.2
//! Rules of fused operations that are cheaper than those of their compositions. They compute in f32.

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

pub(super) fn rms_norm(saved: Saved, eps: f32, offset: f32) -> Result<Gradients> {
    let of_weight = saved.of(1, |g| {
        let inputs = vec![saved.inputs[0].clone(), g.clone()];
        Tensor::apply(&Op::RmsNormWeightGrad { eps }, inputs)?.cast(saved.inputs[1].dtype())
    })?;
    let of_x = saved.wants(0);
    let Saved { mut inputs, cotangent, .. } = saved;
    inputs.push(cotangent);
    let of_x = if of_x { Some(Tensor::apply(&Op::RmsNormGrad { eps, offset }, inputs)?) } else { None };
    Ok(vec![of_x, of_weight])
}

/// With `r = 1/√(variance + eps)` and `n = r (x − mean(x))`: `dx = r (w ∘ dy − mean(w ∘ dy) − n mean(w ∘ dy ∘ n))`,
/// `dw = Σ dy ∘ n`, `db = Σ dy`.
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
pub(super) fn rope(saved: Saved, layout: RopeLayout) -> Result<Gradients> {
    let wanted = saved.wants(0);
    let Saved { inputs, cotangent, .. } = saved;
    let [_, positions, frequencies] = &inputs[..] else { return Ok(vec![]) };
    // The cotangent is given away, so that the gradient may take its place.
    let turn = |g| Tensor::apply(&Op::Rope { layout }, vec![g, positions.clone(), frequencies.neg()?]);
    Ok(vec![if wanted { Some(turn(cotangent)?) } else { None }, None, None])
}

pub(super) fn glu(saved: Saved, activation: Activation) -> Result<Gradients> {
    let Saved { mut inputs, cotangent, wanted, .. } = saved;
    let shape = cotangent.shape().clone();
    inputs.push(cotangent);
    let both = Tensor::apply(&Op::GluGrad { activation }, inputs)?;
    let part = |i: usize| {
        if wanted.get(i) == Some(&true) { both.slice(0, i, i + 1)?.reshape(&shape).map(Some) } else { Ok(None) }
    };
    Ok(vec![part(0)?, part(1)?])
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
