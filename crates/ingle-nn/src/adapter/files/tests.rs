// SPDX-License-Identifier: EUPL-1.2
//! Adapters' files that are not as they should be.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::DType;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Lora, LoraConfig};

fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(1), ..Default::default() }).unwrap())
}

/// An adapter of one layer of 6 inputs and 4 outputs, with rank 2.
fn saved(format: AdapterFormat) -> TempDir {
    let config = LoraConfig { rank: 2, alpha: 3.0, dropout: 0.25, ..LoraConfig::default() };
    let name = "language_model.model.layers.0.self_attn.q_proj";
    let lora = Lora::create(name, &cpu(), [4, 6], &config, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    Adapter::new([(name.to_owned(), lora)]).write(folder.path(), format, "base").unwrap();
    folder
}

fn config_of(folder: &TempDir) -> Value {
    serde_json::from_slice(&std::fs::read(folder.path().join(CONFIG)).unwrap()).unwrap()
}

/// What is said of an adapter whose configuration has these fields, too.
fn refused(format: AdapterFormat, fields: Value) -> String {
    let folder = saved(format);
    let mut config = config_of(&folder);
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    std::fs::write(folder.path().join(CONFIG), config.to_string()).unwrap();
    let error = Adapter::open(folder.path(), &cpu()).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn names_and_transposes_as_each_has_them_good() {
    let names = |format, file| {
        let folder = saved(format);
        let files = ModelFiles::Directory(folder.path().into());
        let checkpoint = Checkpoint::open_file(&files, file).unwrap();
        checkpoint.tensors().map(|(name, stored)| format!("{name} {}", stored.describe())).collect::<Vec<_>>()
    };
    let layer = "base_model.model.model.language_model.layers.0.self_attn.q_proj";
    let peft = [format!("{layer}.lora_A.weight F32[2, 6]"), format!("{layer}.lora_B.weight F32[4, 2]")];
    assert_eq!(names(AdapterFormat::Peft, peft::WEIGHTS), peft);
    let layer = "language_model.model.layers.0.self_attn.q_proj";
    let mlx = [format!("{layer}.lora_a F32[6, 2]"), format!("{layer}.lora_b F32[2, 4]")];
    assert_eq!(names(AdapterFormat::Mlx, mlx::WEIGHTS), mlx);

    let peft = config_of(&saved(AdapterFormat::Peft));
    assert_eq!((&peft["r"], &peft["lora_alpha"], &peft["lora_dropout"]), (&json!(2), &json!(3), &json!(0.25)));
    assert_eq!(peft["target_modules"], json!(["model.language_model.layers.0.self_attn.q_proj"]));
    let mlx = config_of(&saved(AdapterFormat::Mlx));
    let expected = json!({"rank": 2, "scale": 1.5, "dropout": 0.25, "keys": [layer]});
    assert_eq!(mlx["lora_parameters"], expected);
}

#[test]
fn a_configuration_of_something_else_bad() {
    let peft = |fields| refused(AdapterFormat::Peft, fields);
    let kind = peft(json!({"peft_type": "IA3"}));
    assert_eq!(kind, "adapter_config.json: peft_type: expected \"LORA\", found \"IA3\"");
    let dora = peft(json!({"use_dora": true}));
    assert!(dora.starts_with("adapter_config.json: use_dora: expected none: only low-rank changes"), "{dora}");
    assert!(peft(json!({"modules_to_save": ["lm_head"]})).ends_with("found [\"lm_head\"]"));
    assert_eq!(peft(json!({"r": 0})), "adapter_config.json: r: expected a whole number of at least 1, found 0");
    assert!(
        peft(json!({"r": 3})).ends_with("expected shape [3, …], as adapter_config.json has the rank, found F32[2, 6]")
    );
    assert!(peft(json!({"alpha_pattern": {".*q": 2}})).contains("expected names of layers, or ends of them"));
    assert!(peft(json!({"lora_alpha": null})).ends_with("lora_alpha: expected a finite number, found null"));
    let mlx = |fields| refused(AdapterFormat::Mlx, fields);
    assert!(mlx(json!({"fine_tune_type": "dora"})).contains("fine_tune_type: expected \"lora\""));
    assert!(mlx(json!({"lora_parameters": []})).contains("lora_parameters: expected an object"));
    let scale = mlx(json!({"lora_parameters": {"rank": 2, "alpha": 16}}));
    assert!(scale.ends_with("lora_parameters.scale: expected a finite number, found null"), "{scale}");
    assert!(mlx(json!({"lora_parameters": {"rank": 9, "scale": 1}})).contains("expected shape […, 9]"));
}

#[test]
fn files_that_are_not_there_bad() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Adapter::open(folder.path(), &cpu()).unwrap_err().to_string();
    assert!(open().ends_with("file not found; give a directory with an adapter of PEFT or mlx-lm"));
    std::fs::write(folder.path().join("adapter_model.bin"), b"pickle").unwrap();
    assert!(open().contains("save it as safetensors with PEFT"));
    let without = saved(AdapterFormat::Peft);
    std::fs::remove_file(without.path().join(CONFIG)).unwrap();
    let error = Adapter::open(without.path(), &cpu()).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json: file not found; it says how"), "{error}");
}

#[test]
fn half_an_adapter_ugly() {
    let folder = saved(AdapterFormat::Peft);
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
    let a = Tensor::full(&cpu(), [2, 6], DType::F32, 1.0).unwrap();
    let write = |name: &str| {
        write_safetensors(&folder.path().join(peft::WEIGHTS), "pt", &[(name.to_owned(), a.clone())]).unwrap();
        Adapter::open(folder.path(), &cpu()).unwrap_err().to_string()
    };
    assert!(write(name).ends_with("lora_B.weight` is missing; its other half is there: the file is incomplete"));
    assert!(
        write("q_proj.lora_magnitude_vector").contains("expected only tensors called ….lora_A.weight, ….lora_B.weight")
    );
    assert!(write("q_proj.lora_B.weight").ends_with("is missing; there is nothing of an adapter in it"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    #[test]
    fn damaged_files_are_errors_ugly(damage in prop::collection::vec((0usize..400, any::<u8>(), any::<bool>()), 16)) {
        let device = cpu();
        for (format, weights) in [(AdapterFormat::Peft, peft::WEIGHTS), (AdapterFormat::Mlx, mlx::WEIGHTS)] {
            let folder = saved(format);
            for file in [CONFIG, weights] {
                let path = folder.path().join(file);
                let whole = std::fs::read(&path).unwrap();
                for &(at, byte, cut) in &damage {
                    let (mut bytes, at) = (whole.clone(), at.min(whole.len() - 1));
                    bytes[at] = byte;
                    if cut {
                        bytes.truncate(at);
                    }
                    std::fs::write(&path, bytes).unwrap();
                    // A changed number is no damage that shows; whatever comes out must be whole.
                    if let Ok(adapter) = Adapter::open(folder.path(), &device) {
                        for (_, lora) in adapter.layers() {
                            prop_assert_eq!((lora.layer_shape(), lora.rank()), ([4, 6], 2));
                        }
                    }
                }
                std::fs::write(&path, whole).unwrap();
            }
        }
    }
}
