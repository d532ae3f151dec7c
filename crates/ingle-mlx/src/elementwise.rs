// SPDX-License-Identifier: EUPL-1.2
//! Operations that look at one element at a time, and those that fold an axis.

use ingle_tensor::{Activation, BinaryOp, CompareOp, DType, ReduceOp, Result, Spec, UnaryOp};

use crate::array::{Array, int, kind};
use crate::bridge;
use crate::layout;

/// To another dtype.
pub(crate) fn cast(op: &'static str, x: &Array, from: DType, to: DType) -> Result<Array> {
    if from == to {
        return Ok(x.clone());
    }
    Array::new(
        op,
        match from.is_float() && !to.is_float() {
            true => bridge::truncate(x.get(), kind(to)),
            false => bridge::cast(x.get(), kind(to)),
        },
    )
}

/// A function of one array.
pub(crate) fn unary(op: &'static str, function: UnaryOp, x: &Array) -> Result<Array> {
    let function = match function {
        UnaryOp::Neg => bridge::Unary::Neg,
        UnaryOp::Abs => bridge::Unary::Abs,
        UnaryOp::Exp => bridge::Unary::Exp,
        UnaryOp::Log => bridge::Unary::Log,
        UnaryOp::Sqrt => bridge::Unary::Sqrt,
        UnaryOp::Rsqrt => bridge::Unary::Rsqrt,
        UnaryOp::Recip => bridge::Unary::Recip,
        UnaryOp::Sin => bridge::Unary::Sin,
        UnaryOp::Cos => bridge::Unary::Cos,
        UnaryOp::Tanh => bridge::Unary::Tanh,
        UnaryOp::Sigmoid => bridge::Unary::Sigmoid,
        UnaryOp::Erf => bridge::Unary::Erf,
    };
    Array::new(op, bridge::unary(function, x.get()))
}

/// A function of two arrays.
pub(crate) fn binary(op: &'static str, function: BinaryOp, a: &Array, b: &Array) -> Result<Array> {
    let function = match function {
        BinaryOp::Add => bridge::Binary::Add,
        BinaryOp::Sub => bridge::Binary::Sub,
        BinaryOp::Mul => bridge::Binary::Mul,
        BinaryOp::Div => bridge::Binary::Div,
        BinaryOp::Max => bridge::Binary::Max,
        BinaryOp::Min => bridge::Binary::Min,
    };
    Array::new(op, bridge::binary(function, a.get(), b.get()))
}

/// A comparison of two arrays.
pub(crate) fn compare(op: &'static str, comparison: CompareOp, a: &Array, b: &Array) -> Result<Array> {
    let function = match comparison {
        CompareOp::Equal => bridge::Binary::Equal,
        CompareOp::Less => bridge::Binary::Less,
        CompareOp::LessEqual => bridge::Binary::LessEqual,
    };
    Array::new(op, bridge::binary(function, a.get(), b.get()))
}

/// `a` where the condition holds, else `b`.
pub(crate) fn select(op: &'static str, [condition, a, b]: [&Array; 3]) -> Result<Array> {
    Array::new(op, bridge::select(condition.get(), a.get(), b.get()))
}

/// A sum or a maximum along an axis of `x`, whose spec is `spec`.
pub(crate) fn reduce(
    op: &'static str,
    function: ReduceOp,
    axis: usize,
    (x, spec): (&Array, &Spec),
    output: &Spec,
) -> Result<Array> {
    if spec.shape[axis] == 0 {
        let nothing = match function {
            ReduceOp::Sum => 0.0,
            ReduceOp::Max => f64::NEG_INFINITY,
        };
        return layout::full(op, output, nothing);
    }
    let axis = int(op, axis)?;
    Array::new(
        op,
        match function {
            ReduceOp::Sum => bridge::sum(x.get(), axis),
            ReduceOp::Max => bridge::max(x.get(), axis),
        },
    )
}

/// The place of the first largest element along an axis.
pub(crate) fn argmax(op: &'static str, axis: usize, x: &Array) -> Result<Array> {
    Array::new(op, bridge::argmax(x.get(), int(op, axis)?))
}

fn named(activation: Activation) -> bridge::Activation {
    match activation {
        Activation::Silu => bridge::Activation::Silu,
        Activation::Gelu => bridge::Activation::Gelu,
        Activation::GeluTanh => bridge::Activation::GeluTanh,
    }
}

/// A non-linearity.
pub(crate) fn activate(op: &'static str, activation: Activation, x: &Array) -> Result<Array> {
    Array::new(op, bridge::activate(named(activation), x.get()))
}

/// `activation(gate) · up`.
pub(crate) fn glu(op: &'static str, activation: Activation, gate: &Array, up: &Array) -> Result<Array> {
    Array::new(op, bridge::glu(named(activation), gate.get(), up.get()))
}

/// `cap · tanh(x / cap)`.
pub(crate) fn soft_cap(op: &'static str, x: &Array, cap: f32) -> Result<Array> {
    Array::new(op, bridge::soft_cap(x.get(), cap))
}
