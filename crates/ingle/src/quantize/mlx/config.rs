// SPDX-License-Identifier: EUPL-1.2
//! The `config.json` of a quantised model.

use serde_json::{Map, Value, json};

/// The configuration of a model that was quantised, as mlx-lm reads it.
pub(super) fn quantised(mut config: Map<String, Value>, bits: usize, group_size: usize) -> Map<String, Value> {
    // What is seen is not written.
    config.remove("vision_config");
    config.remove("_name_or_path");
    write_older_rope(&mut config);
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        write_older_rope(text);
    }
    let quantization = json!({"group_size": group_size, "bits": bits, "mode": "affine"});
    config.insert("quantization".into(), quantization.clone());
    config.insert("quantization_config".into(), quantization);
    config
}

/// Adds the fields by which transformers 4 described RoPE. Those of transformers 5 are passed over by mlx-lm's readers
/// of most architectures, which then take another base for granted.
fn write_older_rope(config: &mut Map<String, Value>) {
    let Some(Value::Object(parameters)) = config.get("rope_parameters").cloned() else { return };
    let nested = |kind: &str| parameters.get(kind).and_then(Value::as_object).cloned();
    let global = nested("full_attention");
    if let Some(theta) = nested("sliding_attention").and_then(|local| local.get("rope_theta").cloned()) {
        config.entry("rope_local_base_freq").or_insert(theta);
        if let Some(pattern) = sliding_window_pattern(config) {
            config.entry("sliding_window_pattern").or_insert(pattern.into());
        }
    }
    let mut scaling = global.unwrap_or(parameters);
    if let Some(theta) = scaling.remove("rope_theta") {
        config.entry("rope_theta").or_insert(theta);
    }
    let is_scaled = scaling.get("rope_type").is_some_and(|kind| kind != "default");
    config.entry("rope_scaling").or_insert(if is_scaled { Value::Object(scaling) } else { Value::Null });
}

/// After how many layers one comes that does not slide, if `layer_types` repeats itself so.
fn sliding_window_pattern(config: &Map<String, Value>) -> Option<usize> {
    let layers = config.get("layer_types")?.as_array()?;
    let pattern = layers.iter().position(|layer| layer == "full_attention")? + 1;
    let repeats = |(index, layer): (usize, &Value)| (layer == "full_attention") == (index + 1).is_multiple_of(pattern);
    layers.iter().enumerate().all(repeats).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantised_of(config: Value) -> Value {
        let Value::Object(config) = config else { panic!("an object") };
        Value::Object(quantised(config, 4, 64))
    }

    #[test]
    fn published_configuration_good() {
        let config = quantised_of(json!({"model_type": "qwen3", "rope_theta": 1e6, "rope_scaling": null}));
        let quantization = json!({"group_size": 64, "bits": 4, "mode": "affine"});
        let expected = json!({"model_type": "qwen3", "rope_theta": 1e6, "rope_scaling": null,
                              "quantization": quantization, "quantization_config": quantization});
        assert_eq!(config, expected);
    }

    #[test]
    fn rope_of_transformers_5_good() {
        let llama3 = json!({"rope_type": "llama3", "factor": 8.0});
        let config =
            quantised_of(json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}}));
        assert_eq!((&config["rope_theta"], &config["rope_scaling"]), (&json!(5e5), &llama3));
        let plain = quantised_of(json!({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}));
        assert_eq!((&plain["rope_theta"], &plain["rope_scaling"]), (&json!(7.0), &Value::Null));
    }

    #[test]
    fn gemma_3_with_vision_good() {
        let layer_types = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"];
        let rope = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        });
        let text = json!({"layer_types": layer_types, "rope_parameters": rope});
        let config = quantised_of(json!({"text_config": text, "vision_config": {"hidden_size": 8}}));
        assert!(config.get("vision_config").is_none());
        let text = &config["text_config"];
        assert_eq!((&text["rope_theta"], &text["rope_local_base_freq"]), (&json!(1e6), &json!(1e4)));
        assert_eq!(text["rope_scaling"], json!({"rope_type": "linear", "factor": 8.0}));
        assert_eq!(text["sliding_window_pattern"], json!(3));
    }

    #[test]
    fn layers_without_a_pattern_ugly() {
        let layers = |layers: &[&str]| {
            let Value::Object(config) = json!({"layer_types": layers}) else { panic!("an object") };
            sliding_window_pattern(&config)
        };
        let (full, slides) = ("full_attention", "sliding_attention");
        assert_eq!(layers(&[slides, full, full]), None);
        assert_eq!(layers(&[slides, slides]), None);
        assert_eq!(layers(&[slides, full, slides, full, slides]), Some(2));
    }
}
