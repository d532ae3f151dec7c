// SPDX-License-Identifier: EUPL-1.2
//! Features that are left out by chance (Srivastava et al. 2014).

use ingle_tensor::Tensor;

use super::Draw;
use crate::Result;
use crate::random::{philox4x32, words};

/// Leaves out each element of `x` with this probability and scales up the rest, so that the mean stays. Which they are
/// depends on the draw, the stream, and the element's place, so that a pass that is computed again is the same.
pub(super) fn dropout(x: &Tensor, probability: f64, draw: Draw, stream: u64) -> Result<Tensor> {
    let mask = mask(x.shape().elements(), probability, draw, stream);
    let mask = Tensor::from_slice(x.device(), &mask, x.shape())?;
    Ok(x.mul(&mask.cast(x.dtype())?)?)
}

/// 0, or what makes up for the zeros.
fn mask(count: usize, probability: f64, Draw { seed, pass }: Draw, stream: u64) -> Vec<f32> {
    /// An element's chance is one of so many.
    const CHANCES: f64 = 65536.0;
    /// Numbers of 16 bits in 128.
    const DRAWN: usize = 8;
    let dropped = (probability * CHANCES).round() as u32;
    let kept = (1.0 / (1.0 - f64::from(dropped.min(65535)) / CHANCES)) as f32;
    let [low, high] = words(stream);
    let mut mask = vec![0.0; count];
    for (index, eight) in mask.chunks_mut(DRAWN).enumerate() {
        let bits = philox4x32([index as u32, pass, low, high], words(seed));
        let halves = bits.iter().flat_map(|word| [word & 0xffff, word >> 16]);
        for (value, half) in eight.iter_mut().zip(halves) {
            *value = if half < dropped { 0.0 } else { kept };
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 80_001;

    fn drawn(probability: f64, seed: u64, pass: u32, stream: u64) -> Vec<f32> {
        mask(COUNT, probability, Draw { seed, pass }, stream)
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

    #[test]
    fn every_part_of_its_name_counts_ugly() {
        let mask = drawn(0.5, 1, 2, 3);
        assert_eq!(mask, drawn(0.5, 1, 2, 3));
        for other in [drawn(0.5, 2, 2, 3), drawn(0.5, 1, 3, 3), drawn(0.5, 1, 2, 4)] {
            let same = mask.iter().zip(other).filter(|(a, b)| **a == *b).count();
            assert!(same.abs_diff(COUNT / 2) < 600, "{same}");
        }
    }
}
