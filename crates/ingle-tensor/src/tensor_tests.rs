// SPDX-License-Identifier: EUPL-1.2
//! Tensors: how they are made, read, refused and handed on.

use std::sync::Arc;

use half::{bf16, f16};

use crate::conformance::Reference;
use crate::{
    Activation, Bytes, DType, DeviceHandle, Error, Op, PagedAttention, ReduceOp, Result, RopeLayout, Shape, Spec,
    Storage, Tensor,
};

fn device() -> DeviceHandle {
    Arc::new(Reference::new())
}

#[test]
fn elements_come_back_good() -> Result<()> {
    let device = device();
    let x = Tensor::from_slice(&device, &[1i64, -2, i64::MAX], [3])?;
    assert_eq!((x.to_vec::<i64>()?, x.dtype(), &x.shape()[..]), (vec![1, -2, i64::MAX], DType::I64, &[3][..]));
    let x = Tensor::from_bytes(&device, Bytes::from_static(&[1, 2, 3, 4]), Spec::new([2, 2], DType::U8))?;
    assert_eq!(x.to_vec::<u8>()?, [1, 2, 3, 4]);
    assert_eq!(Tensor::full(&device, [2], DType::BF16, 1.5)?.to_vec::<bf16>()?, [bf16::from_f32(1.5); 2]);
    assert_eq!(Tensor::arange(&device, 3)?.to_vec::<i32>()?, [0, 1, 2]);
    assert_eq!(Tensor::from_slice::<f32>(&device, &[], [0, 7])?.to_vec::<f32>()?, [] as [f32; 0]);
    Ok(())
}

#[test]
fn any_float_reads_as_f32_good() -> Result<()> {
    let device = device();
    for dtype in DType::FLOATS {
        assert_eq!(Tensor::full(&device, [2], dtype, -0.5)?.to_f32_vec()?, [-0.5; 2]);
    }
    assert_eq!(Tensor::from_slice(&device, &[f16::MAX], [1])?.to_f32_vec()?, [65504.0]);
    Ok(())
}

#[test]
fn reading_another_type_bad() -> Result<()> {
    let x = Tensor::arange(&device(), 3)?;
    let refused = x.to_vec::<i64>().unwrap_err();
    assert_eq!(refused.to_string(), "read: the tensor holds i32, not i64; cast it first");
    assert_eq!(x.to_f32_vec(), Err(Error::ReadType { expected: DType::F32, found: DType::I32 }));
    Ok(())
}

#[test]
fn host_data_of_another_length_bad() {
    let refused = Tensor::from_slice(&device(), &[1f32, 2.0], [3]).unwrap_err();
    assert_eq!(refused.to_string(), "upload: f32[3] needs 12 bytes, found 8");
    let spec = Spec::new([usize::MAX, 2], DType::F32);
    let refused = Tensor::from_bytes(&device(), Bytes::new(), spec).unwrap_err();
    assert!(matches!(refused, Error::ByteLength { found: 0, .. }));
}

#[test]
fn no_inputs_and_two_devices_bad() -> Result<()> {
    let refused = Tensor::apply(&Op::MatMul, vec![]).unwrap_err();
    assert_eq!(refused, Error::Arity { op: "matmul", expected: "at least 1", found: 0 });
    assert!(matches!(Tensor::concat(&[], 0), Err(Error::Arity { op: "concat", .. })));
    let (here, there) = (Tensor::arange(&device(), 2)?, Tensor::arange(&device(), 2)?);
    let words = "add: inputs live on different devices (reference and reference); move them to one first";
    assert_eq!(here.add(&there).unwrap_err().to_string(), words);
    Ok(())
}

#[test]
fn a_cast_to_the_same_dtype_is_the_same_tensor_ugly() -> Result<()> {
    let device = device();
    let x = Tensor::full(&device, [256], DType::F32, 1.0)?;
    let before = device.memory();
    let same = x.cast(DType::F32)?;
    assert_eq!(device.memory(), before);
    assert_eq!(same.to_vec::<f32>()?, x.to_vec::<f32>()?);
    assert_eq!(x.cast(DType::I8)?.to_vec::<i8>()?, [1; 256]);
    Ok(())
}

#[test]
fn methods_are_their_operations_good() -> Result<()> {
    let device = device();
    let x = Tensor::from_slice(&device, &[0.5f32, -1.0, 2.0, 4.0], [2, 2])?;
    let row = Tensor::from_slice(&device, &[1f32, 3.0], [2])?;
    let places = Tensor::from_slice(&device, &[1i32, 0], [2])?;
    let same = |found: Result<Tensor>, op: Op, inputs: &[&Tensor]| {
        let expected = Tensor::apply(&op, inputs.iter().copied().cloned().collect())?;
        let found = found?;
        assert_eq!(found.spec(), expected.spec(), "{op:?}");
        assert_eq!(device.download(&found)?, device.download(&expected)?, "{op:?}");
        Ok::<(), Error>(())
    };
    same(x.sum_axis(1), Op::Reduce { op: ReduceOp::Sum, axis: 1 }, &[&x])?;
    same(x.max_axis(0), Op::Reduce { op: ReduceOp::Max, axis: 0 }, &[&x])?;
    same(x.linear(&x, Some(&row)), Op::Linear, &[&x, &x, &row])?;
    same(x.linear(&x, None), Op::Linear, &[&x, &x])?;
    same(x.rms_norm(&row, 0.1, 1.0), Op::RmsNorm { eps: 0.1, offset: 1.0 }, &[&x, &row])?;
    same(
        x.layer_norm(&row, &x.slice(0, 0, 1)?.reshape([2])?, 0.1),
        Op::LayerNorm { eps: 0.1 },
        &[&x, &row, &x.slice(0, 0, 1)?.reshape([2])?],
    )?;
    same(x.glu(&x.neg()?, Activation::Silu), Op::Glu { activation: Activation::Silu }, &[&x, &x.neg()?])?;
    let gated_mlp = Op::GatedMlp { activation: Activation::Silu };
    same(x.gated_mlp([&x, &x.neg()?, &x], Activation::Silu), gated_mlp, &[&x, &x, &x.neg()?, &x])?;
    same(x.activate(Activation::Gelu), Op::Activate(Activation::Gelu), &[&x])?;
    same(x.soft_cap(2.0), Op::SoftCap { cap: 2.0 }, &[&x])?;
    same(x.slice_step(1, 0, 2, 2), Op::Slice { axis: 1, start: 0, end: 2, step: 2 }, &[&x])?;
    same(x.take_rows(&places), Op::TakeRows, &[&x, &places])?;
    same(x.clone().write_rows(&x.neg()?, &places), Op::WriteRows, &[&x, &x.neg()?, &places])?;
    same(x.quantize_rows(), Op::QuantizeRows, &[&x])?;
    same(x.quantize_rows()?.dequantize_rows(), Op::DequantizeRows, &[&x.quantize_rows()?])?;
    let heads = x.reshape([2, 1, 2])?;
    let frequency = Tensor::from_slice(&device, &[0.5f32], [1])?;
    let rope = Op::Rope { layout: RopeLayout::Halves };
    same(heads.rope(&places, &frequency, RopeLayout::Halves), rope, &[&heads, &places, &frequency])?;
    let parameters = PagedAttention { block_size: 2, scale: 0.5, window: None, soft_cap: None };
    let (table, first) = (Tensor::from_slice(&device, &[0i32], [1, 1])?, Tensor::full(&device, [2], DType::I32, 0.0)?);
    same(
        heads.paged_attention([&heads, &heads.neg()?], [&table, &first, &places], parameters),
        Op::PagedAttention(parameters),
        &[&heads, &heads, &heads.neg()?, &table, &first, &places],
    )?;
    assert_eq!(x.scale(2.0)?.to_vec::<f32>()?, [1.0, -2.0, 4.0, 8.0]);
    assert_eq!(x.shift(1.0)?.to_vec::<f32>()?, [1.5, 0.0, 3.0, 5.0]);
    assert_eq!(places.scale(3.0)?.to_vec::<i32>()?, [3, 0]);
    Ok(())
}

#[test]
fn a_tensor_shows_what_it_is_and_not_what_it_holds_good() -> Result<()> {
    let x = Tensor::full(&device(), Shape::default(), DType::F16, 1.0)?;
    assert_eq!(format!("{x:?}"), "Tensor(f16[] on reference)");
    assert_eq!(x.device().name(), "reference");
    Ok(())
}

#[test]
fn only_a_last_handle_of_its_own_type_is_donated_ugly() {
    let storage = Storage::new(vec![1u8, 2]);
    assert_eq!(storage.get::<Vec<u8>>(), Some(&vec![1, 2]));
    assert_eq!(storage.get::<String>(), None);
    let shared = storage.clone();
    let storage = storage.take::<Vec<u8>>().expect_err("another handle lives");
    drop(shared);
    let storage = storage.take::<String>().expect_err("it is of another type");
    assert_eq!(format!("{storage:?}"), "Storage { handles: 1 }");
    assert_eq!(storage.take::<Vec<u8>>().expect("the last handle"), [1, 2]);
}
