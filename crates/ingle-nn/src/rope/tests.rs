// SPDX-License-Identifier: EUPL-1.2
//! Frequencies as transformers 5 computes them, in float32 (`ROPE_INIT_FUNCTIONS`).

use super::*;

const PLAIN: RotaryConfig = RotaryConfig {
    head_dim: 16,
    rope_theta: 1e6,
    partial_rotary_factor: 1.0,
    scaling: RopeScaling::None,
    layout: RopeLayout::Halves,
};

fn assert_frequencies(config: RotaryConfig, expected: &[f64]) {
    let found = config.frequencies();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().map(|found| f64::from(*found)).zip(expected) {
        assert!((found - expected).abs() <= 1e-6 * expected, "{config:?}: expected {expected:e}, found {found:e}");
    }
}

#[test]
fn plain_good() {
    let expected = [1.0, 0.17782794, 0.031622777, 0.0056234133, 0.001, 0.00017782794, 3.1622777e-5, 5.6234133e-6];
    assert_frequencies(PLAIN, &expected);
}

#[test]
fn linear_good() {
    let scaling = RopeScaling::Linear { factor: 8.0 };
    let expected = [
        0.125,
        0.0222284924,
        0.00395284733,
        0.000702926656,
        0.000125000006,
        2.22284925e-5,
        3.95284678e-6,
        7.02926684e-7,
    ];
    assert_frequencies(RotaryConfig { scaling, ..PLAIN }, &expected);
}

#[test]
fn part_of_the_head_good() {
    let scaling = RopeScaling::Linear { factor: 2.0 };
    let config = RotaryConfig { rope_theta: 1e4, partial_rotary_factor: 0.5, scaling, ..PLAIN };
    assert_frequencies(config, &[0.5, 0.05, 0.005, 0.0005]);
}

#[test]
fn llama3_good() {
    let scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let expected =
        [1.0, 0.193922758, 0.0376060307, 0.00729266508, 0.000524846022, 3.42810235e-5, 6.64786967e-6, 1.28917316e-6];
    assert_frequencies(RotaryConfig { rope_theta: 5e5, scaling, ..PLAIN }, &expected);
}

#[test]
fn yarn_good() {
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.0,
        original_max_position_embeddings: 32768.0,
    };
    let expected =
        [1.0, 0.177827939, 0.0316227786, 0.00421755994, 0.000500000024, 4.44569851e-5, 7.90569356e-6, 1.40585337e-6];
    assert_frequencies(RotaryConfig { scaling, ..PLAIN }, &expected);
    let scaling = RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 16.0,
        beta_slow: 2.0,
        attention_factor: 1.25,
        original_max_position_embeddings: 512.0,
    };
    let expected =
        [1.0, 0.316227764, 0.0749999955, 0.0158113893, 0.00249999994, 0.000790569466, 0.000250000012, 7.90569466e-5];
    assert_frequencies(RotaryConfig { rope_theta: 1e4, scaling, ..PLAIN }, &expected);
}

/// A context so short that no pair is fast, and one so long that none is slow.
#[test]
fn nothing_between_fast_and_slow_ugly() {
    let llama3 = |length: f64| RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: length,
    };
    let slow = RotaryConfig { scaling: llama3(1.0), ..PLAIN };
    let plain: Vec<f64> = PLAIN.frequencies().into_iter().map(f64::from).collect();
    let eighth: Vec<f64> = plain.iter().map(|frequency| frequency / 8.0).collect();
    assert_frequencies(slow, &eighth);
    assert_frequencies(RotaryConfig { scaling: llama3(1e12), ..PLAIN }, &plain);
}

#[test]
fn head_without_pairs_ugly() {
    assert_frequencies(RotaryConfig { head_dim: 1, ..PLAIN }, &[]);
    assert_frequencies(RotaryConfig { head_dim: 0, ..PLAIN }, &[]);
}
