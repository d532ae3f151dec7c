// SPDX-License-Identifier: EUPL-1.2
//! `ingle quantize`, and what it writes in the other commands.

use std::path::Path;

use crate::common::{fails, ingle, json, stdout};

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name).display().to_string()
}

#[test]
fn a_model_made_smaller_runs_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (mlx, gguf) = (path("demo-4bit"), path("small.gguf"));
    assert_eq!(stdout(&["quantize", "demo", &mlx, "--bits", "4", "--group-size", "32"]), format!("{mlx}\n"));
    let written =
        json(&["quantize", &fixture("end-to-end/byte-level"), &gguf, "--format", "gguf", "--type", "q8_0", "--json"]);
    assert_eq!(written["path"], gguf);
    for (model, quantisation) in [(&mlx, "4-bit, groups of 32"), (&gguf, "Q8_0")] {
        let info = json(&["info", "--model", model, "--json"]);
        assert_eq!(info["quantisation"], quantisation);
        assert!(info["weight_bytes"].as_u64().unwrap() < 2 * info["parameters"].as_u64().unwrap());
        let answer = json(&["generate", "--model", model, "--prompt", "The king", "-n", "4", "--ignore-eos", "--json"]);
        assert_eq!(answer["usage"]["generated_tokens"], 4, "{answer}");
    }
    let models = stdout(&["models", &folder.path().display().to_string()]);
    assert!(models.contains("4-bit, groups of 32") && models.contains("Q8_0"), "{models}");
}

#[test]
fn wrong_usage_bad() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let says = |args: &[&str], code, expected: &str| {
        let line = fails(&mut ingle(&[&["quantize", "demo", &out], args].concat()), code);
        assert!(line.contains(expected), "{line}");
    };
    says(&["--format", "gguf"], 2, "--type <TYPE>");
    says(&["--format", "gguf", "--type", "q9"], 2, "expected one of f32, f16, bf16, q8_0");
    says(&["--bits", "4", "--type", "q8_0", "--format", "gguf"], 2, "--bits");
    says(&["--type", "q8_0"], 1, "--type: expected --format gguf beside it");
    says(&["--bits", "7"], 1, "bits: expected one of 2, 3, 4, 5, 6, 8, found 7");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    let line = fails(&mut ingle(&["quantize", &fixture("mlx-models/llama-3bit-64"), &out]), 1);
    assert!(line.contains("is quantised already (3-bit, groups of 64)"), "{line}");
}
