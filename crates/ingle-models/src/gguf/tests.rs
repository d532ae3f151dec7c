// SPDX-License-Identifier: EUPL-1.2
//! What metadata come to, and which are refused.

use ingle_nn::gguf::{GgmlType, GgufHeader, ToValue};
use ingle_tensor::Shape;

use super::*;

/// A model's header, to be changed; its tensors have no columns.
struct File {
    architecture: &'static str,
    header: GgufHeader,
}

impl File {
    fn of(architecture: &'static str) -> File {
        let mut header = GgufHeader::default();
        header.set("general.architecture", architecture);
        header.tensor("token_embd.weight", GgmlType::F32, &Shape::from([32_000, 0]));
        File { architecture, header }
    }

    /// As small Llamas have it.
    fn usual(architecture: &'static str) -> File {
        File::of(architecture)
            .set("block_count", 24u32)
            .set("context_length", 8192u32)
            .set("embedding_length", 2048u32)
            .set("feed_forward_length", 5632u32)
            .set("attention.head_count", 16u32)
            .set("attention.layer_norm_rms_epsilon", 1e-6f32)
    }

    fn set(mut self, key: &str, value: impl ToValue) -> File {
        self.header.set(&format!("{}.{key}", self.architecture), value);
        self
    }

    fn tensor(mut self, name: &str) -> File {
        self.header.tensor(name, GgmlType::F32, &Shape::from([0]));
        self
    }

    fn parts(&self) -> Vec<Gguf> {
        vec![Gguf::read("m.gguf".into(), self.header.bytes().into()).unwrap()]
    }

    fn read(&self) -> DecoderConfig {
        read(&self.parts()).unwrap().config
    }

    fn refused(&self) -> String {
        let error = read(&self.parts()).err().expect("it is read").to_string();
        assert!(!error.contains('\n'), "{error}");
        error.strip_prefix("m.gguf: ").unwrap().to_owned()
    }
}

#[test]
fn llama_good() {
    let config = File::usual("llama").set("attention.head_count_kv", 4u32).set("rope.freq_base", 5e5f32).read();
    assert_eq!((config.vocab_size, config.hidden_size, config.intermediate_size), (32_000, 2048, 5632));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (16, 4, 128));
    assert_eq!((config.layer_types.len(), config.max_position_embeddings), (24, 8192));
    assert_eq!((config.rope.layout, config.rope.rope_theta), (RopeLayout::Interleaved, 5e5));
    assert_eq!((config.head, config.qkv_bias, config.norm.offset), (Head::Tied, Bias::Absent, 0.0));
    let untied = File::usual("llama").tensor("output.weight").tensor("blk.0.attn_q.bias").read();
    assert_eq!((untied.head, untied.qkv_bias, untied.o_bias), (Head::Separate, Bias::Present, Bias::Absent));
}

#[test]
fn qwens_good() {
    let qwen2 = File::usual("qwen2").read();
    assert!(!qwen2.qk_norm && qwen2.rope.layout == RopeLayout::Halves);
    let qwen3 = File::usual("qwen3").set("attention.key_length", 96u32).set("attention.value_length", 96u32).read();
    assert_eq!((qwen3.qk_norm, qwen3.head_dim, qwen3.attention_scale), (true, 96, 96f64.powf(-0.5)));
}

#[test]
fn gemma_2_good() {
    let config = File::usual("gemma2").set("attn_logit_softcapping", 50.0f32).set("attention.sliding_window", 64u32);
    let config = config.read();
    assert_eq!((config.attn_logit_softcapping, config.final_logit_softcapping), (Some(50.0), Some(30.0)));
    assert_eq!((config.sliding_window, config.norms), (Some(64), BlockNorms::BeforeAndAfter));
    assert_eq!(config.layer_types[..2], [LayerType::SlidingAttention, LayerType::FullAttention]);
    assert_eq!((config.embedding_scale, config.attention_scale), (Some(2048f64.sqrt()), 128f64.powf(-0.5)));
    let largest = File::of("gemma2")
        .set("block_count", 46u32)
        .set("context_length", 8192u32)
        .set("embedding_length", 4608u32)
        .set("feed_forward_length", 36_864u32)
        .set("attention.head_count", 32u32)
        .set("attention.key_length", 128u32)
        .set("attention.layer_norm_rms_epsilon", 1e-6f32);
    assert_eq!(largest.read().attention_scale, 144f64.powf(-0.5));
}

#[test]
fn gemma_3_good() {
    let file = || {
        File::usual("gemma3")
            .set("attention.sliding_window", 512u32)
            .set("rope.freq_base", 1e6f32)
            .set("rope.scaling.type", "linear")
            .set("rope.scaling.factor", 8.0f32)
    };
    let config = file().read();
    let global: Vec<usize> = (0..24).filter(|i| config.layer_types[*i] == LayerType::FullAttention).collect();
    assert_eq!(global, [5, 11, 17, 23]);
    assert_eq!((config.rope.rope_theta, &config.rope.scaling), (1e6, &RopeScaling::Linear { factor: 8.0 }));
    assert_eq!((config.rope_local.rope_theta, &config.rope_local.scaling), (1e4, &RopeScaling::None));
    assert_eq!((config.qk_norm, config.final_logit_softcapping), (true, None));
    let own = file().set("attention.sliding_window_pattern", 3u32).set("rope.freq_base_swa", 5e4f32).read();
    assert_eq!(own.layer_types[..4].iter().filter(|kind| **kind == LayerType::FullAttention).count(), 1);
    assert_eq!(own.rope_local.rope_theta, 5e4);
    let each = [vec![true; 23], vec![false]].concat();
    let each = file().set("attention.sliding_window_pattern", &each[..]).read();
    assert_eq!(each.layer_types.iter().position(|kind| *kind == LayerType::FullAttention), Some(23));
    let none = File::usual("gemma3").read();
    assert!(none.sliding_window.is_none() && !none.layer_types.contains(&LayerType::SlidingAttention));
}

#[test]
fn scaled_rope_good() {
    let yarn = File::usual("qwen2")
        .set("rope.scaling.type", "yarn")
        .set("rope.scaling.factor", 4.0f32)
        .set("rope.scaling.original_context_length", 2048u32)
        .read();
    let RopeScaling::Yarn { factor, attention_factor, original_max_position_embeddings, beta_fast, .. } =
        yarn.rope.scaling
    else {
        panic!("{:?}", yarn.rope.scaling)
    };
    assert_eq!((factor, original_max_position_embeddings, beta_fast), (4.0, 2048.0, 32.0));
    assert!((attention_factor - 1.138_629).abs() < 1e-6);
    assert_eq!(File::usual("qwen2").set("rope.scaling.type", "none").read().rope.scaling, RopeScaling::None);
    let part = File::usual("qwen2").set("rope.dimension_count", 50u32).read();
    assert_eq!((part.rope.rotary_dim(), part.rope.frequencies().len()), (50, 25));
}

#[test]
fn keys_that_are_missing_or_wrong_bad() {
    let missing = "metadata `llama.embedding_length` is missing, expected a whole number; convert the model again";
    let bare = File::of("llama").set("block_count", 2u32).set("context_length", 64u32);
    assert_eq!(bare.refused(), missing);
    let cases = [
        (
            File::of("mamba"),
            "metadata `general.architecture`: expected one of gemma2, gemma3, llama, qwen2, qwen3, found text `mamba`",
        ),
        (
            File::of("llama").set("embedding_length", 0u32),
            "metadata `llama.embedding_length`: expected at least 1, found u32 0",
        ),
        (
            File::of("llama").set("embedding_length", 1u64 << 40),
            "metadata `llama.embedding_length`: expected at most 2147483647, found u64 1099511627776",
        ),
        (
            File::usual("qwen2").set("attention.head_count_kv", 5u32),
            "metadata `qwen2.attention.head_count_kv`: expected a divisor of attention.head_count 16, found u32 5",
        ),
        (
            File::usual("qwen3").set("attention.value_length", 64u32),
            "metadata `qwen3.attention.value_length`: expected attention.key_length 128, found u32 64",
        ),
        (
            File::usual("qwen2").set("rope.dimension_count", 31u32),
            "metadata `qwen2.rope.dimension_count`: expected an even number of at most 128, found u32 31",
        ),
        (
            File::usual("qwen2").set("rope.scaling.type", "longrope"),
            "metadata `qwen2.rope.scaling.type`: expected one of none, linear, yarn, found text `longrope`",
        ),
        (
            File::usual("qwen2").set("rope.freq_base", -1.0f32),
            "metadata `qwen2.rope.freq_base`: expected a number above 0, found f32 -1",
        ),
        (
            File::usual("gemma2").set("attention.sliding_window_pattern", &[true][..]),
            "metadata `gemma2.attention.sliding_window_pattern`: expected a truth value for each of 24 layers, found array of 1 bool",
        ),
        (
            File::usual("llama").set("expert_count", 8u32),
            "metadata `llama.expert_count`: expected none: mixtures of experts are not supported yet, found u32 8",
        ),
        (
            File::of("qwen2").set("embedding_length", 64u32).set("attention.head_count", &[4u32, 8][..]),
            "metadata `qwen2.attention.head_count`: expected a whole number from 0 to 18446744073709551615, found array of 2 u32",
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(file.refused(), expected);
    }
}

#[test]
fn more_layers_than_any_model_ugly() {
    let file = File::of("llama")
        .set("block_count", 4_000_000_000u32)
        .set("context_length", 64u32)
        .set("embedding_length", 64u32)
        .set("feed_forward_length", 64u32)
        .set("attention.head_count", 4u32)
        .set("attention.layer_norm_rms_epsilon", 1e-6f32);
    let error = file.refused();
    assert!(error.starts_with("metadata `llama.block_count`: expected at most 2147483647"), "{error}");
}

#[test]
fn vocabulary_without_weights_bad() {
    let mut header = GgufHeader::default();
    header.set("general.architecture", "llama");
    let gguf = Gguf::read("m.gguf".into(), header.bytes().into()).unwrap();
    let error = read(&[gguf]).err().unwrap().to_string();
    let keys = "m.gguf: metadata `llama.embedding_length` is missing";
    assert!(error.starts_with(keys), "{error}");
}
