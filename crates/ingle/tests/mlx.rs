// SPDX-License-Identifier: EUPL-1.2
//! The public face on MLX: the built-in model and models made by transformers.
#![cfg(mlx)]

use std::path::Path;

use ingle::{
    ClassifyOptions, DType, EndTokens, GenerateOptions, LoadOptions, Message, Outcome, Sampling, TextModel, TokenStream,
};
use serde_json::Value;

/// What MLX's backend is called here.
fn name() -> &'static str {
    let names = ingle::backends().into_iter().map(|backend| backend.name());
    names.into_iter().find(|name| ["metal", "mlx"].contains(name)).unwrap()
}

fn load(model: &str, dtype: Option<DType>) -> Box<dyn TextModel> {
    ingle::load(model, &LoadOptions { device: Some(name().into()), dtype, ..LoadOptions::default() }).unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), sampling: Some(Sampling::default()), ..GenerateOptions::default() }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Compares a greedy answer with the one that transformers gave.
#[track_caller]
fn compare(case: &Value, answer: impl FnOnce(&GenerateOptions) -> ingle::Result<TokenStream>, kind: &str) {
    let expected = ids(&case["ids"]);
    let options = GenerateOptions { end_tokens: EndTokens::Ignore, ..greedy(expected.len()) };
    let completion = answer(&options).unwrap().collect_all().unwrap();
    assert_eq!(completion.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), expected, "{kind}");
    assert_eq!(completion.text, case["text"].as_str().unwrap(), "{kind}");
}

#[test]
fn text_and_chat_are_those_of_transformers_good() {
    for kind in ["byte-level", "sentencepiece-gemma", "sentencepiece-llama"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/end-to-end").join(kind);
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let model = load(folder.to_str().unwrap(), Some(DType::F32));
        assert_eq!(model.info().backend, name());
        let case = &expected["generate"];
        compare(case, |options| model.generate(case["prompt"].as_str().unwrap().into(), options), kind);
        let case = &expected["chat"];
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        compare(case, |options| model.chat(&messages, options), kind);
    }
}

#[test]
fn the_built_in_model_answers_as_on_the_cpu_good() {
    let cpu = LoadOptions { device: Some("cpu".into()), dtype: Some(DType::F32), ..LoadOptions::default() };
    let cpu = ingle::load("demo", &cpu).unwrap();
    let mlx = load("demo", Some(DType::F32));
    let prompts = ["ROMEO:", "JULIET:\nO", "KING:\nMy lord,", "First Citizen:\nBefore we proceed"];
    let answers = |model: &dyn TextModel| -> Vec<String> {
        let prompts = prompts.iter().map(|&prompt| prompt.into()).collect();
        model.batch_generate(prompts, &greedy(40)).unwrap().map(|completion| completion.unwrap().text).collect()
    };
    assert_eq!(answers(&*mlx), answers(&*cpu));
}

#[test]
fn labels_weigh_as_on_the_cpu_good() {
    let cpu = ingle::load("demo", &LoadOptions { device: Some("cpu".into()), ..LoadOptions::default() }).unwrap();
    let mlx = load("demo", None);
    let texts: Vec<String> = (0..40).map(|i| format!("KING:\n{}", "My lord, ".repeat(1 + i % 7))).collect();
    let labels = ["I", "thou art", "the"].map(String::from).to_vec();
    let scores = |model: &dyn TextModel| -> Vec<Vec<f64>> {
        let outcomes = model.classify(texts.clone(), &ClassifyOptions::Labels(labels.clone())).unwrap();
        let scores = outcomes.map(|outcome| match outcome.unwrap() {
            Outcome::Labels(scores) => scores.into_iter().map(|score| f64::from(score.probability)).collect(),
            Outcome::Next(_) => panic!("labels were asked for"),
        });
        scores.collect()
    };
    for (mlx, cpu) in scores(&*mlx).concat().into_iter().zip(scores(&*cpu).concat()) {
        // Both in f32 from the same weights.
        assert!((mlx - cpu).abs() < 0.02, "{mlx} {cpu}");
    }
}

#[test]
fn threads_are_refused_bad() {
    let options = LoadOptions { device: Some(name().into()), threads: Some(2), ..LoadOptions::default() };
    let error = ingle::load("demo", &options).err().unwrap().to_string();
    assert!(error.contains("threads") && error.contains("MLX"), "{error}");
}

#[test]
fn a_memory_limit_refuses_a_model_bad() {
    let options = LoadOptions { device: Some(name().into()), memory_limit: Some(1 << 20), ..LoadOptions::default() };
    let error = ingle::load("demo", &options).err().unwrap().to_string();
    assert!(error.contains("memory limit"), "{error}");
}
