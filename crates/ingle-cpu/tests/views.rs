// SPDX-License-Identifier: EUPL-1.2
//! Any view of a tensor reads back as the elements it stands for.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DeviceHandle, Tensor};
use proptest::prelude::*;

/// A step from one view to the next; numbers are reduced to what fits the view.
#[derive(Clone, Debug)]
enum Step {
    Permute(usize),
    Slice { axis: usize, start: usize, len: usize, step: usize },
    Broadcast(usize),
    Reshape(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..100usize).prop_map(Step::Permute),
        (0..8usize, 0..8usize, 0..8usize, 1..4usize).prop_map(|(axis, start, len, step)| Step::Slice {
            axis,
            start,
            len,
            step
        }),
        (1..4usize).prop_map(Step::Broadcast),
        (0..100usize).prop_map(Step::Reshape),
    ]
}

/// A view as what it should read: its shape and its elements.
#[derive(Clone, Debug)]
struct Model {
    shape: Vec<usize>,
    elements: Vec<i32>,
}

impl Model {
    /// The model of a view of `shape`, whose element at an index is this model's element at `source(index)`.
    fn map(&self, shape: Vec<usize>, source: impl Fn(&[usize]) -> Vec<usize>) -> Model {
        let mut elements = Vec::new();
        let count: usize = shape.iter().product();
        for flat in 0..count {
            let mut index = vec![0; shape.len()];
            let mut rest = flat;
            for axis in (0..shape.len()).rev() {
                index[axis] = rest % shape[axis];
                rest /= shape[axis];
            }
            let place = source(&index).iter().zip(&self.shape).fold(0, |place, (i, len)| place * len + i);
            elements.push(self.elements[place]);
        }
        Model { shape, elements }
    }

    fn apply(&self, step: &Step, tensor: &Tensor) -> (Model, Tensor) {
        let rank = self.shape.len();
        match *step {
            Step::Permute(turn) => {
                let mut axes: Vec<usize> = (0..rank).collect();
                axes.rotate_left(turn % rank.max(1));
                if turn % 2 == 0 {
                    axes.reverse();
                }
                let shape = axes.iter().map(|&axis| self.shape[axis]).collect();
                let model = self.map(shape, |index| {
                    let mut source = vec![0; rank];
                    axes.iter().zip(index).for_each(|(&axis, &i)| source[axis] = i);
                    source
                });
                (model, tensor.permute(&axes).unwrap())
            }
            Step::Slice { axis, start, len, step } => {
                let axis = axis % rank;
                let start = start.min(self.shape[axis]);
                let end = (start + len).min(self.shape[axis]);
                let mut shape = self.shape.clone();
                shape[axis] = (end - start).div_ceil(step);
                let model = self.map(shape, |index| {
                    let mut source = index.to_vec();
                    source[axis] = start + source[axis] * step;
                    source
                });
                (model, tensor.slice_step(axis, start, end, step).unwrap())
            }
            Step::Broadcast(len) => {
                let mut shape: Vec<usize> = self.shape.iter().map(|&n| if n == 1 { len } else { n }).collect();
                shape.insert(0, len);
                let model = self.map(shape.clone(), |index| {
                    index[1..].iter().zip(&self.shape).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect()
                });
                (model, tensor.broadcast(shape).unwrap())
            }
            Step::Reshape(way) => {
                let count = self.elements.len();
                let shape = match way % 4 {
                    0 => vec![count],
                    1 => vec![1, count, 1],
                    2 if count.is_multiple_of(2) => vec![2, count / 2],
                    _ => {
                        let mut joined = self.shape.clone();
                        if rank >= 2 {
                            let outer = joined.remove(0);
                            joined[0] *= outer;
                        }
                        joined
                    }
                };
                let model = Model { shape: shape.clone(), elements: self.elements.clone() };
                (model, tensor.reshape(shape).unwrap())
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn views_of_views_read_back_good(
        shape in prop::collection::vec(1..6usize, 1..4),
        steps in prop::collection::vec(step(), 1..7),
    ) {
        let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions { threads: Some(2), isa: None }).unwrap());
        let elements: Vec<i32> = (0..shape.iter().product::<usize>() as i32).collect();
        let mut tensor = Tensor::from_slice(&device, &elements, shape.clone()).unwrap();
        let mut model = Model { shape, elements };
        for step in &steps {
            (model, tensor) = model.apply(step, &tensor);
            prop_assert_eq!(&tensor.shape()[..], &model.shape[..]);
            prop_assert_eq!(&tensor.to_vec::<i32>().unwrap(), &model.elements, "after {:?}", step);
            // Kernels read it as the download does.
            let doubled: Vec<i32> = model.elements.iter().map(|x| 2 * x).collect();
            prop_assert_eq!(tensor.add(&tensor).unwrap().to_vec::<i32>().unwrap(), doubled);
            if model.elements.len() > 5_000 {
                break;
            }
        }
    }
}

#[test]
fn large_transposes_read_back_good() {
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).unwrap());
    for [batch, rows, columns] in [[1, 64, 100], [3, 48, 37], [2, 100, 33], [1, 15, 300]] {
        let elements: Vec<i32> = (0..(batch * rows * columns) as i32).collect();
        let tensor = Tensor::from_slice(&device, &elements, [batch, rows, columns]).unwrap();
        let turned = tensor.permute(&[0, 2, 1]).unwrap().to_vec::<i32>().unwrap();
        for (i, element) in turned.into_iter().enumerate() {
            let (b, column, row) = (i / (rows * columns), i / rows % columns, i % rows);
            assert_eq!(element as usize, (b * rows + row) * columns + column);
        }
    }
}
