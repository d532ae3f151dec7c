// SPDX-License-Identifier: EUPL-1.2
//! Views read back right, whatever they are views of: random chains of layout operations, each link compared
//! element by element.

use std::sync::Arc;

use super::array::Array;
use super::reference::Reference;
use super::report::Report;
use super::values::{below, random, shuffled};
use crate::{DType, DeviceHandle, Op, ReduceOp, Result, Shape, Tensor, UnaryOp};

const AREA: &str = "views of views";

/// How many chains, and how many links in one.
const CHAINS: u64 = 300;
const LINKS: u64 = 6;

/// Past this many elements a chain does not stretch further.
const LARGEST: usize = 2000;

pub(super) fn run(device: &DeviceHandle, report: &mut Report) {
    for seed in 0..CHAINS {
        let mut ops = vec![];
        let holds = chain(device, seed, &mut ops);
        report.property(AREA, format!("chain {seed}: {ops:?}"), holds);
    }
}

/// Random numbers for one link of one chain.
struct Dice {
    seed: u64,
    throws: u64,
}

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.throws += 1;
        below(self.seed, self.throws, bound.max(1))
    }
}

fn chain(device: &DeviceHandle, seed: u64, ops: &mut Vec<String>) -> Result<(), String> {
    let say = |error: crate::Error| error.to_string();
    let reference: DeviceHandle = Arc::new(Reference::new());
    let mut dice = Dice { seed: random(77, seed), throws: 0 };
    let lengths: Vec<usize> = (0..dice.below(5)).map(|_| [1, 2, 3, 5, 7, 1, 4, 0][dice.below(8)]).collect();
    let shape = Shape::from(lengths);
    let (mut found, mut wanted) = match dice.below(2) {
        0 => {
            let numbers: Vec<i32> = (0..shape.elements() as i32).collect();
            (Tensor::from_slice(device, &numbers, &shape), Tensor::from_slice(&reference, &numbers, &shape))
        }
        _ => {
            // The first 256 numbers, exact in bf16.
            let numbers: Vec<half::bf16> =
                (0..shape.elements()).map(|i| half::bf16::from_f32((i % 256) as f32)).collect();
            (Tensor::from_slice(device, &numbers, &shape), Tensor::from_slice(&reference, &numbers, &shape))
        }
    };
    ops.push(format!("of {shape}"));
    for _ in 0..LINKS {
        let op = link(wanted.as_ref().map_err(|e| say(e.clone()))?.shape(), &mut dice);
        ops.push(format!("{op:?}"));
        let next = |x: Result<Tensor>| Tensor::apply(&op, vec![x?]);
        (found, wanted) = (next(found), next(wanted));
        equal(&found, &wanted)?;
    }

    // What computes on a view reads it as rightly as a download does.
    let integers = |x: Result<Tensor>| x?.cast(DType::I32);
    (found, wanted) = (integers(found), integers(wanted));
    ops.push("cast".into());
    equal(&found, &wanted)?;
    let floats = |x: Result<Tensor>| x?.cast(DType::F32);
    (found, wanted) = (floats(found), floats(wanted));
    let op = link(wanted.as_ref().map_err(|e| say(e.clone()))?.shape(), &mut dice);
    for op in [op, Op::Unary(UnaryOp::Neg), Op::Reduce { op: ReduceOp::Max, axis: 0 }] {
        if matches!(op, Op::Reduce { .. }) && wanted.as_ref().is_ok_and(|x| x.shape().is_empty()) {
            break;
        }
        ops.push(format!("{op:?}"));
        let next = |x: Result<Tensor>| Tensor::apply(&op, vec![x?]);
        (found, wanted) = (next(found), next(wanted));
        equal(&found, &wanted)?;
    }
    Ok(())
}

fn equal(found: &Result<Tensor>, wanted: &Result<Tensor>) -> Result<(), String> {
    let read = |x: &Result<Tensor>| -> Result<Vec<f64>> {
        let x = x.as_ref().map_err(Clone::clone)?;
        Ok(Array::decode(&x.device().download(x)?, x.dtype()).values())
    };
    let (found, wanted) = (read(found).map_err(|e| e.to_string())?, read(wanted).map_err(|e| e.to_string())?);
    if found == wanted { Ok(()) } else { Err(format!("expected {wanted:?}, found {found:?}")) }
}

/// A random layout operation that fits the shape.
fn link(shape: &Shape, dice: &mut Dice) -> Op {
    let rank = shape.len();
    match dice.below(8) {
        0 | 1 => Op::Permute { axes: shuffled(dice.seed ^ dice.throws, rank) },
        2..=4 if rank > 0 => {
            let axis = dice.below(rank);
            let len = shape[axis];
            // Mostly something is left.
            let start = dice.below(len / 2 + 1);
            let end = len - dice.below((len - start) / 2 + 1);
            Op::Slice { axis, start, end, step: 1 + dice.below(3) }
        }
        5 if shape.elements() < LARGEST / 4 => {
            let stretch = |&len: &usize| if len == 1 { 1 + dice.below(3) } else { len };
            let mut lengths: Vec<usize> = shape.iter().map(stretch).collect();
            if rank < 4 {
                lengths.insert(0, 1 + dice.below(2));
            }
            Op::Broadcast { shape: lengths.into() }
        }
        // Two neighbouring axes become one…
        6 if rank > 1 => {
            let mut lengths = shape.to_vec();
            let axis = dice.below(rank - 1);
            let joined = lengths.remove(axis);
            lengths[axis] *= joined;
            Op::Reshape { shape: lengths.into() }
        }
        // …or one becomes two.
        _ => {
            let mut lengths = shape.to_vec();
            let axis = dice.below(rank + 1);
            let (whole, part) = match lengths.get(axis).copied() {
                Some(len) => (len, [1, 2, 3, 5, len.max(1)][dice.below(5)]),
                None => (1, 1),
            };
            if whole.is_multiple_of(part) && axis < rank {
                lengths[axis] = whole / part;
                lengths.insert(axis, part);
            } else {
                lengths.insert(axis.min(rank), 1);
            }
            Op::Reshape { shape: lengths.into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_fits_its_shape_and_all_kinds_come_up_good() {
        let mut names = std::collections::BTreeMap::<&str, usize>::new();
        for seed in 0..2000 {
            let mut dice = Dice { seed, throws: 0 };
            let lengths: Vec<usize> = (0..dice.below(5)).map(|_| dice.below(6)).collect();
            let shape = Shape::from(lengths);
            let op = link(&shape, &mut dice);
            op.infer(&[crate::Spec::new(&shape, DType::F32)]).unwrap();
            *names.entry(op.name()).or_default() += 1;
        }
        assert_eq!(names.len(), 4);
        assert!(names.values().all(|&count| count > 100), "{names:?}");
    }
}
