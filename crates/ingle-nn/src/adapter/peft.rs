// SPDX-License-Identifier: EUPL-1.2
//! PEFT's files: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeSet;

use ingle_tensor::{DeviceHandle, Tensor};
use serde_json::{Map, Value, json};

use super::Adapter;
use super::files::{Matrices, checkpoint_name, dropout, field, module_name, number, rank, read_config, unexpected};
use crate::{Lora, LoraScaling, ModelFiles, Result, Target};

pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT's own modules put before a model's names.
const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
/// A copy of what is adapted, which PEFT adds where that is a table of the vocabulary.
const COPY: &str = ".base_layer.weight";

/// Fields that ask for more than low-rank changes of linear layers.
const OTHER_KINDS: [&str; 11] = [
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

pub(super) fn read(files: &ModelFiles, device: &DeviceHandle) -> Result<Adapter> {
    let config = Config::read(files)?;
    let matrices = Matrices::open(files, WEIGHTS, device)?;
    let mut layers = Vec::new();
    for module in matrices.layers(&[A, B, COPY])? {
        let name = module.strip_prefix(PREFIX).unwrap_or(&module);
        let (rank, alpha) = (config.rank.of(name), config.alpha.of(name));
        let a = matrices.matrix(&format!("{module}{A}"), rank, 0)?;
        let b = matrices.matrix(&format!("{module}{B}"), rank, 1)?;
        let name = checkpoint_name(name);
        let lora = Lora::new(&name, [a, b], config.scaling.scale(alpha, rank))?.with_dropout(config.dropout);
        layers.push((name, lora));
    }
    Ok(Adapter::new(layers))
}

/// What the configuration says of each layer.
struct Config {
    rank: PerLayer<usize>,
    alpha: PerLayer<f64>,
    scaling: LoraScaling,
    dropout: f64,
}

/// A value, and others for the layers whose names end so.
struct PerLayer<T> {
    usual: T,
    others: Vec<(Target, T)>,
}

impl<T: Copy> PerLayer<T> {
    fn of(&self, layer: &str) -> T {
        self.others.iter().find(|(target, _)| target.matches(layer)).map_or(self.usual, |(_, value)| *value)
    }
}

impl Config {
    fn read(files: &ModelFiles) -> Result<Self> {
        let config = read_config(files)?;
        let refused = |name: &str, expected: &str, found: &Value| Err(unexpected(files, name, expected, found));
        match field(&config, "peft_type") {
            Some(kind) if kind == "LORA" => {}
            found => return refused("peft_type", "\"LORA\"", found.unwrap_or(&Value::Null)),
        }
        match field(&config, "bias") {
            Some(found) if found != "none" => return refused("bias", "\"none\": biases stay as they are", found),
            _ => {}
        }
        for name in OTHER_KINDS {
            match field(&config, name) {
                None | Some(Value::Bool(false)) => {}
                Some(Value::Array(list)) if list.is_empty() => {}
                Some(found) => {
                    return refused(name, "none: only low-rank changes of linear layers are supported", found);
                }
            }
        }
        let scaling = match field(&config, "use_rslora") {
            None | Some(Value::Bool(false)) => LoraScaling::Rank,
            Some(Value::Bool(true)) => LoraScaling::RootRank,
            Some(found) => return refused("use_rslora", "true or false", found),
        };
        Ok(Config {
            rank: per_layer(files, &config, ["r", "rank_pattern"], rank)?,
            alpha: per_layer(files, &config, ["lora_alpha", "alpha_pattern"], number)?,
            scaling,
            dropout: dropout(files, "lora_dropout", field(&config, "lora_dropout"))?,
        })
    }
}

fn per_layer<T>(
    files: &ModelFiles,
    config: &Map<String, Value>,
    [usual, pattern]: [&str; 2],
    read: fn(&ModelFiles, &str, &Value) -> Result<T>,
) -> Result<PerLayer<T>> {
    let mut others = Vec::new();
    match field(config, pattern) {
        None => {}
        Some(Value::Object(patterns)) => {
            for (layer, value) in patterns {
                // PEFT reads them as regular expressions, in which the dots of a name stand for themselves, too.
                if !layer.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte)) {
                    let found = Value::from(layer.as_str());
                    return Err(unexpected(files, pattern, "names of layers, or ends of them", &found));
                }
                others.push((Target::new(layer.as_str()), read(files, pattern, value)?));
            }
        }
        Some(found) => return Err(unexpected(files, pattern, "an object", found)),
    }
    let usual = read(files, usual, config.get(usual).unwrap_or(&Value::Null))?;
    Ok(PerLayer { usual, others })
}

pub(super) fn config(adapter: &Adapter, base: &str) -> Value {
    let alpha = |lora: &Lora| lora.scale() * lora.rank() as f64;
    let first = adapter.layers().next().map(|(_, lora)| lora);
    let (usual_rank, usual_alpha) = first.map_or((1, 1.0), |lora| (lora.rank(), alpha(lora)));
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    for (name, lora) in adapter.layers() {
        if lora.rank() != usual_rank {
            ranks.insert(module_name(name), json!(lora.rank()));
        }
        if alpha(lora) != usual_alpha {
            alphas.insert(module_name(name), whole(alpha(lora)));
        }
    }
    // Whole names: which layers a shorter one would name depends on the model.
    let targets: BTreeSet<String> = adapter.layers().map(|(name, _)| module_name(name)).collect();
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": usual_rank,
        "lora_alpha": whole(usual_alpha),
        "lora_dropout": first.map_or(0.0, Lora::dropout),
        "use_rslora": false,
        "use_dora": false,
        "bias": "none",
        "fan_in_fan_out": false,
        "target_modules": targets,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "modules_to_save": null,
    })
}

/// A whole number without a fraction, as PEFT writes it.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e9 { json!(number as i64) } else { json!(number) }
}

pub(super) fn tensors(adapter: &Adapter) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    for (name, lora) in adapter.layers() {
        let [a, b] = lora.matrices();
        for (part, matrix) in [(A, a), (B, b)] {
            tensors.push((format!("{PREFIX}{}{part}", module_name(name)), matrix.clone()));
        }
    }
    Ok(tensors)
}
