// SPDX-License-Identifier: EUPL-1.2
//! Derivatives: of every operation against finite differences, of some against PyTorch, and how they compose,
//! what they remember and what they refuse.

mod broadcasting;
mod checkpoints;
mod custom;
mod differences;
mod pytorch;

use std::sync::Arc;

use crate::conformance::Reference;
use crate::grad::{checkpoint, jvp, value_and_grad, vjp};
use crate::{BlockFormat, DType, DeviceHandle, Error, Quantization, Result, Tensor};

fn device() -> DeviceHandle {
    Arc::new(Reference::new())
}

fn floats(device: &DeviceHandle, values: &[f32]) -> Tensor {
    Tensor::from_slice(device, values, [values.len()]).unwrap()
}

fn values(x: &Tensor) -> Vec<f64> {
    Reference::values(x).unwrap()
}

#[test]
fn a_product_of_two_good() -> Result<()> {
    let device = device();
    let inputs = [floats(&device, &[2.0, 3.0]), floats(&device, &[5.0, -7.0])];
    let (value, gradients) = value_and_grad(|x| x[0].mul(&x[1])?.sum_axis(0), &inputs)?;
    assert_eq!(values(&value), [-11.0]);
    assert_eq!((values(&gradients[0]), values(&gradients[1])), (vec![5.0, -7.0], vec![2.0, 3.0]));
    assert!(value.node().is_none() && gradients.iter().all(|x| x.node().is_none()), "nothing is remembered after");
    Ok(())
}

#[test]
fn what_needs_no_gradient_remembers_nothing_good() -> Result<()> {
    let device = device();
    let (x, w) = (floats(&device, &[2.0; 64]), floats(&device, &[3.0; 64]));
    assert!(x.mul(&w)?.node().is_none());
    let before = device.memory().active;
    value_and_grad(
        |v| {
            assert!(x.mul(&w)?.exp()?.node().is_none(), "a constant of constants");
            assert!(v[0].detach().mul(&w)?.node().is_none());
            assert!(v[0].less(&w)?.node().is_none(), "a comparison");
            assert!(v[0].mul(&w)?.node().is_some());
            v[0].mul(&w)?.sum_axis(0)
        },
        std::slice::from_ref(&x),
    )?;
    assert_eq!(device.memory().active, before);
    Ok(())
}

#[test]
fn only_what_a_rule_reads_is_kept_good() -> Result<()> {
    let device = device();
    let bytes = 64 * 4;
    let kept = |f: &dyn Fn(&Tensor) -> Result<Tensor>| -> Result<usize> {
        let x = floats(&device, &[2.0; 64]);
        let before = device.memory().active;
        let (_, pullback) = vjp(|v| f(&v[0]), std::slice::from_ref(&x))?;
        let after = device.memory().active;
        drop(pullback);
        Ok((after - before) / bytes)
    };
    // The value, which is dropped at once, is not counted.
    assert_eq!(kept(&|x| x.shift(1.0)?.shift(2.0)?.neg()?.reshape([8, 8]))?, 0);
    assert_eq!(kept(&|x| x.shift(1.0)?.exp())?, 1, "the exponential reads its result");
    let frozen = Tensor::full(&device, [64, 64], DType::F32, 0.5)?;
    assert_eq!(kept(&|x| x.shift(1.0)?.linear(&frozen, None))?, 0, "the frozen matrix lives anyway");
    Ok(())
}

#[test]
fn a_cache_is_still_written_in_place_good() -> Result<()> {
    let device = device();
    let cache = Tensor::full(&device, [1000, 4], DType::F32, 0.0)?;
    let index = Tensor::from_slice(&device, &[1i32], [1])?;
    let rows = Tensor::full(&device, [1, 4], DType::F32, 1.0)?;
    let (_, pullback) = vjp(
        |rows| {
            device.reset_peak_memory();
            let before = device.memory().active;
            let written = cache.neg()?.write_rows(&rows[0], &index)?.write_rows(&rows[0], &index)?;
            assert!(device.memory().peak - before < 2 * 16_000, "no second cache");
            written.sum_axis(0)
        },
        &[rows],
    )?;
    let gradient = pullback.pull(&Tensor::full(&device, [1, 4], DType::F32, 3.0)?)?;
    assert_eq!(values(&gradient[0]), [3.0; 4]);
    Ok(())
}

#[test]
fn what_is_kept_is_not_written_over_ugly() -> Result<()> {
    let device = device();
    let index = Tensor::from_slice(&device, &[0i32], [1])?;
    let (_, gradients) = value_and_grad(
        |x| {
            let y = x[0].shift(1.0)?;
            let square = y.mul(&y)?;
            // The last handle but the graph's.
            let written = y.write_rows(&floats(&device, &[100.0]), &index)?;
            square.add(&written)?.sum_axis(0)
        },
        &[floats(&device, &[1.0, 2.0])],
    )?;
    assert_eq!(values(&gradients[0]), [4.0, 7.0]);
    Ok(())
}

#[test]
fn derivatives_of_higher_order_good() -> Result<()> {
    let device = device();
    // x³: 3x², 6x, 6.
    let cube = |x: &[Tensor]| x[0].mul(&x[0])?.mul(&x[0]);
    let first = |x: &[Tensor]| Ok::<_, Error>(value_and_grad(cube, x)?.1.swap_remove(0));
    let second = |x: &[Tensor]| Ok::<_, Error>(value_and_grad(first, x)?.1.swap_remove(0));
    let (value, third) = value_and_grad(second, &[floats(&device, &[2.0])])?;
    assert_eq!((values(&value), values(&third[0])), (vec![12.0], vec![6.0]));
    // A variable of the outer function inside the inner one: d/dy (d/dx x² y) = 2x.
    let mixed = |y: &[Tensor]| {
        let inner = |x: &[Tensor]| x[0].mul(&x[0])?.mul(&y[0]);
        Ok::<_, Error>(value_and_grad(inner, &[floats(&device, &[5.0])])?.1.swap_remove(0))
    };
    assert_eq!(values(&value_and_grad(mixed, &[floats(&device, &[3.0])])?.1[0]), [10.0]);
    // A function of the exponential, whose rule reads the result: e^(x²)'' = (2 + 4x²) e^(x²).
    let bell = |x: &[Tensor]| x[0].mul(&x[0])?.exp();
    let slope = |x: &[Tensor]| Ok::<_, Error>(value_and_grad(bell, x)?.1.swap_remove(0));
    let (_, curvature) = jvp(slope, &[floats(&device, &[0.5])], &[floats(&device, &[1.0])])?;
    assert!((values(&curvature)[0] - 3.0 * 0.25f64.exp()).abs() < 1e-12);
    Ok(())
}

#[test]
fn along_a_tangent_good() -> Result<()> {
    let device = device();
    let inputs = [floats(&device, &[2.0, 3.0]), floats(&device, &[5.0, -7.0])];
    let tangents = [floats(&device, &[1.0, 0.0]), floats(&device, &[10.0, 100.0])];
    let (value, derivative) = jvp(|x| x[0].mul(&x[1]), &inputs, &tangents)?;
    assert_eq!((values(&value), values(&derivative)), (vec![10.0, -21.0], vec![25.0, 300.0]));
    let (_, constant) = jvp(|_| Ok::<_, Error>(floats(&device, &[1.0])), &inputs, &tangents)?;
    assert_eq!(values(&constant), [0.0]);
    Ok(())
}

#[test]
fn an_input_without_influence_has_a_gradient_of_zeros_good() -> Result<()> {
    let device = device();
    let inputs = [floats(&device, &[2.0]), floats(&device, &[5.0, 6.0])];
    let (_, gradients) = value_and_grad(|x| x[0].add(&x[1].detach().sum_axis(0)?), &inputs)?;
    assert_eq!((values(&gradients[0]), values(&gradients[1])), (vec![1.0], vec![0.0, 0.0]));
    Ok(())
}

#[test]
fn a_gradient_has_its_inputs_dtype_and_sums_are_in_f32_good() -> Result<()> {
    let device = device();
    for dtype in DType::FLOATS {
        let x = floats(&device, &[2.0]).cast(dtype)?;
        let wide = Tensor::full(&device, [3, 1], DType::F32, 0.5)?;
        let (_, gradients) = value_and_grad(|x| x[0].cast(DType::F32)?.mul(&wide)?.sum_axis(0), &[x])?;
        assert_eq!((gradients[0].dtype(), gradients[0].to_f32_vec()?), (dtype, vec![1.5]));
    }
    Ok(())
}

#[test]
fn a_long_chain_neither_recurses_forward_nor_back_ugly() -> Result<()> {
    let device = device();
    let one = floats(&device, &[1.0]);
    let chain = |x: &[Tensor]| (0..200_000).try_fold(x[0].clone(), |x, _| x.add(&one));
    let (value, pullback) = vjp(chain, std::slice::from_ref(&one))?;
    assert_eq!(values(&value), [200_001.0]);
    assert_eq!(values(&pullback.pull(&one)?[0]), [1.0]);
    // Dropped without being used, and dropped as a tensor that was carried out.
    let (_, pullback) = vjp(chain, std::slice::from_ref(&one))?;
    drop(pullback);
    let mut carried = None;
    vjp(
        |x| {
            carried = Some(chain(x)?);
            x[0].neg()
        },
        std::slice::from_ref(&one),
    )?;
    assert!(carried.is_some_and(|x| x.node().is_some()));
    Ok(())
}

#[test]
fn going_back_frees_what_it_has_read_good() -> Result<()> {
    let device = device();
    let x = Tensor::full(&device, [1000], DType::F32, 0.1)?;
    let before = device.memory().active;
    let deep = |x: &[Tensor]| (0..50).try_fold(x[0].clone(), |x, _| x.exp()?.log());
    let (value, pullback) = vjp(deep, std::slice::from_ref(&x))?;
    let held = device.memory().active - before;
    device.reset_peak_memory();
    let gradients = pullback.pull(&value)?;
    assert!(device.memory().peak - before <= held + 5 * 4000, "no more than it holds and the gradients");
    drop((gradients, value));
    assert_eq!(device.memory().active, before);
    Ok(())
}

#[test]
fn a_gradient_passes_a_frozen_quantised_weight_and_stops_at_it_good() -> Result<()> {
    let device = device();
    let x = Tensor::full(&device, [2, 32], DType::F32, 0.5)?;
    let blocks = Tensor::from_slice(&device, &(0..3 * 34).map(|i| i as u8 % 60).collect::<Vec<_>>(), [3, 34])?;
    let quantization = Quantization::Blocks(BlockFormat::Q8_0);
    let weight = Tensor::dequantize(vec![blocks], quantization, DType::F32)?;
    let (_, pullback) = vjp(|x| x[0].linear(&weight, None), &[x])?;
    let gradient = pullback.pull(&Tensor::full(&device, [2, 3], DType::F32, 1.0)?)?;
    let expected = values(&weight.sum_axis(0)?);
    assert_eq!(values(&gradient[0]), [&expected[..], &expected].concat());
    Ok(())
}

#[test]
fn an_operation_without_derivative_is_named_bad() -> Result<()> {
    let device = device();
    let quants = Tensor::full(&device, [1, 4], DType::U32, 3.0)?;
    let scales = Tensor::full(&device, [1, 1], DType::F32, 1.0)?;
    let weight = |scales: &Tensor| {
        let quantization = Quantization::Affine { bits: 4, group_size: 32 };
        Tensor::dequantize(vec![quants.clone(), scales.clone(), scales.clone()], quantization, DType::F32)
    };
    let refused = value_and_grad(|x| weight(&x[0])?.sum_axis(1), std::slice::from_ref(&scales)).unwrap_err();
    assert_eq!(refused, Error::NoDerivative { op: "dequantize" });
    let words = "dequantize: has no derivative; detach its inputs, or do not differentiate by what they depend on";
    assert_eq!(refused.to_string(), words);
    assert!(value_and_grad(|x| weight(&x[0].detach())?.sum_axis(1), std::slice::from_ref(&scales)).is_ok());
    let rounded = value_and_grad(|x| x[0].quantize_rows()?.dequantize_rows()?.sum_axis(1), &[scales]);
    assert_eq!(rounded.unwrap_err(), Error::NoDerivative { op: "quantize_rows" });
    Ok(())
}

#[test]
fn what_cannot_be_differentiated_is_refused_bad() {
    let device = device();
    let x = floats(&device, &[1.0, 2.0]);
    let refused = value_and_grad(|x| x[0].neg(), std::slice::from_ref(&x)).unwrap_err();
    let words = "value_and_grad: expected a loss of one element (sum it, or average it), found shapes f32[2]";
    assert_eq!(refused.to_string(), words);
    let refused = value_and_grad(|x| x[0].sum_axis(0)?.cast(DType::I32), std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(refused.to_string(), "value_and_grad: expected a floating-point result, found dtypes i32[1]");
    let index = Tensor::arange(&device, 2).unwrap();
    let refused = vjp(|x| x[0].add(&x[0]), &[index, x.clone()]).unwrap_err();
    assert_eq!(refused.to_string(), "vjp: expected floating-point inputs, found dtypes i32[2], f32[2]");
    let refused = jvp(|x| x[0].neg(), std::slice::from_ref(&x), &[floats(&device, &[1.0])]).unwrap_err();
    assert_eq!(refused.to_string(), "jvp: expected a tangent f32[2], found shapes f32[1]");
    assert!(matches!(jvp(|x| x[0].neg(), std::slice::from_ref(&x), &[]), Err(Error::Arity { op: "jvp", .. })));
    let (_, pullback) = vjp(|x| x[0].sum_axis(0), std::slice::from_ref(&x)).unwrap();
    let refused = pullback.pull(&x).unwrap_err();
    assert_eq!(refused.to_string(), "pull: expected a cotangent f32[1], found shapes f32[2]");
    let refused = value_and_grad(|x| x[0].reshape([3]), &[x]).unwrap_err();
    assert!(matches!(refused, Error::Shape { op: "reshape", .. }), "the function's own errors come out");
}

#[test]
fn an_error_of_another_crate_comes_out_bad() {
    #[derive(Debug, PartialEq, thiserror::Error)]
    enum Own {
        #[error(transparent)]
        Tensor(#[from] Error),
        #[error("own")]
        Refused,
    }
    let x = floats(&device(), &[1.0]);
    assert_eq!(value_and_grad(|_| Err(Own::Refused), std::slice::from_ref(&x)).unwrap_err(), Own::Refused);
    assert_eq!(checkpoint(|_| Err(Own::Refused), &[x]).unwrap_err(), Own::Refused);
}
