// SPDX-License-Identifier: EUPL-1.2
//! Cases of cross-entropy and its gradient.

use super::super::values::below;
use super::{Case, Input, Values, View};
use crate::{DType, Op};

/// Logits and targets, of which every fourth is ignored.
fn rows(shape: [usize; 2], dtype: DType) -> [Input; 2] {
    let [count, classes] = shape;
    let target = |t: usize| if t % 4 == 3 { -1 - t as i64 } else { below(8, t as u64, classes) as i64 };
    let targets = Values::Integers((0..count).map(target).collect());
    [Input::new(shape, dtype, Values::uniform(-5.0, 5.0)), Input::new([count], DType::I32, targets)]
}

/// The inputs of every case but the gradient of the result.
fn inputs() -> Vec<[Input; 2]> {
    let mut inputs = vec![];
    for dtype in DType::FLOATS {
        let shapes = [[0, 5], [1, 1], [1, 7], [5, 33], [9, 257], [3, 1024], [2, 5000]];
        inputs.extend(shapes.map(|shape| rows(shape, dtype)));
        for view in View::ALL {
            let [logits, targets] = rows([6, 33], dtype);
            inputs.push([logits.clone().lying(view), targets]);
            inputs.push([logits, Input::stepped_index([0, 32, 7, 7, 1, 30])]);
        }
        // No overflow, and certainty.
        let [_, targets] = rows([5, 33], dtype);
        inputs.push([Input::new([5, 33], dtype, Values::uniform(-6e4, 6e4)), targets.clone()]);
        inputs.push([Input::new([5, 33], dtype, Values::uniform(-6e4, -5e4)), targets]);
        // A class that is ruled out, and rows that are wholly ignored, whatever they hold.
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let list = vec![0.5, -inf, 1.0, nan, nan, nan, inf, inf, -inf];
        let ignored = Input::new([3], DType::I32, Values::Integers(vec![2, -1, -100]));
        inputs.push([Input::new([3, 3], dtype, Values::Floats(list)), ignored]);
    }
    inputs.dedup();
    inputs
}

pub(super) fn cross_entropy() -> Vec<Case> {
    distinct(inputs().into_iter().map(|inputs| Case::new(Op::CrossEntropy, inputs)).collect())
}

pub(super) fn cross_entropy_grad() -> Vec<Case> {
    let with_gradient = |[logits, targets]: [Input; 2]| {
        let count = targets.spec().map_or(0, |spec| spec.shape[0]);
        let gradient = Input::new([count], DType::F32, Values::uniform(-1.0, 1.0));
        Case::new(Op::CrossEntropyGrad, [logits, targets, gradient])
    };
    distinct(inputs().into_iter().map(with_gradient).collect())
}

fn distinct(mut cases: Vec<Case>) -> Vec<Case> {
    let mut seen = std::collections::HashSet::new();
    cases.retain(|case| seen.insert(case.to_string()));
    cases
}
