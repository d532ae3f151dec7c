// SPDX-License-Identifier: EUPL-1.2
//! Adapters: chosen for each request, and merged into a model.

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{fails, ingle, json, jsonl, stdout};

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name).display().to_string()
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap()
}

/// What transformers generates with an adapter, and without.
struct Expected {
    prompt: String,
    adapted: Value,
    plain: Value,
}

fn expected() -> Expected {
    let plain = read("end-to-end/byte-level/expected.json")["generate"].clone();
    let adapted = read("adapters/peft-byte-level/generated.json")["ids"].clone();
    let tokens = adapted.as_array().unwrap().len();
    let plain_ids = plain["ids"].as_array().unwrap()[..tokens].to_vec();
    Expected { prompt: plain["prompt"].as_str().unwrap().into(), adapted, plain: plain_ids.into() }
}

/// What stands after a command to run the model in f32.
fn model() -> Vec<String> {
    ["--model", &fixture("end-to-end/byte-level"), "--dtype", "f32"].map(str::to_owned).to_vec()
}

fn run(before: &[&str], adapters: &[&str], after: &[&str]) -> Vec<String> {
    let before = before.iter().map(|&word| word.to_owned());
    let adapters = adapters.iter().flat_map(|adapter| ["--adapter".to_owned(), (*adapter).to_owned()]);
    before.chain(model()).chain(adapters).chain(after.iter().map(|&word| word.to_owned())).collect()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_request_goes_through_the_adapter_it_names_good() {
    let Expected { prompt, adapted, plain } = expected();
    let adapter = format!("odd={}", fixture("adapters/peft-byte-level"));
    let rest = ["--prompt", &prompt, "-n", "16", "--temperature", "0", "--ignore-eos", "--json"];
    assert_eq!(json(&words(&run(&["generate"], &[&adapter], &rest)))["tokens"], adapted);
    assert_eq!(json(&words(&run(&["generate"], &[], &rest)))["tokens"], plain);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl").display().to_string();
    let lines = [
        json!({"prompt": prompt}),
        json!({"prompt": prompt, "adapter": null}),
        json!({"prompt": prompt, "adapter": "odd"}),
        json!({"prompt": prompt, "adapter": null, "id": 7}),
    ];
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let rest = ["-n", "16", "--temperature", "0", "--ignore-eos"];
    let answers = jsonl(&stdout(&words(&run(&["batch", &file], &[&adapter], &rest))));
    let tokens: Vec<&Value> = answers.iter().map(|answer| &answer["tokens"]).collect();
    assert_eq!(tokens, [&adapted, &plain, &adapted, &plain]);
    assert_eq!((&answers[3]["index"], &answers[3]["id"]), (&json!(3), &json!(7)));

    let lines = [json!({"text": prompt}), json!({"text": prompt, "adapter": null})];
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let found = jsonl(&stdout(&words(&run(&["classify", &file, "--top", "1"], &[&adapter], &[]))));
    let first: Vec<&Value> = found.iter().map(|line| &line["top"][0]["id"]).collect();
    assert_eq!(first, [&adapted[0], &plain[0]]);
}

#[test]
fn a_merged_model_needs_no_adapter_good() {
    let Expected { prompt, adapted, .. } = expected();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged").display().to_string();
    let (base, adapter) = (fixture("end-to-end/byte-level"), fixture("adapters/peft-byte-level"));
    let fuse = ["fuse", "--model", &base, "--adapter", &adapter, "--out", &out];
    let report = json(&[&fuse[..], &["--json"]].concat());
    assert_eq!(report["path"], json!(out));
    assert_eq!(report["layers"].as_u64().map(|layers| layers % 2), Some(0), "queries and up-projections: {report}");
    let rest = ["--prompt", &prompt, "-n", "1", "--temperature", "0", "--ignore-eos", "--json"];
    let answer = json(&[&["generate", "--model", &out, "--dtype", "f32"], &rest[..]].concat());
    assert_eq!(answer["tokens"][0], adapted[0], "but for the rounding of bf16");

    let line = fails(&mut ingle(&fuse), 1);
    assert!(line.ends_with("merged: is there already; remove it, or give another path"), "{line}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn adapters_that_are_not_there_bad() {
    let says = |args: &[String], expected: &str| {
        let line = fails(&mut ingle(&words(args)), 1);
        assert!(line.contains(expected), "{line}");
    };
    let nowhere = run(&["generate", "-p", "a"], &["x=/nonexistent"], &[]);
    says(&nowhere, "/nonexistent/adapter_config.json: file not found; give a directory with an adapter");
    let another = format!("x={}", fixture("adapters/peft-llama-head"));
    says(
        &run(&["generate", "-p", "a"], &[&another], &[]),
        "peft-llama-head: lora: adapter: expected an adapter of this model",
    );
    let twice = format!("x={}", fixture("adapters/peft-byte-level"));
    says(&run(&["generate", "-p", "a"], &[&twice, &twice], &[]), "adapters: expected adapters whose names differ");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    std::fs::write(&file, "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"adapter\": \"y\"}\n").unwrap();
    says(&run(&["batch", file.to_str().unwrap()], &[&twice], &[]), "entry 2: adapter: expected one of x, found `y`");
}
