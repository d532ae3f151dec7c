// SPDX-License-Identifier: EUPL-1.2
//! Counter-based random numbers: the `n`-th number of a seed is a function of both, without state.
//!
//! Philox 4×32 with 10 rounds: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers:
//! As Easy as 1, 2, 3", SC 2011.
//!
//! ```
//! use ingle_nn::random::uniform;
//!
//! assert_eq!(uniform(7, 3), uniform(7, 3));
//! assert_ne!(uniform(7, 3), uniform(7, 4));
//! ```

use std::f64::consts::TAU;

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The 128 random bits that belong to a counter and a key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let product = |i: usize| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]);
        let (a, b) = (product(0), product(1));
        let high = |p: u64| (p >> 32) as u32;
        counter = [high(b) ^ counter[1] ^ key[0], b as u32, high(a) ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The low and the high half.
pub(crate) fn words(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// In `[0, 1)` in steps of 2⁻⁵³.
fn unit([low, high]: [u32; 2]) -> f64 {
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// The `index`-th number of `seed`, uniform in `[0, 1)` in steps of 2⁻⁵³.
pub fn uniform(seed: u64, index: u64) -> f64 {
    let [low, high] = words(index);
    let [a, b, _, _] = philox4x32([low, high, 0, 0], words(seed));
    unit([a, b])
}

/// The first `count` standard normal numbers of a stream of `seed` (Box & Muller 1958).
pub fn normal(seed: u64, stream: u64, count: usize) -> impl Iterator<Item = f32> {
    let [low, high] = words(stream);
    let pair = move |index: u64| {
        // A stream's counter is of 64 bits, of which a tensor uses up fewer.
        let [first, second] = words(index);
        let [a, b, c, d] = philox4x32([first, second, low, high], words(seed));
        // 1 − u is above 0.
        let radius = (-2.0 * (1.0 - unit([a, b])).ln()).sqrt();
        let (sin, cos) = (TAU * unit([c, d])).sin_cos();
        [(radius * cos) as f32, (radius * sin) as f32]
    };
    (0..(count as u64).div_ceil(2)).flat_map(pair).take(count)
}

/// The stream of a weight: its name, hashed (FNV-1a, Fowler, Noll & Vo).
pub fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors publish with their code (Random123, `kat_vectors`).
    #[test]
    fn known_answers_good() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn neighbours_are_independent_ugly() {
        // Seeds and counters that differ in one bit, as users choose them: mean and correlation of uniforms.
        let n = 4096;
        let numbers: Vec<f64> = (0..n).map(|i| uniform(i / 64, i % 64)).collect();
        let mean = numbers.iter().sum::<f64>() / n as f64;
        // Standard error of the mean: 1/√(12 n) = 0.0045.
        assert!((mean - 0.5).abs() < 0.018, "{mean}");
        let pairs = numbers.windows(2).map(|w| (w[0] - 0.5) * (w[1] - 0.5)).sum::<f64>() / n as f64;
        // Standard error: 1/(12 √n) = 0.0013.
        assert!(pairs.abs() < 0.0052, "{pairs}");
        assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
    }

    #[test]
    fn normal_numbers_good() {
        let (n, a) = (10_001, stream("a.weight"));
        let numbers: Vec<f32> = normal(1, a, n).collect();
        assert_eq!(numbers.len(), n);
        let moment = |power: i32| numbers.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / n as f64;
        // Four standard errors: 1/√n, √2/√n, √96/√n.
        assert!(moment(1).abs() < 0.04 && (moment(2) - 1.0).abs() < 0.057 && (moment(4) - 3.0).abs() < 0.4);
        assert!(normal(1, a, 7).eq(numbers.iter().copied().take(7)), "a prefix");
        let differs = |other: Vec<f32>| numbers.iter().zip(other).all(|(x, y)| *x != y);
        assert!(differs(normal(2, a, n).collect()) && differs(normal(1, stream("b.weight"), n).collect()));
    }
}
