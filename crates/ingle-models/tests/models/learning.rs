// SPDX-License-Identifier: EUPL-1.2
//! What training needs of a model: gradients by every weight, a first set of weights, and a directory at the end.

use std::collections::BTreeSet;
use std::path::Path;

use ingle_models::{CreateOptions, Model, create, load, save, weights};
use ingle_nn::{Activations, Checkpoint, ModelFiles, Visitor};
use ingle_tensor::{DType, DeviceHandle, Tensor, grad};
use safetensors::SafeTensors;

use crate::common::{Fixture, Part, Session, cpu, folders, logits_alone};

/// As `scripts/fixtures/make_model_gradients.py` has it.
const STRIDE: usize = 13;

/// Off by so much of the largest element: float32 here, float64 there.
const TOLERANCE: f32 = 1e-4;

/// The mean cross-entropy of each token given those before it, with `weights` in the model's order.
fn loss(
    model: &mut dyn Model,
    tokens: &[i32],
    weights: &[Tensor],
    activations: Activations,
) -> Result<Tensor, ingle_nn::Error> {
    let mut next = weights.iter();
    model.visit(&mut Visitor::weights(&mut |_, weight| *weight = next.next().unwrap().clone()));
    let mut session = Session::new(model, [1, tokens.len()], DType::F32);
    session.activations = activations;
    let predicted = tokens.len() - 1;
    let logits = session.forward(&[Part { sequence: 0, tokens: &tokens[..predicted] }]);
    let targets = Tensor::from_slice(logits.device(), &tokens[1..], [predicted])?;
    Ok(logits.cross_entropy(&targets)?.sum_axis(0)?.scale(1.0 / predicted as f64)?)
}

/// The loss and the gradient of each weight, with its name.
fn gradients(model: &mut dyn Model, tokens: &[i32], kept: Activations) -> (f32, Vec<(String, Tensor)>) {
    let (names, before): (Vec<String>, Vec<Tensor>) = weights(model).into_iter().unzip();
    let (loss, found) = grad::value_and_grad(|tracked| loss(model, tokens, tracked, kept), &before).unwrap();
    (loss.to_f32_vec().unwrap()[0], names.into_iter().zip(found).collect())
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

#[test]
fn gradients_are_pytorchs_for_every_architecture_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/model-gradients");
    let mut architectures = BTreeSet::new();
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let fixture = Fixture::named(path.file_stem().unwrap().to_str().unwrap());
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected = |name: &str| -> Vec<f32> {
            let tensor = file.tensor(name).unwrap_or_else(|_| panic!("{}: no {name}", fixture.name));
            tensor.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
        };
        let mut model = fixture.load(&cpu(2), DType::F32);
        architectures.insert(model.summary().architecture.clone());
        let (loss, found) = gradients(&mut *model, &fixture.tokens, Activations::Kept);
        assert!((loss - expected("loss")[0]).abs() < 1e-5 * loss, "{}: loss {loss}", fixture.name);

        let (mut worst, mut counted) = (0.0f32, 1);
        for (name, gradient) in &found {
            let gradient = gradient.to_f32_vec().unwrap();
            let scale = largest(&gradient);
            let norm = gradient.iter().map(|x| x * x).sum::<f32>().sqrt();
            let expected_norm = expected(&format!("norm.{name}"))[0];
            let elements = expected(&format!("elements.{name}"));
            let strided: Vec<f32> = gradient.into_iter().step_by(STRIDE).collect();
            assert_eq!(strided.len(), elements.len(), "{}: {name}", fixture.name);
            let off = strided.iter().zip(&elements).fold(0f32, |off, (a, b)| off.max((a - b).abs())) / scale;
            worst = worst.max(off).max((norm - expected_norm).abs() / expected_norm);
            counted += 2;
            assert!(worst < TOLERANCE, "{}: {name} is off by {worst:e}", fixture.name);
        }
        assert_eq!(counted, file.len(), "{}: weights that the model does not show", fixture.name);
        println!("{:<24}{:>3} weights, off by {worst:.1e} at most", fixture.name, found.len());
    }
    let known: BTreeSet<String> = ingle_models::architectures().iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(architectures, known);
}

#[test]
fn a_block_that_is_computed_again_has_the_same_gradients_good() {
    // Sliding layers and others, which have block tables of their own.
    for name in ["gemma3-v5", "qwen3-sliding"] {
        let fixture = Fixture::named(name);
        let run = |kept| {
            let (loss, found) = gradients(&mut *fixture.load(&cpu(2), DType::F32), &fixture.tokens, kept);
            let bits = |(name, gradient): (String, Tensor)| {
                (name, gradient.to_f32_vec().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            (loss, found.into_iter().map(bits).collect::<Vec<_>>())
        };
        assert_eq!(run(Activations::Kept), run(Activations::Recomputed), "{name}");
    }
}

#[test]
fn a_new_model_begins_as_transformers_begins_one_good() {
    const DEVIATION: f32 = 0.02;
    for path in folders("models") {
        let files = ModelFiles::directory(&path).unwrap();
        let device = cpu(2);
        let mut model = create(&files, &device, &CreateOptions { seed: 3, dtype: DType::F32 }).unwrap();
        let stored = load(&files, &device, &Default::default(), &mut |_| {}).unwrap().summary().clone();
        assert_eq!(model.summary().parameters, stored.parameters, "{}", path.display());
        let gain = if stored.architecture.starts_with("gemma") { 0.0 } else { 1.0 };
        for (name, weight) in weights(&mut *model) {
            let values = weight.to_f32_vec().unwrap();
            if name.ends_with("norm.weight") || name.ends_with("bias") {
                let expected = if name.ends_with("bias") { 0.0 } else { gain };
                assert!(values.iter().all(|x| *x == expected), "{name}");
                continue;
            }
            let count = values.len() as f32;
            let mean = values.iter().sum::<f32>() / count;
            let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / count).sqrt();
            // Five standard errors.
            let near = |found: f32, wanted: f32, error: f32| (found - wanted).abs() < 5.0 * error;
            let error = DEVIATION / count.sqrt();
            let fits = near(mean, 0.0, error) && near(deviation, DEVIATION, error / 2f32.sqrt());
            assert!(fits, "{name}: mean {mean}, deviation {deviation}");
        }
    }
}

#[test]
fn a_seed_is_a_model_good() {
    let fixture = Fixture::named("qwen3-v5");
    let numbers = |seed, dtype| {
        let mut model = create(&fixture.files(), &cpu(1), &CreateOptions { seed, dtype }).unwrap();
        weights(&mut *model).into_iter().map(|(_, weight)| weight.to_f32_vec().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(1, DType::F32), numbers(1, DType::F32));
    assert_ne!(numbers(1, DType::F32), numbers(2, DType::F32));
    let rounded = |x: &f32| half::bf16::from_f32(*x).to_f32();
    let wide: Vec<Vec<f32>> = numbers(1, DType::F32).iter().map(|row| row.iter().map(rounded).collect()).collect();
    assert_eq!(wide, numbers(1, DType::BF16));
}

fn logits(files: &ModelFiles, device: &DeviceHandle, tokens: &[i32]) -> crate::common::Rows {
    let model = load(files, device, &Default::default(), &mut |_| {}).unwrap();
    logits_alone(&*model, tokens, tokens.len(), DType::F32)
}

#[test]
fn saved_weights_load_to_the_same_logits_good() {
    let out = tempfile::tempdir().unwrap();
    for name in ["gemma3-v5", "llama-v5", "qwen3-v5", "gemma3_text-softcap"] {
        let (fixture, device) = (Fixture::named(name), cpu(2));
        let mut model = load(&fixture.files(), &device, &Default::default(), &mut |_| {}).unwrap();
        let target = out.path().join(name);
        save(&target, &fixture.files(), &weights(&mut *model)).unwrap();
        let saved = ModelFiles::directory(&target).unwrap();
        let (before, after) =
            (logits(&fixture.files(), &device, &fixture.tokens), logits(&saved, &device, &fixture.tokens));
        after.assert_bit_equal(&before, name);
        // The very tensors, but for those of a vision tower.
        let (stored, written) = (Checkpoint::open(&fixture.files()).unwrap(), Checkpoint::open(&saved).unwrap());
        for (name, tensor) in written.tensors() {
            assert_eq!(stored.get(name).map(|stored| stored.describe()), Some(tensor.describe()), "{name}");
        }
        let refused = save(&target, &fixture.files(), &weights(&mut *model)).unwrap_err().to_string();
        assert!(refused.ends_with("is there already; remove it, or give another path"), "{refused}");
    }
    let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_replaced_table_is_the_head_too_ugly() {
    let (fixture, device) = (Fixture::named("llama-v5"), cpu(2));
    let mut model = fixture.load(&device, DType::F32);
    model.visit(&mut Visitor::weights(&mut |name, weight| {
        if name == "model.embed_tokens.weight" {
            *weight = weight.scale(-1.5).unwrap();
        }
    }));
    let found = logits_alone(&*model, &fixture.tokens, fixture.tokens.len(), DType::F32);
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("model");
    save(&target, &fixture.files(), &weights(&mut *model)).unwrap();
    let expected = logits(&ModelFiles::directory(&target).unwrap(), &device, &fixture.tokens);
    assert!(found.difference(&expected) < 1e-5 * expected.largest());
    assert!(found.difference(&fixture.logits_f32) > 0.1 * expected.largest());
}
