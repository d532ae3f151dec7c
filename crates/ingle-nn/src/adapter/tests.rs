// SPDX-License-Identifier: EUPL-1.2
//! Adapters on a model of two layers.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::Tensor;

use super::*;
use crate::{Linear, Routes, Target};

struct Two {
    layers: [[Linear; 2]; 2],
    lm_head: Linear,
}

impl Parameters for Two {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        for (index, [q_proj, v_proj]) in self.layers.iter_mut().enumerate() {
            let mut scope = visitor.scope(&format!("model.layers.{index}.self_attn"));
            scope.linear("q_proj", q_proj);
            scope.linear("v_proj", v_proj);
        }
        visitor.linear("lm_head", &mut self.lm_head);
    }
}

fn model() -> (DeviceHandle, Two) {
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).unwrap());
    let linear = |outputs| Linear::from_weight(Tensor::full(&device, [outputs, 6], DType::F32, 0.5).unwrap());
    let two = Two { layers: [[linear(6), linear(4)], [linear(6), linear(4)]], lm_head: linear(9) };
    (device, two)
}

fn config(targets: &[&str]) -> LoraConfig {
    LoraConfig { rank: 2, targets: targets.iter().map(|target| Target::new(*target)).collect(), ..Default::default() }
}

fn names(adapter: &Adapter) -> Vec<String> {
    adapter.layers().map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_layers_that_are_named_good() {
    let (device, mut two) = model();
    let created = |two: &mut Two, targets: &[&str]| Adapter::create(two, &device, &config(targets), 1).unwrap();
    let q = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"];
    assert_eq!(names(&created(&mut two, &["q_proj"])), q);
    let all = created(&mut two, &["lm_head", "*.layers.1.*", "q_proj"]);
    assert_eq!(names(&all), ["lm_head", q[0], q[1], "model.layers.1.self_attn.v_proj"]);
    assert_eq!(all.parameters(), 2 * (6 + 9) + 2 * 2 * (6 + 6) + 2 * (6 + 4));

    let mut seen = Vec::new();
    all.attach(&mut two, AdapterId(3)).unwrap();
    two.visit(&mut Visitor::adapter(AdapterId(3), &mut |name, weight| seen.push((name.to_owned(), weight.clone()))));
    assert_eq!(seen.len(), 8);
    assert_eq!(seen[0].0, "model.layers.0.self_attn.q_proj.lora_A.weight");
    assert_eq!(**seen[0].1.shape(), [2, 6]);
    assert_eq!(seen[1].0, "model.layers.0.self_attn.q_proj.lora_B.weight");
    assert!(seen[1].1.to_vec::<f32>().unwrap().iter().all(|x| *x == 0.0));
    let bound = 1.0 / 6f32.sqrt();
    let first = seen[0].1.to_vec::<f32>().unwrap();
    assert!(first.iter().all(|x| x.abs() <= bound) && first.iter().any(|x| x.abs() > bound / 4.0));
    assert_ne!(first, seen[2].1.to_vec::<f32>().unwrap());
    assert_eq!(names(&Adapter::of(&mut two, AdapterId(3))).len(), 4);
    Adapter::detach(&mut two, AdapterId(3));
    assert!(names(&Adapter::of(&mut two, AdapterId(3))).is_empty());
}

#[test]
fn a_target_that_is_nothing_bad() {
    let (device, mut two) = model();
    let error = Adapter::create(&mut two, &device, &config(&["q_proj", "k_proj"]), 1).unwrap_err().to_string();
    let kinds = "model.layers.*.self_attn.q_proj (2 layers), model.layers.*.self_attn.v_proj (2 layers), lm_head";
    assert_eq!(error, format!("lora: targets: expected layers that the model has: {kinds}, found `k_proj`"));
}

#[test]
fn an_adapter_of_another_model_bad() {
    let (device, mut two) = model();
    let adapter = |name: &str, shape| {
        Adapter::new([(name.to_owned(), Lora::create(name, &device, shape, &config(&["q_proj"]), 1).unwrap())])
    };
    let error = adapter("model.layers.2.self_attn.q_proj", [6, 6]).attach(&mut two, AdapterId(0)).unwrap_err();
    assert!(error.to_string().ends_with("found one for `model.layers.2.self_attn.q_proj`"), "{error}");
    let error = adapter("model.layers.1.self_attn.v_proj", [4, 8]).attach(&mut two, AdapterId(0)).unwrap_err();
    let expected = "lora: adapter: expected an adapter of this model, whose `model.layers.1.self_attn.v_proj` has 6 inputs \
                    and 4 outputs, found one for 8 inputs and 4 outputs";
    assert_eq!(error.to_string(), expected);
    assert!(names(&Adapter::of(&mut two, AdapterId(0))).is_empty());
}

#[test]
fn an_adapter_that_a_layer_has_not_changes_nothing_ugly() {
    let (device, mut two) = model();
    Adapter::create(&mut two, &device, &config(&["q_proj"]), 1).unwrap().attach(&mut two, AdapterId(0)).unwrap();
    let x = Tensor::full(&device, [2, 6], DType::F32, 1.0).unwrap();
    let found = two.lm_head.forward(&x, &Routes::all(AdapterId(0))).unwrap();
    assert_eq!(found.to_vec::<f32>().unwrap(), [3.0; 18]);
}
