// SPDX-License-Identifier: EUPL-1.2
//! Cases of the optimisers' steps, and of the norm by which gradients are clipped.

use super::{Case, Input, Values, View, shapes, views};
use crate::{Adam, DType, Momentum, Op, Sgd, Shape, WeightDecay};

pub(super) fn squared_norm() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        let values = Values::uniform(-2.0, 2.0);
        let plain = shapes().into_iter().chain([Shape::from([70_001])]);
        let inputs = plain.map(|shape| Input::new(shape, dtype, values.clone())).chain(views(dtype, &values));
        cases.extend(inputs.map(|input| Case::new(Op::SquaredNorm, [input])));
    }
    cases
}

/// An operation's steps, on a state of so many rows and with so many rates. Means of squares are not near zero, where
/// the root of what is rounded there could be anything.
struct Steps {
    op: Op,
    rows: usize,
    rates: usize,
}

impl Steps {
    fn state(&self, shape: &Shape) -> Input {
        Input::new([&[self.rows], &**shape].concat(), DType::F32, Values::uniform(0.25, 2.0))
    }

    fn rates(&self) -> Input {
        Input::new([self.rates], DType::F32, Values::uniform(0.25, 0.75))
    }

    fn case(&self, shape: &Shape, gradient: DType, lie: impl Fn([Input; 3]) -> [Input; 3]) -> Case {
        let gradient = Input::new(shape, gradient, Values::uniform(-2.0, 2.0));
        Case::new(self.op.clone(), lie([self.state(shape), gradient, self.rates()]))
    }

    /// In all shapes, dtypes and layouts.
    fn all(&self) -> Vec<Case> {
        let mut cases = vec![];
        for dtype in DType::FLOATS {
            cases.extend(shapes().iter().map(|shape| self.case(shape, dtype, |inputs| inputs)));
            let lying = |view: View| self.case(&[5, 33].into(), dtype, |[s, gradient, r]| [s, gradient.lying(view), r]);
            cases.extend(View::ALL.map(lying));
        }
        let lying = |view: View| self.case(&[3, 7].into(), DType::F32, |[state, g, r]| [state.lying(view), g, r]);
        cases.extend(View::ALL.map(lying));
        cases.push(self.case(&[17].into(), DType::F32, |[s, g, rates]| [s, g, rates.lying(View::Part)]));
        cases
    }

    /// In the shapes that other parameters are tried in.
    fn few(&self) -> Vec<Case> {
        let shapes: [Shape; 3] = [[].into(), [33].into(), [5, 700].into()];
        shapes.iter().map(|shape| self.case(shape, DType::F32, |inputs| inputs)).collect()
    }
}

pub(super) fn adam() -> Vec<Case> {
    let adam = |weight_decay| Steps {
        op: Op::Adam(Adam { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay }),
        rows: 3,
        rates: 4,
    };
    let mut cases = adam(WeightDecay::Decoupled(0.1)).all();
    cases.extend(adam(WeightDecay::Gradient(0.1)).few());
    cases.extend(adam(WeightDecay::Decoupled(0.0)).few());
    cases
}

pub(super) fn sgd() -> Vec<Case> {
    let sgd = |momentum: Momentum| Steps {
        op: Op::Sgd(Sgd { momentum, weight_decay: 0.1 }),
        rows: momentum.state_rows(),
        rates: 2,
    };
    let mut cases = sgd(Momentum::Nesterov(0.9)).all();
    cases.extend(sgd(Momentum::Heavy(0.9)).few());
    cases.extend(sgd(Momentum::None).few());
    cases
}
