// SPDX-License-Identifier: EUPL-1.2
//! Cross-entropy of rows of logits, and its gradient.

use crate::{DType, Result, Shape, Tensor};

/// What rows are compared with.
struct Targets {
    /// `u8[T, V]`: 1 at each row's target.
    hit: Tensor,
    /// `u8[T, 1]`: 1 where the target is negative.
    ignored: Tensor,
}

impl Targets {
    fn new(targets: &Tensor, classes: usize) -> Result<Targets> {
        let device = targets.device();
        let rows = targets.shape()[0];
        let zero = Tensor::full(device, Shape::default(), DType::I32, 0.0)?;
        let numbers = Tensor::arange(device, classes)?;
        // Taken from the numbers that there are, so that a target past them is refused.
        let target = numbers.take_rows(&targets.maximum(&zero)?)?.reshape([rows, 1])?;
        Ok(Targets { hit: numbers.equal(&target)?, ignored: targets.less(&zero)?.reshape([rows, 1])? })
    }
}

/// Logits in f32, less the largest of their row.
fn shifted(logits: &Tensor) -> Result<Tensor> {
    let x = logits.cast(DType::F32)?;
    x.sub(&x.max_axis(1)?)
}

fn zero(like: &Tensor) -> Result<Tensor> {
    Tensor::full(like.device(), Shape::default(), DType::F32, 0.0)
}

pub(super) fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let Targets { hit, ignored } = Targets::new(targets, logits.shape()[1])?;
    let x = shifted(logits)?;
    let zero = zero(&x)?;
    let at_target = hit.select(&x, &zero)?.sum_axis(1)?;
    let loss = x.exp()?.sum_axis(1)?.log()?.sub(&at_target)?;
    ignored.select(&zero, &loss)?.reshape(targets.shape())
}

pub(super) fn cross_entropy_grad(logits: &Tensor, targets: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let Targets { hit, ignored } = Targets::new(targets, logits.shape()[1])?;
    let e = shifted(logits)?.exp()?;
    let softmax = e.div(&e.sum_axis(1)?)?;
    let off = hit.select(&softmax.shift(-1.0)?, &softmax)?;
    let by_row = off.mul(&gradient.reshape([targets.shape()[0], 1])?)?;
    ignored.select(&zero(&e)?, &by_row)?.cast(logits.dtype())
}
