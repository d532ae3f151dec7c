// SPDX-License-Identifier: EUPL-1.2
//! The block manager against a memory that remembers what was written to each slot.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const BLOCK: usize = 4;

/// Memory that runs out.
struct Storage {
    most: usize,
    /// What it was asked to grow to, each time.
    growths: Vec<usize>,
}

impl Storage {
    fn new(most: usize) -> Self {
        Storage { most, growths: Vec::new() }
    }
}

impl Grow for Storage {
    fn grow(&mut self, group: usize, blocks: usize) -> ingle_nn::Result<()> {
        self.growths.push(blocks);
        if blocks > self.most { Err(ingle_nn::Error::CacheLost { layer: group }) } else { Ok(()) }
    }
}

fn manager(windows: &[Option<usize>], bytes: usize, prefix_bytes: usize) -> BlockManager {
    let group = |&window: &Option<usize>| CacheGroup { window, block_bytes: 1, blocks: 0 };
    let groups: Vec<CacheGroup> = windows.iter().map(group).collect();
    BlockManager::new(
        &groups,
        BLOCK,
        PoolLimits { context_length: 64, sequences: 8, step_tokens: 8, bytes, prefix_bytes },
    )
}

/// A sequence as the scheduler would keep it.
struct Running {
    tokens: Vec<u32>,
    computed: usize,
    lease: Lease,
}

/// Sequences, and for each slot of each group the prefix whose last token was written there.
struct World {
    manager: BlockManager,
    storage: Storage,
    running: Vec<Running>,
    written: HashMap<(usize, u32, usize), Vec<u32>>,
}

impl World {
    fn admit(&mut self, tokens: Vec<u32>) {
        let (lease, computed) = self.manager.admit(None, &tokens, tokens.len() - 1);
        assert!(computed < tokens.len() && computed % BLOCK == 0);
        self.running.push(Running { tokens, computed, lease });
    }

    /// Computes up to `count` tokens of a sequence, which has one more token after its last.
    fn advance(&mut self, which: usize, count: usize) {
        let Some(index) = which.checked_rem(self.running.len()) else { return };
        let running = &mut self.running[index];
        if running.computed == running.tokens.len() {
            running.tokens.push((running.tokens.len() % 3) as u32);
        }
        let start = running.computed;
        let end = running.tokens.len().min(start + count);
        let covered = self.manager.reserve(&mut running.lease, start, end, &mut self.storage);
        let end = end.min(covered);
        if end <= start {
            return;
        }
        self.manager.register(&mut running.lease, &running.tokens, end);
        for group in 0..self.manager.pools.len() {
            for position in start..end {
                let block = running.lease.blocks(group)[position / BLOCK];
                self.written.insert((group, block, position % BLOCK), running.tokens[..=position].to_vec());
            }
            // What each of the tokens sees is what its own sequence has there.
            for token in start..end {
                let window = self.manager.pools[group].window;
                for position in (token + 1).saturating_sub(window)..=token {
                    let block = running.lease.blocks(group)[position / BLOCK];
                    let seen = self.written.get(&(group, block, position % BLOCK));
                    assert_eq!(seen.map(Vec::as_slice), Some(&running.tokens[..=position]), "group {group}");
                }
            }
        }
        running.computed = end;
    }

    fn release(&mut self, which: usize) {
        if let Some(index) = which.checked_rem(self.running.len()) {
            let running = self.running.swap_remove(index);
            self.manager.release(running.lease);
        }
    }

    /// Every block is in use by as many as it says, or free, or cached.
    fn check(&self) {
        for (group, pool) in self.manager.pools.iter().enumerate() {
            let mut references = vec![0; pool.blocks.len()];
            for running in &self.running {
                let table = &running.lease.tables[group];
                table.blocks[table.first..].iter().for_each(|&block| references[block as usize] += 1);
            }
            for (index, block) in pool.blocks.iter().enumerate() {
                let id = index as u32;
                assert_eq!(block.references, references[index], "block {index} of group {group}");
                let free = pool.free.iter().filter(|&&free| free == id).count();
                let cached = usize::from(pool.cached.contains(&(block.used_at, id)));
                assert_eq!(free + cached, usize::from(references[index] == 0), "block {index} of group {group}");
                if let Some(node) = block.node {
                    assert_eq!(self.manager.tree.block(node, group), Some(id));
                }
            }
            assert!(pool.blocks.len() <= self.storage.most);
        }
        let counts = self.manager.counts();
        assert!(counts.total <= self.manager.limits.bytes);
        assert_eq!(counts.cached, self.manager.pools.iter().map(|pool| pool.cached.len()).sum::<usize>());
    }
}

#[derive(Clone, Debug)]
enum Act {
    Admit(Vec<u32>),
    Advance(usize, usize),
    Release(usize),
    Forget,
}

fn act() -> impl Strategy<Value = Act> {
    // Few tokens, so that prefixes are often equal.
    let tokens = prop_oneof![
        prop::collection::vec(0u32..2, 1..30),
        (1usize..40).prop_map(|length| (0..length).map(|i| (i % 3) as u32).collect()),
    ];
    prop_oneof![
        2 => tokens.prop_map(Act::Admit),
        8 => (0usize..8, 1usize..9).prop_map(|(which, count)| Act::Advance(which, count)),
        1 => (0usize..8).prop_map(Act::Release),
        1 => Just(Act::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_block_leaks_or_lies_good(
        acts in prop::collection::vec(act(), 1..120),
        bytes in 40usize..200,
        prefix_bytes in 0usize..100,
        most in 10usize..100,
        windows in prop::sample::select(vec![vec![None], vec![Some(6)], vec![None, Some(6)], vec![Some(1), Some(9), None]]),
    ) {
        let manager = manager(&windows, bytes, prefix_bytes);
        let mut world = World { manager, storage: Storage::new(most), running: Vec::new(), written: HashMap::new() };
        for act in acts {
            match act {
                Act::Admit(tokens) => world.admit(tokens),
                Act::Advance(which, count) => world.advance(which, count),
                Act::Release(which) => world.release(which),
                Act::Forget => world.manager.forget(),
            }
            world.check();
        }
        while !world.running.is_empty() {
            world.release(0);
        }
        world.check();
        prop_assert_eq!(world.manager.counts().used, 0);
        world.manager.forget();
        prop_assert_eq!(world.manager.counts().cached, 0);
        prop_assert_eq!(world.manager.tree.len(), 0);
    }
}

#[test]
fn the_prefix_unused_for_longest_is_forgotten_first_good() {
    let mut manager = manager(&[None], 9, 0);
    let mut storage = Storage::new(9);
    let mut fill = |manager: &mut BlockManager, token: u32| {
        let tokens = vec![token; 13];
        let (mut lease, cached) = manager.admit(None, &tokens, 12);
        assert_eq!(manager.reserve(&mut lease, cached, 13, &mut storage), 16);
        manager.register(&mut lease, &tokens, 13);
        manager.release(lease);
        cached
    };
    // 4 blocks each, 3 of them full; there are 9.
    assert_eq!([1, 2, 1].map(|token| fill(&mut manager, token)), [0, 0, 12]);
    // A third needs the place of the end of the second.
    assert_eq!(fill(&mut manager, 3), 0);
    assert_eq!([1, 3].map(|token| fill(&mut manager, token)), [12, 12]);
    assert!(fill(&mut manager, 2) < 12);
}

#[test]
fn a_window_takes_no_more_blocks_however_long_the_sequence_good() {
    let mut manager = manager(&[Some(6)], usize::MAX, 0);
    let mut storage = Storage::new(usize::MAX);
    let (mut lease, _) = manager.admit(None, &[0], 0);
    for position in 0..1000 {
        assert!(manager.reserve(&mut lease, position, position + 1, &mut storage) > position);
        manager.register(&mut lease, &vec![7; position + 1], position + 1);
        assert!(manager.counts().used <= least_blocks(6, BLOCK));
    }
    assert_eq!(manager.counts().total, FIRST_BLOCKS);
}

#[test]
fn a_pool_grows_at_once_to_what_a_sequence_needs_good() {
    let mut manager = manager(&[None], usize::MAX, 0);
    let mut storage = Storage::new(usize::MAX);
    let (mut lease, _) = manager.admit(None, &[0], 0);
    let positions = (FIRST_BLOCKS + 3) * BLOCK;
    assert_eq!(manager.reserve(&mut lease, 0, positions, &mut storage), positions);
    assert_eq!(storage.growths, [FIRST_BLOCKS + 3]);
}

#[test]
fn a_pool_pauses_at_what_one_sequence_can_use_good() {
    // 64 positions of context are 17 blocks at most.
    let mut manager = manager(&[None], usize::MAX, 0);
    let mut storage = Storage::new(usize::MAX);
    let (mut lease, _) = manager.admit(None, &[0], 0);
    for position in 0..1000 {
        assert!(manager.reserve(&mut lease, position, position + 1, &mut storage) > position);
    }
    assert_eq!(storage.growths, [FIRST_BLOCKS, FIRST_BLOCKS + 1]);
    let (mut other, _) = manager.admit(None, &[0], 0);
    assert_eq!(manager.reserve(&mut other, 0, 64, &mut storage), 64);
    assert_eq!(storage.growths.last(), Some(&(2 * (FIRST_BLOCKS + 1))));
}

#[test]
fn groups_leave_each_other_what_one_sequence_needs_ugly() {
    // 64 positions are 17 blocks at most; a window of 6 touches 3.
    let mut manager = manager(&[None, Some(6)], 20, 0);
    let mut storage = Storage::new(usize::MAX);
    let (mut greedy, _) = manager.admit(None, &[0], 0);
    assert_eq!(manager.reserve(&mut greedy, 0, 1000, &mut storage), 12);
    manager.release(greedy);
    let (mut alone, _) = manager.admit(None, &[0], 0);
    for position in 0..64 {
        assert!(manager.reserve(&mut alone, position, position + 1, &mut storage) > position);
    }
    assert!(manager.counts().total <= 20);
}

#[test]
fn a_refused_growth_is_kept_for_the_error_bad() {
    let mut manager = manager(&[None], usize::MAX, 0);
    let (mut lease, _) = manager.admit(None, &[0], 0);
    assert_eq!(manager.reserve(&mut lease, 0, 10, &mut Storage::new(0)), 0);
    assert!(matches!(manager.take_refusal(), Some(ingle_nn::Error::CacheLost { .. })));
    assert!(manager.take_refusal().is_none());
}
