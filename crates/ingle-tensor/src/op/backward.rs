// SPDX-License-Identifier: EUPL-1.2
//! The rule of each operation by which a gradient of its result becomes gradients of its inputs.
//!
//! Rules are compositions of operations, so that they have derivatives themselves. An operation says what its
//! rule reads ([`Op::kept`]); nothing else of it is kept. A fused operation without a rule here is differentiated
//! through its decomposition.

mod elementwise;
mod fused;
mod layout;
mod products;
mod reductions;

use crate::{BinaryOp, DType, Error, Op, ReduceOp, Result, Spec, Tensor, UnaryOp, grad};

/// What a rule reads.
pub(crate) struct Kept {
    /// Which of the inputs, in their order; those that are not named are not read.
    pub(crate) inputs: Vec<bool>,
    /// Whether the result.
    pub(crate) output: bool,
}

/// What a rule is given.
pub(crate) struct Saved {
    /// The inputs. Of those that [`Op::kept`] does not name only the spec and the device are there.
    pub(crate) inputs: Vec<Tensor>,
    /// The result, if [`Op::kept`] names it.
    pub(crate) output: Option<Tensor>,
    /// The gradient of the result, in its shape and dtype.
    pub(crate) cotangent: Tensor,
    /// Which of the inputs' gradients are asked for.
    pub(crate) wanted: Vec<bool>,
}

/// The gradients of the inputs, in their order.
pub(crate) type Gradients = Vec<Option<Tensor>>;

impl Op {
    /// What the rule reads when the gradients of the inputs in `needs` are asked for.
    pub(crate) fn kept(&self, needs: &[bool]) -> Kept {
        let needs = |i: usize| needs.get(i) == Some(&true);
        let inputs = |inputs: &[bool]| Kept { inputs: inputs.to_vec(), output: false };
        let output = Kept { inputs: vec![], output: true };
        match self {
            Op::Full { .. }
            | Op::Arange { .. }
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Broadcast { .. }
            | Op::Concat { .. }
            | Op::Cast { .. }
            | Op::Unary(UnaryOp::Neg)
            | Op::Binary(BinaryOp::Add | BinaryOp::Sub)
            | Op::Compare(_)
            | Op::Reduce { op: ReduceOp::Sum, .. }
            | Op::ArgMax { .. }
            | Op::QuantizeRows
            | Op::DequantizeRows
            | Op::Dequantize { .. }
            | Op::Pack => inputs(&[]),
            Op::Unary(UnaryOp::Abs | UnaryOp::Log | UnaryOp::Sin | UnaryOp::Cos | UnaryOp::Erf) => inputs(&[true]),
            Op::Unary(_) | Op::Softmax => output,
            Op::Binary(BinaryOp::Mul) | Op::MatMul => inputs(&[needs(1), needs(0)]),
            Op::Linear => inputs(&[needs(1), needs(0), false]),
            Op::Binary(BinaryOp::Div) => inputs(&[needs(1), true]),
            Op::Binary(BinaryOp::Max | BinaryOp::Min) => inputs(&[true, true]),
            Op::Select => inputs(&[true]),
            Op::Reduce { op: ReduceOp::Max, .. } => Kept { inputs: vec![true], output: true },
            Op::TakeRows | Op::AddRows { .. } => inputs(&[false, true]),
            Op::WriteRows => inputs(&[false, false, true]),
            Op::Rope { .. } if !needs(2) => inputs(&[false, true, true]),
            Op::LayerNorm { .. } => inputs(&[true, true, false]),
            Op::RmsNorm { .. }
            | Op::Rope { .. }
            | Op::Activate(_)
            | Op::Glu { .. }
            | Op::GatedMlp { .. }
            | Op::SoftCap { .. }
            | Op::PagedAttention(_)
            | Op::PagedAttentionGrad(_)
            | Op::CrossEntropy
            | Op::CrossEntropyGrad
            | Op::RmsNormGrad { .. }
            | Op::RmsNormWeightGrad { .. }
            | Op::ActivateGrad(_)
            | Op::GluGrad { .. }
            | Op::SquaredNorm
            | Op::Adam(_)
            | Op::Sgd(_) => inputs(&[true; 7]),
        }
    }

    /// The gradients of the inputs that are wanted, each in its input's shape and dtype.
    ///
    /// # Errors
    /// [`Error::NoDerivative`] if the operation has none; the device's own errors.
    pub(crate) fn backward(&self, saved: Saved) -> Result<Gradients> {
        match self {
            Op::Reshape { .. } => saved.only(|g, x, _| g.reshape(x.shape())),
            Op::Permute { axes } => saved.only(|g, _, _| layout::permute(g, axes)),
            Op::Slice { axis, start, step, .. } => {
                saved.only(|g, x, _| layout::slice(g, x.spec(), (*axis, *start, *step)))
            }
            Op::Broadcast { .. } => saved.only(|g, x, _| sum_to(g, x.spec())),
            Op::Concat { axis } => layout::concat(&saved, *axis),
            Op::Cast { .. } => saved.only(|g, x, _| g.cast(x.dtype())),
            Op::Unary(op) => saved.only(|g, x, y| elementwise::unary(*op, g, x, y)),
            Op::Binary(op) => elementwise::binary(*op, &saved),
            Op::Select => elementwise::select(&saved),
            Op::Reduce { op: ReduceOp::Sum, .. } => saved.only(|g, x, _| g.broadcast(x.shape())),
            Op::Reduce { op: ReduceOp::Max, axis } => saved.only(|g, x, y| reductions::max(g, x, y, *axis)),
            Op::MatMul => products::matmul(&saved),
            Op::Linear => products::linear(&saved),
            Op::TakeRows => saved.rows(|g, table, index| {
                Tensor::apply(&Op::AddRows { count: table.shape()[0] }, vec![g.clone(), index.clone()])
            }),
            Op::AddRows { .. } => saved.rows(|g, _, index| g.take_rows(index)),
            Op::WriteRows => layout::write_rows(&saved),
            Op::Pack => saved.only(|g, _, _| Ok(g.clone())),
            Op::Softmax => saved.only(|g, _, y| fused::softmax(g, y)),
            Op::RmsNorm { eps, offset } => fused::rms_norm(saved, *eps, *offset),
            Op::LayerNorm { eps } => fused::layer_norm(&saved, *eps),
            Op::Rope { layout } if !saved.wants(2) => fused::rope(saved, *layout),
            Op::Activate(activation) => {
                saved.only(|g, x, _| Tensor::apply(&Op::ActivateGrad(*activation), vec![x.clone(), g.clone()]))
            }
            Op::Glu { activation } => fused::glu(saved, *activation),
            Op::PagedAttention(attention) => fused::paged_attention(&saved, attention),
            Op::CrossEntropy => fused::cross_entropy(saved),
            _ => self.through_decomposition(&saved),
        }
    }

    fn through_decomposition(&self, saved: &Saved) -> Result<Gradients> {
        let wanted: Vec<usize> = (0..saved.inputs.len()).filter(|&i| saved.wants(i)).collect();
        let variables: Vec<Tensor> = wanted.iter().map(|&i| saved.inputs[i].clone()).collect();
        let composed = |variables: &[Tensor]| {
            let mut inputs = saved.inputs.clone();
            for (&i, variable) in wanted.iter().zip(variables) {
                inputs[i] = variable.clone();
            }
            self.decompose(&inputs).unwrap_or(Err(Error::NoDerivative { op: self.name() }))
        };
        let (_, pullback) = grad::vjp(composed, &variables)?;
        let mut gradients = vec![None; saved.inputs.len()];
        for (i, gradient) in wanted.iter().zip(pullback.pull(&saved.cotangent)?) {
            gradients[*i] = Some(gradient);
        }
        Ok(gradients)
    }
}

impl Saved {
    fn wants(&self, input: usize) -> bool {
        self.wanted.get(input) == Some(&true)
    }

    /// The gradient of one input, if it is wanted.
    fn of(&self, input: usize, rule: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Option<Tensor>> {
        if self.wants(input) { rule(&self.cotangent).map(Some) } else { Ok(None) }
    }

    /// The gradient of an operation's one input, from the result's, the input, and the result if it was kept (or
    /// else something with its spec).
    fn only(self, rule: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>) -> Result<Gradients> {
        let output = self.output.as_ref().unwrap_or(&self.cotangent);
        Ok(vec![self.of(0, |g| rule(g, &self.inputs[0], output))?])
    }

    /// The gradient of rows that go by an index.
    fn rows(&self, rule: impl FnOnce(&Tensor, &Tensor, &Tensor) -> Result<Tensor>) -> Result<Gradients> {
        Ok(vec![self.of(0, |g| rule(g, &self.inputs[0], &self.inputs[1]))?, None])
    }
}

/// Sums a gradient over the axes along which its input was stretched, and gives it the input's dtype.
fn sum_to(g: &Tensor, input: &Spec) -> Result<Tensor> {
    let shape = &input.shape;
    let extra = g.shape().len() - shape.len();
    let stretched: Vec<usize> = (0..shape.len()).filter(|&i| shape[i] != g.shape()[extra + i]).collect();
    let mut sum = g.clone();
    // Rounded once: to a wider dtype before, or between two sums.
    if input.dtype == DType::F32 || stretched.len() + usize::from(extra > 0) > 1 {
        sum = sum.cast(DType::F32)?;
    }
    if extra > 0 {
        let (lead, rest) = g.shape().split_at(extra);
        let lengths: Vec<usize> = std::iter::once(lead.iter().product()).chain(rest.iter().copied()).collect();
        sum = sum.reshape(lengths)?.sum_axis(0)?.reshape(rest)?;
    }
    for axis in stretched {
        sum = sum.sum_axis(axis)?;
    }
    sum.cast(input.dtype)
}

/// Computes in f32 and gives the result in the dtype of `x`.
fn in_f32<const N: usize>(
    inputs: [&Tensor; N],
    dtype: DType,
    compute: impl FnOnce([Tensor; N]) -> Result<Tensor>,
) -> Result<Tensor> {
    let mut wide = inputs.map(Tensor::clone);
    for x in &mut wide {
        *x = x.cast(DType::F32)?;
    }
    compute(wide)?.cast(dtype)
}
