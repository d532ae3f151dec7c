// SPDX-License-Identifier: EUPL-1.2
//! Rules that a function's author gives.

use super::{device, floats, values};
use crate::grad::{Custom, checkpoint, custom_vjp, jvp, value_and_grad};
use crate::{Error, Result, Tensor};

/// `a²·b`, by a rule that keeps `2ab` and `a²`.
fn square_times(x: &[Tensor], wanted: &[bool]) -> Result<Custom> {
    let square = x[0].mul(&x[0])?;
    let value = square.mul(&x[1])?;
    let slopes = [x[0].mul(&x[1])?.scale(2.0)?, square];
    let wanted = wanted.to_vec();
    let of = move |g: &Tensor, i: usize| if wanted[i] { g.mul(&slopes[i]).map(Some) } else { Ok(None) };
    Ok(Custom { value, pull: Box::new(move |g| (0..2).map(|i| of(g, i)).collect()) })
}

#[test]
fn a_rule_of_ones_own_good() -> Result<()> {
    let device = device();
    let inputs = [floats(&device, &[2.0, 3.0]), floats(&device, &[5.0, -7.0])];
    let before = device.memory().active;
    let own = |x: &[Tensor]| custom_vjp(square_times, x)?.sum_axis(0);
    let again = |x: &[Tensor]| checkpoint(own, x);
    let (value, gradients) = value_and_grad(own, &inputs)?;
    assert_eq!(values(&value), [-43.0]);
    assert_eq!((values(&gradients[0]), values(&gradients[1])), (vec![20.0, -42.0], vec![4.0, 9.0]));
    let (_, checked) = value_and_grad(again, &inputs)?;
    assert_eq!((values(&checked[0]), values(&checked[1])), (vec![20.0, -42.0], vec![4.0, 9.0]));
    let (_, along) = jvp(own, &inputs, &[floats(&device, &[1.0, 0.0]), floats(&device, &[0.0, 1.0])])?;
    assert_eq!(values(&along), [29.0]);
    drop((value, gradients, checked, along));
    assert_eq!(device.memory().active, before, "nothing is kept");
    Ok(())
}

#[test]
fn without_gradients_the_rule_is_dropped_good() -> Result<()> {
    let device = device();
    let inputs = [floats(&device, &[2.0]), floats(&device, &[5.0])];
    assert!(custom_vjp(square_times, &inputs)?.node().is_none());
    let (_, gradients) = value_and_grad(|x| custom_vjp(square_times, &[x[0].clone(), inputs[1].clone()]), &inputs)?;
    assert_eq!((values(&gradients[0]), values(&gradients[1])), (vec![20.0], vec![0.0]));
    Ok(())
}

#[test]
fn a_second_derivative_bad() {
    let inputs = [floats(&device(), &[2.0])];
    let slope = |x: &[Tensor]| -> Result<Tensor> {
        let other = x[0].detach();
        let own = |x: &[Tensor]| custom_vjp(square_times, &[x[0].clone(), other]);
        Ok(value_and_grad(own, x)?.1.swap_remove(0))
    };
    assert_eq!(value_and_grad(slope, &inputs).unwrap_err(), Error::NoDerivative { op: "custom_vjp" });
}
