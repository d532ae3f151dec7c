// SPDX-License-Identifier: EUPL-1.2
//! Cases of the gradients of the normalisations and non-linearities.

use super::normal::rms_norm;
use super::{Case, Input, Values, View, row_shapes, shapes};
use crate::{Activation, DType, Op, Shape};

/// A gradient of the shape and dtype of an input.
fn gradient(of: &Input) -> Option<Input> {
    let spec = of.spec().ok()?;
    Some(Input::new(spec.shape, spec.dtype, Values::uniform(-1.0, 1.0)))
}

pub(super) fn rms_norm_grad() -> Vec<Case> {
    let with_gradient = |Case { op, mut inputs }| match op {
        Op::RmsNorm { eps, offset } => {
            inputs.push(gradient(&inputs[0])?);
            Some(Case::new(Op::RmsNormGrad { eps, offset }, inputs))
        }
        _ => None,
    };
    rms_norm().into_iter().filter_map(with_gradient).collect()
}

pub(super) fn rms_norm_weight_grad() -> Vec<Case> {
    let mut cases = vec![];
    // More rows than are summed at once.
    let shapes = || row_shapes().into_iter().chain([[150, 33].into(), [40, 5, 17].into()]);
    for dtype in DType::FLOATS {
        let x = |shape: &Shape| Input::new(shape, dtype, Values::uniform(-2.0, 3.0));
        let own = |shape: &Shape| Input::new(shape, dtype, Values::uniform(-1.0, 1.0));
        for eps in [1e-6, 0.1] {
            let op = Op::RmsNormWeightGrad { eps };
            cases.extend(shapes().map(|shape| Case::new(op.clone(), [x(&shape), own(&shape)])));
            for view in View::ALL {
                let shape = Shape::from([5, 3, 33]);
                cases.push(Case::new(op.clone(), [x(&shape).lying(view), own(&shape)]));
                cases.push(Case::new(op.clone(), [x(&shape), own(&shape).lying(view)]));
            }
        }
    }
    cases
}

/// Gates that are small, large, and far on either side.
const RANGES: [(f64, f64); 4] = [(-6.0, 6.0), (-1e-3, 1e-3), (-100.0, -5.0), (5.0, 100.0)];

pub(super) fn activate_grad() -> Vec<Case> {
    let mut cases = vec![];
    for op in Activation::ALL.map(Op::ActivateGrad) {
        for dtype in DType::FLOATS {
            let own = |shape: &Shape| Input::new(shape, dtype, Values::uniform(-1.0, 1.0));
            let x = |shape: &Shape, (low, high)| Input::new(shape, dtype, Values::uniform(low, high));
            cases.extend(shapes().iter().map(|shape| Case::new(op.clone(), [x(shape, RANGES[0]), own(shape)])));
            let shape = Shape::from([5, 33]);
            cases.extend(RANGES[1..].iter().map(|&range| Case::new(op.clone(), [x(&shape, range), own(&shape)])));
            for view in View::ALL {
                cases.push(Case::new(op.clone(), [x(&shape, RANGES[0]).lying(view), own(&shape)]));
                cases.push(Case::new(op.clone(), [x(&shape, RANGES[0]), own(&shape).lying(view)]));
            }
        }
    }
    cases
}

pub(super) fn glu_grad() -> Vec<Case> {
    let mut cases = vec![];
    for op in Activation::ALL.map(|activation| Op::GluGrad { activation }) {
        for dtype in DType::FLOATS {
            let own = |shape: &Shape| Input::new(shape, dtype, Values::uniform(-1.0, 1.0));
            let gate = |shape: &Shape, (low, high)| Input::new(shape, dtype, Values::uniform(low, high));
            let case = |inputs: [Input; 3]| Case::new(op.clone(), inputs);
            cases.extend(shapes().iter().map(|shape| case([gate(shape, RANGES[0]), own(shape), own(shape)])));
            let shape = Shape::from([5, 33]);
            cases.extend(RANGES[1..].iter().map(|&range| case([gate(&shape, range), own(&shape), own(&shape)])));
            for view in View::ALL {
                let plain = || [gate(&shape, RANGES[0]), own(&shape), own(&shape)];
                for viewed in 0..3 {
                    let mut inputs = plain();
                    inputs[viewed] = inputs[viewed].clone().lying(view);
                    cases.push(case(inputs));
                }
            }
        }
    }
    cases
}
