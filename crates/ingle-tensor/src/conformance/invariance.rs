// SPDX-License-Identifier: EUPL-1.2
//! The same request gives the same answer: a row's result has the same bits whatever is computed beside it, if the
//! device promises it.

use super::check::same;
use super::report::Report;
use super::values::{Values, shuffled, unit};
use crate::{
    Activation, BinaryOp, DType, DeviceHandle, Invariance, Op, PagedAttention, ReduceOp, Result, RopeLayout, Spec,
    Tensor, UnaryOp,
};

const AREA: &str = "rows alone";
const ATTENTION: &str = "sequences alone";

/// Rows in the whole; more than a kernel takes at once, and odd.
const ROWS: usize = 67;

/// How many rows are computed at a time.
const GROUPS: [usize; 7] = [1, 2, 3, 4, 7, 16, 33];

pub(super) fn run(device: &DeviceHandle, report: &mut Report) {
    if device.invariance() == Invariance::Rounding {
        return;
    }
    for (dtype, weights) in [
        (DType::F32, DType::F32),
        (DType::F16, DType::F16),
        (DType::BF16, DType::BF16),
        (DType::F32, DType::BF16),
        (DType::BF16, DType::F32),
    ] {
        for rows in by_row(dtype, weights) {
            let holds = rows.hold(device).map_err(|e| e.to_string()).and_then(|x| x);
            let inputs: Vec<String> = rows.inputs.iter().map(ToString::to_string).collect();
            report.property(AREA, format!("{:?} of {}", rows.op, inputs.join(", ")), holds);
        }
        // The last ones reach past whatever a kernel takes in at once.
        for (window, soft_cap, width, lengths) in [
            (None, None, 16, [45, 1, 18]),
            (Some(1), Some(5.0), 64, [45, 1, 18]),
            (Some(7), None, 80, [45, 1, 18]),
            (Some(20), Some(5.0), 33, [45, 1, 18]),
            (None, None, 8, [150, 1, 66]),
            (Some(130), None, 8, [150, 1, 66]),
        ] {
            let parameters = PagedAttention { block_size: BLOCK, scale: 0.25, window, soft_cap };
            let quantised = if dtype == weights { Some(DType::I8) } else { None };
            for cache in [weights].into_iter().chain(quantised) {
                let story = Conversation { queries: dtype, cache, width, parameters, lengths };
                let holds = story.hold(device).map_err(|e| e.to_string()).and_then(|x| x);
                report.property(ATTENTION, format!("{story:?}"), holds);
            }
        }
    }
}

/// An operation that treats the rows of its first `split` inputs each for itself.
struct Rows {
    op: Op,
    inputs: Vec<Spec>,
    split: usize,
}

fn by_row(dtype: DType, weights: DType) -> Vec<Rows> {
    let of = |op: Op, split: usize, inputs: &[(&[usize], DType)]| Rows {
        op,
        split,
        inputs: inputs.iter().map(|&(shape, dtype)| Spec::new(shape, dtype)).collect(),
    };
    let mut rows = vec![];
    for (k, n) in [(7, 5), (64, 32), (65, 17), (300, 7), (1031, 3)] {
        rows.push(of(Op::Linear, 1, &[(&[ROWS, k], dtype), (&[n, k], weights)]));
        rows.push(of(Op::Linear, 1, &[(&[ROWS, k], dtype), (&[n, k], weights), (&[n], weights)]));
        rows.push(of(Op::MatMul, 1, &[(&[ROWS, k], dtype), (&[k, n], dtype)]));
        let weight = (&[n, k][..], weights);
        let down = (&[k, n][..], weights);
        rows.push(of(Op::GatedMlp { activation: Activation::Silu }, 1, &[(&[ROWS, k], dtype), weight, weight, down]));
        // A batch of products: each alone.
        rows.push(of(Op::MatMul, 2, &[(&[ROWS, 2, k], dtype), (&[ROWS, k, 3], dtype)]));
        rows.push(of(Op::RmsNorm { eps: 1e-6, offset: 1.0 }, 1, &[(&[ROWS, k], dtype), (&[k], weights)]));
        let vectors = [k];
        let layer_norm = [(&[ROWS, k][..], dtype), (&vectors, weights), (&vectors, weights)];
        rows.push(of(Op::LayerNorm { eps: 1e-5 }, 1, &layer_norm));
        rows.push(of(Op::Softmax, 1, &[(&[ROWS, k], dtype)]));
        rows.push(of(Op::Reduce { op: ReduceOp::Sum, axis: 1 }, 1, &[(&[ROWS, k], dtype)]));
        rows.push(of(Op::Reduce { op: ReduceOp::Sum, axis: 1 }, 1, &[(&[ROWS, k, 3], dtype)]));
        for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
            let positions = (&[ROWS][..], DType::I32);
            let frequencies = [k / 2];
            let inputs = [(&[ROWS, 2, k][..], dtype), positions, (&frequencies[..], DType::F32)];
            rows.push(of(Op::Rope { layout }, 2, &inputs));
        }
    }
    let k = 65;
    for activation in Activation::ALL {
        rows.push(of(Op::Activate(activation), 1, &[(&[ROWS, k], dtype)]));
        rows.push(of(Op::Glu { activation }, 2, &[(&[ROWS, k], dtype), (&[ROWS, k], dtype)]));
    }
    rows.push(of(Op::SoftCap { cap: 2.0 }, 1, &[(&[ROWS, k], dtype)]));
    rows.push(of(Op::Unary(UnaryOp::Exp), 1, &[(&[ROWS, k], dtype)]));
    rows.push(of(Op::Binary(BinaryOp::Div), 2, &[(&[ROWS, k], dtype), (&[ROWS, k], dtype)]));
    rows
}

impl Rows {
    /// Compares all rows at once with a few at a time, these as parts of the whole and as tensors of their own.
    fn hold(&self, device: &DeviceHandle) -> Result<Result<(), String>> {
        let values = |spec: &Spec| if spec.dtype == DType::I32 { (0.0, 5000.0) } else { (-2.0, 3.0) };
        let upload = |(seed, spec): (usize, &Spec)| {
            let (low, high) = values(spec);
            let bytes = Values::uniform(low, high).bytes(spec, seed as u64);
            Tensor::from_bytes(device, bytes, spec.clone())
        };
        let inputs: Vec<Tensor> = self.inputs.iter().enumerate().map(upload).collect::<Result<_>>()?;
        let whole = Tensor::apply(&self.op, inputs.clone())?;
        let dtype = whole.dtype();
        let whole = device.download(&whole)?;
        for group in GROUPS {
            // The first, the last, and some between that begin at no round number.
            for start in [0, 13, 34, ROWS - group] {
                let end = start + group;
                let mut parts = inputs.clone();
                let mut copies = inputs.clone();
                for (part, copy) in parts.iter_mut().zip(&mut copies).take(self.split) {
                    *part = part.slice(0, start, end)?;
                    *copy = Tensor::from_bytes(device, device.download(part)?.into(), part.spec().clone())?;
                }
                let width = whole.len() / ROWS;
                for (inputs, what) in [(parts, "a part of the whole"), (copies, "a tensor of their own")] {
                    let alone = device.download(&Tensor::apply(&self.op, inputs)?)?;
                    if !same(&alone, &whole[start * width..end * width], dtype) {
                        return Ok(Err(format!(
                            "rows {start}..{end}, as {what}, differ from the same rows among {ROWS}"
                        )));
                    }
                }
            }
        }
        Ok(Ok(()))
    }
}

/// Three sequences that share a cache, and what each token of them should see however they are run.
#[derive(Debug)]
struct Conversation {
    queries: DType,
    cache: DType,
    width: usize,
    parameters: PagedAttention,
    /// Positions of each sequence.
    lengths: [usize; 3],
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// Slots in a block.
const BLOCK: usize = 8;

/// A token: its sequence and its position there.
type Token = (usize, usize);

/// The bytes of a token's result.
type Answer = (Token, Vec<u8>);

/// Where the blocks of each sequence lie, and what the cache holds before anything is written.
struct Layout {
    table: [Vec<usize>; 3],
    blocks: usize,
    filler: f64,
}

impl Layout {
    /// Scatters the sequences' blocks over a cache that has six more.
    fn new(seed: u64, lengths: [usize; 3], filler: f64) -> Layout {
        let needed = lengths.map(|len| len.div_ceil(BLOCK));
        let blocks = needed.iter().sum::<usize>() + 6;
        let mut free = shuffled(seed, blocks).into_iter();
        let table = needed.map(|count| free.by_ref().take(count).collect());
        Layout { table, blocks, filler }
    }

    fn slot(&self, (sequence, position): Token) -> usize {
        self.table[sequence][position / BLOCK] * BLOCK + position % BLOCK
    }
}

impl Conversation {
    /// Rows of `per` features that depend on the token alone.
    fn rows(&self, device: &DeviceHandle, what: u64, tokens: &[Token], heads: usize) -> Result<Tensor> {
        let dtype = match self.cache {
            _ if what == 0 => self.queries,
            DType::I8 => DType::F32,
            cache => cache,
        };
        let spec = Spec::new([tokens.len(), heads, self.width], dtype);
        let per = heads * self.width;
        let seed = |(sequence, position): Token| what + 10 * sequence as u64 + 1000 * position as u64;
        let value = |token: Token, i: usize| 2.0 * unit(seed(token), i as u64) - 1.0;
        let list = tokens.iter().flat_map(|&token| (0..per).map(move |i| value(token, i))).collect();
        let rows = Tensor::from_bytes(device, Values::Floats(list).bytes(&spec, 0), spec)?;
        if what > 0 && self.cache == DType::I8 { rows.quantize_rows() } else { Ok(rows) }
    }

    /// Writes the tokens' keys and values, then attends; `only` limits the table to some sequences.
    fn step(&self, cache: &mut [Tensor; 2], layout: &Layout, tokens: &[Token], only: &[usize]) -> Result<Vec<u8>> {
        let device = cache[0].device().clone();
        let index = |list: Vec<usize>| {
            let list: Vec<i32> = list.into_iter().map(|i| i as i32).collect();
            Tensor::from_slice(&device, &list, [list.len()])
        };
        let slots = index(tokens.iter().map(|&token| layout.slot(token)).collect())?;
        for (what, cache) in (1..).zip(cache.iter_mut()) {
            let rows = self.rows(&device, what, tokens, KV_HEADS)?;
            let nothing = Tensor::full(&device, [], DType::U8, 0.0)?;
            *cache = std::mem::replace(cache, nothing).write_rows(&rows, &slots)?;
        }
        let longest = only.iter().map(|&s| layout.table[s].len()).max().unwrap_or(0);
        let padded = |&s: &usize| layout.table[s].iter().copied().chain(std::iter::repeat(0)).take(longest);
        let blocks = index(only.iter().flat_map(padded).collect())?.reshape([only.len(), longest])?;
        let row = |sequence: usize| only.iter().position(|&s| s == sequence).unwrap_or(0);
        let sequences = index(tokens.iter().map(|&(s, _)| row(s)).collect())?;
        let positions = index(tokens.iter().map(|&(_, p)| p).collect())?;
        let q = self.rows(&device, 0, tokens, HEADS)?;
        let [keys, values] = &*cache;
        let out = q.paged_attention([keys, values], [&blocks, &sequences, &positions], self.parameters)?;
        device.download(&out)
    }

    /// Runs steps one after the other and gives the bytes of each token's result.
    fn play(
        &self,
        device: &DeviceHandle,
        layout: &Layout,
        steps: &[Vec<Token>],
        only: &[usize],
    ) -> Result<Vec<Answer>> {
        let width = if self.cache == DType::I8 { self.width + 4 } else { self.width };
        let empty = || Tensor::full(device, [layout.blocks * BLOCK, KV_HEADS, width], self.cache, layout.filler);
        let mut cache = [empty()?, empty()?];
        let row = HEADS * self.width * self.queries.size();
        let mut results = vec![];
        for tokens in steps {
            let bytes = self.step(&mut cache, layout, tokens, only)?;
            results.extend(tokens.iter().copied().zip(bytes.chunks(row).map(<[u8]>::to_vec)));
        }
        results.sort_unstable();
        Ok(results)
    }

    fn hold(&self, device: &DeviceHandle) -> Result<Result<(), String>> {
        let lengths = self.lengths;
        let all: Vec<Token> = (0..3).flat_map(|s| (0..lengths[s]).map(move |p| (s, p))).collect();
        let layout = Layout::new(1, lengths, 0.0);
        let everyone = [0, 1, 2];
        let whole = self.play(device, &layout, std::slice::from_ref(&all), &everyone)?;

        let one_by_one: Vec<Vec<Token>> = all.iter().map(|&token| vec![token]).collect();
        let chunks: Vec<Vec<Token>> = all.chunks(7).map(<[Token]>::to_vec).collect();
        // Decoding: one token of each sequence at a time, as long as there are any.
        let at = |position: usize| (0..3).filter(move |&s| position < lengths[s]).map(move |s| (s, position));
        let together: Vec<Vec<Token>> = (0..lengths[0]).map(|position| at(position).collect()).collect();
        let backwards = {
            let order = shuffled(3, 3);
            vec![order.into_iter().flat_map(|s| (0..lengths[s]).map(move |p| (s, p))).collect()]
        };
        let elsewhere = Layout::new(2, lengths, 3.0);
        for (how, layout, steps) in [
            ("token by token", &layout, &one_by_one),
            ("one token of each sequence at a time", &layout, &together),
            ("with the sequences in another order", &layout, &backwards),
            ("in chunks of 7, with other blocks and other numbers in empty slots", &elsewhere, &chunks),
        ] {
            let found = self.play(device, layout, steps, &everyone)?;
            if let Err(what) = self.equal(&whole, &found, how) {
                return Ok(Err(what));
            }
        }
        for sequence in everyone {
            let own: Vec<Token> = all.iter().copied().filter(|&(s, _)| s == sequence).collect();
            let expected: Vec<_> = whole.iter().filter(|((s, _), _)| *s == sequence).cloned().collect();
            let found = self.play(device, &elsewhere, &[own], &[sequence])?;
            if let Err(what) = self.equal(&expected, &found, "alone") {
                return Ok(Err(what));
            }
        }
        Ok(Ok(()))
    }

    fn equal(&self, expected: &[Answer], found: &[Answer], how: &str) -> Result<(), String> {
        let agree = |(a, b): (&Answer, &Answer)| a.0 == b.0 && same(&a.1, &b.1, self.queries);
        let differs = expected.iter().zip(found).position(|pair| !agree(pair));
        match differs.map(|at| expected[at].0) {
            None if expected.len() == found.len() => Ok(()),
            Some((sequence, position)) => Err(format!(
                "run {how}, position {position} of sequence {sequence} differs from that in one step with all others"
            )),
            None => Err(format!("run {how}, there are {} results instead of {}", found.len(), expected.len())),
        }
    }
}
