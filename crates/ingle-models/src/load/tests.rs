// SPDX-License-Identifier: EUPL-1.2
//! What the configurations of published checkpoints come to: they lean on the defaults of transformers' classes.

use ingle_nn::{Bias, Head, RopeScaling};
use serde_json::{Value, json};

use super::*;

fn read(config: &Value) -> DecoderConfig {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let file = Config::open(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    let architecture = config["model_type"].as_str().unwrap();
    let (_, read) = ARCHITECTURES.iter().find(|(name, _)| *name == architecture).unwrap();
    let decoder = read(&file).unwrap();
    check(&decoder, &file).unwrap();
    decoder
}

fn global_layers(decoder: &DecoderConfig) -> Vec<usize> {
    let layers = decoder.layer_types.iter().enumerate();
    layers.filter(|(_, kind)| **kind == LayerType::FullAttention).map(|(layer, _)| layer).collect()
}

#[test]
fn gemma_3_4b_good() {
    let decoder = read(&json!({
        "model_type": "gemma3",
        "text_config": {
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
        "torch_dtype": "bfloat16",
    }));
    assert_eq!((decoder.vocab_size, decoder.max_position_embeddings), (262_208, 131_072));
    assert_eq!((decoder.num_attention_heads, decoder.num_key_value_heads, decoder.head_dim), (8, 4, 256));
    assert_eq!(decoder.sliding_window, Some(1024));
    assert_eq!(global_layers(&decoder), [5, 11, 17, 23, 29]);
    assert_eq!((decoder.rope.rope_theta, decoder.rope.scaling), (1e6, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((decoder.rope_local.rope_theta, decoder.rope_local.scaling), (1e4, RopeScaling::None));
    assert_eq!((decoder.attention_scale, decoder.embedding_scale), (1.0 / 16.0, Some(2560f64.sqrt())));
    assert_eq!((decoder.attn_logit_softcapping, decoder.final_logit_softcapping), (None, None));
    assert_eq!(decoder.head, Head::Tied);
}

#[test]
fn gemma_2_2b_good() {
    let decoder = read(&json!({
        "model_type": "gemma2",
        "hidden_size": 2304,
        "num_hidden_layers": 4,
        "query_pre_attn_scalar": 256,
        "cache_implementation": "hybrid",
    }));
    assert_eq!((decoder.vocab_size, decoder.intermediate_size), (256_000, 9216));
    assert_eq!((decoder.attn_logit_softcapping, decoder.final_logit_softcapping), (Some(50.0), Some(30.0)));
    assert_eq!((global_layers(&decoder), decoder.sliding_window), (vec![1, 3], Some(4096)));
    assert_eq!((decoder.rope.rope_theta, decoder.rope_local), (1e4, decoder.rope));
    assert_eq!(decoder.head, Head::Tied);
}

#[test]
fn deepseek_r1_distil_1_5b_good() {
    let decoder = read(&json!({
        "model_type": "qwen2",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "max_position_embeddings": 131_072,
        "max_window_layers": 21,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rope_theta": 10000,
        "sliding_window": 4096,
        "tie_word_embeddings": false,
        "use_mrope": false,
        "use_sliding_window": false,
        "vocab_size": 151_936,
    }));
    assert_eq!((decoder.head_dim, decoder.sliding_window), (128, None));
    assert_eq!(global_layers(&decoder).len(), 28);
    assert_eq!((decoder.qkv_bias, decoder.o_bias, decoder.mlp_bias), (Bias::Present, Bias::Absent, Bias::Absent));
    assert!(decoder.head == Head::Separate && !decoder.qk_norm);
}

#[test]
fn bare_classes_good() {
    let llama = read(&json!({"model_type": "llama"}));
    assert_eq!((llama.num_key_value_heads, llama.head_dim, llama.max_position_embeddings), (32, 128, 2048));
    let qwen3 = read(&json!({"model_type": "qwen3"}));
    assert_eq!((qwen3.num_key_value_heads, qwen3.head_dim, qwen3.max_position_embeddings), (32, 128, 32_768));
    assert_eq!((qwen3.layer_types.len(), qwen3.qkv_bias), (32, Bias::Absent));
}

#[test]
fn key_value_heads_null_and_absent_ugly() {
    let read =
        |kv_heads| read(&json!({"model_type": "qwen2", "num_attention_heads": 64, "num_key_value_heads": kv_heads}));
    assert_eq!(read(Value::Null).num_key_value_heads, 64);
    assert_eq!(read(json!(8)).num_key_value_heads, 8);
}
