// SPDX-License-Identifier: EUPL-1.2
//! Derivatives of functions of tensors, by reverse-mode differentiation (Linnainmaa 1970; Griewank & Walther 2008).
//!
//! A function that computes with tensors is differentiated as it stands. [`value_and_grad`] gives a loss and its
//! gradients, [`vjp`] a result and the function that pulls any cotangent back, [`jvp`] a result and its
//! derivative along a tangent; [`checkpoint`] trades memory for computing twice, [`custom_vjp`] takes a rule of yours.
//! All but the last nest, for derivatives of higher order.
//!
//! Each [`crate::Op`] has a rule, which is itself a composition of operations; a fused operation without a rule of
//! its own is differentiated through its [`crate::Op::decompose`]. A gradient has the shape and dtype of what it
//! is the gradient of. Where several meet they are added in f32, in a fixed order. Integers have no gradient, and
//! what compares or counts passes none on. At a kink (of an absolute value, of a maximum among equals) the
//! gradient is the mean of those beside it.
//!
//! A tensor that no gradient passes through remembers nothing. One that does remembers of its operation's inputs
//! only those that the rule reads: of a product with a frozen matrix, the matrix and not what it was multiplied
//! with. Going back frees each step's memory as soon as it is used.
//!
//! ```
//! # #[cfg(not(feature = "conformance"))] fn main() {}
//! # #[cfg(feature = "conformance")] fn main() -> Result<(), ingle_tensor::Error> {
//! use std::sync::Arc;
//!
//! use ingle_tensor::conformance::Reference; // any device
//! use ingle_tensor::{DeviceHandle, Error, Tensor, grad};
//!
//! // A step of linear regression: points of y = 2x, and a first guess of y = 0x + 0.
//! let device: DeviceHandle = Arc::new(Reference::new());
//! let x = Tensor::from_slice(&device, &[1f32, 2.0, 3.0], [3, 1])?;
//! let y = x.scale(2.0)?;
//! let parameters = [Tensor::from_slice(&device, &[0f32], [1, 1])?, Tensor::from_slice(&device, &[0f32], [1])?];
//!
//! let (loss, gradients) = grad::value_and_grad(
//!     |parameters| {
//!         let error = x.linear(&parameters[0], Some(&parameters[1]))?.sub(&y)?;
//!         Ok::<_, Error>(error.mul(&error)?.sum_axis(0)?)
//!     },
//!     &parameters,
//! )?;
//! assert_eq!(loss.to_vec::<f32>()?, [56.0]);
//! assert_eq!(gradients[0].to_vec::<f32>()?, [-56.0]);
//! assert_eq!(gradients[1].to_vec::<f32>()?, [-24.0]);
//!
//! let better = parameters[0].sub(&gradients[0].scale(0.03)?)?;
//! assert_eq!(better.to_vec::<f32>()?, [1.68]);
//! # Ok(()) }
//! ```

mod checkpoint;
mod custom;
mod graph;
mod node;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use checkpoint::checkpoint;
pub use custom::{Custom, Pull, custom_vjp};
pub(crate) use node::Node;

use crate::error::listed;
use crate::{Error, Result, Tensor};
use graph::{Goal, Gradients, Graph, Outer};

/// The value of a scalar function and its gradient with respect to each input.
///
/// `f` gets tensors that stand for `inputs`; what else it captures counts as constant. Its result must have one
/// element. An input that it does not depend on has a gradient of zeros.
///
/// # Errors
/// [`Error::DType`] if an input or the result holds integers; [`Error::Shape`] if the result has not one element;
/// [`Error::NoDerivative`] if it depends on an input through an operation that has none; those of `f` and of the
/// device.
pub fn value_and_grad<E: From<Error>>(
    f: impl FnOnce(&[Tensor]) -> Result<Tensor, E>,
    inputs: &[Tensor],
) -> Result<(Tensor, Vec<Tensor>), E> {
    let (value, pullback) = differentiate("value_and_grad", f, inputs)?;
    if value.shape().elements() != 1 {
        let expected = "a loss of one element (sum it, or average it)".into();
        return Err(Error::Shape { op: "value_and_grad", expected, found: value.spec().to_string() }.into());
    }
    let one = Tensor::full(value.device(), value.shape(), value.dtype(), 1.0)?;
    let gradients = pullback.pull(&one)?;
    Ok((value, gradients))
}

/// The value of a function, and its vector-Jacobian product: what pulls a cotangent of the result back to the
/// inputs. The pullback holds the memory that it needs until it is used or dropped.
///
/// # Errors
/// [`Error::DType`] if an input or the result holds integers; those of `f`.
pub fn vjp<E: From<Error>>(
    f: impl FnOnce(&[Tensor]) -> Result<Tensor, E>,
    inputs: &[Tensor],
) -> Result<(Tensor, Pullback), E> {
    differentiate("vjp", f, inputs)
}

/// The value of a function, and its Jacobian-vector product: its derivative when each input moves along its
/// tangent. It is found by pulling back twice, so that it costs about three times what a gradient does.
///
/// # Errors
/// Those of [`value_and_grad`]; [`Error::Arity`] if there are not as many tangents as inputs and [`Error::Shape`]
/// if one has not its input's spec.
pub fn jvp<E: From<Error>>(
    f: impl FnOnce(&[Tensor]) -> Result<Tensor, E>,
    inputs: &[Tensor],
    tangents: &[Tensor],
) -> Result<(Tensor, Tensor), E> {
    if inputs.len() != tangents.len() {
        let expected = "as many tangents as";
        return Err(Error::Arity { op: "jvp", expected, found: tangents.len() }.into());
    }
    for (input, tangent) in inputs.iter().zip(tangents) {
        same_spec("jvp", "a tangent", input, tangent)?;
    }
    let (value, pullback) = differentiate("jvp", f, inputs)?;
    // What is pulled back is linear in the cotangent, so that its derivative is the same at any.
    let cotangent = Tensor::full(value.device(), value.shape(), value.dtype(), 0.0)?;
    let along = |cotangent: &[Tensor]| {
        let mut total = Tensor::full(value.device(), [1], crate::DType::F32, 0.0)?;
        for (gradient, tangent) in pullback.pull(&cotangent[0])?.iter().zip(tangents) {
            let product = gradient.mul(tangent)?.reshape([tangent.shape().elements()])?;
            total = total.add(&product.sum_axis(0)?.cast(crate::DType::F32)?)?;
        }
        Ok::<_, Error>(total)
    };
    let (_, mut derivative) = value_and_grad(along, &[cotangent])?;
    Ok((value, derivative.swap_remove(0)))
}

/// Pulls a cotangent of a function's result back to its inputs; see [`vjp`].
#[derive(Debug)]
pub struct Pullback {
    graph: Graph,
    /// The result, without its elements.
    value: Tensor,
    /// The inputs, without their elements, as what stands for them.
    variables: Vec<Tensor>,
}

impl Pullback {
    /// The gradients of `⟨cotangent, result⟩` with respect to the inputs. It uses the pullback up, for it frees
    /// what it has read.
    ///
    /// # Errors
    /// [`Error::Shape`] if the cotangent has not the result's spec; [`Error::NoDerivative`] if the result depends
    /// on an input through an operation that has none; the device's own errors.
    pub fn pull(self, cotangent: &Tensor) -> Result<Vec<Tensor>> {
        let Pullback { graph, value, variables } = self;
        same_spec("pull", "a cotangent", &value, cotangent)?;
        let mut gradients = graph.pull(cotangent, Gradients::default())?;
        variables
            .iter()
            .map(|x| match x.node() {
                Some(node) => match gradients.take(node.id, x.dtype())? {
                    Some(gradient) => Ok(gradient),
                    None => Tensor::full(x.device(), x.shape(), x.dtype(), 0.0),
                },
                None => Tensor::full(x.device(), x.shape(), x.dtype(), 0.0),
            })
            .collect()
    }
}

fn same_spec(op: &'static str, what: &str, wanted: &Tensor, found: &Tensor) -> Result<()> {
    if wanted.spec() == found.spec() {
        return Ok(());
    }
    Err(Error::Shape { op, expected: format!("{what} {}", wanted.spec()), found: found.spec().to_string() })
}

fn differentiate<E: From<Error>>(
    op: &'static str,
    f: impl FnOnce(&[Tensor]) -> Result<Tensor, E>,
    inputs: &[Tensor],
) -> Result<(Tensor, Pullback), E> {
    if inputs.iter().any(|x| !x.dtype().is_float()) {
        let specs: Vec<_> = inputs.iter().map(|x| x.spec().clone()).collect();
        return Err(Error::DType { op, expected: "floating-point inputs".into(), found: listed(&specs) }.into());
    }
    let first = node::next_id();
    let variables: Vec<Tensor> = inputs.iter().map(|x| x.with_node(Node::variable(x))).collect();
    let value = f(&variables)?;
    if !value.dtype().is_float() {
        let expected = "a floating-point result".into();
        return Err(Error::DType { op, expected, found: value.spec().to_string() }.into());
    }
    let wanted: HashSet<u64> = variables.iter().filter_map(|x| x.node().map(|node| node.id)).collect();
    let variables = variables.iter().map(Tensor::hollow).collect();
    let graph = Graph::new(value.node(), Goal { first, wanted, outer: Outer::All });
    let hollow = value.hollow().into_detached();
    let value = if graph.outer { value } else { value.into_detached() };
    Ok((value, Pullback { graph, value: hollow, variables }))
}
