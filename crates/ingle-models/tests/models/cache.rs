// SPDX-License-Identifier: EUPL-1.2
//! Keys and values as 8-bit integers.
//!
//! `cargo test -p ingle-models cache -- --nocapture` prints the table.

use std::fmt::Write;

use ingle_tensor::DType;

use crate::common::{Fixture, Rows, cpu, logits_alone};

/// How far logits with an i8 cache may be off those with an f32 one, against how far a bf16 cache is: both as the
/// root of the mean square.
///
/// Rounding to a step `s` is off by `s/√12` in the mean. An i8 row's step is `max/127`, and `max ≤ √D` times the mean
/// of a row of `D` features. A bf16 number's step is `2⁻⁷` of the power of two below it, in the mean `|x| · 2⁻⁷/√2`
/// or so: numbers lie about as often in every part of an octave. So the ratio is at most `√D · (2⁷/127) · √2`, and
/// small errors of keys and values reach the logits in proportion. Few numbers make a mean uncertain: twice that.
fn most(head_dim: usize) -> f32 {
    2.0 * (2.0 * head_dim as f32).sqrt() * 128.0 / 127.0
}

fn deviation(found: &Rows, expected: &Rows) -> f32 {
    let squares = found.values.iter().zip(&expected.values).map(|(a, b)| (a - b) * (a - b));
    (squares.sum::<f32>() / expected.values.len() as f32).sqrt()
}

#[test]
fn logits_are_as_near_as_rounding_leaves_them_good() {
    let device = cpu(2);
    let mut failures = Vec::new();
    let mut table = format!("{:<24}{:>12}{:>12}{:>8}{:>8}\n", "fixture", "bf16", "i8", "ratio", "most");
    for fixture in Fixture::all() {
        let model = fixture.load(&device, DType::F32);
        let logits = |cache| logits_alone(&*model, &fixture.tokens, fixture.tokens.len(), cache);
        let exact = logits(DType::F32);
        let [half, quantised] = [DType::BF16, DType::I8].map(|cache| deviation(&logits(cache), &exact));
        let (ratio, most) = (quantised / half, most(model.cache_layers()[0].head_dim));
        writeln!(table, "{:<24}{half:>12.2e}{quantised:>12.2e}{ratio:>8.2}{most:>8.2}", fixture.name).unwrap();
        // A cache that were not quantised at all would be as near as bf16's or nearer.
        let is_near = ratio <= most && quantised < 0.05 * exact.largest();
        if !is_near || ratio <= 1.0 {
            failures.push(format!("{}: {quantised:e} against {half:e}", fixture.name));
        }
    }
    println!("{table}");
    assert!(failures.is_empty(), "{failures:#?}");
}
