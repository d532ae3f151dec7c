// SPDX-License-Identifier: EUPL-1.2
//! The optimisers' steps.

use super::super::optimizer::{Adam, Momentum, Sgd, WeightDecay};
use crate::{DType, Result, Shape, Tensor};

pub(super) fn squared_norm(x: &Tensor) -> Result<Tensor> {
    let x = x.cast(DType::F32)?.reshape([x.shape().elements()])?;
    x.mul(&x)?.sum_axis(0)?.reshape(Shape::default())
}

/// Row `index` of a tensor, without the axis of rows.
fn row(rows: &Tensor, index: usize) -> Result<Tensor> {
    rows.slice(0, index, index + 1)?.reshape(&rows.shape()[1..])
}

/// Tensors of one shape as the rows of one.
fn stack(rows: &[Tensor]) -> Result<Tensor> {
    let with_axis = |x: &Tensor| x.reshape([&[1], &**x.shape()].concat());
    Tensor::concat(&rows.iter().map(with_axis).collect::<Result<Vec<_>>>()?, 0)
}

/// `x + factor · other`.
fn plus(x: &Tensor, other: &Tensor, factor: f64) -> Result<Tensor> {
    if factor == 0.0 { Ok(x.clone()) } else { x.add(&other.scale(factor)?) }
}

pub(super) fn adam(parameters: &Adam, state: &Tensor, gradient: &Tensor, rates: &Tensor) -> Result<Tensor> {
    let Adam { beta1, beta2, eps, weight_decay } = *parameters;
    let [rate, unbias1, unbias2, factor] = [row(rates, 0)?, row(rates, 1)?, row(rates, 2)?, row(rates, 3)?];
    let (weight, mean, mean_square) = (row(state, 0)?, row(state, 1)?, row(state, 2)?);
    let gradient = gradient.cast(DType::F32)?.mul(&factor)?;
    let (weight, gradient) = match weight_decay {
        WeightDecay::Gradient(decay) => (weight.clone(), plus(&gradient, &weight, decay)?),
        WeightDecay::Decoupled(decay) => (weight.sub(&weight.mul(&rate.scale(decay)?)?)?, gradient),
    };
    let mean = mean.add(&gradient.sub(&mean)?.scale(1.0 - beta1)?)?;
    let square = gradient.mul(&gradient)?.scale(1.0 - beta2)?;
    let mean_square = mean_square.scale(beta2)?.add(&square)?;
    let divisor = mean_square.sqrt()?.div(&unbias2.sqrt()?)?.shift(eps)?;
    let weight = weight.sub(&mean.mul(&rate.div(&unbias1)?)?.div(&divisor)?)?;
    stack(&[weight, mean, mean_square])
}

pub(super) fn sgd(parameters: &Sgd, state: &Tensor, gradient: &Tensor, rates: &Tensor) -> Result<Tensor> {
    let (rate, factor) = (row(rates, 0)?, row(rates, 1)?);
    let weight = row(state, 0)?;
    let gradient = plus(&gradient.cast(DType::F32)?.mul(&factor)?, &weight, parameters.weight_decay)?;
    let gather = |momentum: f64| row(state, 1)?.scale(momentum)?.add(&gradient);
    match parameters.momentum {
        Momentum::None => stack(&[weight.sub(&gradient.mul(&rate)?)?]),
        Momentum::Heavy(momentum) => {
            let gathered = gather(momentum)?;
            stack(&[weight.sub(&gathered.mul(&rate)?)?, gathered])
        }
        Momentum::Nesterov(momentum) => {
            let gathered = gather(momentum)?;
            let ahead = plus(&gradient, &gathered, momentum)?;
            stack(&[weight.sub(&ahead.mul(&rate)?)?, gathered])
        }
    }
}
