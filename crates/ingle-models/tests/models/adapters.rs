// SPDX-License-Identifier: EUPL-1.2
//! Adapters on whole models: several in one batch, and over quantised bases.

use ingle_models::{Model, load, weights};
use ingle_nn::{Adapter, AdapterId, LoraConfig, ModelFiles, Target, Visitor};
use ingle_tensor::{DType, Tensor};

use crate::common::{Fixture, Part, Rows, Session, cpu, folders, logits_alone, name_of};

const ADAPTERS: [AdapterId; 2] = [AdapterId(4), AdapterId(9)];

/// Adapters of every layer that have learnt something.
fn adapt(model: &mut dyn Model) {
    let config = LoraConfig { rank: 3, alpha: 6.0, targets: vec![Target::new("*_proj")], ..LoraConfig::default() };
    let device = model.device().clone();
    for (seed, id) in ADAPTERS.into_iter().enumerate() {
        Adapter::create(model, &device, &config, seed as u64).unwrap().attach(model, id).unwrap();
        model.visit(&mut Visitor::adapter(id, &mut |name, weight| {
            if name.ends_with("lora_B.weight") {
                let number = |index: usize| ((index * 7919 + seed * 31) % 1009) as f32 / 1009.0 - 0.5;
                let numbers: Vec<f32> = (0..weight.shape().elements()).map(number).collect();
                *weight = Tensor::from_slice(&device, &numbers, weight.shape()).unwrap();
            }
        }));
    }
}

/// The logits of `tokens` by way of an adapter, alone.
fn alone(model: &dyn Model, tokens: &[i32], adapter: Option<AdapterId>) -> Rows {
    let mut session = Session::new(model, [1, tokens.len()], DType::BF16);
    session.adapters = vec![adapter];
    session.step(&[Part { sequence: 0, tokens }])
}

#[test]
fn sequences_of_several_adapters_in_one_batch_good() {
    for folder in [Fixture::named("gemma3-v5").path, Fixture::named("qwen2-v5").path, folders("mlx-models").remove(0)] {
        let files = ModelFiles::directory(&folder).unwrap();
        let mut model = load(&files, &cpu(2), &Default::default(), &mut |_| {}).unwrap();
        adapt(&mut *model);
        let tokens: Vec<i32> = (0..24).map(|i| i * 37 % 90).collect();
        let adapters = [None, Some(ADAPTERS[0]), Some(ADAPTERS[1]), Some(ADAPTERS[0])];
        let mut session = Session::new(&*model, [4, tokens.len()], DType::BF16);
        session.adapters = adapters.to_vec();
        let parts: Vec<Part<'_>> = (0..4).map(|sequence| Part { sequence, tokens: &tokens[sequence..] }).collect();
        let together = session.step(&parts);
        let mut rows = together.values.chunks(together.width);
        let mut found = Vec::new();
        for (sequence, adapter) in adapters.into_iter().enumerate() {
            let values = rows.by_ref().take(tokens.len() - sequence).flatten().copied().collect();
            let beside = Rows { width: together.width, values };
            let expected = alone(&*model, &tokens[sequence..], adapter);
            beside.assert_bit_equal(&expected, &format!("{}, sequence {sequence}", name_of(&folder)));
            found.push(alone(&*model, &tokens, adapter));
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let apart = found[a].difference(&found[b]) / found[a].largest();
            assert!(apart > 0.05, "{}: adapters {a} and {b} give the same: {apart}", name_of(&folder));
        }
    }
}

#[test]
fn a_quantised_base_stays_packed_ugly() {
    let folder = folders("mlx-models").into_iter().find(|folder| name_of(folder) == "qwen3-4bit-64").unwrap();
    let files = ModelFiles::directory(&folder).unwrap();
    let device = cpu(2);
    let mut model = load(&files, &device, &Default::default(), &mut |_| {}).unwrap();
    let (before, parameters) = (device.memory().active, model.summary().parameters);
    assert!(before < parameters * 2, "4 bits and scales, norms and RoPE");
    adapt(&mut *model);
    let adapters: usize = ADAPTERS.into_iter().map(|id| Adapter::of(&mut *model, id).parameters()).sum();
    assert!(device.memory().active <= before + 4 * adapters + (64 << 10));
    let base = logits_alone(&*model, &[1, 2, 3], 3, DType::BF16);
    assert!(base.difference(&alone(&*model, &[1, 2, 3], Some(ADAPTERS[0]))) > 0.0);
    assert!(device.memory().active <= before + 4 * adapters + (64 << 10), "nothing was unpacked for good");
    assert!(weights(&mut *model).iter().all(|(name, _)| !name.contains("lora")));
}
