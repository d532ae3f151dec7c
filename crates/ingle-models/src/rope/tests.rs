// SPDX-License-Identifier: EUPL-1.2
//! The same RoPE, written in every way there is.

use serde_json::{Value, json};

use super::*;

const LOCAL: RopeDefaults =
    RopeDefaults { layer_type: LayerType::SlidingAttention, theta_field: "rope_local_base_freq", theta: 10_000.0 };
const GLOBAL: RopeDefaults =
    RopeDefaults { layer_type: LayerType::FullAttention, theta_field: "rope_theta", theta: 1e6 };

fn read(fields: Value, defaults: &RopeDefaults) -> Result<RotaryConfig> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), fields.to_string()).unwrap();
    let files = ingle_nn::ModelFiles::directory(folder.path()).unwrap();
    rotary(&Config::open(&files).unwrap(), 64, defaults)
}

fn plain(rope_theta: f64) -> RotaryConfig {
    RotaryConfig {
        head_dim: 64,
        rope_theta,
        partial_rotary_factor: 1.0,
        scaling: RopeScaling::None,
        layout: RopeLayout::Halves,
    }
}

fn scaled(rope_theta: f64, scaling: RopeScaling) -> RotaryConfig {
    RotaryConfig { scaling, ..plain(rope_theta) }
}

fn refused(fields: Value) -> String {
    let error = read(fields, &RopeDefaults::USUAL).unwrap_err().to_string();
    error.split_once("config.json: ").unwrap().1.to_owned()
}

#[test]
fn base_good() {
    let usual = |fields| read(fields, &RopeDefaults::USUAL).unwrap();
    assert_eq!(usual(json!({})), plain(10_000.0));
    assert_eq!(usual(json!({"rope_scaling": null, "rope_theta": 5e5})), plain(5e5));
    assert_eq!(usual(json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}})), plain(5e5));
    assert_eq!(usual(json!({"rope_parameters": {"rope_type": "default"}, "rope_theta": 7.0})), plain(7.0));
}

#[test]
fn linear_good() {
    let expected = scaled(10_000.0, RopeScaling::Linear { factor: 4.0 });
    for fields in [
        json!({"rope_scaling": {"type": "linear", "factor": 4}}),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        json!({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}}),
        json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000}}),
    ] {
        assert_eq!(read(fields, &RopeDefaults::USUAL).unwrap(), expected);
    }
}

#[test]
fn llama3_good() {
    let scaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let own = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192});
    let fields = json!({"rope_theta": 5e5, "rope_scaling": own, "max_position_embeddings": 131_072});
    assert_eq!(read(fields, &RopeDefaults::USUAL).unwrap(), scaled(5e5, scaling.clone()));
    let own = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let fields = json!({"rope_theta": 5e5, "rope_scaling": own, "max_position_embeddings": 8192});
    assert_eq!(read(fields, &RopeDefaults::USUAL).unwrap(), scaled(5e5, scaling));
}

#[test]
fn yarn_good() {
    let yarn = |attention_factor| RopeScaling::Yarn {
        factor: 4.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
        original_max_position_embeddings: 32_768.0,
    };
    let own = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768});
    let fields = json!({"rope_theta": 1e6, "rope_scaling": own});
    assert_eq!(read(fields, &RopeDefaults::USUAL).unwrap(), scaled(1e6, yarn(1.138_629_436_111_989)));
    let own = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768,
                     "attention_factor": 1.5});
    let fields = json!({"rope_theta": 1e6, "rope_scaling": own});
    assert_eq!(read(fields, &RopeDefaults::USUAL).unwrap(), scaled(1e6, yarn(1.5)));
}

/// transformers 4: one base for either kind, and scaling for global layers alone.
#[test]
fn gemma3_of_transformers_4_good() {
    let fields =
        json!({"rope_theta": 1e3, "rope_local_base_freq": 100, "rope_scaling": {"type": "linear", "factor": 8}});
    assert_eq!(read(fields.clone(), &GLOBAL).unwrap(), scaled(1e3, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!(read(fields, &LOCAL).unwrap(), plain(100.0));
    assert_eq!(read(json!({}), &GLOBAL).unwrap(), plain(1e6));
    assert_eq!(read(json!({}), &LOCAL).unwrap(), plain(1e4));
}

#[test]
fn gemma3_of_transformers_5_good() {
    let fields = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e3},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    }});
    assert_eq!(read(fields.clone(), &GLOBAL).unwrap(), scaled(1e3, RopeScaling::Linear { factor: 8.0 }));
    assert_eq!(read(fields, &LOCAL).unwrap(), plain(100.0));
    // One kind may be left out.
    let fields = json!({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5.0}}});
    assert_eq!(read(fields.clone(), &GLOBAL).unwrap(), plain(5.0));
    assert_eq!(read(fields, &LOCAL).unwrap(), plain(1e4));
}

#[test]
fn part_of_the_head_good() {
    for fields in [
        json!({"partial_rotary_factor": 0.5}),
        json!({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
    ] {
        let half = read(fields, &RopeDefaults::USUAL).unwrap();
        assert_eq!((half.partial_rotary_factor, half.rotary_dim()), (0.5, 32));
    }
}

#[test]
fn unknown_scheme_names_the_known_bad() {
    for scheme in ["dynamic", "longrope", "su"] {
        let expected =
            format!("rope_scaling.rope_type: expected one of default, linear, llama3, yarn, found \"{scheme}\"");
        assert_eq!(refused(json!({"rope_scaling": {"rope_type": scheme, "factor": 2.0}})), expected);
    }
    let error = refused(json!({"rope_scaling": {"type": 7}}));
    assert_eq!(error, "rope_scaling.type: expected a text, found 7");
}

#[test]
fn parameters_that_do_not_fit_bad() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4});
    assert_eq!(
        refused(json!({"rope_scaling": llama3, "max_position_embeddings": 8192})),
        "rope_scaling.high_freq_factor: expected more than low_freq_factor 4, found 4"
    );
    let llama3 = json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    assert_eq!(
        refused(json!({"rope_scaling": llama3})),
        "rope_scaling.original_max_position_embeddings: expected the length of the original context, found nothing"
    );
    let yarn = json!({"rope_type": "yarn", "factor": 8, "mscale": 1.0});
    let error = refused(json!({"rope_scaling": yarn, "max_position_embeddings": 8192}));
    assert_eq!(
        error,
        "rope_scaling.rope_type: expected yarn without mscale, mscale_all_dim or truncate, found \"yarn\""
    );
    let yarn = json!({"rope_type": "yarn", "factor": 8, "partial_rotary_factor": 0.5});
    let error = refused(json!({"rope_scaling": yarn, "max_position_embeddings": 8192}));
    assert_eq!(error, "rope_scaling.partial_rotary_factor: expected 1 beside yarn, found 0.5");
    let error = refused(json!({"rope_parameters": {"partial_rotary_factor": 1.5}}));
    assert_eq!(error, "rope_parameters.partial_rotary_factor: expected at most 1, found 1.5");
    let error = refused(json!({"partial_rotary_factor": 0.001}));
    assert!(error.starts_with("head_dim: expected an even number of features that turn"), "{error}");
}
