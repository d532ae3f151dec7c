// SPDX-License-Identifier: EUPL-1.2
//! One case of the suite: an operation, and how each of its inputs is made.

use std::fmt;

use bytes::Bytes;

use super::values::Values;
use crate::{DType, DeviceHandle, Op, Result, Shape, Spec, Tensor};

/// An operation on given inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The operation under test.
    pub op: Op,
    /// Its inputs.
    pub inputs: Vec<Input>,
}

/// An input: host values, uploaded, and what is done to them on the device before the operation sees them.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    /// What is uploaded.
    pub base: Spec,
    /// The elements uploaded.
    pub values: Values,
    /// Layout operations applied to it in turn, which leave a device a view to read.
    pub views: Vec<Op>,
}

/// How an input that is not contiguous lies when the operation sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// The axes of a larger tensor in reverse order.
    Reversed,
    /// A part of a larger tensor, cut along the first and the last axis.
    Part,
    /// Every second index of the first axis.
    Stepped,
    /// One row, repeated along the first axis.
    Repeated,
}

impl View {
    /// Every view.
    pub(super) const ALL: [View; 4] = [View::Reversed, View::Part, View::Stepped, View::Repeated];
}

impl Case {
    pub(super) fn new(op: Op, inputs: impl IntoIterator<Item = Input>) -> Case {
        Case { op, inputs: inputs.into_iter().collect() }
    }

    /// A seed for the values of each input, which differ from case to case.
    pub(crate) fn seed(&self, input: usize) -> u64 {
        // FNV-1a over what the case is, so that adding a case changes no other.
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        format!("{self} {input}").bytes().fold(0xcbf2_9ce4_8422_2325, fnv)
    }
}

impl Input {
    /// A contiguous input.
    pub(super) fn new(shape: impl Into<Shape>, dtype: DType, values: Values) -> Input {
        Input { base: Spec::new(shape, dtype), values, views: vec![] }
    }

    /// An `i32` vector.
    pub(super) fn index(list: impl IntoIterator<Item = usize>) -> Input {
        let list: Vec<i64> = list.into_iter().map(|i| i as i64).collect();
        Input::new([list.len()], DType::I32, Values::Integers(list))
    }

    /// An `i32` vector, every second element of one that holds what no index may be between them.
    pub(super) fn stepped_index(list: impl IntoIterator<Item = usize>) -> Input {
        let list: Vec<i64> = list.into_iter().flat_map(|i| [i64::from(i32::MIN), i as i64]).collect();
        let (shape, view) = ([list.len()], Op::Slice { axis: 0, start: 1.min(list.len()), end: list.len(), step: 2 });
        Input { views: vec![view], ..Input::new(shape, DType::I32, Values::Integers(list)) }
    }

    /// The same shape and range of values, but lying in memory as `view` says. A scalar always lies the same.
    pub(super) fn lying(self, view: View) -> Input {
        let Some((&first, rest)) = self.base.shape.split_first() else { return self };
        let shape = &self.base.shape;
        let last = shape.len() - 1;
        let (base, views): (Vec<usize>, _) = match view {
            View::Reversed => {
                let axes: Vec<usize> = (0..shape.len()).rev().collect();
                (shape.iter().rev().copied().collect(), vec![Op::Permute { axes }])
            }
            View::Part => {
                let mut base = shape.to_vec();
                base[0] += 2;
                base[last] += 3;
                let cut = |axis: usize, start, len| Op::Slice { axis, start, end: start + len, step: 1 };
                // A vector's first axis is its last.
                let views =
                    if last == 0 { vec![cut(0, 3, first)] } else { vec![cut(0, 1, first), cut(last, 2, shape[last])] };
                (base, views)
            }
            View::Stepped => {
                let base = [&[2 * first + 1], rest].concat();
                (base, vec![Op::Slice { axis: 0, start: 1, end: 2 * first + 1, step: 2 }])
            }
            View::Repeated => ([&[1], rest].concat(), vec![Op::Broadcast { shape: shape.clone() }]),
        };
        Input { base: Spec::new(base, self.base.dtype), views, ..self }
    }

    /// What the operation sees.
    ///
    /// # Errors
    /// If a view does not fit the base.
    pub fn spec(&self) -> Result<Spec> {
        self.views.iter().try_fold(self.base.clone(), |spec, view| view.infer(&[spec]))
    }

    /// The bytes uploaded.
    pub(crate) fn bytes(&self, seed: u64) -> Bytes {
        self.values.bytes(&self.base, seed)
    }

    /// The input on a device: the tensor uploaded, and the view of it that the operation sees.
    pub(crate) fn on(&self, device: &DeviceHandle, bytes: Bytes) -> Result<(Tensor, Tensor)> {
        let base = Tensor::from_bytes(device, bytes, self.base.clone())?;
        let view = self.views.iter().try_fold(base.clone(), |x, view| Tensor::apply(view, vec![x]))?;
        Ok((base, view))
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        match &self.values {
            Values::Uniform { low, high } => write!(f, " in {low}..{high}")?,
            Values::Floats(list) => write!(f, " of {list:?}")?,
            Values::Integers(list) if list.len() > 16 => write!(f, " of {:?} and {} more", &list[..8], list.len() - 8)?,
            Values::Integers(list) => write!(f, " of {list:?}")?,
        }
        self.views.iter().try_for_each(|view| write!(f, " → {view:?}"))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.op)?;
        self.inputs.iter().try_for_each(|input| write!(f, "; {input}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_keeps_the_shape_good() {
        for shape in
            [Shape::from([]), [1].into(), [0].into(), [5].into(), [4, 0].into(), [3, 7].into(), [2, 3, 4].into()]
        {
            for view in View::ALL {
                let input = Input::new(&shape, DType::F32, Values::uniform(0.0, 1.0)).lying(view);
                assert_eq!(input.spec(), Ok(Spec::new(&shape, DType::F32)), "{view:?} of {shape}");
            }
        }
    }

    #[test]
    fn a_stepped_index_hides_bad_numbers_ugly() {
        for list in [vec![], vec![7], vec![3, 1, 4]] {
            let input = Input::stepped_index(list.clone());
            assert_eq!(input.spec(), Ok(Spec::new([list.len()], DType::I32)));
        }
    }

    #[test]
    fn seeds_differ_good() {
        let input = Input::index([0]);
        let case = Case::new(Op::Softmax, [input.clone(), input]);
        assert_ne!(case.seed(0), case.seed(1));
    }
}
