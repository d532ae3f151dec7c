// SPDX-License-Identifier: EUPL-1.2
//! Rules of the operations that look at one element at a time.

use std::f64::consts::FRAC_2_SQRT_PI;

use super::{Gradients, Saved, in_f32, sum_to};
use crate::{BinaryOp, Result, Shape, Tensor, UnaryOp};

/// From the result's gradient `g`, the input `x` and the result `y`, whichever of the two the rule reads.
pub(super) fn unary(op: UnaryOp, g: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let dtype = g.dtype();
    match op {
        UnaryOp::Neg => g.neg(),
        UnaryOp::Abs => {
            let zero = zero(g)?;
            x.less(&zero)?.select(&g.neg()?, &zero.less(x)?.select(g, &zero)?)
        }
        UnaryOp::Exp => g.mul(y),
        UnaryOp::Log => g.div(x),
        UnaryOp::Sqrt => in_f32([g, y], dtype, |[g, y]| g.div(&y.scale(2.0)?)),
        UnaryOp::Rsqrt => in_f32([g, y], dtype, |[g, y]| g.mul(&y.mul(&y)?.mul(&y)?)?.scale(-0.5)),
        UnaryOp::Recip => in_f32([g, y], dtype, |[g, y]| g.mul(&y.mul(&y)?)?.neg()),
        UnaryOp::Sin => in_f32([g, x], dtype, |[g, x]| g.mul(&x.cos()?)),
        UnaryOp::Cos => in_f32([g, x], dtype, |[g, x]| g.mul(&x.sin()?)?.neg()),
        UnaryOp::Tanh => in_f32([g, y], dtype, |[g, y]| g.sub(&g.mul(&y)?.mul(&y)?)),
        UnaryOp::Sigmoid => in_f32([g, y], dtype, |[g, y]| g.mul(&y.sub(&y.mul(&y)?)?)),
        UnaryOp::Erf => in_f32([g, x], dtype, |[g, x]| g.mul(&x.mul(&x)?.neg()?.exp()?)?.scale(FRAC_2_SQRT_PI)),
    }
}

pub(super) fn binary(op: BinaryOp, saved: &Saved) -> Result<Gradients> {
    let [a, b] = &saved.inputs[..] else { return Ok(vec![]) };
    // A tie is shared.
    let winner = |g: &Tensor, this: &Tensor, other: &Tensor| {
        let (more, less) = if op == BinaryOp::Max { (this, other) } else { (other, this) };
        let shared = more.equal(less)?.select(&g.scale(0.5)?, &zero(g)?)?;
        less.less(more)?.select(g, &shared)
    };
    let of_a = saved.of(0, |g| {
        let gradient = match op {
            BinaryOp::Add | BinaryOp::Sub => g.clone(),
            BinaryOp::Mul => g.mul(b)?,
            BinaryOp::Div => g.div(b)?,
            BinaryOp::Max | BinaryOp::Min => winner(g, a, b)?,
        };
        sum_to(&gradient, a.spec())
    })?;
    let of_b = saved.of(1, |g| {
        let gradient = match op {
            BinaryOp::Add => g.clone(),
            BinaryOp::Sub => g.neg()?,
            BinaryOp::Mul => g.mul(a)?,
            BinaryOp::Div => in_f32([g, a, b], g.dtype(), |[g, a, b]| g.div(&b)?.mul(&a.div(&b)?)?.neg())?,
            BinaryOp::Max | BinaryOp::Min => winner(g, b, a)?,
        };
        sum_to(&gradient, b.spec())
    })?;
    Ok(vec![of_a, of_b])
}

pub(super) fn select(saved: &Saved) -> Result<Gradients> {
    let [condition, a, b] = &saved.inputs[..] else { return Ok(vec![]) };
    let of_a = saved.of(1, |g| sum_to(&condition.select(g, &zero(g)?)?, a.spec()))?;
    let of_b = saved.of(2, |g| sum_to(&condition.select(&zero(g)?, g)?, b.spec()))?;
    Ok(vec![None, of_a, of_b])
}

/// A scalar.
fn zero(like: &Tensor) -> Result<Tensor> {
    Tensor::full(like.device(), Shape::default(), like.dtype(), 0.0)
}
