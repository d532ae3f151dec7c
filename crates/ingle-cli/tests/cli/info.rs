// SPDX-License-Identifier: EUPL-1.2
//! `ingle info` and `ingle models`: what they say of a model, from its headers alone.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{ingle, json, stdout};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ingle/models/demo");

/// A folder with a copy of each of these files.
fn folder_of(files: &[PathBuf]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    folder
}

/// The forms of the weights that `info` shows, with their numbers of parameters and bytes.
fn forms(info: &Value) -> Vec<(String, u64, u64)> {
    let weights = info["weights"].as_array().unwrap_or_else(|| panic!("no weights in {info}"));
    let form = |form: &Value| {
        let number = |field: &str| form[field].as_u64().unwrap();
        (form["form"].as_str().unwrap().to_owned(), number("parameters"), number("bytes"))
    };
    let forms: Vec<_> = weights.iter().map(form).collect();
    let sum = |of: fn(&(String, u64, u64)) -> u64| forms.iter().map(of).sum::<u64>();
    assert_eq!(info["parameters"], sum(|form| form.1));
    assert_eq!(info["weight_bytes"], sum(|form| form.2));
    forms
}

#[test]
fn a_mix_of_quantised_weights_is_told_good() {
    let source = fixture("mlx-models/qwen3-mixed");
    let tokenizer = Path::new(DEMO).join("tokenizer.json");
    let folder = folder_of(&[source.join("config.json"), source.join("model.safetensors"), tokenizer]);
    let model = folder.path().display().to_string();
    let info = json(&["info", "--json", "--model", &model]);
    let names: Vec<String> = forms(&info).into_iter().map(|form| form.0).collect();
    assert!(names.contains(&"4 bits in groups of 64".to_owned()), "{names:?}");
    assert!(names.iter().filter(|name| name.contains("bits in groups of")).count() > 1, "{names:?}");
    assert!(names.contains(&"bf16".to_owned()), "{names:?}");
    let header = fs::metadata(folder.path().join("model.safetensors")).unwrap().len();
    assert!(info["weight_bytes"].as_u64().unwrap() < header);
    let text = stdout(&["info", "--model", &model]);
    let weights = text.lines().find(|line| line.starts_with("weights")).unwrap();
    assert!(names.iter().all(|name| weights.contains(&format!(" as {name}"))), "{weights}");
}

#[test]
fn gguf_formats_are_named_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.gguf").display().to_string();
    let model = fixture("end-to-end/byte-level").display().to_string();
    stdout(&["quantize", &model, &file, "--format", "gguf", "--type", "q4_0"]);
    let info = json(&["info", "--json", "--model", &file]);
    let forms = forms(&info);
    let of = |name: &str| forms.iter().find(|form| form.0 == name).unwrap_or_else(|| panic!("{forms:?}"));
    let (_, parameters, bytes) = of("Q4_0");
    assert_eq!(bytes * 32, parameters * 18);
    assert_eq!(of("f32").1 * 4, of("f32").2);
    let text = stdout(&["info", "--model", &file]);
    assert!(text.contains(" as Q4_0") && !text.contains("in bf16\nquantisation"), "{text}");
    let dense = json(&["info", "--json", "--dtype", "f32"]);
    assert_eq!(dense["weight_bytes"].as_u64(), dense["parameters"].as_u64().map(|parameters| 4 * parameters));
}

#[test]
fn memory_is_what_loading_shows_good() {
    let info = json(&["info", "--json"]);
    assert!(info["active_memory"].is_null() && info["peak_memory"].is_null(), "{info}");
    let loaded = json(&["info", "--json", "--load"]);
    assert!(loaded["active_memory"].as_u64() >= loaded["weight_bytes"].as_u64(), "{loaded}");
    assert!(stdout(&["info"]).contains("not loaded; --load says"));
    assert!(stdout(&["info", "--load"]).contains(" at most"));
}

/// A model of 64 GiB, all of it a hole in its file, described where there is room to map it and not to load it. Half of it
/// is a table that loading would leave mapped, and half a head that it would lay out anew.
#[cfg(target_os = "linux")]
#[test]
fn a_model_larger_than_memory_is_described_ugly() {
    const VOCABULARY: u64 = 1 << 26;
    let named = |name: &str| Path::new(DEMO).join(name);
    let folder = folder_of(&["config.json", "tokenizer.json", "tokenizer_config.json"].map(named));
    let config = folder.path().join("config.json");
    let mut fields: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    fields["vocab_size"] = VOCABULARY.into();
    fields["tie_word_embeddings"] = false.into();
    fs::write(config, fields.to_string()).unwrap();

    let demo = fs::read(named("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(demo[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&demo[8..8 + length]).unwrap();
    header["model.embed_tokens.weight"]["shape"][0] = VOCABULARY.into();
    header["lm_head.weight"] = header["model.embed_tokens.weight"].clone();
    let mut end = 0;
    for (_, tensor) in header.as_object_mut().unwrap().iter_mut().filter(|(name, _)| *name != "__metadata__") {
        assert_eq!(tensor["dtype"], "BF16");
        let elements: u64 = tensor["shape"].as_array().unwrap().iter().map(|len| len.as_u64().unwrap()).product();
        tensor["data_offsets"] = serde_json::json!([end, end + 2 * elements]);
        end += 2 * elements;
    }
    let header = header.to_string().into_bytes();
    let file = folder.path().join("model.safetensors");
    fs::write(&file, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
    let size = 8 + header.len() as u64 + end;
    fs::File::options().write(true).open(&file).unwrap().set_len(size).unwrap();

    let script = "ulimit -v 83886080; exec \"$0\" \"$@\"";
    let output = std::process::Command::new("bash")
        .env_remove("INGLE_MODEL")
        .args(["-c", script])
        .arg(assert_cmd::cargo::cargo_bin!("ingle"))
        .args(["info", "--json", "--threads", "1", "--model"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((info["vocab_size"].as_u64(), info["weight_bytes"].as_u64()), (Some(VOCABULARY), Some(end)));
}

#[test]
fn what_cannot_be_loaded_is_marked_bad() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let model = fixture("end-to-end/byte-level").display().to_string();
    stdout(&["quantize", &model, &path("good.gguf").display().to_string(), "--format", "gguf", "--type", "q4_0"]);
    // Of a format that is not computed here: MXFP4, whose blocks are a byte smaller.
    let mut content = fs::read(path("good.gguf")).unwrap();
    let name = b"blk.0.ffn_down.weight";
    let at = content.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 2 * 8;
    assert_eq!(content[at], 2);
    content[at] = 39;
    fs::write(path("mxfp4.gguf"), content).unwrap();
    fs::copy(fixture("gguf-models/llama-q4_0/model.gguf"), path("no-vocabulary.gguf")).unwrap();
    fs::copy(fixture("gguf-vocab/llama.gguf"), path("vocabulary.gguf")).unwrap();
    let models = stdout(&["models", &folder.path().display().to_string()]);
    let line = |name: &str| models.lines().find(|line| line.contains(&format!("/{name}.gguf "))).unwrap();
    assert!(line("good").contains("Q4_0") && !line("good").contains("not usable"), "{models}");
    for (name, reason) in
        [("mxfp4", "MXFP4"), ("no-vocabulary", "tokenizer.ggml.tokens"), ("vocabulary", "found a vocabulary of")]
    {
        assert!(line(name).contains("not usable: ") && line(name).contains(reason), "{}", line(name));
        let path = path(&format!("{name}.gguf")).display().to_string();
        ingle(&["generate", "--prompt", "x", "--model", &path]).assert().failure().code(1);
    }
}
