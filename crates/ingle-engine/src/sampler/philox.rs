// SPDX-License-Identifier: EUPL-1.2
//! A counter-based random number generator: the `n`-th number of a seed is a function of both, without state.
//!
//! Philox 4×32 with 10 rounds: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers:
//! As Easy as 1, 2, 3", SC 2011.

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let product = |i: usize| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]);
        let (a, b) = (product(0), product(1));
        let high = |p: u64| (p >> 32) as u32;
        counter = [high(b) ^ counter[1] ^ key[0], b as u32, high(a) ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The `index`-th number of `seed`, uniform in `[0, 1)` in steps of 2⁻⁵³.
pub(super) fn uniform(seed: u64, index: u64) -> f64 {
    let words = |x: u64| [x as u32, (x >> 32) as u32];
    let [low, high] = words(index);
    let [a, b, _, _] = philox4x32([low, high, 0, 0], words(seed));
    let bits = (u64::from(b) << 32 | u64::from(a)) >> 11;
    bits as f64 / (1u64 << 53) as f64
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
}
