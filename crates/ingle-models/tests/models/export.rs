// SPDX-License-Identifier: EUPL-1.2
//! Models written in another format are the same models.

use std::path::Path;

use ingle_models::{Export, GgufType, LoadOptions, Model, load};
use ingle_nn::gguf::ALIGNMENT;
use ingle_nn::{Error, ModelFiles, SafetensorsHeader};
use ingle_tensor::DType;

use crate::common::{Fixture, Rows, cpu, folders, logits_alone};

/// Largest difference of a logit, over the largest magnitude of the reference's.
const TOLERANCE: f32 = 1e-4;

/// Fixtures that llama.cpp has no words for, and which words.
const BEYOND: [(&str, &str); 10] = [
    ("gemma2-published", "query_pre_attn_scalar"),
    ("gemma2-v5", "query_pre_attn_scalar"),
    ("gemma3-module-names", "query_pre_attn_scalar"),
    ("gemma3-v5", "query_pre_attn_scalar"),
    ("gemma3_text-published", "query_pre_attn_scalar"),
    ("gemma3_text-softcap", "query_pre_attn_scalar, attn_logit_softcapping"),
    ("gemma3_text-v4", "query_pre_attn_scalar"),
    ("gemma3_text-v5", "query_pre_attn_scalar"),
    ("qwen2-sliding", "layer_types, sliding_window"),
    ("qwen3-sliding", "layer_types, sliding_window, attention_bias"),
];

/// Writes the model of `files` as a GGUF file without a tokeniser.
pub fn write_gguf(files: &ModelFiles, gguf_type: GgufType, path: &Path) -> Result<(), Error> {
    let plan = Export::open(files)?.to_gguf(gguf_type)?;
    let (header, computed) = plan.header("a test", |_| {});
    let mut file = header.bytes();
    for tensor in computed {
        file.extend(tensor);
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    }
    for tensor in &plan.tensors {
        let before = file.len();
        tensor.original.convert(&tensor.conversion, |piece| {
            file.extend_from_slice(piece);
            Ok::<_, Error>(())
        })?;
        assert_eq!(file.len() - before, tensor.written_bytes(), "{}", tensor.name);
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
    }
    std::fs::write(path, file).unwrap();
    Ok(())
}

fn logits(files: &ModelFiles, tokens: &[i32]) -> (Rows, Box<dyn Model>) {
    let model = load(files, &cpu(2), &LoadOptions { dtype: Some(DType::F32) }, &mut |_| {}).unwrap();
    (logits_alone(&*model, tokens, tokens.len(), DType::F32), model)
}

#[test]
fn gguf_of_every_fixture_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut written = 0;
    for fixture in Fixture::all() {
        let beyond = BEYOND.iter().find(|(name, _)| *name == fixture.name).map_or("", |(_, fields)| fields);
        if let Err(error) = write_gguf(&fixture.files(), GgufType::F32, &path) {
            let error = error.to_string();
            assert!(error.ends_with(&format!("llama.cpp has no way to say its {beyond}")), "{}: {error}", fixture.name);
            continue;
        }
        assert_eq!(beyond, "", "{} was written", fixture.name);
        let (found, model) = logits(&ModelFiles::open(&path).unwrap(), &fixture.tokens);
        let difference = found.difference(&fixture.logits_f32) / fixture.logits_f32.largest();
        assert!(difference < TOLERANCE, "{}: {difference:e}", fixture.name);
        assert!(model.summary().quantisation.is_none());
        written += 1;
    }
    assert!(written >= 8, "{written}");
}

/// How far the logits of a fixture may move when its weights are stored in `gguf_type`, over their largest magnitude.
/// What each type stores is tested beside the encoders; this shows that a whole model is put together of it.
fn allowed(gguf_type: GgufType) -> f32 {
    match gguf_type {
        GgufType::F32 => TOLERANCE,
        GgufType::F16 | GgufType::Bf16 => 1e-2,
        GgufType::Q8_0 | GgufType::Q6K => 0.05,
        GgufType::Q5_0 | GgufType::Q5_1 | GgufType::Q5K | GgufType::Q5KM => 0.15,
        _ => 0.3,
    }
}

#[test]
fn gguf_in_every_type_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let fixture = Fixture::named("qwen3-published");
    let dense = fixture.load(&cpu(2), DType::F32).summary().weight_bytes;
    for gguf_type in GgufType::ALL {
        write_gguf(&fixture.files(), gguf_type, &path).unwrap();
        let (found, model) = logits(&ModelFiles::open(&path).unwrap(), &fixture.tokens);
        let difference = found.difference(&fixture.logits_f32) / fixture.logits_f32.largest();
        println!("{:<8} {difference:.1e} {:?}", gguf_type.name(), model.summary().quantisation);
        assert!(difference < allowed(gguf_type), "{}: {difference:e}", gguf_type.name());
        if !matches!(gguf_type, GgufType::F32 | GgufType::F16 | GgufType::Bf16) {
            assert!(model.summary().quantisation.is_some() && model.summary().weight_bytes < dense);
            assert!(difference > TOLERANCE, "{} changed nothing", gguf_type.name());
        }
    }
}

/// Names and forms of an MLX model; what is in it is compared with MLX's own by the encoders' tests.
#[test]
fn mlx_names_and_forms_good() {
    for (name, prefix) in [("gemma3-module-names", "language_model.model."), ("llama-v5", "model.")] {
        let tensors = Export::open(&Fixture::named(name).files()).unwrap().to_mlx(4, 32).unwrap();
        assert!(tensors.iter().all(|tensor| tensor.name.starts_with(prefix)), "{name}");
        let mut header = SafetensorsHeader::new("mlx");
        for tensor in &tensors {
            let quantised = tensor.written_bytes() < tensor.original.bytes();
            let columns = tensor.shape().last().copied().unwrap();
            let fits = tensor.shape().len() == 2 && columns.is_multiple_of(32);
            assert_eq!(quantised, fits, "{name}: {}", tensor.name);
            header.tensor(&tensor.name, tensor.original.dtype(), tensor.shape());
        }
        assert!(tensors.len() > 10 && header.data_bytes() > 0);
    }
}

#[test]
fn what_is_quantised_already_bad() {
    let refused = |path: &Path| Export::open(&ModelFiles::open(path).unwrap()).err().unwrap().to_string();
    let error = refused(&folders("mlx-models")[0]);
    assert!(error.ends_with("is quantised already (5-bit, groups of 128); give the original checkpoint"), "{error}");
    let error = refused(&folders("gguf-models")[0]);
    assert!(error.ends_with("is a GGUF file; give the directory of the checkpoint that it was made of"), "{error}");
}
