// SPDX-License-Identifier: EUPL-1.2
//! Forgetting on the way forward, computing again on the way back.

use std::collections::HashSet;
use std::fmt::Display;

use super::graph::{Goal, Gradients, Graph, Outer, Parent};
use super::node::{Node, next_id, reachable};
use crate::{Error, Result, Tensor};

/// Runs `f` on `inputs` and remembers only these: what lies between is freed, and computed again when a gradient
/// comes back (Chen et al. 2016). The gradients are the same in every bit.
///
/// Gradients pass to `inputs` and to whatever tensors `f` captured alike; give as inputs what is computed on the
/// way, so that `f` need not hold it. `f` runs twice and must do the same both times.
///
/// # Errors
/// Those of `f`; on the way back, [`Error::Checkpoint`] if `f` fails then or gives another shape or dtype.
///
/// ```
/// # #[cfg(not(feature = "conformance"))] fn main() {}
/// # #[cfg(feature = "conformance")] fn main() -> Result<(), ingle_tensor::Error> {
/// use std::sync::Arc;
///
/// use ingle_tensor::conformance::Reference; // any device
/// use ingle_tensor::{DeviceHandle, Error, Tensor, grad};
///
/// let device: DeviceHandle = Arc::new(Reference::new());
/// let x = Tensor::from_slice(&device, &[3f32], [1])?;
/// let cube = |x: &[Tensor]| Ok::<_, Error>(x[0].mul(&x[0])?.mul(&x[0])?);
/// let (_, gradients) = grad::value_and_grad(|x| grad::checkpoint(cube, x), &[x])?;
/// assert_eq!(gradients[0].to_vec::<f32>()?, [27.0]);
/// # Ok(()) }
/// ```
pub fn checkpoint<E: From<Error> + Display>(
    f: impl Fn(&[Tensor]) -> Result<Tensor, E> + Send + Sync + 'static,
    inputs: &[Tensor],
) -> Result<Tensor, E> {
    let first = next_id();
    let stand_in = |x: &Tensor| match x.node() {
        Some(_) => x.with_node(Node::variable(&x.detach())),
        None => x.clone(),
    };
    let variables: Vec<Tensor> = inputs.iter().map(stand_in).collect();
    let result = f(&variables)?;
    let Some(node) = result.node() else { return Ok(result) };
    // What is older and yet behind the result can only have been captured.
    let captured = reachable(node, first).into_iter().filter(|node| node.id < first);
    let captured = captured.map(|node| Tensor::of_node(node.spec.clone(), result.device(), node));
    let kept = inputs.iter().cloned().chain(captured).collect();
    let again = move |inputs: &[Tensor]| f(inputs).map_err(|error| Error::Checkpoint { message: error.to_string() });
    let recompute = Recompute { f: Box::new(again), inputs: inputs.len() };
    let node = Node::checkpoint(recompute, result.spec().clone(), kept);
    Ok(result.with_node(node))
}

type Function = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

/// What is computed again.
pub(super) struct Recompute {
    f: Box<Function>,
    /// How many inputs it takes.
    inputs: usize,
}

impl Recompute {
    /// Passes a cotangent through. `kept` and `parents` are its inputs and then what it captured.
    ///
    /// What has come already for an input or for what was captured is added to in place, so that everything is
    /// added in the order in which it would have been without a checkpoint.
    pub(super) fn pull(
        &self,
        kept: Vec<Tensor>,
        parents: &[Option<Parent>],
        cotangent: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let first = next_id();
        // An input that is given twice is one variable: number of its node, number of the variable's.
        let mut variables: Vec<(u64, Tensor)> = vec![];
        let mut inputs = vec![];
        for (x, parent) in kept.into_iter().zip(parents).take(self.inputs) {
            inputs.push(match parent {
                Some(parent) if parent.wanted => match variables.iter().find(|(id, _)| *id == parent.id) {
                    Some((_, variable)) => variable.clone(),
                    None => {
                        let variable = x.with_node(Node::variable(&x));
                        variables.push((parent.id, variable.clone()));
                        variable
                    }
                },
                _ => x,
            });
        }
        let result = (self.f)(&inputs)?;
        drop(inputs);
        if result.spec() != cotangent.spec() {
            let message = format!("it gave {} at first and {} when computed again", cotangent.spec(), result.spec());
            return Err(Error::Checkpoint { message });
        }
        let number = |variable: &Tensor| variable.node().map_or(first, |node| node.id);
        let mut moves: Vec<(u64, u64)> = variables.iter().map(|(id, variable)| (*id, number(variable))).collect();
        drop(variables);
        let captured = parents.iter().skip(self.inputs).flatten().filter(|parent| parent.wanted);
        moves.extend(captured.map(|parent| (parent.id, parent.id)));

        let mut sums = Gradients::default();
        for (outside, inside) in &moves {
            gradients.hand_over(*outside, &mut sums, *inside)?;
        }
        let wanted: HashSet<u64> = moves.iter().map(|(_, inside)| *inside).collect();
        let outer = parents.iter().flatten().filter(|parent| parent.outer).map(|parent| parent.id).collect();
        let graph = Graph::new(result.node(), Goal { first, wanted, outer: Outer::Only(outer) });
        drop(result);
        let mut sums = graph.pull(cotangent, sums)?;
        moves.into_iter().try_for_each(|(outside, inside)| sums.hand_over(inside, gradients, outside))
    }
}
