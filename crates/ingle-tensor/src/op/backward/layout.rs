// SPDX-License-Identifier: EUPL-1.2
//! Rules of the operations that move elements about.

use super::{Gradients, Saved};
use crate::{Result, Spec, Tensor};

/// The axes back in their places.
pub(super) fn permute(g: &Tensor, axes: &[usize]) -> Result<Tensor> {
    let mut back = vec![0; axes.len()];
    for (to, &from) in axes.iter().enumerate() {
        back[from] = to;
    }
    g.permute(&back)
}

/// Zeros before, after, and between what was kept.
pub(super) fn slice(g: &Tensor, input: &Spec, (axis, start, step): (usize, usize, usize)) -> Result<Tensor> {
    let len = input.shape[axis];
    let zeros = |like: &Tensor, axis: usize, len: usize| {
        Tensor::full(like.device(), like.shape().with_axis(axis, len), like.dtype(), 0.0)
    };
    let mut spread = g.clone();
    if step > 1 && g.shape()[axis] > 0 {
        // […, m, …] → […, m, step, …] → […, m · step, …], of which the last zeros may reach past the end.
        let (before, after) = g.shape().split_at(axis + 1);
        let apart = [before, &[1], after].concat();
        let together = g.shape().with_axis(axis, g.shape()[axis].saturating_mul(step).min(len - start));
        let column = g.reshape(apart)?;
        if g.shape()[axis] == 1 {
            // One element needs no zeros between, however large the step.
            spread = g.clone();
        } else {
            let padded = Tensor::concat(&[column.clone(), zeros(&column, axis + 1, step - 1)?], axis + 1)?;
            let whole = g.shape().with_axis(axis, g.shape()[axis] * step);
            spread = padded.reshape(whole)?.slice(axis, 0, together[axis])?;
        }
    }
    let rest = len - start - spread.shape()[axis];
    let parts = [zeros(&spread, axis, start)?, spread.clone(), zeros(&spread, axis, rest)?];
    let parts: Vec<Tensor> = parts.into_iter().filter(|part| part.shape()[axis] > 0).collect();
    if parts.is_empty() { Ok(spread) } else { Tensor::concat(&parts, axis) }
}

/// Each part its own stretch.
pub(super) fn concat(saved: &Saved, axis: usize) -> Result<Gradients> {
    let mut end = 0;
    let part = |(i, x): (usize, &Tensor)| {
        let start = end;
        end += x.shape()[axis];
        saved.of(i, |g| g.slice(axis, start, end))
    };
    saved.inputs.iter().enumerate().map(part).collect()
}

/// The rows written have the gradients of their places, and what they replaced has none.
pub(super) fn write_rows(saved: &Saved) -> Result<Gradients> {
    let [target, rows, index] = &saved.inputs[..] else { return Ok(vec![]) };
    let target = saved.of(0, |g| {
        let nothing = Tensor::full(g.device(), rows.shape(), target.dtype(), 0.0)?;
        g.clone().write_rows(&nothing, index)
    })?;
    let rows = saved.of(1, |g| g.take_rows(index)?.cast(rows.dtype()))?;
    Ok(vec![target, rows, None])
}
