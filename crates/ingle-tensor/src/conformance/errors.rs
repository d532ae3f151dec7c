// SPDX-License-Identifier: EUPL-1.2
//! What a device must refuse, and go on working after.

use std::sync::Arc;

use super::reference::Reference;
use super::report::Report;
use crate::{DType, DeviceHandle, Error, Op, PagedAttention, ReduceOp, Result, RopeLayout, Tensor, UnaryOp};

const AREA: &str = "refusals";

/// What a refusal must be.
#[derive(Clone, Copy)]
enum Refusal {
    /// An error of a shape, dtype or number of inputs.
    Unfit,
    /// [`Error::MixedDevices`].
    Mixed,
    /// [`Error::Memory`] or [`Error::Device`], at once or when the result is read.
    TooLarge,
    /// [`Error::Index`] or [`Error::Device`], at once or when the result is read; or, where a device cannot
    /// tell, any result at all, but no crash.
    Outside,
}

/// What is to be refused.
type Attempt = fn(&DeviceHandle) -> Result<Tensor>;

pub(super) fn run(device: &DeviceHandle, report: &mut Report) {
    let refusals: [(&str, Refusal, Attempt); 24] = [
        ("no inputs", Refusal::Unfit, |_| Tensor::apply(&Op::Softmax, vec![])),
        ("too many inputs", Refusal::Unfit, |d| Tensor::apply(&Op::Softmax, vec![floats(d, &[2])?, floats(d, &[2])?])),
        ("add of [3] and [4]", Refusal::Unfit, |d| floats(d, &[3])?.add(&floats(d, &[4])?)),
        ("add of f32 and i32", Refusal::Unfit, |d| floats(d, &[3])?.add(&indices(d, &[1, 2, 3])?)),
        ("exp of i32", Refusal::Unfit, |d| indices(d, &[1])?.exp()),
        ("neg of u8", Refusal::Unfit, |d| {
            Tensor::apply(&Op::Unary(UnaryOp::Neg), vec![Tensor::full(d, [2], DType::U8, 1.0)?])
        }),
        ("reshape of [6] to [4]", Refusal::Unfit, |d| floats(d, &[6])?.reshape([4])),
        ("permute by [0, 0]", Refusal::Unfit, |d| floats(d, &[2, 3])?.permute(&[0, 0])),
        ("slice past the end", Refusal::Unfit, |d| floats(d, &[4])?.slice(0, 2, 5)),
        ("broadcast of [2] to [3]", Refusal::Unfit, |d| floats(d, &[2])?.broadcast([3])),
        ("matmul of [2, 3] and [2, 3]", Refusal::Unfit, |d| floats(d, &[2, 3])?.matmul(&floats(d, &[2, 3])?)),
        ("linear with a bias of another length", Refusal::Unfit, |d| {
            floats(d, &[2, 3])?.linear(&floats(d, &[4, 3])?, Some(&floats(d, &[3])?))
        }),
        ("argmax of nothing", Refusal::Unfit, |d| floats(d, &[2, 0])?.argmax(1)),
        ("reduce along a missing axis", Refusal::Unfit, |d| {
            Tensor::apply(&Op::Reduce { op: ReduceOp::Sum, axis: 2 }, vec![floats(d, &[2, 3])?])
        }),
        ("rope of more features than there are", Refusal::Unfit, |d| {
            floats(d, &[1, 1, 4])?.rope(&indices(d, &[0])?, &floats(d, &[3])?, RopeLayout::Halves)
        }),
        ("an input of another device", Refusal::Mixed, |d| {
            let other: DeviceHandle = Arc::new(Reference::new());
            floats(d, &[3])?.add(&floats(&other, &[3])?)
        }),
        ("more than any memory holds", Refusal::TooLarge, |d| floats(d, &[1])?.broadcast([1 << 60])?.neg()),
        ("a constant of more than any memory holds", Refusal::TooLarge, |d| floats(d, &[1 << 30, 1 << 30])?.exp()),
        ("take_rows past the end", Refusal::Outside, |d| floats(d, &[4, 2])?.take_rows(&indices(d, &[0, 4])?)),
        ("take_rows before the start", Refusal::Outside, |d| floats(d, &[4, 2])?.take_rows(&indices(d, &[-1])?)),
        ("take_rows of an empty table", Refusal::Outside, |d| floats(d, &[0, 2])?.take_rows(&indices(d, &[0])?)),
        ("write_rows past the end", Refusal::Outside, |d| {
            floats(d, &[4, 2])?.write_rows(&floats(d, &[2, 2])?, &indices(d, &[1, i32::MAX])?)
        }),
        ("write_rows before the start", Refusal::Outside, |d| {
            floats(d, &[4, 2])?.write_rows(&floats(d, &[1, 2])?, &indices(d, &[i32::MIN])?)
        }),
        ("paged_attention of a row of no table", Refusal::Outside, |d| attend(d, [0, 1], 7, 2)),
    ];
    for (what, refusal, attempt) in refusals {
        report.property(AREA, what, refused(device, refusal, attempt(device)));
    }
    for (what, table, sequence, position) in [
        ("a block past the cache", [0, 9], 0, 5),
        ("a block before the cache", [-1, 1], 0, 5),
        ("a block so far that its slot does not fit", [0, i32::MAX], 0, 5),
        ("a sequence before the first", [0, 1], -1, 5),
        ("a position past the table", [0, 1], 0, 8),
        ("a position far past the table", [0, 1], 0, i32::MAX),
        ("a position before the start", [0, 1], 0, -3),
    ] {
        let result = attend(device, table, sequence, position);
        report.property(AREA, format!("paged_attention of {what}"), refused(device, Refusal::Outside, result));
    }
    report.property(AREA, "bytes that are too few", {
        let spec = crate::Spec::new([4], DType::F32);
        match Tensor::from_bytes(device, vec![0; 15].into(), spec) {
            Err(Error::ByteLength { expected: 16, found: 15, .. }) => Ok(()),
            other => Err(format!("expected a refusal of 15 bytes for 16, found {other:?}")),
        }
    });
    report.property(AREA, "reading another type", {
        match floats(device, &[2]).and_then(|x| x.to_vec::<i32>()) {
            Err(Error::ReadType { expected: DType::I32, found: DType::F32 }) => Ok(()),
            other => Err(format!("expected a refusal to read f32 as i32, found {other:?}")),
        }
    });
}

fn floats(device: &DeviceHandle, shape: &[usize]) -> Result<Tensor> {
    Tensor::full(device, shape, DType::F32, 1.0)
}

fn indices(device: &DeviceHandle, list: &[i32]) -> Result<Tensor> {
    Tensor::from_slice(device, list, [list.len()])
}

/// One token over a cache of two blocks of four slots.
fn attend(device: &DeviceHandle, table: [i32; 2], sequence: i32, position: i32) -> Result<Tensor> {
    let cache = floats(device, &[8, 1, 4])?;
    let table = indices(device, &table)?.reshape([1, 2])?;
    let parameters = PagedAttention { block_size: 4, scale: 0.5, window: None, soft_cap: None };
    let places = [&table, &indices(device, &[sequence])?, &indices(device, &[position])?];
    floats(device, &[1, 2, 4])?.paged_attention([&cache, &cache], places, parameters)
}

fn refused(device: &DeviceHandle, refusal: Refusal, result: Result<Tensor>) -> Result<(), String> {
    // A device that runs later refuses when the result is read.
    let result = result.and_then(|x| x.device().download(&x).map(|_| x.spec().clone()));
    match (refusal, &result) {
        (Refusal::Unfit, Err(Error::Shape { .. } | Error::DType { .. } | Error::Arity { .. }))
        | (Refusal::Mixed, Err(Error::MixedDevices { .. }))
        | (Refusal::TooLarge, Err(Error::Memory { .. } | Error::Device { .. }))
        | (Refusal::Outside, Ok(_) | Err(Error::Index { .. } | Error::Device { .. })) => {}
        (_, found) => return Err(format!("expected a refusal, found {found:?}")),
    }
    match floats(device, &[3]).and_then(|x| x.shift(1.0)?.to_f32_vec()) {
        Ok(sum) if sum == [2.0; 3] => Ok(()),
        found => Err(format!("afterwards the device gives 1 + 1 = {found:?}")),
    }
}
