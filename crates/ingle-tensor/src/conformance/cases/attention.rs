// SPDX-License-Identifier: EUPL-1.2
//! Cases of attention over a paged cache.

use super::super::values::shuffled;
use super::rows::quantised;
use super::{Case, Input, Values, View};
use crate::{DType, Op, PagedAttention, Spec};

/// A ragged batch: what each sequence has cached, and which of its last positions ask.
struct Batch {
    /// Heads of the queries, of the cache, and their width.
    heads: [usize; 3],
    block_size: usize,
    /// For each sequence, how many positions it has, and how many of them, the last ones, are queries.
    sequences: &'static [(usize, usize)],
}

impl Batch {
    /// The inputs, with dtypes for the queries and for the cache. Blocks lie scattered in the cache, tokens of
    /// different sequences take turns, and entries of the table that no token needs point at a foreign block.
    fn inputs(&self, queries: DType, cache: DType) -> [Input; 6] {
        let [heads, kv_heads, width] = self.heads;
        let blocks_of = |len: usize| len.div_ceil(self.block_size);
        let total: usize = self.sequences.iter().map(|&(len, _)| blocks_of(len)).sum::<usize>() + 1;
        let widest = self.sequences.iter().map(|&(len, _)| blocks_of(len)).max().unwrap_or(0) + 1;
        let mut free = shuffled(11, total).into_iter();
        let foreign = free.next().unwrap_or(0);
        let mut table = vec![];
        for &(len, _) in self.sequences {
            let own: Vec<usize> = free.by_ref().take(blocks_of(len)).collect();
            let rest = std::iter::repeat_n(foreign, widest - own.len());
            table.extend(own.into_iter().chain(rest));
        }
        let asked = |&(_, asked): &(usize, usize)| asked;
        let rounds = self.sequences.iter().map(asked).max().unwrap_or(0);
        let tokens: Vec<(usize, usize)> = (0..rounds)
            .flat_map(|round| self.sequences.iter().enumerate().map(move |(s, sequence)| (round, s, sequence)))
            .filter(|(round, _, (_, asked))| round < asked)
            .map(|(round, s, (len, asked))| (s, len - asked + round))
            .collect();
        let slots = total * self.block_size;
        let cached = |scales| match cache {
            DType::I8 => Input::new([slots, kv_heads, width + 4], cache, quantised(width, scales)),
            _ => Input::new([slots, kv_heads, width], cache, Values::uniform(-1.0, 1.0)),
        };
        [
            Input::new([tokens.len(), heads, width], queries, Values::uniform(-1.0, 1.0)),
            cached([0.008, 0.002]),
            cached([0.003, 0.007]),
            Input { base: Spec::new([self.sequences.len(), widest], DType::I32), ..Input::index(table) },
            Input::index(tokens.iter().map(|&(s, _)| s)),
            Input::index(tokens.iter().map(|&(_, position)| position)),
        ]
    }

    fn parameters(&self) -> PagedAttention {
        let scale = 1.0 / (self.heads[2] as f32).sqrt();
        PagedAttention { block_size: self.block_size, scale, window: None, soft_cap: None }
    }
}

/// From −100 to 100 steps, a power of two, in no order. Every float dtype holds them exactly: where scores are large,
/// the error of queries that a device rounds would leave the weights without a bound.
fn steps(step: f64) -> Values {
    Values::Floats(shuffled(5, 201).into_iter().map(|i| (i as f64 - 100.0) * step).collect())
}

/// Dtypes of queries and cache.
const DTYPES: [(DType, DType); 7] = [
    (DType::F32, DType::F32),
    (DType::F16, DType::F16),
    (DType::BF16, DType::BF16),
    (DType::F32, DType::BF16),
    (DType::F32, DType::F16),
    (DType::F32, DType::I8),
    (DType::BF16, DType::I8),
];

/// Prompts, chunks and single tokens, alone and mixed.
const BATCHES: [Batch; 13] = [
    Batch { heads: [1, 1, 1], block_size: 1, sequences: &[(1, 1)] },
    Batch { heads: [2, 1, 8], block_size: 4, sequences: &[(3, 0)] },
    Batch { heads: [2, 1, 8], block_size: 4, sequences: &[] },
    Batch { heads: [0, 1, 8], block_size: 4, sequences: &[(5, 2)] },
    Batch { heads: [2, 2, 16], block_size: 4, sequences: &[(7, 7)] },
    Batch { heads: [4, 1, 33], block_size: 16, sequences: &[(17, 1)] },
    Batch { heads: [3, 1, 64], block_size: 16, sequences: &[(65, 3)] },
    Batch { heads: [4, 2, 7], block_size: 3, sequences: &[(9, 9), (1, 1), (4, 0), (20, 1)] },
    Batch { heads: [6, 2, 32], block_size: 8, sequences: &[(8, 8), (16, 1), (33, 7), (5, 5), (1, 1)] },
    Batch { heads: [2, 2, 128], block_size: 16, sequences: &[(33, 1), (16, 1), (3, 1)] },
    Batch { heads: [4, 1, 256], block_size: 32, sequences: &[(40, 5)] },
    Batch { heads: [0, 1, 32], block_size: 4, sequences: &[(20, 12)] },
    Batch { heads: [2, 1, 0], block_size: 4, sequences: &[(5, 2)] },
];

pub(super) fn paged_attention() -> Vec<Case> {
    let mut cases = vec![];
    for (queries, cache) in DTYPES {
        for batch in &BATCHES {
            let plain = batch.parameters();
            let case = |parameters| Case::new(Op::PagedAttention(parameters), batch.inputs(queries, cache));
            cases.push(case(plain));
            for window in [1, 3, 16, 1000] {
                cases.push(case(PagedAttention { window: Some(window), ..plain }));
            }
            cases.push(case(PagedAttention { soft_cap: Some(0.7), ..plain }));
            let mut inputs = batch.inputs(queries, cache);
            inputs[0].values = steps(1.0 / 128.0);
            let parameters = PagedAttention { soft_cap: Some(50.0), window: Some(5), scale: 2.5, ..plain };
            cases.push(Case::new(Op::PagedAttention(parameters), inputs));
        }
        // Queries, keys and values that are views of larger tensors, as when one product makes all three.
        let batch = &BATCHES[7];
        let op = Op::PagedAttention(PagedAttention { window: Some(6), ..batch.parameters() });
        for view in View::ALL {
            // Views that cut quantised rows elsewhere would give them scales of any size.
            let along_rows = matches!(view, View::Stepped | View::Repeated);
            for viewed in 0..if cache == DType::I8 && !along_rows { 1 } else { 3 } {
                let mut inputs = batch.inputs(queries, cache);
                inputs[viewed] = inputs[viewed].clone().lying(view);
                cases.push(Case::new(op.clone(), inputs));
            }
        }
        // Tables that are views of larger ones, with numbers between that index nothing.
        let mut inputs = batch.inputs(queries, cache);
        for table in &mut inputs[4..] {
            if let Values::Integers(list) = &table.values {
                *table = Input::stepped_index(list.iter().map(|&i| i as usize));
            }
        }
        cases.push(Case::new(op.clone(), inputs));
        // Scores so large that only a softmax that subtracts the maximum survives.
        let mut inputs = batch.inputs(queries, cache);
        inputs[0].values = steps(1.0);
        inputs[1].values = match cache {
            DType::I8 => quantised(batch.heads[2], [0.08, 0.02]),
            _ => Values::uniform(-10.0, 10.0),
        };
        cases.push(Case::new(op, inputs));
    }
    cases
}

/// Cases of attention over floats, with the gradient of the result.
pub(super) fn paged_attention_grad() -> Vec<Case> {
    let mut cases = vec![];
    for Case { op, mut inputs } in paged_attention() {
        let (Op::PagedAttention(attention), Ok(q)) = (op, inputs[0].spec()) else { continue };
        let cache = inputs[1].base.dtype;
        if cache == DType::I8 || matches!(attention.window, Some(1 | 1000)) {
            continue;
        }
        inputs.push(Input::new(q.shape, q.dtype, Values::uniform(-1.0, 1.0)));
        cases.push(Case::new(Op::PagedAttentionGrad(attention), inputs));
    }
    cases.extend(shared_blocks());
    cases
}

/// Sequences that begin with the same blocks, whose slots get the sums of all; more tokens than are taken together; and
/// tokens of one sequence that stand far apart, in no order and twice.
fn shared_blocks() -> Vec<Case> {
    let together = [(0, 0..33), (1, 8..21), (2, 0..70)];
    let apart = [(1, 7), (1, 7), (0, 39), (1, 0), (2, 71), (2, 3)];
    let tokens: Vec<(usize, usize)> =
        together.into_iter().flat_map(|(s, positions)| positions.map(move |p| (s, p))).chain(apart).collect();
    let mut cases = vec![];
    for (queries, cache) in [(DType::F32, DType::F32), (DType::F32, DType::BF16), (DType::F32, DType::F16)] {
        // Blocks of 8 slots: the first two sequences share two, the last has many.
        let row = |own: [usize; 5]| own.into_iter().chain([0; 4]).collect::<Vec<_>>();
        let table = [row([4, 2, 7, 1, 15]), row([4, 2, 3, 5, 5]), (6..15).collect()].concat();
        let table = Input { base: Spec::new([3, 9], DType::I32), ..Input::index(table) };
        for window in [None, Some(5)] {
            let attention = PagedAttention { block_size: 8, scale: 0.3, window, soft_cap: None };
            let dense = |shape: [usize; 3], dtype| Input::new(shape, dtype, Values::uniform(-1.0, 1.0));
            let inputs = [
                dense([tokens.len(), 8, 20], queries),
                dense([128, 2, 20], cache),
                dense([128, 2, 20], cache),
                table.clone(),
                Input::index(tokens.iter().map(|&(s, _)| s)),
                Input::index(tokens.iter().map(|&(_, position)| position)),
                dense([tokens.len(), 8, 20], queries),
            ];
            cases.push(Case::new(Op::PagedAttentionGrad(attention), inputs));
        }
    }
    cases
}
