// SPDX-License-Identifier: EUPL-1.2
//! Cases of the operations that go by a vector of numbers: rows taken and written, and rotary positions.

use super::super::values::{EDGES, below, shuffled};
use super::{Case, Input, Values, View};
use crate::{DType, Op, RopeLayout};

pub(super) fn take_rows() -> Vec<Case> {
    let mut cases = vec![];
    let numbered = |shape: &[usize], dtype| Input::new(shape, dtype, Values::Integers((0..113).collect()));
    let tables: [&[usize]; 6] = [&[7], &[7, 1], &[7, 5], &[33, 65], &[7, 3, 4], &[7, 0]];
    let index = |len: usize, rows: usize| (0..len).map(move |i| below(9, i as u64, rows));
    for dtype in DType::ALL {
        for table in tables {
            for len in [0, 1, 3, 40] {
                cases.push(Case::new(Op::TakeRows, [numbered(table, dtype), Input::index(index(len, table[0]))]));
            }
        }
        for view in View::ALL {
            cases.push(Case::new(Op::TakeRows, [numbered(&[7, 5], dtype).lying(view), Input::index([6, 0, 6, 3])]));
            cases
                .push(Case::new(Op::TakeRows, [numbered(&[7, 2, 3], dtype).lying(view), Input::stepped_index([6, 0])]));
        }
    }
    for dtype in DType::FLOATS {
        let edges = Input::new([36, 1], dtype, Values::Floats(EDGES.into()));
        cases.push(Case::new(Op::TakeRows, [edges, Input::index((0..36).rev())]));
    }
    cases.push(Case::new(Op::TakeRows, [numbered(&[0, 5], DType::F32), Input::index([])]));
    cases
}

pub(super) fn write_rows() -> Vec<Case> {
    let mut cases = vec![];
    let values = |low, high| Values::uniform(low, high);
    // Table, and how many of its rows are written, in a random order.
    let plans: [(&[usize], usize); 9] = [
        (&[7], 3),
        (&[7, 5], 0),
        (&[7, 5], 1),
        (&[7, 5], 7),
        (&[33, 65], 17),
        (&[16, 2, 8], 5),
        (&[7, 0], 2),
        (&[0, 4], 0),
        (&[1], 1),
    ];
    for dtype in DType::FLOATS {
        for from in DType::FLOATS {
            for (shape, count) in plans {
                let rows = [&[count], &shape[1..]].concat();
                let index = shuffled(4, shape[0]).into_iter().take(count);
                let target = Input::new(shape, dtype, values(-1.0, 0.0));
                let rows = Input::new(rows, from, values(1.0, 2.0));
                cases.push(Case::new(Op::WriteRows, [target, rows, Input::index(index)]));
            }
            for view in View::ALL {
                let target = Input::new([7, 5], dtype, values(-1.0, 0.0));
                let rows = Input::new([3, 5], from, values(1.0, 2.0));
                let inputs = [target.clone(), rows.clone().lying(view), Input::stepped_index([6, 0, 2])];
                cases.push(Case::new(Op::WriteRows, inputs));
                cases.push(Case::new(Op::WriteRows, [target.lying(view), rows, Input::index([6, 0, 2])]));
            }
            let target = Input::new([40], dtype, values(-1.0, 0.0));
            let rows = Input::new([36], from, Values::Floats(EDGES.into()));
            cases.push(Case::new(Op::WriteRows, [target, rows, Input::index((0..36).rev())]));
        }
    }
    cases
}

/// The usual frequencies: `10000^(−2j/R)`.
fn frequencies(half: usize) -> Input {
    let list = (0..half).map(|j| 10_000f64.powf(-(j as f64) / half as f64)).collect();
    Input::new([half], DType::F32, Values::Floats(list))
}

pub(super) fn rope() -> Vec<Case> {
    let mut cases = vec![];
    // Tokens, heads, width, turned pairs.
    let sizes: [[usize; 4]; 12] = [
        [1, 1, 2, 1],
        [0, 2, 4, 2],
        [3, 0, 4, 2],
        [3, 2, 4, 0],
        [3, 2, 4, 2],
        [3, 2, 5, 2],
        [2, 3, 7, 1],
        [7, 1, 64, 32],
        [5, 4, 96, 16],
        [17, 3, 66, 33],
        [1, 8, 256, 128],
        [33, 2, 34, 17],
    ];
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let op = Op::Rope { layout };
        for dtype in DType::FLOATS {
            let x = |tokens: usize, heads: usize, width: usize| {
                Input::new([tokens, heads, width], dtype, Values::uniform(-2.0, 2.0))
            };
            for [tokens, heads, width, half] in sizes {
                let positions = Input::index((0..tokens).map(|i| below(2, i as u64, 300)));
                cases.push(Case::new(op.clone(), [x(tokens, heads, width), positions, frequencies(half)]));
            }
            let far = Input::index([0, 1, 4095, 32_767, 131_071]);
            cases.push(Case::new(op.clone(), [x(5, 2, 16), far, frequencies(8)]));
            for view in View::ALL {
                let (positions, frequency) = (Input::stepped_index([4, 0, 9, 9, 2]), frequencies(5));
                let spread = Input::new([5], DType::F32, Values::uniform(0.1, 1.0)).lying(view);
                cases.push(Case::new(op.clone(), [x(5, 3, 12).lying(view), positions.clone(), frequency]));
                cases.push(Case::new(op.clone(), [x(5, 3, 10), positions, spread]));
            }
        }
    }
    cases
}
