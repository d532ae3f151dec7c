// SPDX-License-Identifier: EUPL-1.2
//! Files that are missing, malformed or do not belong together: each gives one line that says what to do.

use std::path::Path;

use ingle_models::{LoadOptions, load, read_summary};
use ingle_nn::ModelFiles;
use ingle_tensor::DType;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::common::{Fixture, cpu};

/// A copy of a fixture, to be damaged.
struct Copy(TempDir);

impl Copy {
    fn of(name: &str) -> Copy {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(Fixture::named(name).path).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        Copy(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn edit_config(self, edit: impl FnOnce(&mut Map<String, Value>)) -> Copy {
        let path = self.path().join("config.json");
        let mut config: Map<String, Value> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut config);
        std::fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
        self
    }

    fn set(self, field: &str, value: Value) -> Copy {
        self.edit_config(|config| drop(config.insert(field.into(), value)))
    }

    fn edit_file(self, name: &str, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Copy {
        let path = self.path().join(name);
        std::fs::write(&path, edit(std::fs::read(&path).unwrap())).unwrap();
        self
    }

    /// Edits the header of `model.safetensors`, and leaves its data as it is.
    fn edit_header(self, edit: impl FnOnce(&mut Map<String, Value>)) -> Copy {
        self.edit_file("model.safetensors", |content| {
            let (length, rest) = content.split_first_chunk::<8>().unwrap();
            let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
            let mut header: Map<String, Value> = serde_json::from_slice(header).unwrap();
            edit(&mut header);
            let header = serde_json::to_vec(&header).unwrap();
            [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
        })
    }

    /// The error of loading it: one line, with what follows the folder's name.
    fn refused(&self) -> String {
        let files = ModelFiles::directory(self.path()).unwrap();
        let error = load(&files, &cpu(1), &LoadOptions::default(), &mut |_| {}).err().expect("it loads");
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text.replace(&format!("{}/", self.path().display()), "")
    }
}

#[test]
fn missing_directory_bad() {
    let error = ModelFiles::directory("/no/such/model").unwrap_err().to_string();
    let expected = "/no/such/model: no such model directory; give a directory that holds config.json and *.safetensors, \
                    or a .gguf file";
    assert_eq!(error, expected);
}

#[test]
fn missing_config_bad() {
    let copy = Copy::of("llama-v5");
    std::fs::remove_file(copy.path().join("config.json")).unwrap();
    let expected = "config.json: file not found; it says what the model is: copy it from the model's repository";
    assert_eq!(copy.refused(), expected);
}

#[test]
fn malformed_config_bad() {
    let truncated = Copy::of("llama-v5").edit_file("config.json", |content| content[..40].to_vec());
    assert!(truncated.refused().starts_with("config.json: EOF while parsing"), "{}", truncated.refused());
    let list = Copy::of("llama-v5").edit_file("config.json", |_| b"[]".to_vec());
    assert_eq!(list.refused(), "config.json: invalid type: sequence, expected a map at line 1 column 0");
    let empty = Copy::of("llama-v5").edit_file("config.json", |_| Vec::new());
    assert!(empty.refused().starts_with("config.json: EOF"), "{}", empty.refused());
}

#[test]
fn unknown_architecture_bad() {
    let known = "model_type: expected one of gemma2, gemma3, gemma3_text, llama, qwen2, qwen3";
    let mamba = Copy::of("llama-v5").set("model_type", json!("mamba"));
    assert_eq!(mamba.refused(), format!("config.json: {known}, found \"mamba\""));
    let nothing = Copy::of("llama-v5").edit_config(|config| drop(config.remove("model_type")));
    assert_eq!(nothing.refused(), format!("config.json: {known}, found nothing"));
}

#[test]
fn absurd_config_bad() {
    let cases = [
        ("hidden_size", json!(0), "hidden_size: expected a whole number from 1 to 2147483647, found 0"),
        ("num_attention_heads", json!(0), "num_attention_heads: expected a whole number from 1 to 2147483647, found 0"),
        (
            "num_attention_heads",
            json!(-4),
            "num_attention_heads: expected a whole number from 1 to 2147483647, found -4",
        ),
        ("num_key_value_heads", json!(3), "num_key_value_heads: expected a divisor of num_attention_heads 4, found 3"),
        (
            "num_hidden_layers",
            json!(1e9 as u64),
            "num_hidden_layers: expected a whole number from 1 to 2000, found 1000000000",
        ),
        ("vocab_size", json!("many"), "vocab_size: expected a whole number from 1 to 2147483647, found \"many\""),
        ("rms_norm_eps", json!(-1e-6), "rms_norm_eps: expected a number above 0, found -1e-6"),
        (
            "hidden_act",
            json!("relu2"),
            "hidden_act: expected one of silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, found \"relu2\"",
        ),
        ("tie_word_embeddings", json!("yes"), "tie_word_embeddings: expected true or false, found \"yes\""),
        ("head_dim", json!(11), "head_dim: expected an even number of features that turn, found 11"),
        ("rope_parameters", json!(7), "rope_parameters: expected an object, found 7"),
        (
            "rope_parameters",
            json!({"rope_type": "longrope", "rope_theta": 1e4}),
            "rope_parameters.rope_type: expected one of default, linear, llama3, yarn, found \"longrope\"",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "linear"}),
            "rope_parameters.factor: expected a number above 0, found nothing",
        ),
        (
            "rope_parameters",
            json!({"rope_theta": 1e300}),
            "rope_parameters.rope_theta: expected a number above 0, found 1e+300",
        ),
    ];
    for (field, value, expected) in cases {
        assert_eq!(Copy::of("llama-v5").set(field, value).refused(), format!("config.json: {expected}"));
    }
}

#[test]
fn heads_that_do_not_share_the_hidden_size_bad() {
    let copy = Copy::of("llama-v5").set("head_dim", Value::Null).set("num_attention_heads", json!(7));
    let expected = "config.json: head_dim: expected a whole number, as hidden_size 48 is no multiple of \
                    num_attention_heads 7, found null";
    assert_eq!(copy.refused(), expected);
}

#[test]
fn layer_types_bad() {
    let short = Copy::of("gemma2-v5").set("layer_types", json!(["full_attention"]));
    let expected = "config.json: layer_types: expected \"full_attention\" or \"sliding_attention\" for each of 4 layers, \
                    found [\"full_attention\"]";
    assert_eq!(short.refused(), expected);
    let no_window = Copy::of("gemma2-v5").set("sliding_window", Value::Null);
    let expected = "config.json: sliding_window: expected a whole number, as some layers slide, found null";
    assert_eq!(no_window.refused(), expected);
}

#[test]
fn nested_config_names_its_path_bad() {
    let copy = Copy::of("gemma3-v5").edit_config(|config| config["text_config"]["hidden_size"] = json!(0));
    let expected = "config.json: text_config.hidden_size: expected a whole number from 1 to 2147483647, found 0";
    assert_eq!(copy.refused(), expected);
    let copy = Copy::of("gemma3-v5").edit_config(|config| drop(config.remove("text_config")));
    assert_eq!(copy.refused(), "config.json: text_config: expected an object, found nothing");
}

#[test]
fn encoder_bad() {
    let copy = Copy::of("gemma3_text-v5").set("use_bidirectional_attention", json!(true));
    let expected = "config.json: use_bidirectional_attention: expected false: encoders are not supported, found true";
    assert_eq!(copy.refused(), expected);
}

#[test]
fn quantised_weights_bad() {
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
    let expected = "config.json: quantised weights (4-bit, groups of 128, gptq) are not supported yet; use the original \
                    checkpoint";
    let copy = Copy::of("llama-v5").set("quantization_config", gptq);
    assert_eq!(copy.refused(), expected);
    let summary = read_summary(&ModelFiles::directory(copy.path()).unwrap()).unwrap();
    assert_eq!(summary.quantisation.as_deref(), Some("4-bit, groups of 128, gptq"));
}

#[test]
fn missing_weights_bad() {
    let copy = Copy::of("llama-v5");
    std::fs::remove_file(copy.path().join("model.safetensors")).unwrap();
    std::fs::remove_file(copy.path().join("expected.safetensors")).unwrap();
    let expected = "model.safetensors: file not found; download the model's weights as safetensors";
    assert_eq!(copy.refused(), expected);
}

#[test]
fn missing_shard_bad() {
    let copy = Copy::of("llama-published");
    std::fs::remove_file(copy.path().join("model-00002-of-00003.safetensors")).unwrap();
    let expected = "model-00002-of-00003.safetensors: file not found; model.safetensors.index.json names it: download \
                    the missing shard";
    assert_eq!(copy.refused(), expected);
}

#[test]
fn truncated_weights_bad() {
    let copy = Copy::of("llama-v5").edit_file("model.safetensors", |content| content[..content.len() / 2].to_vec());
    let error = copy.refused();
    assert!(error.starts_with("model.safetensors: tensor `model.layers."), "{error}");
    assert!(error.ends_with("; download the file again"), "{error}");
    let copy = Copy::of("llama-v5").edit_file("model.safetensors", |content| content[..3].to_vec());
    let expected = "model.safetensors: expected a safetensors header, found a file of 3 bytes; download the file again";
    assert_eq!(copy.refused(), expected);
    let copy = Copy::of("llama-v5").edit_file("model.safetensors", |_| Vec::new());
    assert!(copy.refused().contains("found a file of 0 bytes"), "{}", copy.refused());
}

#[test]
fn header_longer_than_file_bad() {
    let copy = Copy::of("llama-v5").edit_file("model.safetensors", |mut content| {
        content[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        content
    });
    let error = copy.refused();
    let expected = "model.safetensors: announces a header of 18446744073709551615 bytes, but";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn lying_offsets_bad() {
    let copy = Copy::of("llama-v5").edit_header(|header| {
        let end = header["model.norm.weight"]["data_offsets"][1].as_u64().unwrap();
        header["model.norm.weight"]["data_offsets"] = json!([end - 96, end + (1u64 << 40)]);
    });
    let error = copy.refused();
    assert!(error.starts_with("model.safetensors: tensor `model.norm.weight`: BF16[48] needs 96 bytes"), "{error}");
}

#[test]
fn wrong_dtype_bad() {
    let copy = Copy::of("llama-v5").edit_header(|header| header["model.norm.weight"]["dtype"] = json!("U16"));
    let expected = "model.safetensors: tensor `model.norm.weight`: expected dtype F32, F16 or BF16, found U16[48]";
    assert_eq!(copy.refused(), expected);
    let copy = Copy::of("llama-v5").edit_header(|header| header["model.norm.weight"]["dtype"] = json!("F7"));
    let error = copy.refused();
    assert!(error.starts_with("model.safetensors: tensor `model.norm.weight`: unknown variant `F7`"), "{error}");
}

#[test]
fn integers_asked_for_bad() {
    let options = LoadOptions { dtype: Some(DType::I32) };
    let error = load(&Fixture::named("llama-v5").files(), &cpu(1), &options, &mut |_| {}).err().unwrap();
    assert_eq!(error.to_string(), "load: expected weights as f32, f16 or bf16, found dtypes i32");
}

#[test]
fn wrong_shape_bad() {
    let copy = Copy::of("llama-v5").edit_header(|header| header["model.norm.weight"]["shape"] = json!([6, 8]));
    let expected = "model.safetensors: tensor `model.norm.weight`: expected shape [48], found BF16[6, 8]";
    assert_eq!(copy.refused(), expected);
    let copy = Copy::of("llama-v5").set("vocab_size", json!(129));
    let expected =
        "model.safetensors: tensor `model.embed_tokens.weight`: expected shape [129, 48], found BF16[128, 48]";
    assert_eq!(copy.refused(), expected);
}

#[test]
fn missing_tensor_bad() {
    let copy = Copy::of("llama-v5").edit_header(|header| {
        let tensor = header.remove("model.norm.weight").unwrap();
        header.insert("model.nrom.weight".into(), tensor);
    });
    let expected = "model.safetensors: tensor `model.norm.weight` is missing; the nearest there is `model.nrom.weight`; \
                    configuration and weights may not belong together";
    assert_eq!(copy.refused(), expected);
    let copy = Copy::of("llama-v5").set("tie_word_embeddings", json!(false));
    assert!(copy.refused().starts_with("model.safetensors: tensor `lm_head.weight` is missing"), "{}", copy.refused());
}

/// Fields that some architecture reads.
const FIELDS: [&str; 22] = [
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "sliding_window",
    "sliding_window_pattern",
    "max_window_layers",
    "use_sliding_window",
    "query_pre_attn_scalar",
    "final_logit_softcapping",
    "max_position_embeddings",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "partial_rotary_factor",
    "layer_types",
    "quantization",
];

fn any_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        Just(json!(0)),
        Just(json!(-1)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        (0..100).prop_map(|n| json!(n))
    ];
    let name = prop::sample::select(vec![
        "llama",
        "gemma3_text",
        "qwen2",
        "linear",
        "yarn",
        "llama3",
        "full_attention",
        "sliding_attention",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(|flag| json!(flag)),
        number,
        name.prop_map(|name| json!(name))
    ];
    let parameter = prop::sample::select(vec![
        "rope_type",
        "factor",
        "rope_theta",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
        "beta_fast",
        "full_attention",
        "bits",
    ]);
    leaf.prop_recursive(2, 12, 4, move |inner| {
        let object = prop::collection::btree_map(parameter.clone(), inner.clone(), 0..5);
        let object = object.prop_map(|fields| json!(fields));
        prop_oneof![prop::collection::vec(inner, 0..4).prop_map(|list| json!(list)), object]
    })
}

proptest! {
    /// Whatever a configuration says, it loads or gives an error: no panic, no hang, no memory that nothing earned.
    #[test]
    fn any_config_ugly(
        fixture in prop::sample::select(vec!["gemma3_text-v4", "qwen2-sliding", "llama-v5"]),
        changes in prop::collection::vec((prop::sample::select(FIELDS.to_vec()), any_value()), 1..4),
    ) {
        let copy = changes.into_iter().fold(Copy::of(fixture), |copy, (field, value)| copy.set(field, value));
        let files = ModelFiles::directory(copy.path()).unwrap();
        let device = cpu(1);
        match load(&files, &device, &LoadOptions::default(), &mut |_| {}) {
            Ok(model) => prop_assert!(model.summary().layers > 0),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
        prop_assert!(device.memory().peak < 1 << 20);
    }
}
