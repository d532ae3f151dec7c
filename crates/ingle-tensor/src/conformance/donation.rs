// SPDX-License-Identifier: EUPL-1.2
//! In place means donated: writes go into a last handle, and nowhere that anybody else looks.
//!
//! [`super::check`] gives away the inputs of every case. Here are the longer stories: a cache written again and
//! again while some keep an earlier state of it, and operations on two views of one buffer.

use std::sync::Arc;

use super::check::agrees;
use super::reference::Reference;
use super::report::Report;
use super::values::{Values, below, shuffled};
use crate::{Activation, BinaryOp, DType, DeviceHandle, Op, Result, Spec, Tensor};

const AREA: &str = "donation";

pub(super) fn run(device: &DeviceHandle, report: &mut Report) {
    for dtype in DType::FLOATS {
        let holds = snapshots(device, dtype).map_err(|e| e.to_string()).and_then(|x| x);
        report.property(AREA, format!("snapshots of a {dtype} cache"), holds);
        for (op, story) in aliases(dtype) {
            let holds = alias(device, dtype, &op, story).map_err(|e| e.to_string()).and_then(|x| x);
            report.property(AREA, format!("{op:?} of {dtype} views of one tensor"), holds);
        }
    }
}

/// Writes rows into a cache forty times, its handle donated each time, and keeps some of the states between.
fn snapshots(device: &DeviceHandle, dtype: DType) -> Result<Result<(), String>> {
    const ROWS: usize = 12;
    let mut model = vec![[0.0; 3]; ROWS];
    let mut cache = Tensor::full(device, [ROWS, 3], dtype, 0.0)?;
    let mut kept: Vec<(Tensor, Vec<[f32; 3]>)> = vec![];
    for round in 0..40u64 {
        let count = 1 + below(1, round, 3);
        let index: Vec<i32> = shuffled(round, ROWS).into_iter().take(count).map(|i| i as i32).collect();
        let value = round as f32 + 1.0;
        let rows = Tensor::full(device, [count, 3], DType::F32, value.into())?;
        let index_tensor = Tensor::from_slice(device, &index, [count])?;
        // Every few rounds somebody keeps the state: a handle to it, a part of it, or it under another shape.
        match below(2, round, 6) {
            0 => kept.push((cache.clone(), model.clone())),
            1 => kept.push((cache.slice(0, 2, 9)?, model[2..9].to_vec())),
            2 => kept.push((cache.reshape([ROWS * 3])?, model.clone())),
            _ => {}
        }
        cache = cache.write_rows(&rows, &index_tensor)?;
        for row in index {
            model[row as usize] = [value; 3];
        }
    }
    kept.push((cache, model));
    for (at, (tensor, expected)) in kept.iter().enumerate() {
        let found = tensor.to_f32_vec()?;
        if found != expected.concat() {
            return Ok(Err(format!("state {at} of {}: expected {:?}, found {found:?}", kept.len(), expected.concat())));
        }
    }
    Ok(Ok(()))
}

/// How the inputs of an operation come to share a buffer.
#[derive(Clone, Copy)]
enum Story {
    /// The very same handle, twice.
    Itself,
    /// The tensor and its transpose.
    Transposed,
    /// The transpose and the tensor.
    TransposeFirst,
    /// All rows, the rows from 4 on, and the numbers of the rows these go to.
    OwnRows,
    /// The last nine columns and the first nine, which overlap.
    Halves,
}

fn aliases(dtype: DType) -> Vec<(Op, Story)> {
    let mut stories = vec![(Op::WriteRows, Story::OwnRows)];
    let glu = Op::Glu { activation: Activation::Silu };
    let ops = BinaryOp::ALL.map(Op::Binary).into_iter().chain([glu, Op::MatMul, Op::Concat { axis: 1 }]);
    for op in ops.filter(|_| dtype.is_float()) {
        for story in [Story::Itself, Story::Transposed, Story::TransposeFirst, Story::Halves] {
            if !matches!((&op, story), (Op::MatMul, Story::Halves)) {
                stories.push((op.clone(), story));
            }
        }
    }
    stories
}

/// Runs an operation on views of one tensor, all of them given away.
fn alias(device: &DeviceHandle, dtype: DType, op: &Op, story: Story) -> Result<Result<(), String>> {
    let views = |device: &DeviceHandle| -> Result<Vec<Tensor>> {
        let spec = Spec::new([12, 12], dtype);
        let bytes = Values::uniform(0.5, 2.0).bytes(&spec, 5);
        // Computed rather than uploaded, so that the device may write into it.
        let x = Tensor::from_bytes(device, bytes, spec)?.neg()?;
        Ok(match story {
            Story::Itself => vec![x.clone(), x],
            Story::Transposed => vec![x.clone(), x.permute(&[1, 0])?],
            Story::TransposeFirst => vec![x.permute(&[1, 0])?, x],
            Story::Halves => vec![x.slice(1, 3, 12)?, x.slice(1, 0, 9)?],
            Story::OwnRows => {
                let rows = x.slice(0, 4, 12)?;
                vec![x, rows, Tensor::from_slice(device, &[0i32, 1, 2, 3, 4, 5, 6, 7], [8])?]
            }
        })
    };
    let reference: DeviceHandle = Arc::new(Reference::new());
    let inputs = views(&reference)?;
    let specs: Vec<Spec> = inputs.iter().map(|x| x.spec().clone()).collect();
    let wanted = Tensor::apply(op, inputs)?;
    let found = device.download(&Tensor::apply(op, views(device)?)?)?;
    Ok(agrees(op, &specs, &wanted, &found).map(|_| ()))
}
