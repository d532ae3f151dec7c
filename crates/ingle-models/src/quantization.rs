// SPDX-License-Identifier: EUPL-1.2
//! What a `config.json` says of how the weights are quantised.

use std::collections::BTreeMap;

use ingle_nn::{AffineLayers, LayerForm, Result, StoredTensor};
use ingle_tensor::{DType, Quantization};
use serde_json::Value;

use crate::config::Config;

/// How the weights are quantised, by the field that says so.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Quantised {
    /// `quantization`: MLX's.
    Mlx(AffineLayers),
    /// `quantization_config`: transformers', of a kind that Ingle does not load.
    Foreign(Foreign),
}

/// As much as is needed to say what it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Foreign {
    method: Option<String>,
    bits: Option<usize>,
    group_size: Option<usize>,
}

impl Quantised {
    /// What the configuration says, if anything. MLX writes both fields, and means the same.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>> {
        if let Some(mlx) = config.object("quantization")? {
            return Ok(Some(Quantised::Mlx(read_mlx(&mlx)?)));
        }
        let foreign = config.object("quantization_config")?;
        foreign.map(|foreign| Ok(Quantised::Foreign(Foreign::read(&foreign)?))).transpose()
    }

    /// `4-bit, groups of 64`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Quantised::Mlx(layers) => match layers.layers.len() {
                0 => layers.default.to_string(),
                1 => format!("{}, 1 layer otherwise", layers.default),
                others => format!("{}, {others} layers otherwise", layers.default),
            },
            Quantised::Foreign(foreign) => foreign.describe(),
        }
    }
}

/// The default beside an object, or `false`, for each layer that differs from it.
fn read_mlx(config: &Config) -> Result<AffineLayers> {
    let default = read_affine(config)?;
    let mut layers = BTreeMap::new();
    for name in config.names() {
        let form = match config.get(name) {
            Some(Value::Object(_)) => match config.object(name)? {
                Some(own) => LayerForm::Quantised(read_affine(&own)?),
                None => continue,
            },
            Some(Value::Bool(false)) => LayerForm::Dense,
            _ => continue,
        };
        layers.insert(name.to_owned(), form);
    }
    Ok(AffineLayers { default, layers })
}

fn read_affine(config: &Config) -> Result<Quantization> {
    if !matches!(config.text("mode")?, None | Some("affine")) {
        return Err(config.error("mode", "\"affine\": other modes are not supported yet"));
    }
    let bits = config.one_of("bits", &Quantization::AFFINE_BITS)?;
    let group_size = config.one_of("group_size", &Quantization::AFFINE_GROUPS)?;
    Ok(Quantization::Affine { bits, group_size })
}

impl Foreign {
    fn read(config: &Config) -> Result<Self> {
        let flag = |name| config.flag(name, false);
        let bits = match config.size_if_any("bits")? {
            Some(bits) => Some(bits),
            None if flag("load_in_4bit")? => Some(4),
            None if flag("load_in_8bit")? => Some(8),
            None => None,
        };
        let method = config.text("quant_method")?.map(str::to_owned);
        // GPTQ writes a group size of −1 for none.
        let group_size = config.size_if_any("group_size").unwrap_or(None);
        Ok(Foreign { method, bits, group_size })
    }

    fn describe(&self) -> String {
        let bits = self.bits.map(|bits| format!("{bits}-bit"));
        let groups = self.group_size.map(|size| format!("groups of {size}"));
        let parts: Vec<String> = [bits, groups, self.method.clone()].into_iter().flatten().collect();
        if parts.is_empty() { "of an unnamed kind".into() } else { parts.join(", ") }
    }

    /// How many weights a tensor holds: several to a 32-bit word, none in scales and zero points.
    pub(crate) fn parameters(&self, name: &str, tensor: &StoredTensor) -> usize {
        let elements = tensor.shape().elements();
        match (name.rsplit('.').next(), tensor.dtype(), self.bits) {
            (Some("weight" | "qweight"), Some(DType::U32 | DType::I32), Some(bits)) => {
                elements.saturating_mul(32) / bits
            }
            (Some("weight" | "bias"), _, _) => elements,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use ingle_nn::ModelFiles;
    use serde_json::json;

    use super::*;

    fn read(fields: &Value) -> Result<Option<Quantised>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), fields.to_string()).unwrap();
        Quantised::read(&Config::open(&ModelFiles::directory(folder.path()).unwrap()).unwrap())
    }

    fn describe(fields: Value) -> String {
        read(&fields).unwrap().unwrap().describe()
    }

    fn refused(quantization: Value) -> String {
        let error = read(&json!({ "quantization": quantization })).unwrap_err().to_string();
        error.split_once("config.json: quantization.").unwrap().1.to_owned()
    }

    #[test]
    fn in_words_good() {
        assert_eq!(read(&json!({})).unwrap(), None);
        let mlx = json!({"group_size": 64, "bits": 4});
        assert_eq!(describe(json!({"quantization": mlx, "quantization_config": mlx})), "4-bit, groups of 64");
        let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": -1}});
        assert_eq!(describe(gptq), "4-bit, gptq");
        let bitsandbytes = json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
        assert_eq!(describe(bitsandbytes), "4-bit, bitsandbytes");
        assert_eq!(describe(json!({"quantization_config": {"quant_method": "fp8"}})), "fp8");
        assert_eq!(describe(json!({"quantization_config": {}})), "of an unnamed kind");
    }

    #[test]
    fn layers_of_their_own_good() {
        let mixed = json!({
            "group_size": 64,
            "bits": 4,
            "mode": "affine",
            "model.layers.0.self_attn.q_proj": {"group_size": 32, "bits": 8},
            "model.layers.1.mlp.down_proj": {"group_size": 64, "bits": 6, "mode": "affine"},
            "model.embed_tokens": true,
            "lm_head": false,
        });
        let quantised = read(&json!({ "quantization": mixed })).unwrap().unwrap();
        assert_eq!(quantised.describe(), "4-bit, groups of 64, 3 layers otherwise");
        let affine = |bits, group_size| Quantization::Affine { bits, group_size };
        let Quantised::Mlx(layers) = quantised else { panic!("MLX's") };
        let expected = [
            ("lm_head".to_owned(), LayerForm::Dense),
            ("model.layers.0.self_attn.q_proj".into(), LayerForm::Quantised(affine(8, 32))),
            ("model.layers.1.mlp.down_proj".into(), LayerForm::Quantised(affine(6, 64))),
        ];
        assert_eq!(layers, AffineLayers { default: affine(4, 64), layers: expected.into() });
    }

    #[test]
    fn what_mlx_does_not_write_bad() {
        assert_eq!(refused(json!({"group_size": 64})), "bits: expected one of 2, 3, 4, 5, 6, 8, found nothing");
        assert_eq!(refused(json!({"group_size": 64, "bits": 7})), "bits: expected one of 2, 3, 4, 5, 6, 8, found 7");
        assert_eq!(refused(json!({"group_size": 16, "bits": 4})), "group_size: expected one of 32, 64, 128, found 16");
        let mode = "mode: expected \"affine\": other modes are not supported yet, found \"mxfp4\"";
        assert_eq!(refused(json!({"group_size": 32, "bits": 4, "mode": "mxfp4"})), mode);
        let own = json!({"group_size": 64, "bits": 4, "lm_head": {"group_size": 64, "bits": "8"}});
        assert_eq!(refused(own), "lm_head.bits: expected one of 2, 3, 4, 5, 6, 8, found \"8\"");
    }
}
