// SPDX-License-Identifier: EUPL-1.2
//! What a model says it is, before and after loading.

use ingle_models::{LoadOptions, Summary, architectures, load, read_summary};
use ingle_nn::LoadProgress;
use ingle_tensor::DType;

use crate::common::{Fixture, cpu};

#[test]
fn headers_and_loaded_model_agree_good() {
    let device = cpu(1);
    for fixture in Fixture::all() {
        let read = read_summary(&fixture.files()).unwrap();
        let mut progress = Vec::new();
        let model = load(&fixture.files(), &device, &LoadOptions::default(), &mut |p| progress.push(p)).unwrap();
        assert_eq!(*model.summary(), read, "{}", fixture.name);
        assert_eq!(model.cache_layers().len(), read.layers, "{}", fixture.name);
        let done = LoadProgress { loaded_bytes: read.weight_bytes, total_bytes: read.weight_bytes };
        assert_eq!(progress.last(), Some(&done), "{}", fixture.name);
        assert!(progress.windows(2).all(|pair| pair[0].loaded_bytes < pair[1].loaded_bytes), "{}", fixture.name);
    }
}

#[test]
fn tied_head_is_counted_once_and_vision_not_at_all_good() {
    let expected = Summary {
        architecture: "gemma3".into(),
        vocab_size: 128,
        layers: 2,
        hidden_size: 32,
        // Embeddings and the last norm; per layer four norms, attention with its two norms, and the MLP.
        parameters: 128 * 32 + 32 + 2 * (4 * 32 + 2 * 32 * 64 + 2 * 32 * 32 + 2 * 16 + 3 * 32 * 48),
        weight_bytes: 2 * (128 * 32 + 32 + 2 * (4 * 32 + 2 * 32 * 64 + 2 * 32 * 32 + 2 * 16 + 3 * 32 * 48)),
        dtype: DType::BF16,
        quantisation: None,
        context_length: 256,
    };
    assert_eq!(read_summary(&Fixture::named("gemma3-module-names").files()).unwrap(), expected);
}

#[test]
fn dtype_asked_for_is_kept_good() {
    let fixture = Fixture::named("qwen3-v5");
    let stored = read_summary(&fixture.files()).unwrap();
    let model = fixture.load(&cpu(1), DType::F32);
    assert_eq!((stored.dtype, model.summary().dtype), (DType::BF16, DType::F32));
    assert_eq!(model.summary().parameters, stored.parameters);
    assert_eq!(model.summary().weight_bytes, 2 * stored.weight_bytes);
}

#[test]
fn dropping_a_model_frees_its_memory_good() {
    let device = cpu(1);
    let before = device.memory().active;
    let model = Fixture::named("llama-v5").load(&device, DType::F32);
    assert!(device.memory().active >= before + model.summary().weight_bytes);
    drop(model);
    assert_eq!(device.memory().active, before);
}

#[test]
fn every_architecture_has_a_fixture_good() {
    let fixtures = Fixture::all();
    let tested: Vec<String> =
        fixtures.iter().map(|fixture| read_summary(&fixture.files()).unwrap().architecture).collect();
    for architecture in architectures() {
        assert!(tested.iter().any(|tested| tested == architecture), "{architecture}");
    }
}
