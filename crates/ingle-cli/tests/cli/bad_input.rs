// SPDX-License-Identifier: EUPL-1.2
//! Wrong usage and bad files: one clear line each, exit code 2 for wrong usage and 1 for failure.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{fails, ingle};
use serde_json::Value;
use tempfile::TempDir;

/// A copy of a small model that a test may spoil.
fn model() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ingle/models/demo");
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().to_owned();
    (folder, path)
}

/// The one line that `ingle info` says of a spoilt model.
#[track_caller]
fn refusal(spoil: impl FnOnce(&Path)) -> String {
    let (_folder, path) = model();
    spoil(&path);
    fails(&mut ingle(&["info", "--model", &path.display().to_string()]), 1)
}

/// Asserts that a message has all these parts.
#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "expected `{part}` in: {message}");
    }
}

fn edit_config(path: &Path, change: impl FnOnce(&mut Value)) {
    let file = path.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut config);
    fs::write(file, config.to_string()).unwrap();
}

/// Rewrites the header of the weight file and leaves its data as it is.
fn edit_header(path: &Path, change: impl FnOnce(&mut Value)) {
    let file = path.join("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    change(&mut header);
    let header = header.to_string().into_bytes();
    let mut spoilt = (header.len() as u64).to_le_bytes().to_vec();
    spoilt.extend(&header);
    spoilt.extend(&bytes[8 + len..]);
    fs::write(file, spoilt).unwrap();
}

const NORM: &str = "model.norm.weight";

#[test]
fn missing_directory_bad() {
    let line = fails(&mut ingle(&["info", "--model", "/no/such/model"]), 1);
    says(&line, &["/no/such/model", "no such directory"]);
}

#[test]
fn a_file_that_is_no_model_bad() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.txt");
    fs::write(&file, "Once upon a time").unwrap();
    let line = fails(&mut ingle(&["generate", "--prompt", "x", "-m", &file.display().to_string()]), 1);
    says(&line, &["some.txt: expected a model, found a file of another kind; give a directory", "config.json"]);
}

#[test]
fn a_vocabulary_alone_is_no_model_bad() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf-vocab/llama.gguf");
    for command in [&["info"][..], &["generate", "--prompt", "x"]] {
        let line = fails(&mut ingle(&[command, &["--model", file]].concat()), 1);
        says(&line, &["llama.gguf: expected a model, found a vocabulary of", "tokens and no weights; download"]);
    }
}

#[test]
fn absurd_counts_of_a_gguf_file_bad() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    for (counts, named) in
        [([1u64 << 60, 2], "1152921504606846976 tensors"), ([2, 1 << 60], "1152921504606846976 meta")]
    {
        let bytes = [&b"GGUF\x03\0\0\0"[..], &counts.map(u64::to_le_bytes).concat(), &[0; 76]].concat();
        fs::write(&file, bytes).unwrap();
        let line = fails(&mut ingle(&["info", "--model", &file.display().to_string()]), 1);
        says(&line, &["m.gguf", named, "100 bytes", "damaged", "download the file again"]);
    }
}

#[test]
fn an_instruction_set_that_is_none_bad() {
    let line = fails(ingle(&["generate", "--prompt", "x"]).env("INGLE_CPU", "foo"), 1);
    says(&line, &["INGLE_CPU=foo names no instruction set; choose among", "scalar"]);
    assert!(!line.contains("mlx_lm") && !line.contains("backend"), "{line}");
}

#[test]
fn missing_config_bad() {
    says(&refusal(|path| fs::remove_file(path.join("config.json")).unwrap()), &["config.json", "not found"]);
}

#[test]
fn malformed_config_bad() {
    says(
        &refusal(|path| fs::write(path.join("config.json"), "{\"model_type\": ").unwrap()),
        &["config.json", "line 1"],
    );
    says(
        &refusal(|path| edit_config(path, |config| config["hidden_size"] = "wide".into())),
        &["config.json", "hidden_size"],
    );
}

#[test]
fn unknown_architecture_names_the_known_bad() {
    let line = refusal(|path| edit_config(path, |config| config["model_type"] = "mamba9".into()));
    says(&line, &["mamba9", "gemma3", "llama", "qwen2", "qwen3"]);
}

#[test]
fn missing_tokenizer_bad() {
    says(&refusal(|path| fs::remove_file(path.join("tokenizer.json")).unwrap()), &["tokenizer.json", "not found"]);
}

#[test]
fn malformed_tokenizer_bad() {
    says(&refusal(|path| fs::write(path.join("tokenizer.json"), "{}").unwrap()), &["tokenizer.json"]);
}

#[test]
fn missing_weights_bad() {
    says(&refusal(|path| fs::remove_file(path.join("model.safetensors")).unwrap()), &["safetensors"]);
}

#[test]
fn truncated_weights_bad() {
    let truncate = |keep: usize| {
        move |path: &Path| {
            let file = path.join("model.safetensors");
            let bytes = fs::read(&file).unwrap();
            fs::write(file, &bytes[..keep.min(bytes.len())]).unwrap();
        }
    };
    for keep in [0, 5, 100, 1_000_000] {
        says(&refusal(truncate(keep)), &["model.safetensors"]);
    }
}

#[test]
fn lying_header_bad() {
    says(
        &refusal(|path| edit_header(path, |header| header[NORM]["data_offsets"][1] = 1_000_000_000_000u64.into())),
        &["model.safetensors"],
    );
    let huge = |path: &Path| {
        let file = path.join("model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(file, bytes).unwrap();
    };
    says(&refusal(huge), &["model.safetensors"]);
    says(
        &refusal(|path| edit_header(path, |header| header[NORM]["shape"] = serde_json::json!([1u64 << 60]))),
        &["model.safetensors"],
    );
}

#[test]
fn wrong_dtype_bad() {
    let line = refusal(|path| edit_header(path, |header| header[NORM]["dtype"] = "I16".into()));
    says(&line, &[NORM, "I16"]);
}

#[test]
fn wrong_shape_bad() {
    let line = refusal(|path| edit_header(path, |header| header[NORM]["shape"] = serde_json::json!([2, 128])));
    says(&line, &[NORM, "[256]", "[2, 128]"]);
}

#[test]
fn missing_tensor_bad() {
    let line = refusal(|path| {
        edit_header(path, |header| {
            let norm = header.as_object_mut().unwrap().remove(NORM).unwrap();
            header["model.normal.weight"] = norm;
        });
    });
    says(&line, &[NORM, "missing"]);
}

#[test]
fn prompt_longer_than_the_context_bad() {
    let prompt = "to be or not to be ".repeat(20);
    let line = fails(&mut ingle(&["generate", "--context-length", "16", "--prompt", &prompt]), 1);
    says(&line, &["16", "context"]);
}

#[test]
fn empty_prompt_bad() {
    let (_folder, path) = model();
    // Without a start token, an empty text is no tokens at all.
    let file = path.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["add_bos_token"] = false.into();
    fs::write(file, config.to_string()).unwrap();
    let line = fails(&mut ingle(&["generate", "--model", &path.display().to_string(), "--prompt", ""]), 1);
    says(&line, &["prompt", "empty"]);
}

#[test]
fn invalid_utf8_on_stdin_bad() {
    for command in [&["generate"][..], &["tokenize"], &["batch"], &["classify", "--top", "1"]] {
        let line = fails(ingle(command).write_stdin(&b"good \xff\xfe bad"[..]), 1);
        says(&line, &["UTF-8"]);
    }
}

#[test]
fn values_out_of_range_are_wrong_usage_bad() {
    for (option, value) in [
        ("--temperature", "nan"),
        ("--temperature", "-1"),
        ("--top-p", "1.5"),
        ("--top-p", "0"),
        ("--min-p", "nan"),
        ("--repetition-penalty", "0"),
        ("--max-tokens", "0"),
        ("--logit-bias", "5"),
        ("--dtype", "int3"),
        ("--kv-dtype", "i8"),
        ("--threads", "0"),
        ("--memory-limit", "lots"),
    ] {
        let line = fails(&mut ingle(&["generate", "--prompt", "x", option, value]), 2);
        says(&line, &[option.trim_start_matches('-'), "expected"]);
    }
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2_bad() {
    says(&fails(&mut ingle(&["frobnicate"]), 2), &["frobnicate"]);
    says(&fails(&mut ingle(&["logits"]), 2), &["--tokens"]);
    says(&fails(&mut ingle(&["classify", "--top", "3", "--labels", "a,b"]), 2), &["--labels"]);
    says(&fails(&mut ingle(&["classify"]), 2), &["--labels", "--top"]);
    says(&fails(&mut ingle(&["generate", "--no-such-flag"]), 2), &["--no-such-flag"]);
}

#[test]
fn unknown_device_names_the_known_bad() {
    says(&fails(&mut ingle(&["info", "--device", "abacus"]), 1), &["abacus", "cpu"]);
}

#[test]
fn a_model_too_large_for_the_memory_limit_bad() {
    says(&fails(&mut ingle(&["info", "--memory-limit", "1MB"]), 1), &["memory limit"]);
}

#[test]
fn tokens_outside_the_vocabulary_bad() {
    says(&fails(&mut ingle(&["logits", "--tokens", "1,99999999"]), 1), &["99999999", "vocabulary"]);
}

#[test]
fn files_that_are_not_there_bad() {
    let advice = "name a file with an entry a line, or - for standard input";
    says(&fails(&mut ingle(&["batch", "/no/such/file"]), 1), &["/no/such/file", advice]);
    says(&fails(&mut ingle(&["classify", "--top", "1", "/no/such/file"]), 1), &["/no/such/file", advice]);
    says(&fails(&mut ingle(&["classify", "--top", "1", "/"]), 1), &["/: Is a directory", advice]);
    let folder = tempfile::tempdir().unwrap();
    let (prompts, out) = (folder.path().join("a.txt"), folder.path().join("out.jsonl"));
    fs::write(&prompts, "a\n").unwrap();
    let [prompts, out] = [prompts, out].map(|path| path.display().to_string());
    for command in [&["batch"][..], &["classify", "--top", "1"]] {
        let model = [&prompts, "-o", &out, "--model", "/no/such/model"];
        says(&fails(&mut ingle(&[command, &model].concat()), 1), &["/no/such/model"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of a result that is none");
    }
    says(&fails(&mut ingle(&["models", "/no/such/folder"]), 1), &["/no/such/folder"]);
    says(&fails(&mut ingle(&["chat", "--load", "/no/such/talk"]), 1), &["/no/such/talk"]);
}

#[test]
fn a_bad_line_of_jsonl_is_named_bad() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.jsonl");
    fs::write(&file, "{\"text\": \"a\"}\n{\"text\": 7}\n").unwrap();
    says(&fails(&mut ingle(&["classify", "--top", "1", &file.display().to_string()]), 1), &["text 2", "string"]);
    fs::write(&file, "{\"text\": \"a\"}\nnot json\n").unwrap();
    says(&fails(&mut ingle(&["classify", "--top", "1", &file.display().to_string()]), 1), &["line 2", "JSON"]);
}
