// SPDX-License-Identifier: EUPL-1.2
//! Cases of the operations that fold an axis: sums, maxima, their places, and softmax.

use super::super::values::EDGES;
use super::{Case, Input, Values, row_shapes, views};
use crate::{DType, Op, ReduceOp, Shape};

pub(super) fn reduce() -> Vec<Case> {
    let mut cases = vec![];
    for op in [ReduceOp::Sum, ReduceOp::Max] {
        for dtype in DType::FLOATS {
            let values = Values::uniform(-1.0, 2.0);
            for shape in row_shapes().into_iter().chain([Shape::from([129, 257]), [2, 3, 5, 7].into()]) {
                for axis in 0..shape.len() {
                    cases.push(Case::new(Op::Reduce { op, axis }, [Input::new(&shape, dtype, values.clone())]));
                }
            }
            for view in views(dtype, &values) {
                for axis in 0..view.base.shape.len() {
                    cases.push(Case::new(Op::Reduce { op, axis }, [view.clone()]));
                }
            }
            // Each row meets one edge, the last row only ordinary numbers.
            let rows = EDGES.into_iter().chain([1.0]).flat_map(|edge| [0.5, edge, -2.0, 3.0]).collect();
            let edges = Input::new([37, 4], dtype, Values::Floats(rows));
            cases.push(Case::new(Op::Reduce { op, axis: 1 }, [edges]));
            let negative = Input::new([5, 33], dtype, Values::uniform(-9.0, -1.0));
            cases.push(Case::new(Op::Reduce { op, axis: 1 }, [negative]));
        }
    }
    // 4096 ones sum to 4096 in f32; accumulated in f16 or bf16 they stop at 2048 or 256.
    for dtype in DType::FLOATS {
        let op = Op::Reduce { op: ReduceOp::Sum, axis: 1 };
        cases.push(Case::new(op, [Input::new([2, 4096], dtype, Values::Floats(vec![1.0]))]));
    }
    cases
}

pub(super) fn argmax() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        let values = Values::uniform(-1.0, 1.0);
        for shape in row_shapes().into_iter().chain([Shape::from([129, 257]), [2, 3, 5, 7].into()]) {
            for axis in (0..shape.len()).filter(|&axis| shape[axis] > 0) {
                cases.push(Case::new(Op::ArgMax { axis }, [Input::new(&shape, dtype, values.clone())]));
            }
        }
        for view in views(dtype, &values) {
            for axis in 0..view.base.shape.len() {
                cases.push(Case::new(Op::ArgMax { axis }, [view.clone()]));
            }
        }
        // The first of equals wins, wherever vectors and threads would cut the row.
        let equals = Values::Integers(vec![1, 2, 0, 2, 2, -1, 2]);
        for width in [7, 33, 257] {
            cases.push(Case::new(Op::ArgMax { axis: 1 }, [Input::new([3, width], dtype, equals.clone())]));
        }
        cases.push(Case::new(Op::ArgMax { axis: 1 }, [Input::new([3, 65], dtype, Values::Floats(vec![0.0, -0.0]))]));
        // NaN is smallest, even below −∞, and where all are NaN the first wins.
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let rows = [[nan, 1.0, 2.0], [2.0, nan, 1.0], [nan, -inf, nan], [nan; 3], [-inf; 3], [1.0, inf, inf]];
        let list = Values::Floats(rows.concat());
        cases.push(Case::new(Op::ArgMax { axis: 1 }, [Input::new([6, 3], dtype, list.clone())]));
        cases.push(Case::new(Op::ArgMax { axis: 0 }, [Input::new([6, 3], dtype, list)]));
        let late = (0..100).map(|i| if i < 90 { nan } else { f64::from(i) }).collect();
        cases.push(Case::new(Op::ArgMax { axis: 0 }, [Input::new([100], dtype, Values::Floats(late))]));
    }
    cases
}

pub(super) fn softmax() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        let values = Values::uniform(-5.0, 5.0);
        for shape in row_shapes().into_iter().chain([Shape::from([2, 5, 7, 3])]) {
            cases.push(Case::new(Op::Softmax, [Input::new(shape, dtype, values.clone())]));
        }
        cases.extend(views(dtype, &values).into_iter().map(|x| Case::new(Op::Softmax, [x])));
        // No overflow, no underflow of every term, and −∞ weighs nothing.
        cases.push(Case::new(Op::Softmax, [Input::new([5, 33], dtype, Values::uniform(-6e4, 6e4))]));
        cases.push(Case::new(Op::Softmax, [Input::new([5, 33], dtype, Values::uniform(-6e4, -5e4))]));
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let rows = [[-inf, 0.0, 1.0], [1.0, -inf, -inf], [3e38, 3e38, -3e38], [nan, 0.0, 1.0], [0.0, -0.0, -1e4]];
        cases.push(Case::new(Op::Softmax, [Input::new([5, 3], dtype, Values::Floats(rows[..2].concat()))]));
        if dtype != DType::F16 {
            cases.push(Case::new(Op::Softmax, [Input::new([5, 3], dtype, Values::Floats(rows.concat()))]));
        }
        let wide =
            Input::new([2, 65], dtype, Values::Floats((0..65).map(|i| if i == 64 { 0.0 } else { -inf }).collect()));
        cases.push(Case::new(Op::Softmax, [wide]));
    }
    cases
}
