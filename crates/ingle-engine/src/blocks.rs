// SPDX-License-Identifier: EUPL-1.2
//! Which sequence owns which block of the key-value cache.
//!
//! Blocks are counted by reference: sequences with equal prefixes share them. A full block that nobody refers
//! to any more stays known by its prefix until its memory is needed, the longest unused first. Each cache
//! group has a pool of blocks; a group with a window gives back the blocks that left it.

use std::collections::BTreeSet;

use ingle_nn::{AdapterId, CacheGroup, KvCache};

use crate::prefix::{NodeId, PrefixTree};

/// What gives the pools their memory.
pub(crate) trait Grow {
    /// Grows a group to so many blocks.
    fn grow(&mut self, group: usize, blocks: usize) -> ingle_nn::Result<()>;
}

impl Grow for KvCache {
    fn grow(&mut self, group: usize, blocks: usize) -> ingle_nn::Result<()> {
        KvCache::grow(self, group, blocks)
    }
}

/// How large the pools may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    /// Positions of the longest sequence that must fit when it is alone.
    pub context_length: usize,
    /// Sequences at once.
    pub sequences: usize,
    /// Tokens of a sequence computed at once.
    pub step_tokens: usize,
    /// Bytes of all pools.
    pub bytes: usize,
    /// Bytes up to which all pools grow rather than forget a prefix.
    pub prefix_bytes: usize,
}

/// What one sequence holds of the pools.
#[derive(Debug)]
pub(crate) struct Lease {
    tables: Vec<Table>,
    /// The longest known prefix of the sequence's own, pinned.
    tip: NodeId,
    /// Blocks that the prefix has.
    registered: usize,
}

/// The blocks of a sequence in one group, in order of position.
#[derive(Debug, Default)]
struct Table {
    /// Those before `first` were given back; block 0 stands in for them.
    blocks: Vec<u32>,
    first: usize,
}

impl Lease {
    /// The block of each `block_size` positions in a group; those that left the window read 0.
    pub fn blocks(&self, group: usize) -> &[u32] {
        &self.tables[group].blocks
    }
}

/// How many blocks there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BlockCounts {
    pub used: usize,
    pub used_bytes: usize,
    pub cached: usize,
    pub total: usize,
}

/// Hands out the blocks of all groups.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_size: usize,
    limits: PoolLimits,
    pools: Vec<Pool>,
    tree: PrefixTree,
    clock: u64,
    /// Why a pool could not grow last time.
    refusal: Option<ingle_nn::Error>,
}

#[derive(Debug)]
struct Pool {
    /// Positions a token sees, its own included.
    window: usize,
    block_bytes: usize,
    /// Blocks that a sequence alone needs to go on.
    least: usize,
    /// Blocks that a sequence alone has use for.
    ample: usize,
    blocks: Vec<Block>,
    free: Vec<u32>,
    /// Blocks without a reference that hold a known prefix, by when they were last used.
    cached: BTreeSet<(u64, u32)>,
}

#[derive(Debug, Default)]
struct Block {
    references: usize,
    node: Option<NodeId>,
    used_at: u64,
}

impl Pool {
    /// The first block that the token at `position` sees.
    fn first_visible(&self, position: usize, block_size: usize) -> usize {
        (position + 1).saturating_sub(self.window) / block_size
    }

    fn bytes(&self) -> usize {
        self.blocks.len() * self.block_bytes
    }

    /// Blocks that sequences hold.
    fn used(&self) -> usize {
        self.blocks.len() - self.free.len() - self.cached.len()
    }
}

impl BlockManager {
    /// Empty pools for the groups of a cache.
    pub fn new(groups: &[CacheGroup], block_size: usize, limits: PoolLimits) -> Self {
        let pool = |group: &CacheGroup| {
            let window = group.window.map_or(limits.context_length, |window| window.min(limits.context_length));
            Pool {
                window,
                block_bytes: group.block_bytes,
                least: least_blocks(window, block_size),
                ample: least_blocks(window + limits.step_tokens, block_size),
                blocks: Vec::new(),
                free: Vec::new(),
                cached: BTreeSet::new(),
            }
        };
        BlockManager {
            block_size,
            limits,
            pools: groups.iter().map(pool).collect(),
            tree: PrefixTree::new(groups.len()),
            clock: 0,
            refusal: None,
        }
    }

    /// Forgets everything: for a cache that was reset, when no sequence holds a lease on it.
    pub fn reset(&mut self) {
        for pool in &mut self.pools {
            pool.blocks.clear();
            pool.free.clear();
            pool.cached.clear();
        }
        self.tree = PrefixTree::new(self.pools.len());
    }

    /// Forgets the prefixes that no sequence uses.
    pub fn forget(&mut self) {
        for group in 0..self.pools.len() {
            while self.evict(group) {}
        }
    }

    /// Blocks of all groups together.
    pub fn counts(&self) -> BlockCounts {
        let sum = |of: fn(&Pool) -> usize| self.pools.iter().map(of).sum();
        BlockCounts {
            used: sum(Pool::used),
            used_bytes: sum(|pool| pool.used() * pool.block_bytes),
            cached: sum(|pool| pool.cached.len()),
            total: sum(|pool| pool.blocks.len()),
        }
    }

    /// Why a pool could not grow, if that has happened since the last call.
    pub fn take_refusal(&mut self) -> Option<ingle_nn::Error> {
        self.refusal.take()
    }

    /// A lease on the blocks that already hold a prefix of `tokens` by way of `adapter`, of at most `limit` tokens; and
    /// how many tokens that is.
    pub fn admit(&mut self, adapter: Option<AdapterId>, tokens: &[u32], limit: usize) -> (Lease, usize) {
        let mut path = Vec::new();
        let root = self.tree.root(adapter);
        let mut tip = root;
        for block in tokens[..limit.min(tokens.len())].chunks_exact(self.block_size) {
            let Some(node) = self.tree.child(tip, block) else { break };
            path.push(node);
            tip = node;
        }
        let reused = self.longest_held(&path);
        let tip = reused.checked_sub(1).map_or(root, |last| path[last]);
        self.tree.pin(tip);

        let position = reused * self.block_size;
        let mut tables = Vec::with_capacity(self.pools.len());
        for group in 0..self.pools.len() {
            let first = self.pools[group].first_visible(position, self.block_size).min(reused);
            let mut blocks = vec![0; first];
            for &node in &path[first..reused] {
                if let Some(block) = self.tree.block(node, group) {
                    self.retain(group, block);
                    blocks.push(block);
                }
            }
            tables.push(Table { blocks, first });
        }
        (Lease { tables, tip, registered: reused }, position)
    }

    /// How many blocks of a path can be reused: the most for which every group still holds what the next
    /// token would see.
    fn longest_held(&self, path: &[NodeId]) -> usize {
        let mut fits = vec![true; path.len() + 1];
        for (group, pool) in self.pools.iter().enumerate() {
            let mut held_from = 0;
            for (index, &node) in path.iter().enumerate() {
                if self.tree.block(node, group).is_none() {
                    held_from = index + 1;
                }
                let reused = index + 1;
                fits[reused] &= held_from <= pool.first_visible(reused * self.block_size, self.block_size);
            }
        }
        fits.iter().rposition(|&fits| fits).unwrap_or(0)
    }

    /// Gives back the blocks that the token at `computed` and those after it do not see, and takes blocks for
    /// the positions up to `end`. Returns the number of positions there are now blocks for, which is smaller
    /// than `end` if a pool is exhausted.
    pub fn reserve(&mut self, lease: &mut Lease, computed: usize, end: usize, storage: &mut impl Grow) -> usize {
        let mut covered = usize::MAX;
        for (group, table) in lease.tables.iter_mut().enumerate() {
            let first = self.pools[group].first_visible(computed, self.block_size).min(table.blocks.len());
            for index in table.first..first {
                self.release_block(group, std::mem::take(&mut table.blocks[index]));
            }
            table.first = table.first.max(first);
            let wanted = end.div_ceil(self.block_size);
            while table.blocks.len() < wanted {
                let missing = wanted - table.blocks.len();
                let Some(block) = self.allocate(group, missing, storage) else { break };
                table.blocks.push(block);
            }
            covered = covered.min(table.blocks.len() * self.block_size);
        }
        covered
    }

    /// Makes the full blocks of the first `computed` tokens known, so that others with the same prefix share
    /// them. They must be written by the next forward pass at the latest.
    pub fn register(&mut self, lease: &mut Lease, tokens: &[u32], computed: usize) {
        let full = &tokens[..computed];
        for (index, block) in full.chunks_exact(self.block_size).enumerate().skip(lease.registered) {
            let node = self.tree.child_or_insert(lease.tip, block);
            self.tree.pin(node);
            for (group, table) in lease.tables.iter().enumerate() {
                if index >= table.first && self.tree.block(node, group).is_none() {
                    let block = table.blocks[index];
                    self.tree.set_block(node, group, block);
                    self.pools[group].blocks[block as usize].node = Some(node);
                }
            }
            self.tree.unpin(lease.tip);
            lease.tip = node;
            lease.registered = index + 1;
        }
    }

    /// Whether a sequence of `tokens` tokens, of which `lease` holds some, could have all its blocks now.
    pub fn has_room(&self, lease: &Lease, tokens: usize) -> bool {
        let mut spare = self.limits.bytes.saturating_sub(self.bytes());
        self.pools.iter().enumerate().all(|(group, pool)| {
            let table = &lease.tables[group];
            let wanted = tokens.div_ceil(self.block_size).min(pool.ample);
            let missing = wanted.saturating_sub(table.blocks.len() - table.first);
            let to_grow = missing.saturating_sub(pool.free.len() + pool.cached.len());
            let bytes = to_grow.saturating_mul(pool.block_bytes);
            let fits = pool.blocks.len() + to_grow <= self.most_blocks(group) && bytes <= spare;
            spare = spare.saturating_sub(bytes);
            fits
        })
    }

    /// Takes a lease back. Full blocks stay known until their memory is needed.
    pub fn release(&mut self, lease: Lease) {
        for (group, table) in lease.tables.iter().enumerate() {
            // The longer a prefix, the fewer it serves: its end becomes the oldest.
            for &block in table.blocks[table.first..].iter().rev() {
                self.release_block(group, block);
            }
        }
        self.tree.unpin(lease.tip);
    }

    fn retain(&mut self, group: usize, block: u32) {
        let pool = &mut self.pools[group];
        let entry = &mut pool.blocks[block as usize];
        if entry.references == 0 {
            pool.cached.remove(&(entry.used_at, block));
        }
        entry.references += 1;
    }

    fn release_block(&mut self, group: usize, block: u32) {
        self.clock += 1;
        let pool = &mut self.pools[group];
        let entry = &mut pool.blocks[block as usize];
        entry.references -= 1;
        if entry.references > 0 {
            return;
        }
        entry.used_at = self.clock;
        match entry.node {
            Some(_) => drop(pool.cached.insert((self.clock, block))),
            None => pool.free.push(block),
        }
    }

    /// A block, the first of `missing` that its sequence needs now.
    fn allocate(&mut self, group: usize, missing: usize, storage: &mut impl Grow) -> Option<u32> {
        let found = !self.pools[group].free.is_empty()
            || (self.keeps_prefixes(group) && self.grow(group, missing, storage))
            || self.evict(group)
            || self.grow(group, missing, storage);
        if !found {
            return None;
        }
        let pool = &mut self.pools[group];
        let block = pool.free.pop()?;
        pool.blocks[block as usize].references = 1;
        Some(block)
    }

    /// Frees the block whose prefix was unused for longest.
    fn evict(&mut self, group: usize) -> bool {
        let pool = &mut self.pools[group];
        let Some((_, block)) = pool.cached.pop_first() else { return false };
        pool.free.push(block);
        if let Some(node) = pool.blocks[block as usize].node.take() {
            self.tree.clear_block(node, group);
        }
        true
    }

    fn bytes(&self) -> usize {
        self.pools.iter().map(Pool::bytes).sum()
    }

    /// Whether a pool is small enough to grow rather than forget a prefix.
    fn keeps_prefixes(&self, group: usize) -> bool {
        let pool = &self.pools[group];
        !pool.cached.is_empty() && self.bytes() + pool.bytes() <= self.limits.prefix_bytes
    }

    /// The most blocks a pool may have: each other pool can still become what a sequence alone needs.
    fn most_blocks(&self, group: usize) -> usize {
        let others = self.pools.iter().enumerate().filter(|&(other, _)| other != group);
        let reserved: usize = others.map(|(_, pool)| pool.blocks.len().max(pool.least) * pool.block_bytes).sum();
        let pool = &self.pools[group];
        let by_bytes = self.limits.bytes.saturating_sub(reserved) / pool.block_bytes.max(1);
        let most = pool.ample.saturating_mul(self.limits.sequences);
        // Block tables are i32.
        most.min(by_bytes).min(i32::MAX as usize / self.block_size)
    }

    /// Grows a pool by `missing` blocks at least, if it can.
    fn grow(&mut self, group: usize, missing: usize, storage: &mut impl Grow) -> bool {
        let most = self.most_blocks(group);
        let pool = &mut self.pools[group];
        let size = pool.blocks.len();
        if size >= most {
            return false;
        }
        let enough = size + missing;
        // Doubling keeps copies rare, and pauses at what one sequence can use, since many serve but one at a time; where
        // memory is short, a little may still be had.
        let ample = (2 * size).max(enough).max(FIRST_BLOCKS);
        let ample = if size > 0 && (enough..ample).contains(&pool.least) { pool.least } else { ample };
        for wanted in [ample, size + size / 8 + 1] {
            let wanted = wanted.min(most);
            match storage.grow(group, wanted) {
                Ok(()) => {
                    tracing::debug!(group, blocks = wanted, "the key-value pool grew");
                    self.refusal = None;
                    pool.blocks.resize_with(wanted, Block::default);
                    pool.free.extend((size as u32..wanted as u32).rev());
                    return true;
                }
                Err(error) => self.refusal = Some(error),
            }
        }
        false
    }
}

/// Blocks of a pool when it first grows.
const FIRST_BLOCKS: usize = 16;

/// Blocks that `positions` consecutive positions touch at most.
pub(crate) fn least_blocks(positions: usize, block_size: usize) -> usize {
    positions.saturating_sub(1).div_ceil(block_size) + 1
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
