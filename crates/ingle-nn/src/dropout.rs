// SPDX-License-Identifier: EUPL-1.2
//! Features that are left out by chance (Srivastava et al. 2014).

use half::{bf16, f16};
use ingle_tensor::{DType, Tensor};

use crate::Result;
use crate::random::{philox4x32, words};

/// Names the random numbers of one pass of training: which features of which token drop out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Of the run.
    pub seed: u64,
    /// Another pass of the run drops other features.
    pub pass: u32,
}

/// What drops out in one pass of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// How likely an element drops out: at least 0, below 1.
    pub probability: f64,
    /// Which do.
    pub draw: Draw,
}

impl Dropout {
    /// Leaves out each element of `x` with this probability and scales up the rest, so that the mean stays. Which they
    /// are depends on the draw, the `stream` (see [`stream`](crate::random::stream)) and the element's place, so that a
    /// pass that is computed again is the same.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn apply(&self, x: &Tensor, stream: u64) -> Result<Tensor> {
        let (count, device, shape) = (x.shape().elements(), x.device(), x.shape());
        // Drawn in the dtype of `x`: a mask is as large as what it masks.
        let mask = match x.dtype() {
            DType::BF16 => Tensor::from_slice(device, &self.mask(count, stream, bf16::from_f32), shape)?,
            DType::F16 => Tensor::from_slice(device, &self.mask(count, stream, f16::from_f32), shape)?,
            dtype => Tensor::from_slice(device, &self.mask(count, stream, |x| x), shape)?.cast(dtype)?,
        };
        Ok(x.mul(&mask)?)
    }

    /// 0, or what makes up for the zeros. Drawn by all cores: an element's number is a function of its place.
    fn mask<T: Copy + Send + Sync>(&self, count: usize, stream: u64, of: impl Fn(f32) -> T) -> Vec<T> {
        let dropped = (self.probability * CHANCES).round() as u32;
        let kept = 1.0 / (1.0 - f64::from(dropped.min(65535)) / CHANCES);
        let (zero, kept) = (of(0.0), of(kept as f32));
        let ([low, high], key) = (words(stream), words(self.draw.seed));
        let pass = self.draw.pass;
        let draw = |first: usize, part: &mut [T]| {
            for (index, eight) in part.chunks_mut(DRAWN).enumerate() {
                let bits = philox4x32([(first / DRAWN + index) as u32, pass, low, high], key);
                let halves = bits.iter().flat_map(|word| [word & 0xffff, word >> 16]);
                for (value, half) in eight.iter_mut().zip(halves) {
                    *value = if half < dropped { zero } else { kept };
                }
            }
        };
        let mut mask = vec![zero; count];
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(count / PART);
        if threads <= 1 {
            draw(0, &mut mask);
            return mask;
        }
        let share = count.div_ceil(threads).next_multiple_of(DRAWN);
        let (own, others) = mask.split_at_mut(share.min(count));
        std::thread::scope(|scope| {
            let draw = &draw;
            for (index, part) in others.chunks_mut(share).enumerate() {
                scope.spawn(move || draw((index + 1) * share, part));
            }
            draw(0, own);
        });
        mask
    }
}

/// An element's chance is one of so many.
const CHANCES: f64 = 65536.0;

/// Numbers of 16 bits in 128.
const DRAWN: usize = 8;

/// Elements that take longer to draw than a thread to start.
const PART: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_cpu::{CpuDevice, CpuOptions};
    use ingle_tensor::DeviceHandle;

    use super::*;

    /// As many as are drawn by several threads, and no whole number of draws.
    const COUNT: usize = 4 * PART + 81;

    fn drawn(probability: f64, seed: u64, pass: u32, stream: u64) -> Vec<f32> {
        Dropout { probability, draw: Draw { seed, pass } }.mask(COUNT, stream, |x| x)
    }

    #[test]
    fn share_and_mean_good() {
        for probability in [0.05, 0.5, 0.9] {
            let mask = drawn(probability, 1, 2, 3);
            let dropped = mask.iter().filter(|x| **x == 0.0).count() as f64 / COUNT as f64;
            let error = (probability * (1.0 - probability) / COUNT as f64).sqrt();
            assert!((dropped - probability).abs() < 4.0 * error, "{dropped} of {probability}");
            let mean = mask.iter().map(|x| f64::from(*x)).sum::<f64>() / COUNT as f64;
            assert!((mean - 1.0).abs() < 4.0 * error / (1.0 - probability), "{mean}");
        }
    }

    /// However many draw.
    #[test]
    fn a_part_is_drawn_as_the_whole_ugly() {
        let whole = drawn(0.5, 1, 2, 3);
        for count in [1, 7, 8, PART - 1, 2 * PART, 2 * PART + 3, 3 * PART - 5] {
            let part = Dropout { probability: 0.5, draw: Draw { seed: 1, pass: 2 } }.mask(count, 3, |x| x);
            assert_eq!(part, whole[..count], "{count}");
        }
    }

    #[test]
    fn every_part_of_its_name_counts_ugly() {
        let mask = drawn(0.5, 1, 2, 3);
        assert_eq!(mask, drawn(0.5, 1, 2, 3));
        for other in [drawn(0.5, 2, 2, 3), drawn(0.5, 1, 3, 3), drawn(0.5, 1, 2, 4)] {
            let same = mask.iter().zip(other).filter(|(a, b)| **a == *b).count();
            assert!(same.abs_diff(COUNT / 2) < 800, "{same}");
        }
    }

    #[test]
    fn a_tensor_of_half_width_drops_the_same_good() {
        let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).unwrap());
        let dropout = Dropout { probability: 0.25, draw: Draw { seed: 1, pass: 2 } };
        let ones = |dtype| Tensor::full(&device, [3, 35], dtype, 1.0).unwrap();
        let dropped =
            |dtype| dropout.apply(&ones(dtype), 3).unwrap().cast(DType::F32).unwrap().to_vec::<f32>().unwrap();
        let single = dropped(DType::F32);
        assert!(single.contains(&0.0) && single.iter().all(|x| *x == 0.0 || (*x - 4.0 / 3.0).abs() < 1e-6));
        for half in [DType::BF16, DType::F16] {
            assert!(dropped(half).iter().zip(&single).all(|(half, single)| (half - single).abs() < 0.006));
        }
    }
}
