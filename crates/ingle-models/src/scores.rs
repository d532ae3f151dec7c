// SPDX-License-Identifier: EUPL-1.2
//! The end of a decoder: what scores the vocabulary, and how good the scores are.

use ingle_nn::{Linear, Result, Routes};
use ingle_tensor::grad::{self, Custom};
use ingle_tensor::{DType, Op, Tensor};

/// What scores the vocabulary.
#[derive(Clone)]
pub(crate) struct Scores {
    pub lm_head: Linear,
    /// Logits pass through a soft cap with this bound, if any.
    pub soft_cap: Option<f64>,
}

impl Scores {
    /// `x [R, hidden]` → the logits `[R, vocab]`.
    pub fn logits(&self, x: &Tensor, routes: &Routes) -> Result<Tensor> {
        let logits = self.lm_head.forward(x, routes)?;
        match self.soft_cap {
            Some(cap) => Ok(logits.soft_cap(cap as f32)?),
            None => Ok(logits),
        }
    }

    /// The cross-entropies `f32[R]` of those logits and `targets i32[R]`.
    ///
    /// The logits exist by pieces of rows. What is kept of them are their gradients, in the head's dtype, from which
    /// one product goes back to `x` and one to the head; past so many rows they are computed again on the way back.
    /// Where an adapter changes the head the logits are kept whole, for it looks at which rows it gets.
    pub fn cross_entropy(&self, x: &Tensor, routes: &Routes, targets: &Tensor, rows: LossRows) -> Result<Tensor> {
        let LossRows { logits: piece, gradients: part } = rows;
        let all = x.shape()[0];
        if self.lm_head.adapters().next().is_some() {
            return Ok(self.logits(x, routes)?.cross_entropy(targets)?);
        }
        if all <= part {
            return self.losses(x, targets, piece);
        }
        let part_from = |start: usize| {
            let end = (start + part).min(all);
            let (own, targets) = (self.clone(), targets.slice(0, start, end)?);
            let losses = move |x: &[Tensor]| own.losses(&x[0], &targets, piece);
            grad::checkpoint(losses, &[x.slice(0, start, end)?])
        };
        let parts = (0..all).step_by(part.max(1)).map(part_from).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::concat(&parts, 0)?)
    }

    /// The cross-entropies of so many rows of logits at a time.
    fn losses(&self, x: &Tensor, targets: &Tensor, piece: usize) -> Result<Tensor> {
        let (soft_cap, all) = (self.soft_cap, x.shape()[0]);
        let losses = |logits: &[Tensor], targets: &Tensor| match soft_cap {
            Some(cap) => logits[0].soft_cap(cap as f32)?.cross_entropy(targets),
            None => logits[0].cross_entropy(targets),
        };
        let forward = |inputs: &[Tensor], wanted: &[bool]| -> Result<Custom> {
            let (x, weight) = (inputs[0].clone(), inputs[1].clone());
            // Every row is written below. Of zeros so large the system is asked anew at every step.
            let mut slopes = match wanted.contains(&true) {
                true => Some(Tensor::full(x.device(), [all, weight.shape()[0]], weight.dtype(), 1.0)?),
                false => None,
            };
            let mut parts = Vec::new();
            for start in (0..all).step_by(piece.max(1)) {
                let end = (start + piece).min(all);
                let targets = targets.slice(0, start, end)?;
                let logits = x.slice(0, start, end)?.linear(&weight, None)?;
                let Some(given) = slopes.take() else {
                    parts.push(losses(&[logits], &targets)?);
                    continue;
                };
                let (part, pullback) = grad::vjp(|logits| losses(logits, &targets), &[logits])?;
                let ones = Tensor::full(x.device(), part.shape(), DType::F32, 1.0)?;
                let slope = pullback.pull(&ones)?.swap_remove(0);
                let rows: Vec<i32> = (start as i32..end as i32).collect();
                let rows = Tensor::from_slice(x.device(), &rows, [rows.len()])?;
                slopes = Some(Tensor::apply(&Op::WriteRows, vec![given, slope, rows])?);
                parts.push(part);
            }
            let value = Tensor::concat(&parts, 0)?;
            let wanted = wanted.to_vec();
            let pull = move |g: &Tensor| match &slopes {
                Some(slopes) => pulled(g, slopes, [&x, &weight], &wanted),
                None => Ok(vec![]),
            };
            Ok(Custom { value, pull: Box::new(pull) })
        };
        grad::custom_vjp(forward, &[x.clone(), self.lm_head.weight().clone()])
    }
}

/// The gradients of `x [R, hidden]` and of the head, from those of the losses, `g [R]`, and the slopes `[R, vocab]` by
/// which each follows its logits.
fn pulled(
    g: &Tensor,
    slopes: &Tensor,
    [x, weight]: [&Tensor; 2],
    wanted: &[bool],
) -> ingle_tensor::Result<Vec<Option<Tensor>>> {
    let g = g.reshape([g.shape()[0], 1])?;
    let of_x = match wanted[0] {
        true => Some(slopes.linear(&weight.permute(&[1, 0])?, None)?.cast(x.dtype())?.mul(&g.cast(x.dtype())?)?),
        false => None,
    };
    let of_weight = match wanted[1] {
        true => {
            let scaled = x.mul(&g.cast(x.dtype())?)?.cast(weight.dtype())?;
            Some(slopes.permute(&[1, 0])?.linear(&scaled.permute(&[1, 0])?, None)?)
        }
        false => None,
    };
    Ok(vec![of_x, of_weight])
}

/// How many rows of a loss exist at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossRows {
    /// Of logits.
    pub logits: usize,
    /// Of their gradients.
    pub gradients: usize,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_cpu::{CpuDevice, CpuOptions};
    use ingle_tensor::DeviceHandle;

    use super::*;

    fn matrix(device: &DeviceHandle, [rows, columns]: [usize; 2]) -> Tensor {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
        Tensor::from_slice(device, &values, [rows, columns]).unwrap()
    }

    #[test]
    fn parts_give_the_gradients_of_the_whole_ugly() {
        let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).unwrap());
        let (x, weight) = (matrix(&device, [7, 8]), matrix(&device, [5, 8]));
        let targets = Tensor::from_slice(&device, &[0i32, 4, -1, 2, 2, 1, 3], [7]).unwrap();
        let gradients = |rows: Option<[usize; 2]>| {
            let loss = |x: &[Tensor]| -> Result<Tensor> {
                let scores = Scores { lm_head: Linear::from_weight(x[1].clone()), soft_cap: Some(2.0) };
                let routes = Routes::default();
                let losses = match rows {
                    Some([logits, gradients]) => {
                        scores.cross_entropy(&x[0], &routes, &targets, LossRows { logits, gradients })?
                    }
                    None => scores.logits(&x[0], &routes)?.cross_entropy(&targets)?,
                };
                assert_eq!(losses.dtype(), DType::F32);
                Ok(losses.sum_axis(0)?.scale(0.25)?)
            };
            let (loss, gradients) = grad::value_and_grad(loss, &[x.clone(), weight.clone()]).unwrap();
            let list = |x: &Tensor| x.to_vec::<f32>().unwrap();
            (list(&loss)[0], [list(&gradients[0]), list(&gradients[1])])
        };
        let (loss, whole) = gradients(None);
        for rows in [[7, 7], [1, 7], [3, 7], [6, 9], [1, 1], [2, 2], [2, 3], [7, 6]] {
            let (parted_loss, parted) = gradients(Some(rows));
            assert!((loss - parted_loss).abs() < 1e-5);
            for (whole, parted) in whole.iter().zip(&parted) {
                let off = whole.iter().zip(parted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{off} with {rows:?} rows");
            }
        }
    }
}
