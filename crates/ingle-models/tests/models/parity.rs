// SPDX-License-Identifier: EUPL-1.2
//! The same numbers as Hugging Face transformers, for every architecture and every way its configuration is written, on
//! every device.
//!
//! `cargo test -p ingle-models parity -- --nocapture` prints the tables.

use crate::common::{Fixture, Rows, devices, logits_alone};
use ingle_tensor::{DType, DeviceHandle};
use std::fmt::Write;

/// Largest difference of a logit, over the largest magnitude of the reference's.
const TOLERANCE: f32 = 1e-4;

/// How a prompt is fed, and in how large pieces.
const MODES: [(&str, usize); 3] = [("at once", usize::MAX), ("by token", 1), ("chunks of 7", 7)];

/// Prompts are longer than the fixtures' sliding window, so that each mode goes past it.
const SLIDING_WINDOW: usize = 8;

/// Every fixture on every device.
fn everywhere() -> impl Iterator<Item = (DeviceHandle, Fixture)> {
    let fixtures = |device: DeviceHandle| Fixture::all().into_iter().map(move |fixture| (device.clone(), fixture));
    devices().into_iter().flat_map(fixtures)
}

#[test]
fn logits_f32_good() {
    let mut failures = Vec::new();
    let mut table = format!("{:<8}{:<14}{:<24}{:<14}largest difference\n", "device", "architecture", "variant", "mode");
    for (device, fixture) in everywhere() {
        assert!(fixture.tokens.len() > 3 * SLIDING_WINDOW);
        let model = fixture.load(&device, DType::F32);
        for (mode, chunk) in MODES {
            let chunk = chunk.min(fixture.tokens.len());
            let logits = logits_alone(&*model, &fixture.tokens, chunk, DType::F32);
            let difference = logits.difference(&fixture.logits_f32) / fixture.logits_f32.largest();
            let (name, architecture) = (device.name(), &model.summary().architecture);
            writeln!(table, "{name:<8}{architecture:<14}{:<24}{mode:<14}{difference:.1e}", fixture.name).unwrap();
            if difference.is_nan() || difference > TOLERANCE {
                failures.push(format!("{name} {} {mode}: {difference:e}", fixture.name));
            }
        }
    }
    println!("{table}");
    assert!(failures.is_empty(), "past {TOLERANCE:e}: {failures:#?}");
}

#[test]
fn argmax_bf16_good() {
    let mut failures = Vec::new();
    let mut table =
        format!("{:<8}{:<14}{:<24}{:<14}same argmax, beyond doubt\n", "device", "architecture", "variant", "mode");
    for (device, fixture) in everywhere() {
        let model = fixture.load(&device, DType::BF16);
        for (mode, chunk) in MODES {
            let chunk = chunk.min(fixture.tokens.len());
            let logits = logits_alone(&*model, &fixture.tokens, chunk, DType::BF16);
            let [same, decided] = compare_argmax(&fixture, &logits);
            let (name, architecture) = (device.name(), &model.summary().architecture);
            writeln!(table, "{name:<8}{architecture:<14}{:<24}{mode:<14}{same} of {decided}", fixture.name).unwrap();
            if same != decided || decided < fixture.tokens.len() / 2 {
                failures.push(format!("{name} {} {mode}: {same} of {decided}", fixture.name));
            }
        }
    }
    println!("{table}");
    assert!(failures.is_empty(), "another argmax, or too few positions beyond doubt: {failures:#?}");
}

/// At how many positions `logits` has the reference's best token, and at how many that is beyond doubt: where it
/// leads by more than twice what bfloat16 moved any of the reference's own logits.
fn compare_argmax(fixture: &Fixture, logits: &Rows) -> [usize; 2] {
    let reference = fixture.logits_f32.iter().zip(fixture.logits_bf16.iter());
    let mut counts = [0, 0];
    for ((expected, rounded), found) in reference.zip(logits.iter()) {
        let noise = expected.iter().zip(rounded).fold(0.0f32, |noise, (a, b)| noise.max((a - b).abs()));
        if lead(expected) > 2.0 * noise {
            counts[0] += usize::from(argmax(found) == argmax(expected));
            counts[1] += 1;
        }
    }
    counts
}

/// By how much the best token leads the second.
pub fn lead(row: &[f32]) -> f32 {
    let best = argmax(row);
    let others = row.iter().enumerate().filter(|(token, _)| *token != best).map(|(_, logit)| *logit);
    row[best] - others.fold(f32::NEG_INFINITY, f32::max)
}

pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(token, _)| token).unwrap()
}
