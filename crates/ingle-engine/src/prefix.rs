// SPDX-License-Identifier: EUPL-1.2
//! Which token sequences the cache knows: a tree of full blocks, after the radix tree of SGLang (Zheng et al.
//! 2024).
//!
//! A node stands for one block of tokens after its parent's. It is found by the tokens themselves, not by a
//! hash of them, so two prefixes can never be taken for each other.

use std::collections::HashMap;
use std::sync::Arc;

use ingle_nn::AdapterId;

/// A node of a [`PrefixTree`]. Valid while the node has a block, a child or a pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

impl NodeId {
    /// The empty prefix of what goes through no adapter.
    pub const ROOT: NodeId = NodeId(0);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A tree of known prefixes, one node for each full block of tokens.
#[derive(Debug)]
pub(crate) struct PrefixTree {
    nodes: Vec<Node>,
    /// Where the prefixes of each adapter hang: its keys and values are others.
    roots: HashMap<AdapterId, NodeId>,
    vacant: Vec<NodeId>,
    groups: usize,
}

#[derive(Debug)]
struct Node {
    parent: NodeId,
    tokens: Arc<[u32]>,
    children: HashMap<Arc<[u32]>, NodeId>,
    /// Where each cache group keeps the block's keys and values, if it still does.
    blocks: Vec<Option<u32>>,
    /// Sequences that will hang further nodes under this one.
    pins: usize,
}

impl PrefixTree {
    /// A tree that knows the empty prefix, for so many cache groups.
    pub fn new(groups: usize) -> Self {
        let mut tree = PrefixTree { nodes: Vec::new(), roots: HashMap::new(), vacant: Vec::new(), groups };
        tree.insert(NodeId::ROOT, Arc::from([]));
        tree
    }

    /// The node of the empty prefix of what goes through an adapter, or through none.
    pub fn root(&mut self, adapter: Option<AdapterId>) -> NodeId {
        let Some(adapter) = adapter else { return NodeId::ROOT };
        if let Some(&root) = self.roots.get(&adapter) {
            return root;
        }
        let root = self.insert(NodeId::ROOT, Arc::from([]));
        // For good.
        self.pin(root);
        self.roots.insert(adapter, root);
        root
    }

    /// The node of the block `tokens` after `parent`, if it is known.
    pub fn child(&self, parent: NodeId, tokens: &[u32]) -> Option<NodeId> {
        self.nodes[parent.index()].children.get(tokens).copied()
    }

    /// The node of the block `tokens` after `parent`. A new node needs a block or a pin before anything is
    /// removed from the tree.
    pub fn child_or_insert(&mut self, parent: NodeId, tokens: &[u32]) -> NodeId {
        if let Some(child) = self.child(parent, tokens) {
            return child;
        }
        let tokens: Arc<[u32]> = tokens.into();
        let child = self.insert(parent, tokens.clone());
        self.nodes[parent.index()].children.insert(tokens, child);
        child
    }

    /// Where `group` keeps the node's keys and values.
    pub fn block(&self, node: NodeId, group: usize) -> Option<u32> {
        self.nodes[node.index()].blocks[group]
    }

    /// Says where `group` keeps the node's keys and values.
    pub fn set_block(&mut self, node: NodeId, group: usize, block: u32) {
        self.nodes[node.index()].blocks[group] = Some(block);
    }

    /// Says that `group` no longer keeps the node's keys and values.
    pub fn clear_block(&mut self, node: NodeId, group: usize) {
        self.nodes[node.index()].blocks[group] = None;
        self.prune(node);
    }

    /// Keeps a node, and with it its ancestors, until [`PrefixTree::unpin`].
    pub fn pin(&mut self, node: NodeId) {
        self.nodes[node.index()].pins += 1;
    }

    /// Takes back one [`PrefixTree::pin`].
    pub fn unpin(&mut self, node: NodeId) {
        self.nodes[node.index()].pins -= 1;
        self.prune(node);
    }

    /// Number of known prefixes, the empty ones aside.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.nodes.len() - self.vacant.len() - 1 - self.roots.len()
    }

    fn insert(&mut self, parent: NodeId, tokens: Arc<[u32]>) -> NodeId {
        let node = Node { parent, tokens, children: HashMap::new(), blocks: vec![None; self.groups], pins: 0 };
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id.index()] = node;
                id
            }
            None => {
                self.nodes.push(node);
                // A node keeps at least one of the device's blocks, whose numbers are i32.
                NodeId((self.nodes.len() - 1) as u32)
            }
        }
    }

    /// Removes a node that nothing needs, then its ancestors that only it needed.
    fn prune(&mut self, mut id: NodeId) {
        while id != NodeId::ROOT {
            let node = &mut self.nodes[id.index()];
            if node.pins > 0 || !node.children.is_empty() || node.blocks.iter().any(Option::is_some) {
                return;
            }
            let (parent, tokens) = (node.parent, std::mem::replace(&mut node.tokens, Arc::from([])));
            self.vacant.push(id);
            self.nodes[parent.index()].children.remove(&tokens);
            id = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_found_by_its_tokens_good() {
        let mut tree = PrefixTree::new(2);
        let a = tree.child_or_insert(NodeId::ROOT, &[1, 2]);
        let b = tree.child_or_insert(a, &[1, 2]);
        assert_ne!(a, b);
        assert_eq!(tree.child(NodeId::ROOT, &[1, 2]), Some(a));
        assert_eq!(tree.child_or_insert(a, &[1, 2]), b);
        assert_eq!(tree.child(b, &[1, 2]), None);
        tree.set_block(b, 1, 7);
        assert_eq!([tree.block(b, 0), tree.block(b, 1)], [None, Some(7)]);
    }

    #[test]
    fn an_adapter_has_prefixes_of_its_own_ugly() {
        let mut tree = PrefixTree::new(1);
        let (base, first) = (tree.root(None), tree.root(Some(AdapterId(0))));
        let second = tree.root(Some(AdapterId(1)));
        assert!(base != first && first != second && tree.root(Some(AdapterId(0))) == first);
        let known = tree.child_or_insert(first, &[1, 2]);
        tree.set_block(known, 0, 3);
        let found = [base, first, second].map(|root| tree.child(root, &[1, 2]));
        assert_eq!(found, [None, Some(known), None]);
        tree.clear_block(known, 0);
        assert_eq!((tree.len(), tree.child(first, &[1, 2])), (0, None));
        assert_eq!(tree.root(Some(AdapterId(0))), first);
    }

    #[test]
    fn ancestors_live_as_long_as_what_hangs_under_them_ugly() {
        let mut tree = PrefixTree::new(1);
        let a = tree.child_or_insert(NodeId::ROOT, &[1]);
        let b = tree.child_or_insert(a, &[2]);
        let c = tree.child_or_insert(b, &[3]);
        tree.set_block(a, 0, 0);
        tree.pin(c);
        tree.clear_block(a, 0);
        assert_eq!(tree.len(), 3);
        tree.unpin(c);
        assert_eq!(tree.len(), 0);
        assert_eq!(tree.child(NodeId::ROOT, &[1]), None);
        let again = tree.child_or_insert(NodeId::ROOT, &[9]);
        assert_eq!((tree.len(), tree.child(NodeId::ROOT, &[9])), (1, Some(again)));
    }
}
