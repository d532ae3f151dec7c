// SPDX-License-Identifier: EUPL-1.2
//! The reference's primitives against numbers worked out by hand or by another formula: nothing else checks
//! what everything else is checked against.

use std::sync::Arc;

use super::Reference;
use crate::{BinaryOp, DType, DeviceHandle, Error, Op, ReduceOp, Result, Tensor};

fn device() -> DeviceHandle {
    Arc::new(Reference::new())
}

/// `0, 1, 2, …` as i32.
fn numbered(shape: &[usize]) -> Result<Tensor> {
    Tensor::arange(&device(), shape.iter().product())?.reshape(shape)
}

fn floats(values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(&device(), values, shape)
}

fn on(like: &Tensor, index: &[i32]) -> Result<Tensor> {
    Tensor::from_slice(like.device(), index, [index.len()])
}

#[test]
fn permute_good() -> Result<()> {
    let x = numbered(&[2, 3, 4])?;
    let y = x.permute(&[2, 0, 1])?;
    assert_eq!(y.shape()[..], [4, 2, 3]);
    let y = y.to_vec::<i32>()?;
    for (i, j, k) in (0..4).flat_map(|i| (0..2).flat_map(move |j| (0..3).map(move |k| (i, j, k)))) {
        assert_eq!(y[(i * 2 + j) * 3 + k], ((j * 3 + k) * 4 + i) as i32);
    }
    Ok(())
}

#[test]
fn slice_broadcast_concat_good() -> Result<()> {
    let x = numbered(&[3, 4])?;
    assert_eq!(x.slice(1, 1, 3)?.to_vec::<i32>()?, [1, 2, 5, 6, 9, 10]);
    assert_eq!(x.slice_step(0, 0, 3, 2)?.to_vec::<i32>()?, [0, 1, 2, 3, 8, 9, 10, 11]);
    let column = numbered(&[2, 1])?;
    assert_eq!(column.broadcast([2, 2, 3])?.to_vec::<i32>()?, [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]);
    let device = x.device();
    let more = Tensor::full(device, [3, 1], DType::I32, 7.0)?;
    let joined = Tensor::concat(&[x.slice(1, 0, 2)?, more], 1)?;
    assert_eq!(joined.to_vec::<i32>()?, [0, 1, 7, 4, 5, 7, 8, 9, 7]);
    Ok(())
}

#[test]
fn arithmetic_broadcasts_and_integers_wrap_good() -> Result<()> {
    let a = floats(&[1.0, 2.0, 3.0], &[3, 1])?;
    let b = Tensor::from_slice(a.device(), &[10f32, 20.0], [2])?;
    assert_eq!(a.sub(&b)?.to_vec::<f32>()?, [-9.0, -19.0, -8.0, -18.0, -7.0, -17.0]);
    let bytes = Tensor::from_slice(a.device(), &[200u8, 3], [2])?;
    assert_eq!(bytes.add(&bytes)?.to_vec::<u8>()?, [144, 6]);
    assert_eq!(bytes.sub(&Tensor::full(a.device(), [], DType::U8, 4.0)?)?.to_vec::<u8>()?, [196, 255]);
    let least = Tensor::from_slice(a.device(), &[i8::MIN, 5], [2])?;
    assert_eq!((least.neg()?.to_vec::<i8>()?, least.abs()?.to_vec::<i8>()?), (vec![-128, -5], vec![-128, 5]));
    Ok(())
}

#[test]
fn comparisons_and_choices_good() -> Result<()> {
    let a = floats(&[1.0, f32::NAN, 3.0, -0.0], &[4])?;
    let b = Tensor::from_slice(a.device(), &[1f32, f32::NAN, 2.0, 0.0], [4])?;
    assert_eq!(a.equal(&b)?.to_vec::<u8>()?, [1, 0, 0, 1]);
    assert_eq!(a.less(&b)?.to_vec::<u8>()?, [0, 0, 0, 0]);
    assert_eq!(a.less_equal(&b)?.to_vec::<u8>()?, [1, 0, 0, 1]);
    let chosen = b.less(&a)?.select(&a, &b.neg()?)?.to_vec::<f32>()?;
    assert_eq!((chosen[0], chosen[2], chosen[3].to_bits()), (-1.0, 3.0, (-0f32).to_bits()));
    let largest = a.maximum(&b)?.to_vec::<f32>()?;
    assert!(largest[1].is_nan() && largest[2] == 3.0);
    Ok(())
}

#[test]
fn reductions_good() -> Result<()> {
    let x = floats(&[1.0, -2.0, 3.0, 4.0, 5.0, -6.0], &[2, 3])?;
    assert_eq!(x.sum_axis(0)?.to_vec::<f32>()?, [5.0, 3.0, -3.0]);
    assert_eq!(x.sum_axis(1)?.to_vec::<f32>()?, [2.0, 3.0]);
    assert_eq!(x.max_axis(1)?.to_vec::<f32>()?, [3.0, 5.0]);
    assert_eq!(x.argmax(0)?.to_vec::<i32>()?, [1, 1, 0]);
    Ok(())
}

#[test]
fn reductions_of_nothing_nan_and_equals_ugly() -> Result<()> {
    let empty = floats(&[], &[2, 0])?;
    assert_eq!(empty.sum_axis(1)?.to_vec::<f32>()?, [0.0; 2]);
    assert_eq!(empty.max_axis(1)?.to_vec::<f32>()?, [f32::NEG_INFINITY; 2]);
    assert_eq!(empty.sum_axis(0)?.shape()[..], [1, 0]);
    let nan = floats(&[f32::NAN, f32::NEG_INFINITY, f32::NAN], &[3])?;
    assert_eq!(nan.argmax(0)?.to_vec::<i32>()?, [1]);
    assert!(nan.max_axis(0)?.to_vec::<f32>()?[0].is_nan());
    assert_eq!(floats(&[2.0, 5.0, 5.0], &[3])?.argmax(0)?.to_vec::<i32>()?, [1]);
    assert_eq!(floats(&[f32::NAN; 3], &[3])?.argmax(0)?.to_vec::<i32>()?, [0]);
    Ok(())
}

#[test]
fn matmul_good() -> Result<()> {
    let a = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3])?;
    let b = Tensor::from_slice(a.device(), &[7f32, 8.0, 9.0, 10.0, 11.0, 12.0], [3, 2])?;
    assert_eq!(a.matmul(&b)?.to_vec::<f32>()?, [58.0, 64.0, 139.0, 154.0]);
    // One matrix against a batch of two.
    let batch = Tensor::concat(&[b.reshape([1, 3, 2])?, b.neg()?.reshape([1, 3, 2])?], 0)?;
    assert_eq!(a.matmul(&batch)?.to_vec::<f32>()?, [58.0, 64.0, 139.0, 154.0, -58.0, -64.0, -139.0, -154.0]);
    Ok(())
}

#[test]
fn rows_are_taken_and_written_good() -> Result<()> {
    let table = numbered(&[3, 2])?;
    assert_eq!(table.take_rows(&on(&table, &[2, 0, 2])?)?.to_vec::<i32>()?, [4, 5, 0, 1, 4, 5]);
    let cache = floats(&[0.0; 6], &[3, 2])?;
    let kept = cache.clone();
    let rows = Tensor::from_slice(cache.device(), &[1f32, 2.0, 3.0, 4.0], [2, 2])?;
    let index = on(&cache, &[2, 0])?;
    let written = cache.write_rows(&rows, &index)?;
    assert_eq!(written.to_vec::<f32>()?, [3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
    assert_eq!(kept.to_vec::<f32>()?, [0.0; 6]);
    Ok(())
}

#[test]
fn a_row_that_is_not_there_bad() -> Result<()> {
    let table = numbered(&[3, 2])?;
    for index in [3, -1] {
        let refused = table.take_rows(&on(&table, &[index])?).unwrap_err();
        assert_eq!(refused, Error::Index { op: "take_rows", index: index.into(), len: 3 });
    }
    let cache = floats(&[0.0; 6], &[3, 2])?;
    let (rows, index) = (Tensor::full(cache.device(), [1, 2], DType::F32, 1.0)?, on(&cache, &[7])?);
    let refused = cache.write_rows(&rows, &index).unwrap_err();
    assert_eq!(refused.to_string(), "write_rows: index 7 is outside an axis of length 3");
    Ok(())
}

#[test]
fn nothing_is_rounded_before_the_end_ugly() -> Result<()> {
    // 1 + 2⁻³⁰ is lost to f32, and by way of bf16 so is 1 + 2⁻⁹.
    let one = Tensor::full(&device(), [1], DType::F32, 1.0)?;
    let sum = one.shift(2f64.powi(-30))?;
    assert_eq!(sum.shift(-1.0)?.to_vec::<f32>()?, [2f32.powi(-30)]);
    assert_eq!(sum.to_vec::<f32>()?, [1.0]);
    let narrow = one.shift(2f64.powi(-9))?.cast(DType::BF16)?.cast(DType::F32)?;
    assert_eq!(narrow.to_vec::<f32>()?, [1.0 + 2f32.powi(-9)]);
    Ok(())
}

#[test]
fn the_bound_tells_of_a_linear_layer_that_may_round_its_input_ugly() -> Result<()> {
    let x = floats(&[1.0 + 2f32.powi(-20); 8], &[1, 8])?;
    let weight = Tensor::full(x.device(), [1, 8], DType::F32, 1.0)?;
    let bound = |weight: &Tensor| Ok::<f64, Error>(Reference::errors(&x.linear(weight, None)?).unwrap()[0]);
    let (wide, narrow) = (bound(&weight)?, bound(&weight.cast(DType::BF16)?)?);
    assert!(wide < 1e-5 && narrow > 8.0 * 2f64.powi(-9) && narrow < 8.0 * 2f64.powi(-7), "{wide} {narrow}");
    Ok(())
}

#[test]
fn memory_is_counted_and_limited_good() -> Result<()> {
    let device = device();
    let x = Tensor::full(&device, [256], DType::F32, 1.0)?;
    let y = x.exp()?;
    assert_eq!(device.memory().active, 2048);
    drop((x, y));
    assert_eq!((device.memory().active, device.memory().peak), (0, 2048));
    device.set_memory_limit(Some(1000));
    let refused = Tensor::full(&device, [256], DType::F32, 1.0).unwrap_err();
    assert_eq!(refused, Error::Memory { device: "reference", requested: 1024, active: 0, limit: 1000 });
    Ok(())
}

#[test]
fn a_tensor_from_elsewhere_bad() -> Result<()> {
    let (here, there) = (floats(&[1.0], &[1])?, floats(&[1.0], &[1])?);
    let op = Op::Binary(BinaryOp::Add);
    assert!(matches!(Tensor::apply(&op, vec![here.clone(), there]), Err(Error::MixedDevices { .. })));
    let reduce = Op::Reduce { op: ReduceOp::Sum, axis: 0 };
    assert!(reduce.decompose(&[here]).is_none(), "a primitive has no decomposition");
    Ok(())
}
