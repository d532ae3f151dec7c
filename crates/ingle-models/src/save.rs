// SPDX-License-Identifier: EUPL-1.2
//! A model as a directory that Ingle and transformers load.

use std::path::Path;

use ingle_nn::output::{OutputFile, Part, refused};
use ingle_nn::{ModelFiles, Result, Visitor, write_safetensors};
use ingle_tensor::{DType, Tensor};
use serde_json::{Map, Value};

use crate::Model;

/// Files that belong to a model besides its configuration and weights.
pub const COMPANIONS: [&str; 12] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
];

/// Handles to a model's weights, with their names, in the order in which [`ingle_nn::Parameters::visit`] shows them.
pub fn weights(model: &mut dyn Model) -> Vec<(String, Tensor)> {
    let mut weights = Vec::new();
    model.visit(&mut Visitor::weights(&mut |name, weight| weights.push((name.to_owned(), weight.detach()))));
    weights
}

/// Writes `weights` by name as the new directory `out`: `model.safetensors`, the `config.json` of `files` with the dtype
/// that they have now, and the [`COMPANIONS`] that `files` has. What was quantised is written as the floats it stands
/// for. The directory is there whole or not at all.
///
/// # Errors
/// [`ingle_nn::Error::Output`] if `out` is there already or cannot be written; those of `files`; the device's own.
pub fn save(out: &Path, files: &ModelFiles, weights: &[(String, Tensor)]) -> Result<()> {
    if out.exists() {
        return Err(refused(out, "is there already; remove it, or give another path"));
    }
    let mut config = files.read_json("config.json", "it says what the model is")?;
    describe(&mut config, weights);
    let part = Part::folder(out)?;
    let put = |name: &str, content: &[u8]| {
        let mut file = OutputFile::create(&part.path().join(name))?;
        file.write(content)?;
        file.finish()
    };
    put("config.json", format!("{:#}\n", Value::Object(config)).as_bytes())?;
    for name in COMPANIONS {
        if let Some(content) = files.find(name)? {
            put(name, &content)?;
        }
    }
    write_safetensors(&part.path().join("model.safetensors"), "pt", weights)?;
    part.finish()
}

/// Says of which dtype the weights are, and that they are not quantised.
fn describe(config: &mut Map<String, Value>, weights: &[(String, Tensor)]) {
    for field in ["quantization", "quantization_config"] {
        config.remove(field);
    }
    let largest = weights.iter().max_by_key(|(_, weight)| weight.spec().bytes());
    let name = match largest.map(|(_, weight)| weight.dtype()) {
        Some(DType::BF16) => "bfloat16",
        Some(DType::F16) => "float16",
        _ => "float32",
    };
    let write = |config: &mut Map<String, Value>| {
        // The later name is for transformers 5, the earlier for those before it.
        for field in ["dtype", "torch_dtype"] {
            if let Some(dtype) = config.get_mut(field) {
                *dtype = name.into();
            }
        }
    };
    config.entry("dtype").or_insert(Value::Null);
    write(config);
    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        write(text);
    }
}
