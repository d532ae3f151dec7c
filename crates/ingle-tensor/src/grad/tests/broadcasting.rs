// SPDX-License-Identifier: EUPL-1.2
//! Gradients of operands that are stretched, against sums written out as loops.

use proptest::prelude::*;

use super::{device, values};
use crate::conformance::Reference;
use crate::grad::vjp;
use crate::{BinaryOp, Op, Result, Tensor};

/// Two shapes that broadcast together, and the shape they broadcast to.
fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    let axis = (0usize..4, 0..3u8);
    (proptest::collection::vec(axis, 0..5), 0usize..5, 0usize..5).prop_map(|(axes, skip_a, skip_b)| {
        let side = |stretched: u8, skip: usize| -> Vec<usize> {
            let lengths = axes.iter().map(|&(len, which)| if which == stretched { 1 } else { len });
            lengths.skip(skip.min(axes.len())).collect()
        };
        let (a, b) = (side(1, skip_a * usize::from(skip_b == 0)), side(2, skip_b));
        let rank = a.len().max(b.len());
        let at = |side: &[usize], i: usize| i.checked_sub(rank - side.len()).map_or(1, |i| side[i]);
        let joined = (0..rank).map(|i| if at(&a, i) == 1 { at(&b, i) } else { at(&a, i) }).collect();
        (a, b, joined)
    })
}

/// Where an element of the result reads a side.
fn place(side: &[usize], joined: &[usize], mut at: usize) -> usize {
    let mut index = vec![0; joined.len()];
    for axis in (0..joined.len()).rev() {
        index[axis] = at % joined[axis];
        at /= joined[axis];
    }
    let own = &index[joined.len() - side.len()..];
    side.iter().zip(own).fold(0, |place, (&len, &i)| place * len + if len == 1 { 0 } else { i })
}

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64).map(|i| ((i * 37 + seed * 11) % 19) as f32 - 9.25).collect()
}

proptest! {
    #[test]
    fn gradients_are_summed_back_good((a, b, joined) in shapes()) {
        let check = || -> Result<()> {
            let device = device();
            let count = |shape: &[usize]| shape.iter().product::<usize>();
            let make = |shape: &[usize], seed| Tensor::from_slice(&device, &numbers(count(shape), seed), shape);
            let (x, y, g) = (make(&a, 1)?, make(&b, 2)?, make(&joined, 3)?);
            for op in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Max] {
                let (_, pullback) =
                    vjp(|v| Tensor::apply(&Op::Binary(op), v.to_vec()), &[x.clone(), y.clone()])?;
                let found = pullback.pull(&g)?;
                let (xs, ys, gs) = (values(&x), values(&y), values(&g));
                let (mut of_x, mut of_y) = (vec![0.0; xs.len()], vec![0.0; ys.len()]);
                for (at, g) in gs.iter().enumerate() {
                    let (i, j) = (place(&a, &joined, at), place(&b, &joined, at));
                    let (x, y) = (xs[i], ys[j]);
                    let (dx, dy) = match op {
                        BinaryOp::Add => (1.0, 1.0),
                        BinaryOp::Sub => (1.0, -1.0),
                        BinaryOp::Mul => (y, x),
                        BinaryOp::Div => (1.0 / y, -x / (y * y)),
                        _ if x == y => (0.5, 0.5),
                        _ => (f64::from(u8::from(x > y)), f64::from(u8::from(y > x))),
                    };
                    of_x[i] += g * dx;
                    of_y[j] += g * dy;
                }
                for (found, expected) in found.iter().zip([of_x, of_y]) {
                    let found = Reference::values(found).unwrap();
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{op:?} {a:?} {b:?}");
                    }
                }
            }
            Ok(())
        };
        check().unwrap();
    }
}
