// SPDX-License-Identifier: EUPL-1.2
//! What the engine refuses, and what fails without taking anything else along.

use ingle_engine::{Engine, EngineOptions, Generate, Request, Task};

use crate::tiny::*;

#[test]
fn requests_that_cannot_be_carried_out_bad() {
    let mut engine = engine(EngineOptions::default());
    let with = |change: fn(&mut Generate)| {
        let Task::Generate(mut options) = generate(Vec::new(), 5, 5).task else { unreachable!() };
        change(&mut options);
        Request { prompt: prompt(1, 5), task: Task::Generate(options), adapter: None, deadline: None }
    };
    let cases = [
        (generate(vec![], 1, 1), "the prompt is empty"),
        (generate(prompt(1, CONTEXT + 1), 1, 1), "the prompt has 257 tokens, the context holds 256"),
        (generate(vec![1, 61], 1, 1), "prompt token 1 is 61, the vocabulary has 61 tokens"),
        (logits(prompt(1, 5), 5), "logits from position 5"),
        (score(prompt(1, 5), 0), "scores from token 0: expected 1 to 4"),
        (score(prompt(1, 5), 5), "scores from token 5"),
        (score(prompt(1, 1), 1), "scores from token 1"),
        (with(|o| o.sampling.temperature = f32::NAN), "temperature: expected 0 or a finite number above it, found NaN"),
        (with(|o| o.sampling.temperature = -0.5), "temperature"),
        (with(|o| o.sampling.temperature = f32::INFINITY), "temperature"),
        (with(|o| o.sampling.top_p = 1.5), "top_p: expected a number above 0, at most 1, found 1.5"),
        (with(|o| o.sampling.top_p = f32::NAN), "top_p"),
        (with(|o| o.sampling.min_p = -0.1), "min_p"),
        (with(|o| o.sampling.repetition_penalty = 0.0), "repetition_penalty"),
        (with(|o| o.sampling.presence_penalty = f32::NAN), "presence_penalty"),
        (with(|o| o.sampling.frequency_penalty = f32::INFINITY), "frequency_penalty"),
        (with(|o| o.sampling.logit_bias = vec![(61, 1.0)]), "logit_bias: expected ids of the vocabulary, found 61"),
        (with(|o| o.sampling.logit_bias = vec![(3, f32::NAN)]), "logit_bias"),
        (with(|o| o.stop_strings = vec!["x".into()]), "stop strings need a tokeniser"),
        (
            Request { adapter: Some(ingle_nn::AdapterId(ADAPTERS)), ..generate(prompt(1, 5), 1, 1) },
            "adapter 2: expected one of the 2 that the model has",
        ),
    ];
    for (request, expected) in cases {
        let message = engine.submit(request).expect_err(expected).to_string();
        assert!(message.contains(expected) && !message.contains('\n'), "{message} does not say {expected}");
    }
    assert!(engine.is_idle());
}

#[test]
fn options_out_of_range_bad() {
    let refuse = |options| {
        let made = Engine::new(Box::new(Tiny::new(Trouble::Never)), None, options);
        made.expect_err("out of range").to_string()
    };
    assert!(refuse(EngineOptions { step_tokens: Some(0), ..Default::default() }).contains("step_tokens: expected"));
    assert!(refuse(EngineOptions { context_length: Some(0), ..Default::default() }).contains("context_length"));
    assert!(
        refuse(EngineOptions { kv_bytes: Some(100), ..Default::default() }).contains("kv_bytes: expected at least")
    );
    let integers = EngineOptions { kv_dtype: Some(ingle_tensor::DType::I32), ..Default::default() };
    assert!(refuse(integers).contains("kv_dtype"));
}

#[test]
fn not_a_number_fails_its_own_request_only_ugly() {
    let mut engine = engine(EngineOptions::default());
    let poisoned = [prompt(1, 10), vec![POISON]].concat();
    let outcomes = run(&mut engine, vec![generate(poisoned, 10, 1), generate(prompt(2, 20), 10, 2)]);
    let failed = outcomes[0].failed.as_deref().expect("NaN is no distribution");
    assert!(failed.contains("expected logits with a finite maximum, found NaN"), "{failed}");
    assert_eq!(outcomes[1].tokens, alone(generate(prompt(2, 20), 10, 2)).tokens);
}

#[test]
fn a_failed_pass_fails_what_it_computed_and_the_engine_goes_on_ugly() {
    let model = Box::new(Tiny::new(Trouble::Error(5)));
    let options = EngineOptions { max_sequences: 2, ..Default::default() };
    let mut engine = Engine::new(model, None, options).expect("an engine");
    let requests: Vec<Request> = (0..3).map(|i| generate(prompt(i, 20), 20, i)).collect();
    let outcomes = run(&mut engine, requests.clone());
    assert!(outcomes[0].failed.as_deref().is_some_and(|error| error.contains("layer 7")));
    assert!(outcomes[1].failed.is_some());
    let expected: Vec<Outcome> = requests.iter().cloned().map(alone).collect();
    assert_eq!(outcomes[2].tokens, expected[2].tokens);
    for (a, b) in expected.iter().zip(run(&mut engine, requests)) {
        assert_eq!(a.tokens, b.tokens);
    }
}

#[test]
fn a_pass_that_fails_while_another_is_under_way_ugly() {
    let options = EngineOptions { max_sequences: 2, ..Default::default() };
    let mut engine = queued_engine(options, Trouble::Error(5));
    let requests: Vec<Request> = (0..3).map(|i| greedy(prompt(i, 20), 12)).collect();
    let outcomes = run(&mut engine, requests.clone());
    let expected: Vec<Outcome> = requests.iter().cloned().map(alone).collect();
    for (found, expected) in outcomes.iter().zip(&expected).take(2) {
        assert!(found.failed.as_deref().is_some_and(|error| error.contains("layer 7")), "{found:?}");
        // The pass before it was computed, and is given.
        assert_eq!(found.tokens, expected.tokens[..5]);
    }
    assert_eq!(outcomes[2].tokens, expected[2].tokens);
    for (a, b) in expected.iter().zip(run(&mut engine, requests)) {
        assert_eq!(a.tokens, b.tokens);
    }
}
