// SPDX-License-Identifier: EUPL-1.2
//! Models in MLX's quantised format and in GGUF: the numbers of their makers, on every device.
//!
//! `cargo test -p ingle-models --test models quantised -- --nocapture` prints the tables.

use std::fmt::Write;
use std::path::PathBuf;

use ingle_models::{LoadOptions, Model, load, read_summary};
use ingle_nn::{LoadProgress, ModelFiles};
use ingle_tensor::{DType, DeviceHandle};

use crate::common::{Expected, Rows, cpu, devices, folders, logits_alone, name_of};
use crate::parity::{argmax, lead};

/// Largest difference of a logit, over the largest magnitude of the reference's, where nothing is quantised.
const TOLERANCE: f32 = 1e-4;

/// A device may round what a quantised matrix is multiplied with to 8 bits. It moves the reference's own logits so
/// much; another device forms its groups otherwise, and its errors may point the other way.
const ROUNDING: f32 = 2.0;

struct Fixture {
    name: String,
    files: ModelFiles,
    tokens: Vec<i32>,
    /// In float32.
    logits: Rows,
    /// With what goes into each linear layer rounded to 8 bits.
    rounded: Rows,
}

impl Fixture {
    fn all(kind: &str) -> Vec<Fixture> {
        let read = |path: PathBuf| {
            let expected = Expected::read(&path);
            Fixture {
                name: name_of(&path),
                files: ModelFiles::open(&path).unwrap(),
                tokens: expected.tokens(),
                logits: expected.rows("logits_f32"),
                rounded: expected.rows("logits_int8"),
            }
        };
        folders(kind).into_iter().map(read).collect()
    }

    fn load(&self, device: &DeviceHandle) -> Box<dyn Model> {
        load(&self.files, device, &LoadOptions { dtype: Some(DType::F32) }, &mut |_| {}).unwrap()
    }
}

#[test]
fn quantised_by_mlx_good() {
    let fixtures = Fixture::all("mlx-models");
    assert!(fixtures.len() >= 7, "{}", fixtures.len());
    compare(&fixtures);
}

#[test]
fn gguf_good() {
    let fixtures = Fixture::all("gguf-models");
    assert!(fixtures.len() >= 10, "{}", fixtures.len());
    compare(&fixtures);
}

#[track_caller]
fn compare(fixtures: &[Fixture]) {
    for device in devices() {
        compare_on(&device, fixtures);
    }
}

#[track_caller]
fn compare_on(device: &DeviceHandle, fixtures: &[Fixture]) {
    let mut failures = Vec::new();
    let (name, heading) = (device.name(), "same argmax, beyond doubt");
    let mut table = format!("{name:<22}{:<50}{:<12}{:<12}{heading}\n", "", "difference", "allowed");
    for fixture in fixtures {
        let model = fixture.load(device);
        let (reference, largest) = (&fixture.logits, fixture.logits.largest());
        let quantisation = model.summary().quantisation.clone();
        let allowed = match quantisation {
            Some(_) => ROUNDING * reference.difference(&fixture.rounded) / largest,
            None => TOLERANCE,
        };
        let quantisation = quantisation.unwrap_or_else(|| "none".into());
        for chunk in [fixture.tokens.len(), 1, 7] {
            let logits = logits_alone(&*model, &fixture.tokens, chunk, DType::F32);
            let difference = logits.difference(reference) / largest;
            let rows = reference.iter().zip(fixture.rounded.iter()).zip(logits.iter());
            let decided: Vec<_> =
                rows.filter(|((row, rounded), _)| lead(row) > 2.0 * ROUNDING * moved(row, rounded)).collect();
            let same = decided.iter().filter(|((row, _), found)| argmax(row) == argmax(found)).count();
            let (name, count) = (&fixture.name, decided.len());
            writeln!(table, "{name:<22}{quantisation:<50}{difference:<12.1e}{allowed:<12.1e}{same} of {count}")
                .unwrap();
            if difference.is_nan() || difference > allowed || same != count || count < fixture.tokens.len() / 4 {
                failures.push(format!("{name}, {chunk} tokens at a time: {difference:e}, {same} of {count}"));
            }
        }
    }
    println!("{table}");
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The most that rounding moved a logit of this row.
fn moved(row: &[f32], rounded: &[f32]) -> f32 {
    row.iter().zip(rounded).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// What is known without loading is what is found by loading, and nothing is dequantised for good.
#[test]
fn summaries_and_memory_of_quantised_models_good() {
    for fixture in ["mlx-models", "gguf-models"].into_iter().flat_map(Fixture::all) {
        let device = cpu(1);
        let read = read_summary(&fixture.files).unwrap();
        let mut progress = Vec::new();
        let model = load(&fixture.files, &device, &LoadOptions::default(), &mut |p| progress.push(p)).unwrap();
        assert_eq!(*model.summary(), read, "{}", fixture.name);
        let done = LoadProgress { loaded_bytes: read.weight_bytes, total_bytes: read.weight_bytes };
        assert_eq!(progress.last(), Some(&done), "{}", fixture.name);
        let active = device.memory().active;
        assert!(active < read.weight_bytes * 5 / 4 + (64 << 10), "{}: {active} of {}", fixture.name, read.weight_bytes);
    }
}

#[test]
fn summaries_in_words_good() {
    let fixtures: Vec<Fixture> = ["mlx-models", "gguf-models"].into_iter().flat_map(Fixture::all).collect();
    let summary = |name: &str| {
        let fixture = fixtures.iter().find(|fixture| fixture.name == name).unwrap();
        read_summary(&fixture.files).unwrap()
    };
    let mixed = summary("qwen3-mixed");
    assert_eq!(mixed.quantisation.as_deref(), Some("4-bit, groups of 64, 4 layers otherwise"));
    assert_eq!(mixed.dtype, DType::BF16);
    // Two tables; per layer q and o, k and v, the MLP, two norms and those of heads; the last norm.
    let parameters = 2 * 96 * 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 128 * 128 + 2 * 128 + 2 * 32) + 128;
    assert_eq!(mixed.parameters, parameters);
    let q4_k = summary("qwen3-q4_k");
    assert_eq!(q4_k.quantisation.as_deref(), Some("Q4_K_M (Q4_K, Q6_K, Q5_0)"));
    assert_eq!((q4_k.architecture.as_str(), q4_k.vocab_size, q4_k.layers, q4_k.context_length), ("qwen3", 96, 2, 256));
    assert_eq!(summary("gemma3-bf16").architecture, "gemma3_text");
    assert_eq!((summary("gemma3-bf16").quantisation, summary("gemma3-bf16").dtype), (None, DType::BF16));
    assert_eq!(summary("qwen2-q8_0").quantisation.as_deref(), Some("Q8_0"));
}
