// SPDX-License-Identifier: EUPL-1.2
//! The way back: from a result through its nodes to what it is differentiated by.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use super::node::{Node, Rule, reachable};
use crate::op::backward::Saved;
use crate::{BinaryOp, DType, Error, Op, Result, Tensor};

/// What a way back is to find.
pub(super) struct Goal {
    /// Nodes older than this are not entered.
    pub(super) first: u64,
    /// The nodes whose gradients are asked for. They are not entered either.
    pub(super) wanted: HashSet<u64>,
    /// Which of the older nodes are differentiated by elsewhere.
    pub(super) outer: Outer,
}

/// Nodes that belong to a derivative of higher order: what is computed from them must itself be recorded.
pub(super) enum Outer {
    All,
    Only(HashSet<u64>),
}

/// What is known of a node.
#[derive(Clone, Copy, Default)]
struct Facts {
    /// A wanted node lies behind it, or it is one.
    wanted: bool,
    /// It depends on a node of a derivative of higher order.
    outer: bool,
}

/// An input of a node that is being gone through.
#[derive(Clone, Copy)]
pub(super) struct Parent {
    pub(super) id: u64,
    pub(super) wanted: bool,
    pub(super) outer: bool,
}

/// The nodes that a result was computed from.
pub(super) struct Graph {
    /// By their numbers, the result's last; none if the result depends on nothing that is wanted.
    nodes: Vec<Arc<Node>>,
    facts: HashMap<u64, Facts>,
    goal: Goal,
    /// Whether the result belongs to a derivative of higher order.
    pub(super) outer: bool,
}

impl Graph {
    pub(super) fn new(result: Option<&Arc<Node>>, goal: Goal) -> Graph {
        let mut nodes = result.map(|node| reachable(node, goal.first)).unwrap_or_default();
        let mut facts = HashMap::with_capacity(nodes.len());
        let mut last = Facts::default();
        for node in &nodes {
            last = goal.facts(node, &facts);
            facts.insert(node.id, last);
        }
        if !last.wanted {
            nodes.clear();
        }
        Graph { nodes, facts, goal, outer: last.outer }
    }

    /// Adds to `gradients` those of the wanted nodes, and frees each node when it has been gone through.
    pub(super) fn pull(self, cotangent: &Tensor, mut gradients: Gradients) -> Result<Gradients> {
        let Graph { mut nodes, facts, goal, .. } = self;
        if let Some(result) = nodes.last() {
            gradients.add(result.id, cotangent.clone())?;
        }
        while let Some(node) = nodes.pop() {
            let own = facts.get(&node.id).copied().unwrap_or_default();
            if node.id < goal.first || goal.wanted.contains(&node.id) || !own.wanted {
                continue;
            }
            let Some(cotangent) = gradients.take(node.id, node.spec.dtype)? else { continue };
            let parents: Vec<Option<Parent>> = node.inputs.iter().map(|x| parent(x, &facts)).collect();
            step(node, own.outer, &parents, cotangent, &mut gradients)?;
        }
        Ok(gradients)
    }
}

impl Goal {
    fn facts(&self, node: &Node, known: &HashMap<u64, Facts>) -> Facts {
        let named = self.wanted.contains(&node.id);
        if node.id < self.first {
            let outer = match &self.outer {
                Outer::All => true,
                Outer::Only(ids) => ids.contains(&node.id),
            };
            return Facts { wanted: named, outer };
        }
        let behind = || node.parents().filter_map(|parent| known.get(&parent.id));
        Facts { wanted: named || behind().any(|facts| facts.wanted), outer: behind().any(|facts| facts.outer) }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").field("nodes", &self.nodes.len()).finish()
    }
}

fn parent(input: &Tensor, facts: &HashMap<u64, Facts>) -> Option<Parent> {
    let id = input.node()?.id;
    let Facts { wanted, outer } = facts.get(&id).copied().unwrap_or_default();
    Some(Parent { id, wanted, outer })
}

/// Passes a cotangent through one node.
fn step(
    mut node: Arc<Node>,
    outer: bool,
    parents: &[Option<Parent>],
    cotangent: Tensor,
    gradients: &mut Gradients,
) -> Result<()> {
    // The last handle to a node gives up what it kept, so that rules may write over it.
    let (inputs, output) = match Arc::get_mut(&mut node) {
        Some(own) if !outer => (std::mem::take(&mut own.inputs), own.output.take()),
        _ => (node.inputs.clone(), node.output.clone()),
    };
    // What belongs to no derivative of higher order is not recorded again.
    let known = |(x, parent): (Tensor, &Option<Parent>)| match parent {
        Some(parent) if parent.outer => x,
        _ => x.into_detached(),
    };
    let inputs: Vec<Tensor> = inputs.into_iter().zip(parents).map(known).collect();
    let op = match &node.rule {
        Rule::Variable => {
            if let Some(parent) = parents.first().copied().flatten() {
                gradients.add(parent.id, cotangent)?;
            }
            return Ok(());
        }
        Rule::Checkpoint(recompute) => return recompute.pull(inputs, parents, &cotangent, gradients),
        Rule::Custom(_) if outer => return Err(Error::NoDerivative { op: "custom_vjp" }),
        Rule::Custom(pull) => return gradients.add_all(pull(&cotangent)?, parents),
        Rule::Op(op) => op.clone(),
    };
    let output = output.map(|storage| {
        let output = cotangent.with_storage(storage);
        if outer { output.with_node(node) } else { output.into_detached() }
    });
    let wanted: Vec<bool> = parents.iter().map(|parent| parent.is_some_and(|parent| parent.wanted)).collect();
    gradients.add_all(op.backward(Saved { inputs, output, cotangent, wanted })?, parents)
}

/// Gradients by the numbers of their nodes.
#[derive(Default)]
pub(super) struct Gradients(HashMap<u64, Sum>);

/// What has come for a node so far.
enum Sum {
    /// One gradient, or several as f32.
    One(Tensor),
    /// Two of one dtype narrower than f32: if no more come, they are added as they are, with the same bits.
    Two(Tensor, Tensor),
}

impl Sum {
    fn add(self, gradient: Tensor) -> Result<Sum> {
        match self {
            Sum::One(sum) if sum.dtype() == gradient.dtype() && sum.dtype() != DType::F32 => {
                Ok(Sum::Two(sum, gradient))
            }
            Sum::One(sum) => Ok(Sum::One(wide(sum, gradient)?)),
            Sum::Two(first, second) => Ok(Sum::One(wide(wide(first, second)?, gradient)?)),
        }
    }

    fn total(self, dtype: DType) -> Result<Tensor> {
        match self {
            Sum::One(sum) => sum.cast(dtype),
            Sum::Two(first, second) if first.dtype() == dtype => add(first, second),
            Sum::Two(first, second) => wide(first, second)?.cast(dtype),
        }
    }
}

/// The sum of two, as f32.
fn wide(first: Tensor, second: Tensor) -> Result<Tensor> {
    let terms = [first.cast(DType::F32)?, second.cast(DType::F32)?];
    drop((first, second));
    let [first, second] = terms;
    add(first, second)
}

/// Both handles are given away, so that the sum may take the place of either.
fn add(first: Tensor, second: Tensor) -> Result<Tensor> {
    Tensor::apply(&Op::Binary(BinaryOp::Add), vec![first, second])
}

impl Gradients {
    /// Adds a gradient to those that have come already; sums are in f32.
    pub(super) fn add(&mut self, id: u64, gradient: Tensor) -> Result<()> {
        let sum = match self.0.remove(&id) {
            None => Sum::One(gradient),
            Some(sum) => sum.add(gradient)?,
        };
        self.0.insert(id, sum);
        Ok(())
    }

    /// Adds those of a node's inputs.
    fn add_all(&mut self, found: Vec<Option<Tensor>>, parents: &[Option<Parent>]) -> Result<()> {
        for (gradient, parent) in found.into_iter().zip(parents) {
            if let (Some(gradient), Some(parent)) = (gradient, parent) {
                self.add(parent.id, gradient)?;
            }
        }
        Ok(())
    }

    /// Takes a gradient out, in the dtype of what it is the gradient of.
    pub(super) fn take(&mut self, id: u64, dtype: DType) -> Result<Option<Tensor>> {
        self.0.remove(&id).map(|sum| sum.total(dtype)).transpose()
    }

    /// Moves what has come for one node to another, as it is.
    pub(super) fn hand_over(&mut self, from: u64, to: &mut Gradients, id: u64) -> Result<()> {
        match self.0.remove(&from) {
            None => Ok(()),
            Some(Sum::One(sum)) => to.add(id, sum),
            Some(Sum::Two(first, second)) => {
                to.add(id, first)?;
                to.add(id, second)
            }
        }
    }
}
