// SPDX-License-Identifier: EUPL-1.2
//! Cases of the operations that make tensors and lay them out.

use super::{Case, Input, Values, View, shapes};
use crate::{DType, Op, Shape};

/// Every element distinct in the integer dtypes that can hold them, so that a misplaced one shows.
fn numbered(shape: impl Into<Shape>, dtype: DType) -> Input {
    Input::new(shape, dtype, Values::Integers((0..251).collect()))
}

pub(super) fn full() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::ALL {
        for shape in shapes() {
            cases.push(Case::new(Op::Full { shape, dtype, value: 3.0 }, []));
        }
        cases.push(Case::new(Op::Full { shape: [5].into(), dtype, value: 2.9 }, []));
        if dtype != DType::U8 && dtype != DType::U32 {
            cases.push(Case::new(Op::Full { shape: [5].into(), dtype, value: -2.9 }, []));
        }
    }
    for dtype in DType::FLOATS {
        for value in [0.1, -1e-3, 1.0 / 3.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -0.0] {
            cases.push(Case::new(Op::Full { shape: [3].into(), dtype, value }, []));
        }
    }
    for value in [2_147_483_647.0, -2_147_483_648.0] {
        cases.push(Case::new(Op::Full { shape: [3].into(), dtype: DType::I32, value }, []));
    }
    cases
}

pub(super) fn arange() -> Vec<Case> {
    [0, 1, 3, 17, 65, 1000].map(|len| Case::new(Op::Arange { len }, [])).into()
}

pub(super) fn reshape() -> Vec<Case> {
    let mut cases = vec![];
    let pairs: [(&[usize], &[usize]); 9] = [
        (&[], &[1, 1]),
        (&[1], &[]),
        (&[0], &[3, 0, 2]),
        (&[0, 7], &[0]),
        (&[12], &[3, 4]),
        (&[3, 4], &[12]),
        (&[2, 3, 4], &[4, 6]),
        (&[129, 257], &[257, 129]),
        (&[5, 7], &[5, 1, 7, 1]),
    ];
    for dtype in DType::ALL {
        for (from, to) in pairs {
            cases.push(Case::new(Op::Reshape { shape: to.into() }, [numbered(from, dtype)]));
        }
    }
    // The elements of a view must be put in row-major order first.
    for dtype in [DType::F32, DType::BF16, DType::U8, DType::I64] {
        for view in View::ALL {
            cases.push(Case::new(Op::Reshape { shape: [4, 6].into() }, [numbered([2, 3, 4], dtype).lying(view)]));
            cases.push(Case::new(Op::Reshape { shape: [35].into() }, [numbered([5, 7], dtype).lying(view)]));
            cases.push(Case::new(Op::Reshape { shape: [7, 5, 1].into() }, [numbered([5, 7], dtype).lying(view)]));
        }
    }
    cases
}

pub(super) fn permute() -> Vec<Case> {
    let mut cases = vec![];
    let plans: [(&[usize], &[usize]); 9] = [
        (&[], &[]),
        (&[5], &[0]),
        (&[3, 0], &[1, 0]),
        (&[3, 7], &[1, 0]),
        (&[3, 7], &[0, 1]),
        (&[129, 257], &[1, 0]),
        (&[2, 3, 5], &[2, 0, 1]),
        (&[2, 3, 5], &[0, 2, 1]),
        (&[2, 3, 5, 7], &[3, 1, 0, 2]),
    ];
    for dtype in DType::ALL {
        for (shape, axes) in plans {
            cases.push(Case::new(Op::Permute { axes: axes.into() }, [numbered(shape, dtype)]));
        }
    }
    for view in View::ALL {
        cases.push(Case::new(Op::Permute { axes: vec![1, 0] }, [numbered([5, 7], DType::F32).lying(view)]));
        cases.push(Case::new(Op::Permute { axes: vec![1, 2, 0] }, [numbered([2, 3, 5], DType::F16).lying(view)]));
    }
    cases
}

pub(super) fn slice() -> Vec<Case> {
    let mut cases = vec![];
    // Shape, axis, start, end, step.
    let plans: [(&[usize], [usize; 4]); 11] = [
        (&[7], [0, 0, 7, 1]),
        (&[7], [0, 2, 2, 1]),
        (&[7], [0, 7, 7, 3]),
        (&[7], [0, 1, 7, 2]),
        (&[7], [0, 6, 7, 100]),
        (&[0], [0, 0, 0, 1]),
        (&[5, 9], [0, 1, 4, 1]),
        (&[5, 9], [1, 3, 9, 4]),
        (&[3, 5, 7], [1, 1, 5, 3]),
        (&[3, 5, 0], [1, 1, 3, 1]),
        (&[129, 257], [1, 1, 256, 3]),
    ];
    for dtype in DType::ALL {
        for (shape, [axis, start, end, step]) in plans {
            cases.push(Case::new(Op::Slice { axis, start, end, step }, [numbered(shape, dtype)]));
        }
    }
    for view in View::ALL {
        for axis in [0, 1] {
            let op = Op::Slice { axis, start: 1, end: 5, step: 2 };
            cases.push(Case::new(op, [numbered([5, 7], DType::BF16).lying(view)]));
        }
    }
    // A step so wide that the next index would not fit a word.
    let op = Op::Slice { axis: 0, start: 1, end: 5, step: usize::MAX };
    cases.push(Case::new(op, [numbered([5, 7], DType::F32)]));
    cases
}

pub(super) fn broadcast() -> Vec<Case> {
    let mut cases = vec![];
    let pairs: [(&[usize], &[usize]); 9] = [
        (&[], &[]),
        (&[], &[3]),
        (&[], &[2, 0]),
        (&[1], &[0]),
        (&[7], &[3, 7]),
        (&[5, 1], &[5, 7]),
        (&[1, 7], &[5, 7]),
        (&[3, 1, 5], &[2, 3, 4, 5]),
        (&[257], &[129, 257]),
    ];
    for dtype in DType::ALL {
        for (from, to) in pairs {
            cases.push(Case::new(Op::Broadcast { shape: to.into() }, [numbered(from, dtype)]));
        }
    }
    for view in View::ALL {
        cases.push(Case::new(Op::Broadcast { shape: [3, 5, 7].into() }, [numbered([5, 1], DType::F32).lying(view)]));
        cases.push(Case::new(Op::Broadcast { shape: [2, 5, 7].into() }, [numbered([5, 7], DType::I32).lying(view)]));
    }
    cases
}

pub(super) fn concat() -> Vec<Case> {
    let mut cases = vec![];
    let plans: [(usize, &[&[usize]]); 7] = [
        (0, &[&[3], &[4]]),
        (0, &[&[3], &[0], &[1]]),
        (0, &[&[0, 2], &[0, 2]]),
        (0, &[&[2, 5], &[1, 5], &[4, 5]]),
        (1, &[&[3, 2], &[3, 7]]),
        (2, &[&[2, 3, 1], &[2, 3, 5], &[2, 3, 2]]),
        (1, &[&[65, 33], &[65, 128]]),
    ];
    for dtype in DType::ALL {
        for (axis, parts) in plans {
            let parts = parts.iter().enumerate().map(|(i, &shape)| {
                let first = 100 * i as i64;
                Input::new(shape, dtype, Values::Integers((first..first + 97).collect()))
            });
            cases.push(Case::new(Op::Concat { axis }, parts));
        }
    }
    for view in View::ALL {
        for axis in [0, 1] {
            let parts = [numbered([5, 7], DType::BF16).lying(view), numbered([5, 7], DType::BF16)];
            cases.push(Case::new(Op::Concat { axis }, parts));
        }
    }
    cases
}
