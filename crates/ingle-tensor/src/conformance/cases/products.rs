// SPDX-License-Identifier: EUPL-1.2
//! Cases of the products of matrices.

use super::{Case, Input, Values, View};
use crate::{Activation, DType, Op};

/// Rows, inner length and columns: vectors, empty axes, and odd sizes around the tiles of a kernel.
const SIZES: [[usize; 3]; 17] = [
    [1, 1, 1],
    [0, 3, 2],
    [3, 0, 2],
    [3, 2, 0],
    [1, 7, 3],
    [1, 65, 33],
    [1, 257, 129],
    [1, 1024, 17],
    [2, 33, 17],
    [3, 17, 65],
    [4, 64, 64],
    [5, 1, 7],
    [7, 129, 5],
    [17, 33, 65],
    [33, 65, 17],
    [65, 96, 40],
    [129, 70, 33],
];

fn matrix(shape: &[usize], dtype: DType) -> Input {
    Input::new(shape, dtype, Values::uniform(-1.0, 1.0))
}

pub(super) fn matmul() -> Vec<Case> {
    let mut cases = vec![];
    let batches: [(&[usize], &[usize]); 8] = [
        (&[3, 2, 5], &[3, 5, 7]),
        (&[1, 2, 5], &[3, 5, 7]),
        (&[2, 5], &[3, 5, 7]),
        (&[3, 2, 5], &[5, 7]),
        (&[2, 1, 4, 5], &[3, 5, 6]),
        (&[0, 2, 5], &[0, 5, 7]),
        (&[4, 33, 17], &[4, 17, 65]),
        (&[2, 3, 0], &[2, 0, 4]),
    ];
    for dtype in DType::FLOATS {
        cases.extend(SIZES.map(|[m, k, n]| Case::new(Op::MatMul, [matrix(&[m, k], dtype), matrix(&[k, n], dtype)])));
        cases.extend(batches.map(|(a, b)| Case::new(Op::MatMul, [matrix(a, dtype), matrix(b, dtype)])));
        for view in View::ALL {
            let (a, b) = (matrix(&[9, 33], dtype), matrix(&[33, 17], dtype));
            cases.push(Case::new(Op::MatMul, [a.clone().lying(view), b.clone()]));
            cases.push(Case::new(Op::MatMul, [a.clone(), b.clone().lying(view)]));
            cases.push(Case::new(Op::MatMul, [a.lying(View::Part), b.lying(view)]));
            let (a, b) = (matrix(&[2, 3, 5, 7], dtype), matrix(&[2, 3, 7, 5], dtype));
            cases.push(Case::new(Op::MatMul, [a.lying(view), b.lying(view)]));
        }
        // Products beyond f16, with a sum of terms that cancel.
        let large = Input::new([3, 64], dtype, Values::Floats(vec![300.0, -300.0]));
        cases.push(Case::new(Op::MatMul, [large, Input::new([64, 3], dtype, Values::Floats(vec![300.0]))]));
        // One row with an infinity and one with NaN leave the others alone.
        let mut rows = vec![1.0; 5 * 3];
        rows[4] = f64::INFINITY;
        rows[8] = f64::NAN;
        let special = Input::new([5, 3], dtype, Values::Floats(rows));
        cases.push(Case::new(Op::MatMul, [special, Input::new([3, 4], dtype, Values::Floats(vec![2.0, 1.0]))]));
    }
    cases
}

pub(super) fn linear() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        for weights in DType::FLOATS {
            for [m, k, n] in SIZES {
                let (x, weight) = (matrix(&[m, k], dtype), matrix(&[n, k], weights));
                cases.push(Case::new(Op::Linear, [x.clone(), weight.clone()]));
                if m % 2 == 1 {
                    cases.push(Case::new(Op::Linear, [x, weight, matrix(&[n], weights)]));
                }
            }
            let weight = || matrix(&[17, 33], weights);
            for x in [&[33][..], &[2, 3, 33], &[0, 33], &[2, 1, 2, 33]] {
                cases.push(Case::new(Op::Linear, [matrix(x, dtype), weight()]));
                cases.push(Case::new(Op::Linear, [matrix(x, dtype), weight(), matrix(&[17], DType::F32)]));
            }
            for view in View::ALL {
                let x = || matrix(&[9, 33], dtype);
                cases.push(Case::new(Op::Linear, [x().lying(view), weight()]));
                cases.push(Case::new(Op::Linear, [x(), weight().lying(view)]));
                cases.push(Case::new(Op::Linear, [x(), weight(), matrix(&[17], weights).lying(view)]));
                cases.push(Case::new(Op::Linear, [matrix(&[1, 33], dtype).lying(view), weight().lying(view)]));
            }
        }
    }
    cases
}

pub(super) fn gated_mlp() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        for weights in DType::FLOATS {
            for (number, [m, k, n]) in SIZES.into_iter().enumerate() {
                let op = Op::GatedMlp { activation: Activation::ALL[number % Activation::ALL.len()] };
                let (weight, down) = (|| matrix(&[n, k], weights), matrix(&[k + 1, n], weights));
                cases.push(Case::new(op, [matrix(&[m, k], dtype), weight(), weight(), down]));
            }
            for activation in Activation::ALL {
                let of = |inputs: [Input; 4]| Case::new(Op::GatedMlp { activation }, inputs);
                // Few terms, as what a sum may be off by is multiplied and summed again.
                let inputs = || {
                    let weight = || matrix(&[5, 17], weights);
                    [matrix(&[9, 17], dtype), weight(), weight(), matrix(&[3, 5], weights)]
                };
                let [_, gate, up, down] = inputs();
                cases.push(of([matrix(&[2, 3, 17], dtype), gate, up, down]));
                for (view, which) in View::ALL.into_iter().flat_map(|view| (0..4).map(move |which| (view, which))) {
                    let mut inputs = inputs();
                    inputs[which] = inputs[which].clone().lying(view);
                    cases.push(of(inputs));
                }
            }
        }
    }
    cases
}
