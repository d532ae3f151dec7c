// SPDX-License-Identifier: EUPL-1.2
//! Cases of the normalisations.

use super::{Case, Input, Values, View, row_shapes};
use crate::{DType, Op};

/// Dtypes of an activation and of its weights, as checkpoints and devices combine them.
const MIXED: [(DType, DType); 7] = [
    (DType::F32, DType::F32),
    (DType::F32, DType::BF16),
    (DType::F32, DType::F16),
    (DType::BF16, DType::BF16),
    (DType::BF16, DType::F32),
    (DType::F16, DType::F16),
    (DType::F16, DType::F32),
];

/// Cases with `vectors` weights of the last axis' length.
fn normalisations(ops: &[Op], vectors: usize) -> Vec<Case> {
    let mut cases = vec![];
    let x = Values::uniform(-2.0, 3.0);
    let w = Values::uniform(-0.5, 1.5);
    for op in ops {
        for (dtype, weights) in MIXED {
            let case = |x: Input| {
                let width = x.spec().ok().and_then(|spec| spec.shape.last().copied()).unwrap_or_default();
                let vectors = (0..vectors).map(|_| Input::new([width], weights, w.clone()));
                Case::new(op.clone(), [x].into_iter().chain(vectors))
            };
            cases.extend(row_shapes().into_iter().map(|shape| case(Input::new(shape, dtype, x.clone()))));
            // Rows of zeros, and rows so small that `eps` decides.
            cases.push(case(Input::new([3, 33], dtype, Values::Floats(vec![0.0]))));
            cases.push(case(Input::new([3, 33], dtype, Values::uniform(-1e-3, 1e-3))));
            // Squares that would overflow f16 but not f32.
            cases.push(case(Input::new([3, 33], dtype, Values::uniform(-6e4, 6e4))));
            // A mean far from zero, where `mean(x²) − mean(x)²` cancels.
            cases.push(case(Input::new([3, 65], dtype, Values::uniform(99.0, 101.0))));
            for view in View::ALL {
                cases.push(case(Input::new([5, 33], dtype, x.clone()).lying(view)));
                cases.push(case(Input::new([2, 3, 17], dtype, x.clone()).lying(view)));
                let mut strided = case(Input::new([4, 17], dtype, x.clone()));
                for vector in &mut strided.inputs[1..] {
                    *vector = vector.clone().lying(view);
                }
                cases.push(strided);
            }
        }
    }
    cases
}

pub(super) fn rms_norm() -> Vec<Case> {
    let plain = Op::RmsNorm { eps: 1e-6, offset: 0.0 };
    let gemma = Op::RmsNorm { eps: 1e-6, offset: 1.0 };
    let coarse = Op::RmsNorm { eps: 0.1, offset: 0.0 };
    normalisations(&[plain, gemma, coarse], 1)
}

pub(super) fn layer_norm() -> Vec<Case> {
    normalisations(&[Op::LayerNorm { eps: 1e-5 }, Op::LayerNorm { eps: 0.1 }], 2)
}
