// SPDX-License-Identifier: EUPL-1.2
//! Checkpoints: the same gradients in every bit, for less memory.

use super::{device, floats, values};
use crate::grad::{checkpoint, jvp, value_and_grad};
use crate::{Activation, DType, DeviceHandle, Error, Result, Tensor};

const WIDTH: usize = 16;
const LAYERS: usize = 8;

/// A residual block that reads its input twice and one weight twice.
fn block(x: &Tensor, weight: &Tensor, gain: &Tensor) -> Result<Tensor> {
    let mut y = x.rms_norm(gain, 1e-5, 0.0)?;
    for _ in 0..6 {
        y = y.linear(weight, None)?.activate(Activation::Gelu)?.mul(&y)?;
    }
    x.add(&y.rms_norm(gain, 1e-5, 0.0)?)
}

/// Bits of what the reference holds, which is f64.
fn bits(tensors: &[Tensor]) -> Vec<Vec<u64>> {
    tensors.iter().map(|x| values(x).into_iter().map(f64::to_bits).collect()).collect()
}

fn parameters(device: &DeviceHandle) -> Result<Vec<Tensor>> {
    let numbers = |count: usize, seed: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 1009.0 - 0.5).collect()
    };
    let mut parameters = vec![Tensor::from_slice(device, &numbers(32 * WIDTH, 1), [32, WIDTH])?];
    for layer in 0..LAYERS {
        parameters.push(Tensor::from_slice(device, &numbers(WIDTH * WIDTH, layer + 2), [WIDTH, WIDTH])?);
    }
    parameters.push(Tensor::from_slice(device, &numbers(WIDTH, 99), [WIDTH])?);
    Ok(parameters)
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Plain,
    /// Each block.
    Blocks,
    /// All blocks, and in this each block.
    Nested,
}

/// The input is read before, in and after the blocks; one gain is shared by all of them and the end.
fn network(p: &[Tensor], way: Way) -> Result<Tensor> {
    let gain = p[LAYERS + 1].clone();
    let weights = p[1..=LAYERS].to_vec();
    let blocks = move |x: &[Tensor]| {
        weights.iter().try_fold(x[0].clone(), |x, weight| {
            if way == Way::Plain {
                return block(&x, weight, &gain);
            }
            // The weight is captured, the gain given.
            let weight = weight.clone();
            checkpoint(move |x: &[Tensor]| block(&x[0], &weight, &x[1]), &[x, gain.clone()])
        })
    };
    let x = p[0].mul(&p[0])?;
    let y = match way {
        Way::Plain | Way::Blocks => blocks(std::slice::from_ref(&x))?,
        Way::Nested => checkpoint(blocks, std::slice::from_ref(&x))?,
    };
    let y = y.add(&p[0])?.mul(&x)?.rms_norm(&p[LAYERS + 1], 1e-5, 0.0)?;
    y.reshape([32 * WIDTH])?.sum_axis(0)
}

#[test]
fn the_same_bits_for_less_memory_good() -> Result<()> {
    let device = device();
    let parameters = parameters(&device)?;
    let run = |way| -> Result<_> {
        device.reset_peak_memory();
        let before = device.memory().active;
        let (loss, gradients) = value_and_grad(|p| network(p, way), &parameters)?;
        Ok((bits(&[loss]), bits(&gradients), device.memory().peak - before))
    };
    let (loss, gradients, plain) = run(Way::Plain)?;
    let (checked_loss, checked, blocks) = run(Way::Blocks)?;
    let (nested_loss, nested_gradients, nested) = run(Way::Nested)?;
    println!("peak bytes: {plain} without checkpoints, {blocks} with one for each block, {nested} nested");
    assert!(loss == checked_loss && gradients == checked, "the same bits");
    assert!(loss == nested_loss && gradients == nested_gradients, "the same bits, nested");
    assert!(blocks * 3 < plain, "{blocks} bytes at the peak with checkpoints, {plain} without");
    Ok(())
}

#[test]
fn an_input_given_twice_and_captured_too_ugly() -> Result<()> {
    let device = device();
    // x³ by way of three handles: 3x².
    let (_, gradients) = value_and_grad(
        |x| {
            let own = x[0].clone();
            checkpoint(move |x: &[Tensor]| x[0].mul(&x[1])?.mul(&own), &[x[0].clone(), x[0].clone()])
        },
        &[floats(&device, &[2.0])],
    )?;
    assert_eq!(values(&gradients[0]), [12.0]);
    Ok(())
}

#[test]
fn derivatives_of_higher_order_through_a_checkpoint_good() -> Result<()> {
    let device = device();
    let cube = |x: &[Tensor]| checkpoint(|x: &[Tensor]| x[0].mul(&x[0])?.mul(&x[0]), x);
    let slope = |x: &[Tensor]| Ok::<_, Error>(value_and_grad(cube, x)?.1.swap_remove(0));
    let (value, second) = value_and_grad(slope, &[floats(&device, &[2.0])])?;
    assert_eq!((values(&value), values(&second[0])), (vec![12.0], vec![12.0]));
    let (_, along) = jvp(cube, &[floats(&device, &[2.0])], &[floats(&device, &[10.0])])?;
    assert_eq!(values(&along), [120.0]);
    Ok(())
}

#[test]
fn without_gradients_it_is_only_a_call_good() -> Result<()> {
    let device = device();
    let y = checkpoint(|x: &[Tensor]| x[0].neg(), &[floats(&device, &[2.0])])?;
    assert!(y.node().is_none());
    Ok(())
}

#[test]
fn a_function_that_changes_its_mind_bad() -> Result<()> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let device = device();
    for second in [1usize, 2] {
        let calls = AtomicUsize::new(0);
        let fickle = move |x: &[Tensor]| match calls.fetch_add(1, Ordering::Relaxed) {
            0 => x[0].mul(&x[0]),
            _ if second == 1 => x[0].cast(DType::BF16),
            _ => x[0].reshape([7]),
        };
        let refused = value_and_grad(|x| checkpoint(fickle, x), &[floats(&device, &[2.0])]).unwrap_err();
        let words = match second {
            1 => "checkpoint: it gave f32[1] at first and bf16[1] when computed again",
            _ => "checkpoint: reshape: expected as many elements as [7] has, found shapes f32[1]",
        };
        assert_eq!(refused.to_string(), words);
    }
    Ok(())
}
