// SPDX-License-Identifier: EUPL-1.2
//! Cases of the operations that look at one element at a time.

use super::super::values::{EDGES, SUBNORMALS};
use super::{Case, Input, Values, View, shapes, views};
use crate::{Activation, BinaryOp, CompareOp, DType, Op, Shape, Spec, UnaryOp};

/// The edges that `keep` keeps, as an input.
fn edges(dtype: DType, keep: impl Fn(f64) -> bool) -> Input {
    let list: Vec<f64> = EDGES.into_iter().filter(|&x| keep(x)).collect();
    Input::new([list.len()], dtype, Values::Floats(list))
}

pub(super) fn cast() -> Vec<Case> {
    let mut cases = vec![];
    for from in DType::ALL {
        for dtype in DType::ALL {
            let signed = !matches!(from, DType::U8 | DType::U32);
            // Values beyond the target's range, where that wraps, saturates or overflows.
            let values = if from.is_float() {
                Values::Floats(EDGES.into())
            } else {
                let list =
                    [0, 1, -1, 2, 127, 128, 255, 256, -129, 300, 65_535, 65_536, 16_777_217, i64::from(i32::MAX)];
                Values::Integers([&list[..], &[i64::from(u32::MAX), i64::MIN, i64::MAX, 1 << 40]].concat())
            };
            cases.push(Case::new(Op::Cast { dtype }, [Input::new([37], from, values)]));
            let values = Values::uniform(if signed { -100.0 } else { 0.0 }, 100.0);
            for shape in [Shape::from([]), [0].into(), [1].into(), [65].into(), [3, 0].into(), [33, 65].into()] {
                cases.push(Case::new(Op::Cast { dtype }, [Input::new(shape, from, values.clone())]));
            }
            cases.extend(views(from, &values).into_iter().map(|x| Case::new(Op::Cast { dtype }, [x])));
        }
    }
    // Ties, which go to the even neighbour: 1 + n/2 ulps of bf16 and of f16.
    for (dtype, bits) in [(DType::BF16, 8), (DType::F16, 11)] {
        let ties = (0..64).map(|n| 1.0 + f64::from(n) * 2f64.powi(-bits));
        let nearly = (0..64).map(|n| 1.0 + f64::from(n) * 2f64.powi(-bits) + 2f64.powi(-23));
        let list = ties.chain(nearly).collect();
        cases.push(Case::new(Op::Cast { dtype }, [Input::new([128], DType::F32, Values::Floats(list))]));
        let list = SUBNORMALS.into_iter().chain([65519.9, 65520.0, 1e-7]).collect();
        cases.push(Case::new(Op::Cast { dtype }, [Input::new([9], DType::F32, Values::Floats(list))]));
    }
    cases
}

/// Where a function's values are of interest.
fn domain(op: UnaryOp) -> Values {
    match op {
        UnaryOp::Neg | UnaryOp::Abs => Values::uniform(-100.0, 100.0),
        UnaryOp::Exp => Values::uniform(-12.0, 10.0),
        UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt => Values::uniform(1e-4, 50.0),
        UnaryOp::Recip => Values::uniform(-8.0, 8.0),
        UnaryOp::Sin | UnaryOp::Cos => Values::uniform(-30.0, 30.0),
        UnaryOp::Tanh | UnaryOp::Sigmoid | UnaryOp::Erf => Values::uniform(-5.0, 5.0),
    }
}

/// Whether a function must be right at an edge.
fn counts(op: UnaryOp, x: f64) -> bool {
    match op {
        // A longest context of 2²⁰ tokens, times the fastest rotary frequency, 1.
        UnaryOp::Sin | UnaryOp::Cos => !x.is_finite() || x.abs() <= (1 << 20) as f64,
        // The sign of 1/√−0 differs from device to device.
        UnaryOp::Rsqrt => x != 0.0 || x.is_sign_positive(),
        _ => true,
    }
}

/// Whether a function is within its tolerance even if its argument is flushed to zero.
fn forgives_a_flush(op: UnaryOp) -> bool {
    !matches!(op, UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Recip | UnaryOp::Neg | UnaryOp::Abs)
}

pub(super) fn unary() -> Vec<Case> {
    let mut cases = vec![];
    for op in UnaryOp::ALL {
        for dtype in DType::FLOATS {
            cases.extend(shapes().into_iter().map(|s| Case::new(Op::Unary(op), [Input::new(s, dtype, domain(op))])));
            cases.extend(views(dtype, &domain(op)).into_iter().map(|x| Case::new(Op::Unary(op), [x])));
            cases.push(Case::new(Op::Unary(op), [edges(dtype, |x| counts(op, x))]));
            // Where a formula that cancels loses all its digits.
            let small = if matches!(op, UnaryOp::Log) { (0.999, 1.001) } else { (1e-5, 1e-3) };
            cases.push(Case::new(Op::Unary(op), [Input::new([65], dtype, Values::uniform(small.0, small.1))]));
            if forgives_a_flush(op) {
                let list = Values::Floats(SUBNORMALS.into());
                cases.push(Case::new(Op::Unary(op), [Input::new([6], dtype, list)]));
            }
        }
    }
    for op in [UnaryOp::Sin, UnaryOp::Cos] {
        let far = Input::new([4097], DType::F32, Values::uniform(-131_072.0, 131_072.0));
        cases.push(Case::new(Op::Unary(op), [far]));
        let whole = Input::new([4096], DType::F32, Values::Integers((0..4096).map(|i| i * 31).collect()));
        cases.push(Case::new(Op::Unary(op), [whole]));
    }
    cases.push(Case::new(Op::Unary(UnaryOp::Exp), [Input::new([4097], DType::F32, Values::uniform(-87.0, 88.7))]));
    for op in [UnaryOp::Neg, UnaryOp::Abs] {
        for dtype in [DType::I8, DType::I32, DType::I64] {
            let list = vec![0, 1, -1, 127, -128, i64::from(i32::MIN), i64::MIN, 77];
            cases.push(Case::new(Op::Unary(op), [Input::new([8], dtype, Values::Integers(list))]));
            let values = Values::uniform(-100.0, 100.0);
            cases.extend(views(dtype, &values).into_iter().map(|x| Case::new(Op::Unary(op), [x])));
        }
    }
    cases
}

/// Pairs of shapes that broadcast together, with a result of either's shape or of neither's.
const PAIRS: [(&[usize], &[usize]); 13] = [
    (&[], &[]),
    (&[1], &[1]),
    (&[0], &[1]),
    (&[3, 0], &[3, 1]),
    (&[17], &[17]),
    (&[65], &[]),
    (&[], &[33]),
    (&[5, 7], &[7]),
    (&[5, 7], &[5, 1]),
    (&[5, 1], &[1, 7]),
    (&[3, 1, 5], &[4, 1]),
    (&[2, 3, 33], &[2, 3, 33]),
    (&[129, 257], &[257]),
];

pub(super) fn binary() -> Vec<Case> {
    let mut cases = vec![];
    for op in BinaryOp::ALL {
        for dtype in DType::FLOATS {
            let values = if op == BinaryOp::Div { Values::uniform(0.25, 4.0) } else { Values::uniform(-4.0, 4.0) };
            cases.extend(
                PAIRS.map(|(a, b)| {
                    Case::new(Op::Binary(op), [a, b].map(|shape| Input::new(shape, dtype, values.clone())))
                }),
            );
            for view in views(dtype, &values) {
                let shape = view.spec().map(|spec| spec.shape).unwrap_or_default();
                let plain = Input::new(&shape, dtype, values.clone());
                cases.push(Case::new(Op::Binary(op), [view.clone(), plain.clone()]));
                cases.push(Case::new(Op::Binary(op), [plain, view.clone()]));
                if let [.., _, width] = *shape {
                    let row = Input::new([width], dtype, values.clone()).lying(View::Part);
                    cases.push(Case::new(Op::Binary(op), [view.clone(), row]));
                }
                cases.push(Case::new(Op::Binary(op), [view.clone(), view]));
            }
            let column = edges(dtype, |_| true);
            let len = column.base.shape[0];
            let row = Input { base: Spec::new([len, 1], dtype), ..column.clone() };
            cases.push(Case::new(Op::Binary(op), [column, row]));
        }
        if op != BinaryOp::Div {
            for dtype in [DType::U8, DType::I8, DType::I32, DType::U32, DType::I64] {
                let list =
                    vec![0, 1, -1, 2, 127, -128, 255, i64::from(i32::MAX), i64::from(i32::MIN), i64::MAX, i64::MIN];
                let inputs = [[11, 1], [1, 11]].map(|s| Input::new(s, dtype, Values::Integers(list.clone())));
                cases.push(Case::new(Op::Binary(op), inputs));
                let values = Values::uniform(0.0, 120.0);
                cases.extend(PAIRS[..9].iter().map(|(a, b)| {
                    Case::new(Op::Binary(op), [a, b].map(|&shape| Input::new(shape, dtype, values.clone())))
                }));
                for view in views(dtype, &values) {
                    cases.push(Case::new(Op::Binary(op), [view.clone(), view]));
                }
            }
        }
    }
    cases
}

pub(super) fn compare() -> Vec<Case> {
    let mut cases = vec![];
    for op in CompareOp::ALL {
        for dtype in DType::ALL {
            // Few distinct numbers, so that many are equal.
            let values = Values::Integers((0..23).map(|i| i * i % 7).collect());
            cases.extend(PAIRS.map(|(a, b)| {
                Case::new(Op::Compare(op), [a, b].map(|shape| Input::new(shape, dtype, values.clone())))
            }));
            for view in views(dtype, &values) {
                let shape = view.spec().map(|spec| spec.shape).unwrap_or_default();
                cases.push(Case::new(Op::Compare(op), [view, Input::new(shape, dtype, values.clone())]));
            }
        }
        for dtype in DType::FLOATS {
            let row = edges(dtype, |_| true);
            let column = Input { base: Spec::new([row.base.shape[0], 1], dtype), ..row.clone() };
            cases.push(Case::new(Op::Compare(op), [row, column]));
        }
        let list = Values::Integers(vec![-1, 0, 1, i64::from(u32::MAX), i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1]);
        for dtype in [DType::I64, DType::U32, DType::I32] {
            let inputs = [[8, 1], [1, 8]].map(|shape| Input::new(shape, dtype, list.clone()));
            cases.push(Case::new(Op::Compare(op), inputs));
        }
    }
    cases
}

pub(super) fn select() -> Vec<Case> {
    let mut cases = vec![];
    let conditions = || Values::Integers(vec![0, 1, 255, 0, 0, 2, 1]);
    let shapes: [[&[usize]; 3]; 7] = [
        [&[], &[], &[]],
        [&[0], &[], &[1]],
        [&[17], &[17], &[17]],
        [&[5, 1], &[7], &[]],
        [&[5, 7], &[5, 1], &[1, 7]],
        [&[1], &[3, 33], &[33]],
        [&[65, 129], &[65, 129], &[]],
    ];
    for dtype in DType::ALL {
        for [condition, a, b] in shapes {
            let inputs = [
                Input::new(condition, DType::U8, conditions()),
                Input::new(a, dtype, Values::Integers((1..101).collect())),
                Input::new(b, dtype, Values::Integers((101..127).collect())),
            ];
            cases.push(Case::new(Op::Select, inputs));
        }
        for view in View::ALL {
            let inputs = [
                Input::new([5, 7], DType::U8, conditions()).lying(view),
                Input::new([5, 7], dtype, Values::Integers((1..101).collect())).lying(View::Part),
                Input::new([5, 7], dtype, Values::Integers((101..127).collect())).lying(view),
            ];
            cases.push(Case::new(Op::Select, inputs));
        }
    }
    for dtype in DType::FLOATS {
        let inputs = [
            Input::new([36], DType::U8, conditions()),
            edges(dtype, |_| true),
            Input::new([36], dtype, Values::Floats(EDGES.iter().rev().copied().collect())),
        ];
        cases.push(Case::new(Op::Select, inputs));
    }
    cases
}

/// Edges where an activation has a limit: `−∞ · 0` has none.
fn activation_edge(x: f64) -> bool {
    x != f64::NEG_INFINITY
}

pub(super) fn activate() -> Vec<Case> {
    let mut cases = vec![];
    for op in Activation::ALL.map(Op::Activate) {
        for dtype in DType::FLOATS {
            let values = Values::uniform(-6.0, 6.0);
            cases.extend(shapes().into_iter().map(|s| Case::new(op.clone(), [Input::new(s, dtype, values.clone())])));
            cases.extend(views(dtype, &values).into_iter().map(|x| Case::new(op.clone(), [x])));
            cases.push(Case::new(op.clone(), [edges(dtype, activation_edge)]));
            cases.push(Case::new(op.clone(), [Input::new([65], dtype, Values::uniform(-1e-3, 1e-3))]));
            cases.push(Case::new(op.clone(), [Input::new([65], dtype, Values::uniform(-100.0, -5.0))]));
        }
    }
    cases
}

pub(super) fn glu() -> Vec<Case> {
    let mut cases = vec![];
    for op in Activation::ALL.map(|activation| Op::Glu { activation }) {
        for dtype in DType::FLOATS {
            let values = Values::uniform(-6.0, 6.0);
            let input = |shape: &Shape| Input::new(shape, dtype, values.clone());
            cases.extend(shapes().iter().map(|shape| Case::new(op.clone(), [input(shape), input(shape)])));
            for view in View::ALL {
                let shape = Shape::from([5, 33]);
                cases.push(Case::new(op.clone(), [input(&shape).lying(view), input(&shape).lying(View::Part)]));
                cases.push(Case::new(op.clone(), [input(&shape), input(&shape).lying(view)]));
            }
            let gates = edges(dtype, activation_edge);
            let ups = Input::new(&gates.base.shape, dtype, Values::uniform(0.5, 2.0));
            cases.push(Case::new(op.clone(), [gates, ups]));
        }
    }
    cases
}

pub(super) fn soft_cap() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        for cap in [50.0, 30.0, 0.5] {
            let op = Op::SoftCap { cap };
            let values = Values::uniform(-80.0, 80.0);
            cases.extend(shapes().into_iter().map(|s| Case::new(op.clone(), [Input::new(s, dtype, values.clone())])));
            cases.extend(views(dtype, &values).into_iter().map(|x| Case::new(op.clone(), [x])));
            cases.push(Case::new(op.clone(), [edges(dtype, |_| true)]));
        }
    }
    cases
}
