// SPDX-License-Identifier: EUPL-1.2
//! Fused operations as compositions of primitives: their specification.

mod attention;
mod cross_entropy;
mod gradients;
mod optimizer;

use super::{Activation, Op, RopeLayout};
#[cfg(any(test, feature = "conformance"))]
use crate::PagedAttention;
use crate::{DType, Result, Tensor};
use attention::{Table, paged_attention, paged_attention_grad};
use cross_entropy::{cross_entropy, cross_entropy_grad};
use optimizer::{adam, sgd, squared_norm};

impl Op {
    /// Runs a fused operation as its composition of other operations; `None` for a primitive.
    ///
    /// A device calls this for the fused operations it has no kernel for. Inputs must have passed
    /// [`Op::infer`].
    ///
    /// # Errors
    /// Those of the operations it is composed of.
    pub fn decompose(&self, inputs: &[Tensor]) -> Option<Result<Tensor>> {
        let composed = match (self, inputs) {
            (Op::Pack, [weight]) => weight.reshape(weight.shape()),
            (Op::Linear, [x, weight, bias @ ..]) => linear(x, weight, bias.first()),
            (Op::Softmax, [x]) => in_f32(x, softmax),
            (Op::RmsNorm { eps, offset }, [x, weight]) => in_f32(x, |x| rms_norm(x, weight, *eps, *offset)),
            (Op::LayerNorm { eps }, [x, weight, bias]) => in_f32(x, |x| layer_norm(x, weight, bias, *eps)),
            (Op::Rope { layout }, [x, positions, frequencies]) => {
                in_f32(x, |x| rope(x, positions, frequencies, *layout))
            }
            (Op::Activate(activation), [x]) => in_f32(x, |x| activate(x, *activation)),
            (Op::Glu { activation }, [gate, up]) => {
                in_f32(gate, |gate| activate(gate, *activation)?.mul(&up.cast(DType::F32)?))
            }
            // Fused ones again, which a device may have kernels for.
            (Op::GatedMlp { activation }, [x, gate, up, down]) => gated_mlp(x, [gate, up, down], *activation),
            (Op::SoftCap { cap }, [x]) => in_f32(x, |x| soft_cap(x, *cap)),
            (Op::PagedAttention(parameters), [q, keys, values, blocks, sequences, positions]) => {
                let table = Table { blocks, sequences, positions };
                in_f32(q, |q| paged_attention(parameters, [q, keys, values], &table, |x| Ok(x.clone())))
            }
            (Op::PagedAttentionGrad(parameters), [q, keys, values, blocks, sequences, positions, gradient]) => {
                let table = Table { blocks, sequences, positions };
                paged_attention_grad(parameters, [q, keys, values, gradient], &table, |x| Ok(x.clone()))
            }
            (Op::CrossEntropy, [logits, targets]) => cross_entropy(logits, targets),
            (Op::CrossEntropyGrad, [logits, targets, gradient]) => cross_entropy_grad(logits, targets, gradient),
            (Op::RmsNormGrad { eps, offset }, [x, weight, gradient]) => {
                gradients::rms_norm([x, weight, gradient], (*eps, *offset))
            }
            (Op::RmsNormWeightGrad { eps }, [x, gradient]) => gradients::rms_norm_weight(x, gradient, *eps),
            (Op::ActivateGrad(activation), [x, gradient]) => gradients::activation(x, gradient, *activation),
            (Op::GluGrad { activation }, [gate, up, gradient]) => gradients::glu([gate, up, gradient], *activation),
            (Op::SquaredNorm, [x]) => squared_norm(x),
            (Op::Adam(parameters), [state, gradient, rates]) => adam(parameters, state, gradient, rates),
            (Op::Sgd(parameters), [state, gradient, rates]) => sgd(parameters, state, gradient, rates),
            _ => return None,
        };
        Some(composed)
    }
}

/// [`Op::PagedAttention`] as [`Op::decompose`] writes it, but for the weights, which pass through `round`: what a device
/// may do to them. Inputs must have passed [`Op::infer`].
#[cfg(any(test, feature = "conformance"))]
pub(crate) fn attend_rounded(
    parameters: &PagedAttention,
    [q, keys, values, blocks, sequences, positions]: [&Tensor; 6],
    round: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let table = Table { blocks, sequences, positions };
    in_f32(q, |q| paged_attention(parameters, [q, keys, values], &table, round))
}

/// [`Op::PagedAttentionGrad`] as [`Op::decompose`] writes it, but for the weights and the gradient of the scores, which
/// pass through `round`: what a device may do to them. Inputs must have passed [`Op::infer`].
#[cfg(any(test, feature = "conformance"))]
pub(crate) fn attention_grad_rounded(
    parameters: &PagedAttention,
    [q, keys, values, blocks, sequences, positions, gradient]: [&Tensor; 7],
    round: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let table = Table { blocks, sequences, positions };
    paged_attention_grad(parameters, [q, keys, values, gradient], &table, round)
}

/// Computes in f32 and gives the result in the dtype of `x`.
fn in_f32(x: &Tensor, compute: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    compute(&x.cast(DType::F32)?)?.cast(x.dtype())
}

fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    in_f32(x, |x| {
        let (k, n) = (weight.shape()[1], weight.shape()[0]);
        let tokens: usize = x.shape()[..x.shape().len() - 1].iter().product();
        let weight = weight.cast(DType::F32)?.permute(&[1, 0])?;
        let y = x.reshape([tokens, k])?.matmul(&weight)?;
        let y = match bias {
            Some(bias) => y.add(&bias.cast(DType::F32)?)?,
            None => y,
        };
        y.reshape(x.shape().with_axis(x.shape().len() - 1, n))
    })
}

fn gated_mlp(x: &Tensor, [gate, up, down]: [&Tensor; 3], activation: Activation) -> Result<Tensor> {
    x.linear(gate, None)?.glu(&x.linear(up, None)?, activation)?.linear(down, None)
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let last = x.shape().len() - 1;
    let e = x.sub(&x.max_axis(last)?)?.exp()?;
    e.div(&e.sum_axis(last)?)
}

fn mean(x: &Tensor, axis: usize) -> Result<Tensor> {
    x.sum_axis(axis)?.scale(1.0 / x.shape()[axis] as f64)
}

fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32, offset: f32) -> Result<Tensor> {
    let mean_square = mean(&x.mul(x)?, x.shape().len() - 1)?;
    let normal = x.mul(&mean_square.shift(eps.into())?.rsqrt()?)?;
    normal.mul(&weight.cast(DType::F32)?.shift(offset.into())?)
}

fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let last = x.shape().len() - 1;
    let centred = x.sub(&mean(x, last)?)?;
    let variance = mean(&centred.mul(&centred)?, last)?;
    let normal = centred.mul(&variance.shift(eps.into())?.rsqrt()?)?;
    normal.mul(&weight.cast(DType::F32)?)?.add(&bias.cast(DType::F32)?)
}

fn rope(x: &Tensor, positions: &Tensor, frequencies: &Tensor, layout: RopeLayout) -> Result<Tensor> {
    let (tokens, heads, width) = (x.shape()[0], x.shape()[1], x.shape()[2]);
    let half = frequencies.shape()[0];
    let turned = 2 * half;
    let angles = positions.cast(DType::F32)?.reshape([tokens, 1, 1])?.mul(&frequencies.reshape([1, 1, half])?)?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let (a, b) = match layout {
        RopeLayout::Halves => (x.slice(2, 0, half)?, x.slice(2, half, turned)?),
        RopeLayout::Interleaved => (x.slice_step(2, 0, turned, 2)?, x.slice_step(2, half.min(1), turned, 2)?),
    };
    let first = a.mul(&cos)?.sub(&b.mul(&sin)?)?;
    let second = b.mul(&cos)?.add(&a.mul(&sin)?)?;
    let pair_axis = match layout {
        RopeLayout::Halves => 2,
        RopeLayout::Interleaved => 3,
    };
    let apart = |part: Tensor| match layout {
        RopeLayout::Halves => Ok(part),
        RopeLayout::Interleaved => part.reshape([tokens, heads, half, 1]),
    };
    let rotated = Tensor::concat(&[apart(first)?, apart(second)?], pair_axis)?.reshape([tokens, heads, turned])?;
    Tensor::concat(&[rotated, x.slice(2, turned, width)?], 2)
}

fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.mul(&x.sigmoid()?),
        Activation::Gelu => {
            let bell = x.scale(std::f64::consts::FRAC_1_SQRT_2)?.erf()?.shift(1.0)?;
            x.scale(0.5)?.mul(&bell)
        }
        Activation::GeluTanh => {
            let cubed = x.mul(x)?.mul(x)?.scale(0.044715)?;
            let inner = x.add(&cubed)?.scale((2.0 / std::f64::consts::PI).sqrt())?;
            x.scale(0.5)?.mul(&inner.tanh()?.shift(1.0)?)
        }
    }
}

fn soft_cap(x: &Tensor, cap: f32) -> Result<Tensor> {
    x.scale(1.0 / f64::from(cap))?.tanh()?.scale(cap.into())
}
