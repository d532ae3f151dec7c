// SPDX-License-Identifier: EUPL-1.2
//! Rotary position embeddings.
//!
//! MLX's own kernel takes wavelengths and inverts them, which moves the angles of far positions by more than an
//! f32 computation may, and its composition rounds sines to the dtype of `x`. So the sines and cosines of a
//! step's positions are computed once, in f32, for all layers; each head is then one element-wise kernel. On CUDA
//! a kernel of ours does it all.

use std::sync::Arc;

use ingle_tensor::{BinaryOp, DType, Result, RopeLayout, Shape, Spec, Tensor, UnaryOp};

use crate::array::{Array, int};
use crate::bridge::{self, Engine, Pairs};
use crate::derived::Derived;
use crate::elementwise::{binary, cast, unary};
use crate::layout;
use crate::storage::MlxStorage;

/// `cos` and `±sin` of each token's angles, to be multiplied with pairs and swapped pairs.
#[derive(Clone)]
pub(crate) struct Turns {
    cos: Array,
    sin: Array,
}

/// The turns of a step, by what tells them apart beside the positions.
pub(crate) type Table = Derived<(RopeLayout, Option<Arc<[i32]>>), Turns>;

/// Elements below which the kernel on CUDA can count its threads in 32 bits.
const THREADS: usize = 1 << 28;

/// How fast each pair turns.
pub(crate) struct Frequencies {
    array: Array,
    pairs: usize,
    /// The words of those that were uploaded: each layer of a model brings its own copy of the same.
    words: Option<Arc<[i32]>>,
}

impl Frequencies {
    pub(crate) fn of(op: &'static str, tensor: Tensor) -> Result<Frequencies> {
        let (pairs, dtype) = (tensor.shape()[0], tensor.dtype());
        let storage = MlxStorage::of(op, tensor)?;
        let words = storage.host.clone();
        Ok(Frequencies { array: storage.plain(op, dtype)?, pairs, words })
    }
}

impl Turns {
    fn new(
        op: &'static str,
        (positions, tokens): (&Array, usize),
        (frequencies, half): (&Array, usize),
        layout: RopeLayout,
    ) -> Result<Turns> {
        // The axis along which the two features of a pair lie, and the shape of one of them.
        let (pair_axis, one) = match layout {
            RopeLayout::Halves => (2, [tokens, 1, 1, half]),
            RopeLayout::Interleaved => (3, [tokens, 1, half, 1]),
        };
        let positions = cast(op, positions, DType::I32, DType::F32)?;
        let column = layout::reshape(op, &positions, &Shape::from([tokens, 1]))?;
        let row = layout::reshape(op, frequencies, &Shape::from([1, half]))?;
        let angles = binary(op, BinaryOp::Mul, &column, &row)?;
        let angles = layout::reshape(op, &angles, &Shape::from(one))?;
        let sin = unary(op, UnaryOp::Sin, &angles)?;
        let minus = unary(op, UnaryOp::Neg, &sin)?;
        Ok(Turns { cos: unary(op, UnaryOp::Cos, &angles)?, sin: layout::concat(op, &[minus, sin], pair_axis)? })
    }
}

/// `x [T, H, D]` with the first features of each head turned.
pub(crate) fn rope(
    op: &'static str,
    (engine, table): (Engine, &Table),
    (x, spec): (&Array, &Spec),
    positions: &Array,
    frequencies: &Frequencies,
    layout: RopeLayout,
) -> Result<Array> {
    let half = frequencies.pairs;
    let [tokens, heads, width] = [spec.shape[0], spec.shape[1], spec.shape[2]];
    if half == 0 || spec.shape.elements() == 0 {
        return Ok(x.clone());
    }
    if engine == Engine::Cuda && spec.shape.elements() < THREADS {
        let pairs = match layout {
            RopeLayout::Halves => Pairs::Halves,
            RopeLayout::Interleaved => Pairs::Neighbours,
        };
        return Array::new(op, bridge::rope(x.get(), positions.get(), frequencies.array.get(), pairs));
    }
    let make = || Turns::new(op, (positions, tokens), (&frequencies.array, half), layout);
    let turns = match &frequencies.words {
        Some(words) => table.get(&[positions], (layout, Some(words.clone())), make)?,
        None => table.get(&[positions, &frequencies.array], (layout, None), make)?,
    };

    let turned = 2 * half;
    let first = match turned < width {
        true => layout::slice(op, x, &spec.shape, 2, [0, turned, 1])?,
        false => x.clone(),
    };
    let (pair_axis, pairs) = match layout {
        RopeLayout::Halves => (2, [tokens, heads, 2, half]),
        RopeLayout::Interleaved => (3, [tokens, heads, half, 2]),
    };
    let pairs = layout::reshape(op, &first, &Shape::from(pairs))?;
    let swapped = swap(op, &pairs, [tokens, heads, half], pair_axis)?;
    let rotated = Array::new(op, bridge::rotate(pairs.get(), swapped.get(), turns.cos.get(), turns.sin.get()))?;
    let rotated = layout::reshape(op, &rotated, &Shape::from([tokens, heads, turned]))?;
    match turned < width {
        true => layout::concat(op, &[rotated, layout::slice(op, x, &spec.shape, 2, [turned, width, 1])?], 2),
        false => Ok(rotated),
    }
}

/// A view with the two features of each pair exchanged: read backwards along their axis.
fn swap(op: &'static str, pairs: &Array, [tokens, heads, half]: [usize; 3], pair_axis: usize) -> Result<Array> {
    let lengths = match pair_axis {
        2 => [tokens, heads, 2, half],
        _ => [tokens, heads, half, 2],
    };
    let mut stop = [0; 4];
    for (stop, len) in stop.iter_mut().zip(lengths) {
        *stop = int(op, len)?;
    }
    let (mut start, mut step) = ([0; 4], [1; 4]);
    // Negative numbers count from the end: −3 of two is the one before the first.
    (start[pair_axis], stop[pair_axis], step[pair_axis]) = (1, -3, -1);
    Array::new(op, bridge::slice(pairs.get(), &start, &stop, &step))
}
