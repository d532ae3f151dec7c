// SPDX-License-Identifier: EUPL-1.2
//! The end of a decoder: what scores the vocabulary, and how good the scores are.

use ingle_nn::{Linear, Result, Routes};
use ingle_tensor::{Tensor, grad};

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

    /// The cross-entropies `f32[R]` of those logits and `targets i32[R]`, of which no more than `rows` rows exist at a
    /// time: they are computed again on the way back. Where an adapter changes the head they are kept whole, for it
    /// looks at which rows it gets.
    pub fn cross_entropy(&self, x: &Tensor, routes: &Routes, targets: &Tensor, rows: usize) -> Result<Tensor> {
        let all = x.shape()[0];
        if all <= rows || self.lm_head.adapters().next().is_some() {
            return Ok(self.logits(x, routes)?.cross_entropy(targets)?);
        }
        let part = |start: usize| {
            let end = (start + rows).min(all);
            let (own, targets) = (self.clone(), targets.slice(0, start, end)?);
            let losses = move |x: &[Tensor]| -> Result<Tensor> {
                Ok(own.logits(&x[0], &Routes::default())?.cross_entropy(&targets)?)
            };
            grad::checkpoint(losses, &[x.slice(0, start, end)?])
        };
        let parts = (0..all).step_by(rows.max(1)).map(part).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::concat(&parts, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_cpu::{CpuDevice, CpuOptions};
    use ingle_tensor::{DType, DeviceHandle};

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
        let gradients = |rows: usize| {
            let loss = |x: &[Tensor]| -> Result<Tensor> {
                let scores = Scores { lm_head: Linear::from_weight(x[1].clone()), soft_cap: Some(2.0) };
                let losses = scores.cross_entropy(&x[0], &Routes::default(), &targets, rows)?;
                assert_eq!(losses.dtype(), DType::F32);
                Ok(losses.sum_axis(0)?)
            };
            let (loss, gradients) = grad::value_and_grad(loss, &[x.clone(), weight.clone()]).unwrap();
            let list = |x: &Tensor| x.to_vec::<f32>().unwrap();
            (list(&loss)[0], [list(&gradients[0]), list(&gradients[1])])
        };
        let (loss, whole) = gradients(7);
        for rows in [1, 2, 3, 6] {
            let (parted_loss, parted) = gradients(rows);
            assert!((loss - parted_loss).abs() < 1e-5);
            for (whole, parted) in whole.iter().zip(&parted) {
                let off = whole.iter().zip(parted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-6, "{off} with {rows} rows");
            }
        }
    }
}
