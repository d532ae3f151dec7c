// SPDX-License-Identifier: EUPL-1.2
//! Cases of the operations that go by a vector of numbers: rows taken and written, and rotary positions.

use super::super::values::{EDGES, SUBNORMALS, below, shuffled};
use super::{Case, Input, Values, View, row_shapes, views};
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
    let bytes = |shape: &[usize]| Input::new(shape, DType::I8, values(-128.0, 128.0));
    for (shape, count) in plans {
        let index = shuffled(4, shape[0]).into_iter().take(count);
        let rows = [&[count], &shape[1..]].concat();
        cases.push(Case::new(Op::WriteRows, [bytes(shape), bytes(&rows), Input::index(index)]));
    }
    for view in View::ALL {
        let (target, rows) = (bytes(&[7, 2, 5]), bytes(&[3, 2, 5]));
        let inputs = [target.clone(), rows.clone().lying(view), Input::stepped_index([6, 0, 2])];
        cases.push(Case::new(Op::WriteRows, inputs));
        cases.push(Case::new(Op::WriteRows, [target.lying(view), rows, Input::index([6, 0, 2])]));
    }
    cases
}

pub(super) fn add_rows() -> Vec<Case> {
    let mut cases = vec![];
    // Rows, as many as are added, and how many there are to add to.
    let plans: [(&[usize], usize); 9] = [
        (&[3], 7),
        (&[0, 5], 7),
        (&[1, 5], 7),
        (&[40, 5], 7),
        (&[17, 65], 33),
        (&[90, 2, 3], 3),
        (&[5, 0], 2),
        (&[0, 4], 0),
        (&[257, 3], 1),
    ];
    for dtype in DType::FLOATS {
        let values = Values::uniform(-1.0, 2.0);
        for (shape, count) in plans {
            let index = (0..shape[0]).map(|i| below(6, i as u64, count));
            let rows = Input::new(shape, dtype, values.clone());
            cases.push(Case::new(Op::AddRows { count }, [rows, Input::index(index)]));
        }
        for view in View::ALL {
            let rows = Input::new([6, 9], dtype, values.clone()).lying(view);
            cases.push(Case::new(Op::AddRows { count: 4 }, [rows, Input::stepped_index([3, 0, 3, 3, 1, 0])]));
        }
        // 1024 ones in one place: accumulated in bf16 they stop at 256.
        let ones = Input::new([1024, 2], dtype, Values::Floats(vec![1.0]));
        cases.push(Case::new(Op::AddRows { count: 3 }, [ones, Input::index(std::iter::repeat_n(1, 1024))]));
        let edges = Input::new([36, 1], dtype, Values::Floats(EDGES.into()));
        cases.push(Case::new(Op::AddRows { count: 36 }, [edges, Input::index((0..36).rev())]));
    }
    cases
}

pub(super) fn quantize_rows() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        let mut push = |input: Input| cases.push(Case::new(Op::QuantizeRows, [input]));
        for shape in row_shapes() {
            for (low, high) in [(-1.0, 1.0), (0.0, 6e4), (-1e-6, 0.0)] {
                push(Input::new(&shape, dtype, Values::uniform(low, high)));
            }
        }
        push(Input::new([5, 8, 128], dtype, Values::uniform(-3.0, 2.0)));
        views(dtype, &Values::uniform(-1.0, 1.0)).into_iter().for_each(&mut push);
        // Alone, and beside others, which may be infinite or NaN.
        for width in [1, 7, 36] {
            push(Input::new([36, width], dtype, Values::Floats(EDGES.into())));
            push(Input::new([6, width], dtype, Values::Floats(SUBNORMALS.into())));
        }
        // Halves of a step, with a scale of 1.
        let halves = (0..17).map(|i| f64::from(i) / 2.0 - 4.0).chain([127.0]).collect();
        push(Input::new([2, 18], dtype, Values::Floats(halves)));
    }
    cases
}

pub(super) fn dequantize_rows() -> Vec<Case> {
    let mut cases = vec![];
    let mut push = |input: Input| cases.push(Case::new(Op::DequantizeRows, [input]));
    let scales = [0.0f32, 1.0, 0.013, -2.5, f32::MAX, f32::MIN_POSITIVE, 1e-41, f32::INFINITY, f32::NAN];
    for (i, scale) in scales.into_iter().enumerate() {
        for width in [0, 1, 7, 64, 129] {
            push(Input::new([3 + i, width + 4], DType::I8, quantised(width, [scale, 0.5 * scale])));
        }
    }
    for view in View::ALL {
        // Every row as the base has it: a view along the rows leaves each its scale.
        push(Input::new([6, 37], DType::I8, quantised(33, [0.25, 0.25])).lying(view));
    }
    push(Input::new([0, 9], DType::I8, quantised(5, [1.0, 1.0])));
    push(Input::new([2, 3, 20], DType::I8, quantised(16, [0.7, 0.01])));
    push(Input::new([4], DType::I8, quantised(0, [1.0, 1.0])));
    cases
}

/// Rows of [`Op::QuantizeRows`], over and over: their integers run through every value, their scales take turns.
pub(super) fn quantised(width: usize, scales: [f32; 2]) -> Values {
    let rows = scales.into_iter().cycle().take(32).enumerate().flat_map(|(row, scale)| {
        let quants = (0..width).map(move |i| ((row * width + i) * 89 % 255) as i64 - 127);
        quants.chain(scale.to_le_bytes().map(|byte| i64::from(byte as i8)))
    });
    Values::Integers(rows.collect())
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
