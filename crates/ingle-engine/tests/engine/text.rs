// SPDX-License-Identifier: EUPL-1.2
//! Tokens become text, and text ends answers.

use ingle_engine::text::{Special, SpecialText, Tokenizer};
use ingle_engine::{Engine, EngineOptions, FinishReason, Generate, Request, Task};
use ingle_nn::ModelFiles;

use crate::tiny::*;

/// A byte-level tokeniser with one token for each id of the tiny model: letters, syllables, a space before some,
/// and the bytes of `é`.
fn tokenizer() -> Tokenizer {
    let mut pieces: Vec<String> = ('a'..='z').map(String::from).collect();
    pieces.extend(["\u{120}the", "\u{120}", "Ã", "©", "th", "he", ".", "\u{120}a", "\u{10a}"].map(String::from));
    let fillers = (pieces.len()..VOCAB).map(|id| format!("w{}", char::from(b'A' + (id - 35) as u8)));
    pieces.extend(fillers.collect::<Vec<_>>());
    let vocab: Vec<String> = (0..).zip(&pieces).map(|(id, piece): (usize, _)| format!("{piece:?}: {id}")).collect();
    let json = format!(
        r#"{{"model": {{"type": "BPE", "vocab": {{{}}}, "merges": []}},
            "pre_tokenizer": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false}},
            "decoder": {{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false}}}}"#,
        vocab.join(", ")
    );
    let json: &'static [u8] = json.into_bytes().leak();
    let files: &'static [(&str, &[u8])] = vec![("tokenizer.json", json)].leak();
    Tokenizer::from_files(&ModelFiles::Embedded { name: "tiny", files }).expect("a tokeniser")
}

fn engine() -> Engine {
    Engine::new(Box::new(Tiny::new(Trouble::Never)), Some(tokenizer()), EngineOptions::default()).expect("an engine")
}

fn request(seed: u64, stop_strings: &[&str]) -> Request {
    let Task::Generate(options) = generate(Vec::new(), 60, seed).task else { unreachable!() };
    let stop_strings = stop_strings.iter().map(|&stop| stop.to_owned()).collect();
    Request {
        prompt: prompt(seed, 20),
        task: Task::Generate(Generate { stop_strings, ..options }),
        adapter: None,
        deadline: None,
    }
}

#[test]
fn pieces_together_are_the_decoded_answer_good() {
    let tokenizer = tokenizer();
    for seed in 0..10 {
        let outcome = run(&mut engine(), vec![request(seed, &[])]).remove(0);
        let whole = tokenizer.decode(&outcome.tokens, SpecialText::Skip).expect("text");
        assert_eq!((outcome.tokens.len(), outcome.text), (60, whole));
    }
}

#[test]
fn a_stop_string_across_tokens_ends_the_answer_before_it_good() {
    for seed in 0..10 {
        let whole = run(&mut engine(), vec![request(seed, &[])]).remove(0);
        // Five characters of the answer, which no single token has.
        let start = whole.text.char_indices().nth(30).expect("a long answer").0;
        let stop: String = whole.text[start..].chars().take(5).collect();
        let outcome = run(&mut engine(), vec![request(seed, &["never in it", &stop])]).remove(0);
        let end = whole.text.find(&stop).expect("it is there");
        assert_eq!((outcome.text.as_str(), outcome.reason()), (&whole.text[..end], Some(FinishReason::Stop)));
        assert!(outcome.tokens.len() < 60 && whole.tokens.starts_with(&outcome.tokens));
    }
}

#[test]
fn text_held_back_for_a_stop_string_that_never_comes_is_given_at_the_end_ugly() {
    for seed in 0..10 {
        let whole = run(&mut engine(), vec![request(seed, &[])]).remove(0);
        let tail: String = whole.text.chars().skip(whole.text.chars().count() - 4).collect();
        let outcome = run(&mut engine(), vec![request(seed, &[&format!("{tail}!")])]).remove(0);
        assert_eq!((outcome.reason(), outcome.text), (Some(FinishReason::Length), whole.text));
    }
}

#[test]
fn an_empty_stop_string_bad() {
    let error = engine().submit(request(1, &["x", ""])).expect_err("it would end every answer").to_string();
    assert!(error.contains("stop string 1 is empty"), "{error}");
}

#[test]
fn a_prompt_that_was_encoded_runs_good() {
    let tokenizer = tokenizer();
    let prompt = tokenizer.encode("the theatre", Special::Add).expect("ids");
    let outcome = run(&mut engine(), vec![generate(prompt, 5, 1)]).remove(0);
    assert_eq!(outcome.tokens.len(), 5);
}
