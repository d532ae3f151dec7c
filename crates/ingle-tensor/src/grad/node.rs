// SPDX-License-Identifier: EUPL-1.2
//! What a tensor remembers of how it was computed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::checkpoint::Recompute;
use super::custom::Pull;
use crate::op::backward::Kept;
use crate::{Error, Op, Result, Spec, Storage, Tensor};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// How one tensor came about, shared by all who hold it. A node's number is larger than those of all it was
/// computed from, so that numbers order a graph.
pub(crate) struct Node {
    pub(super) id: u64,
    pub(super) spec: Spec,
    pub(super) rule: Rule,
    /// What it was computed from. Of an input whose elements no rule asks for, only the spec and the node are
    /// kept: its storage is free to be written over.
    pub(super) inputs: Vec<Tensor>,
    /// The result, where a rule asks for it. It is kept without its node, which would keep itself alive.
    pub(super) output: Option<Storage>,
}

/// How gradients pass through a node.
pub(super) enum Rule {
    /// To the input as they are; to differentiate by it is why it is there. It has no input unless what it
    /// stands for is itself part of a graph, that of a derivative of higher order.
    Variable,
    /// By the rule of an operation.
    Op(Op),
    /// By computing a function again. Its own inputs come first; the rest are tensors that it captured.
    Checkpoint(Recompute),
    /// By a function's own rule, for which no input is kept here.
    Custom(Pull),
}

impl Node {
    fn new(rule: Rule, spec: Spec, inputs: Vec<Tensor>) -> Node {
        Node { id: next_id(), spec, rule, inputs, output: None }
    }

    /// The node of `op`'s result, if that can pass a gradient on to any input. To be called before the device
    /// runs, for it takes the handles.
    ///
    /// # Errors
    /// [`Error::NoDerivative`] for an operation whose integers stand for its input: its gradient would not be zero,
    /// as that of a comparison is, but lost.
    pub(crate) fn record(op: &Op, inputs: &[Tensor], spec: &Spec) -> Result<Option<Node>> {
        if inputs.iter().all(|x| x.node().is_none()) {
            return Ok(None);
        }
        if *op == Op::QuantizeRows {
            return Err(Error::NoDerivative { op: op.name() });
        }
        if !spec.dtype.is_float() {
            return Ok(None);
        }
        let Kept { inputs: kept, output: _ } = op.kept(&needs(inputs));
        let keep = |(i, x): (usize, &Tensor)| if kept.get(i) == Some(&true) { x.clone() } else { x.hollow() };
        let inputs = inputs.iter().enumerate().map(keep).collect();
        Ok(Some(Node::new(Rule::Op(op.clone()), spec.clone(), inputs)))
    }

    /// The node with the result, if the operation's rule asks for it.
    ///
    /// # Errors
    /// The device's own.
    pub(crate) fn finished(mut self, storage: &Storage) -> Result<Arc<Node>> {
        if let Rule::Op(op) = &self.rule {
            let kept = op.kept(&needs(&self.inputs));
            if kept.output {
                self.output = Some(storage.clone());
            }
            // The gradient of a weight meets `x` in the weight's dtype: only now, for a device that has rounded it in
            // the product need not do so again.
            if let (Op::Linear, [x, weight, ..], Some(true)) = (op, &mut self.inputs[..], kept.inputs.first())
                && weight.dtype().size() < x.dtype().size()
            {
                let rounded = x.detach().cast(weight.dtype())?;
                *x = match x.node() {
                    Some(node) => rounded.with_node(node.clone()),
                    None => rounded,
                };
            }
        }
        Ok(Arc::new(self))
    }

    /// A node to differentiate by, which stands for `x`.
    pub(super) fn variable(x: &Tensor) -> Arc<Node> {
        let inputs = if x.node().is_some() { vec![x.hollow()] } else { vec![] };
        Arc::new(Node::new(Rule::Variable, x.spec().clone(), inputs))
    }

    pub(super) fn checkpoint(recompute: Recompute, spec: Spec, inputs: Vec<Tensor>) -> Arc<Node> {
        Arc::new(Node::new(Rule::Checkpoint(recompute), spec, inputs))
    }

    pub(super) fn custom(pull: Pull, spec: Spec, inputs: Vec<Tensor>) -> Node {
        Node::new(Rule::Custom(pull), spec, inputs)
    }

    /// The nodes that it was computed from.
    pub(super) fn parents(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.inputs.iter().filter_map(Tensor::node)
    }
}

/// A number above those of all nodes that exist.
pub(super) fn next_id() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Which inputs pass a gradient on.
pub(super) fn needs(inputs: &[Tensor]) -> Vec<bool> {
    inputs.iter().map(|x| x.node().is_some()).collect()
}

/// Every node that `root` was computed from and itself, in the order of their numbers. The search goes no
/// further than nodes older than `first`, which it includes.
pub(super) fn reachable(root: &Arc<Node>, first: u64) -> Vec<Arc<Node>> {
    let mut seen = HashSet::from([root.id]);
    let mut found = vec![root.clone()];
    let mut next = 0;
    while let Some(node) = found.get(next).cloned() {
        next += 1;
        if node.id >= first {
            found.extend(node.parents().filter(|parent| seen.insert(parent.id)).cloned());
        }
    }
    found.sort_unstable_by_key(|node| node.id);
    found
}

impl Drop for Node {
    /// Takes a graph apart node by node: dropped by recursion, a long one would overflow the stack.
    fn drop(&mut self) {
        let mut tensors = std::mem::take(&mut self.inputs);
        while let Some(tensor) = tensors.pop() {
            if let Some(mut node) = tensor.into_node().and_then(Arc::into_inner) {
                tensors.append(&mut node.inputs);
            }
        }
    }
}
