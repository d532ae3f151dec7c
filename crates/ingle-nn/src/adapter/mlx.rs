// SPDX-License-Identifier: EUPL-1.2
//! mlx-lm's files: `adapter_config.json` and `adapters.safetensors`. Its matrices are the transposes of PEFT's.

use std::collections::BTreeSet;

use ingle_tensor::{DeviceHandle, Tensor};
use serde_json::{Value, json};

use super::Adapter;
use super::files::{Matrices, checkpoint_name, dropout, field, number, rank, read_config, transposed, unexpected};
use crate::{Error, Lora, ModelFiles, Result};

pub(super) const WEIGHTS: &str = "adapters.safetensors";

const A: &str = ".lora_a";
const B: &str = ".lora_b";

pub(super) fn read(files: &ModelFiles, device: &DeviceHandle) -> Result<Adapter> {
    let config = read_config(files)?;
    match field(&config, "fine_tune_type") {
        Some(kind) if kind != "lora" => {
            return Err(unexpected(files, "fine_tune_type", "\"lora\": other kinds are not supported", kind));
        }
        _ => {}
    }
    let found = config.get("lora_parameters").unwrap_or(&Value::Null);
    let Value::Object(parameters) = found else {
        return Err(unexpected(files, "lora_parameters", "an object with rank, scale and dropout", found));
    };
    let get = |name: &str| parameters.get(name).unwrap_or(&Value::Null);
    let rank = rank(files, "lora_parameters.rank", get("rank"))?;
    let scale = number(files, "lora_parameters.scale", get("scale"))?;
    let dropout = dropout(files, "lora_parameters.dropout", field(parameters, "dropout"))?;

    let matrices = Matrices::open(files, WEIGHTS, device)?;
    let mut layers = Vec::new();
    for layer in matrices.layers(&[A, B])? {
        let a = transposed(&matrices.matrix(&format!("{layer}{A}"), rank, 1)?)?;
        let b = transposed(&matrices.matrix(&format!("{layer}{B}"), rank, 0)?)?;
        let lora = Lora::new(&layer, [a, b], scale)?.with_dropout(dropout);
        layers.push((layer, lora));
    }
    Ok(Adapter::new(layers))
}

pub(super) fn config(adapter: &Adapter, base: &str) -> Result<Value> {
    let Some((first_name, first)) = adapter.layers().next() else { return Ok(Value::Null) };
    for (name, lora) in adapter.layers() {
        if (lora.rank(), lora.scale()) != (first.rank(), first.scale()) {
            let shown = |name: &str, lora: &Lora| format!("rank {} and scale {} in {name}", lora.rank(), lora.scale());
            let expected = format!("{}, as mlx-lm has one for all layers", shown(first_name, first));
            return Err(Error::Lora { field: "adapter", expected, found: shown(name, lora) });
        }
    }
    let keys: BTreeSet<String> = adapter.layers().map(|(name, _)| checkpoint_name(name)).collect();
    Ok(json!({
        "fine_tune_type": "lora",
        "model": base,
        // All blocks: whole names say which layers of which.
        "num_layers": 0,
        "lora_parameters": {
            "rank": first.rank(),
            "scale": first.scale(),
            "dropout": first.dropout(),
            "keys": keys,
        },
    }))
}

pub(super) fn tensors(adapter: &Adapter) -> Result<Vec<(String, Tensor)>> {
    let mut tensors = Vec::new();
    for (name, lora) in adapter.layers() {
        let [a, b] = lora.matrices();
        for (part, matrix) in [(A, a), (B, b)] {
            tensors.push((format!("{}{part}", checkpoint_name(name)), transposed(matrix)?));
        }
    }
    Ok(tensors)
}
