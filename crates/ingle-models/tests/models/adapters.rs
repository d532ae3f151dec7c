// SPDX-License-Identifier: EUPL-1.2
//! Adapters on whole models: those of PEFT and mlx-lm (`scripts/fixtures/make_adapters.py`), several in one batch, and
//! over quantised bases.

use std::path::{Path, PathBuf};

use ingle_models::{GgufType, LoadOptions, Model, adapter, attach, fuse, load, weights};
use ingle_nn::gguf::Gguf;
use ingle_nn::{Adapter, AdapterFormat, AdapterId, Checkpoint, Lora, LoraConfig, ModelFiles, Target, Visitor};
use ingle_tensor::{DType, DeviceHandle, Tensor};

use crate::common::{Expected, Fixture, Part, Rows, Session, cpu, folders, logits_alone, name_of};
use crate::export::write_gguf;

const ADAPTERS: [AdapterId; 2] = [AdapterId(4), AdapterId(9)];

/// Adapters of every layer that have learnt something.
fn adapt(model: &mut dyn Model) {
    let config = LoraConfig { rank: 3, alpha: 6.0, targets: vec![Target::new("*_proj")], ..LoraConfig::default() };
    let device = model.device().clone();
    for (seed, id) in ADAPTERS.into_iter().enumerate() {
        Adapter::create(model, &device, &config, seed as u64).unwrap().attach(model, id).unwrap();
        model.visit(&mut Visitor::adapter(id, &mut |name, weight| {
            if name.ends_with("lora_B.weight") {
                let number = |index: usize| ((index * 7919 + seed * 31) % 1009) as f32 / 1009.0 - 0.5;
                let numbers: Vec<f32> = (0..weight.shape().elements()).map(number).collect();
                *weight = Tensor::from_slice(&device, &numbers, weight.shape()).unwrap();
            }
        }));
    }
}

/// The logits of `tokens` by way of an adapter, alone.
fn alone(model: &dyn Model, tokens: &[i32], adapter: Option<AdapterId>) -> Rows {
    by_way_of(adapter, Session::new(model, [1, tokens.len()], DType::BF16), tokens)
}

/// The same of [`TOKENS`], with keys and values in f32.
fn exactly(model: &dyn Model, adapter: Option<AdapterId>) -> Rows {
    by_way_of(adapter, Session::new(model, [1, TOKENS.len()], DType::F32), &TOKENS)
}

const TOKENS: [i32; 12] = [1, 38, 75, 22, 59, 6, 43, 80, 27, 64, 11, 48];

fn by_way_of(adapter: Option<AdapterId>, mut session: Session<'_>, tokens: &[i32]) -> Rows {
    session.adapters = vec![adapter];
    session.step(&[Part { sequence: 0, tokens }])
}

#[test]
fn sequences_of_several_adapters_in_one_batch_good() {
    for folder in [Fixture::named("gemma3-v5").path, Fixture::named("qwen2-v5").path, folders("mlx-models").remove(0)] {
        let files = ModelFiles::directory(&folder).unwrap();
        let mut model = load(&files, &cpu(2), &Default::default(), &mut |_| {}).unwrap();
        adapt(&mut *model);
        let tokens: Vec<i32> = (0..24).map(|i| i * 37 % 90).collect();
        let adapters = [None, Some(ADAPTERS[0]), Some(ADAPTERS[1]), Some(ADAPTERS[0])];
        let mut session = Session::new(&*model, [4, tokens.len()], DType::BF16);
        session.adapters = adapters.to_vec();
        let parts: Vec<Part<'_>> = (0..4).map(|sequence| Part { sequence, tokens: &tokens[sequence..] }).collect();
        let together = session.step(&parts);
        let mut rows = together.values.chunks(together.width);
        let mut found = Vec::new();
        for (sequence, adapter) in adapters.into_iter().enumerate() {
            let values = rows.by_ref().take(tokens.len() - sequence).flatten().copied().collect();
            let beside = Rows { width: together.width, values };
            let expected = alone(&*model, &tokens[sequence..], adapter);
            beside.assert_bit_equal(&expected, &format!("{}, sequence {sequence}", name_of(&folder)));
            found.push(alone(&*model, &tokens, adapter));
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let apart = found[a].difference(&found[b]) / found[a].largest();
            assert!(apart > 0.05, "{}: adapters {a} and {b} give the same: {apart}", name_of(&folder));
        }
    }
}

/// Largest difference of a logit, over the largest magnitude of the reference's, over a dense base.
const TOLERANCE: f32 = 1e-4;

/// Over a quantised one: a device may round what it is multiplied with to 8 bits.
const ROUNDED: f32 = 0.05;

fn fixtures() -> Vec<PathBuf> {
    let folders = folders("adapters");
    assert!(folders.len() >= 5, "{folders:?}");
    folders
}

/// The model that a fixture's adapter belongs to, in f32.
fn base_of(folder: &Path) -> Box<dyn Model> {
    let base = std::fs::read_to_string(folder.join("base.txt")).unwrap();
    let files = ModelFiles::directory(folder.join("../..").join(base.trim())).unwrap();
    load(&files, &cpu(2), &LoadOptions { dtype: Some(DType::F32) }, &mut |_| {}).unwrap()
}

/// By how much of the largest logit a model with this adapter is off from the fixture's library.
fn off(folder: &Path, adapter: &Path) -> f32 {
    let (mut model, expected) = (base_of(folder), Expected::read(folder));
    let adapter = Adapter::open(adapter, &model.device().clone()).unwrap();
    attach(&mut *model, adapter, ADAPTERS[0]).unwrap();
    let mut session = Session::new(&*model, [1, expected.tokens().len()], DType::F32);
    session.adapters = vec![Some(ADAPTERS[0])];
    let logits = session.step(&[Part { sequence: 0, tokens: &expected.tokens() }]);
    logits.difference(&expected.rows("logits_f32")) / logits.largest()
}

fn tolerance(folder: &Path) -> f32 {
    let quantised = base_of(folder).summary().quantisation.is_some();
    if quantised { ROUNDED } else { TOLERANCE }
}

#[test]
fn adapters_of_peft_and_mlx_lm_good() {
    for folder in fixtures() {
        let off = off(&folder, &folder);
        println!("{:<24}{off:.1e}", name_of(&folder));
        assert!(off < tolerance(&folder), "{}: {off:e}", name_of(&folder));
    }
}

#[test]
fn each_is_written_as_either_and_read_again_good() {
    let out = tempfile::tempdir().unwrap();
    let device = cpu(1);
    for folder in fixtures() {
        let adapter = Adapter::open(&folder, &device).unwrap();
        for (format, name) in [(AdapterFormat::Peft, "peft"), (AdapterFormat::Mlx, "mlx")] {
            let target = out.path().join(format!("{}-{name}", name_of(&folder)));
            let written = adapter.save(&target, format, "base");
            if format == AdapterFormat::Mlx && name_of(&folder) == "peft-gemma3-rslora" {
                let error = written.unwrap_err().to_string();
                assert!(error.contains("as mlx-lm has one for all layers, found rank 4"), "{error}");
                assert!(!target.exists());
                continue;
            }
            written.unwrap();
            let again = Adapter::open(&target, &device).unwrap();
            assert_eq!(again.layers().count(), adapter.layers().count());
            for ((name, lora), (again_name, again)) in adapter.layers().zip(again.layers()) {
                assert_eq!(name, again_name);
                assert!((lora.scale() - again.scale()).abs() < 1e-12 && lora.dropout() == again.dropout());
                for (a, b) in lora.matrices().into_iter().zip(again.matrices()) {
                    assert_eq!((a.spec(), a.to_vec::<f32>().unwrap()), (b.spec(), b.to_vec::<f32>().unwrap()));
                }
            }
            assert!(off(&folder, &target) < tolerance(&folder));
        }
    }
}

#[test]
fn an_adapter_of_another_model_bad() {
    let of = |name: &str| fixtures().into_iter().find(|folder| name_of(folder) == name).unwrap();
    let refused =
        |adapter: Adapter, base: &str| attach(&mut *base_of(&of(base)), adapter, ADAPTERS[0]).unwrap_err().to_string();
    let adapter = || Adapter::open(of("peft-qwen3"), &cpu(1)).unwrap();
    let expected = "lora: adapter: expected an adapter of this model, whose `model.layers.0.self_attn.v_proj` has 48 inputs \
                    and 24 outputs, found one for 48 inputs and 16 outputs";
    assert_eq!(
        refused(adapter().rename(|name| name.contains("v_proj").then(|| name.into())), "peft-llama-head"),
        expected
    );
    let error = refused(adapter().rename(|name| Some(name.replace("layers.1", "layers.7"))), "peft-qwen3");
    let ending = "lm_head, found one for `model.layers.7.self_attn.q_proj`";
    assert!(error.contains("model.layers.*.self_attn.q_proj (2 layers)") && error.ends_with(ending), "{error}");
}

#[test]
fn a_quantised_base_stays_packed_ugly() {
    let folder = folders("mlx-models").into_iter().find(|folder| name_of(folder) == "qwen3-4bit-64").unwrap();
    let files = ModelFiles::directory(&folder).unwrap();
    let device = cpu(2);
    let mut model = load(&files, &device, &Default::default(), &mut |_| {}).unwrap();
    let (before, parameters) = (device.memory().active, model.summary().parameters);
    assert!(before < parameters * 2, "4 bits and scales, norms and RoPE");
    adapt(&mut *model);
    let adapters: usize = ADAPTERS.into_iter().map(|id| Adapter::of(&mut *model, id).parameters()).sum();
    assert!(device.memory().active <= before + 4 * adapters + (64 << 10));
    let base = logits_alone(&*model, &[1, 2, 3], 3, DType::BF16);
    assert!(base.difference(&alone(&*model, &[1, 2, 3], Some(ADAPTERS[0]))) > 0.0);
    assert!(device.memory().active <= before + 4 * adapters + (64 << 10), "nothing was unpacked for good");
    assert!(weights(&mut *model).iter().all(|(name, _)| !name.contains("lora")));
}

/// The model of `base` with an adapter merged into it, as a directory in `out`.
fn fused(base: &Path, (adapter, device): (Adapter, &DeviceHandle), out: &Path) -> ModelFiles {
    std::fs::create_dir(out).unwrap();
    std::fs::copy(base.join("config.json"), out.join("config.json")).unwrap();
    let fusion = fuse(&ModelFiles::directory(base).unwrap(), adapter, device).unwrap();
    let (total, mut written) = (fusion.bytes(), 0);
    let count = |bytes| {
        written += bytes;
        Ok::<_, ingle_nn::Error>(())
    };
    fusion.write(out, count).unwrap();
    assert_eq!(written, total);
    ModelFiles::directory(out).unwrap()
}

fn load_f32(files: &ModelFiles) -> Box<dyn Model> {
    load(files, &cpu(2), &LoadOptions { dtype: Some(DType::F32) }, &mut |_| {}).unwrap()
}

/// How far, relative to what the adapter changes, a merged model is from one with the adapter.
fn merged_apart(base: &Path, out: &Path) -> f32 {
    let mut model = load_f32(&ModelFiles::directory(base).unwrap());
    adapt(&mut *model);
    let device = model.device().clone();
    let files = fused(base, (Adapter::of(&mut *model, ADAPTERS[1]), &device), out);
    let tokens: Vec<i32> = (0..24).map(|i| i * 37 % 90).collect();
    let [plain, adapted] = [None, Some(ADAPTERS[1])].map(|adapter| alone(&*model, &tokens, adapter));
    let merged = alone(&*load_f32(&files), &tokens, None);
    merged.difference(&adapted) / plain.difference(&adapted)
}

#[test]
fn merged_into_every_kind_of_base_good() {
    let out = tempfile::tempdir().unwrap();
    let quantised = |name: &str| folders("mlx-models").into_iter().find(|folder| name_of(folder) == name).unwrap();
    for (base, allowed) in [
        // Stored as f32, bf16 (in names of a model with vision), 6 bits, and all sorts.
        (Fixture::named("gemma3_text-softcap").path, 1e-4),
        (Fixture::named("gemma3-v5").path, 0.02),
        (quantised("gemma3_text-6bit-32"), 0.2),
        (quantised("qwen3-mixed"), 0.6),
    ] {
        let target = out.path().join(name_of(&base));
        let apart = merged_apart(&base, &target);
        println!("{:<24}{apart:.1e}", name_of(&base));
        assert!(apart < allowed, "{}: {apart}", name_of(&base));
        // The same tensors, those of a vision tower among them.
        let describe = |folder: &Path| {
            let checkpoint = Checkpoint::open(&ModelFiles::directory(folder).unwrap()).unwrap();
            checkpoint.tensors().map(|(name, tensor)| format!("{name} {}", tensor.describe())).collect::<Vec<_>>()
        };
        assert_eq!(describe(&base), describe(&target));
    }
}

#[test]
fn what_cannot_be_merged_bad() {
    let of = |name: &str| folders("adapters").into_iter().find(|folder| name_of(folder) == name).unwrap();
    let refused = |adapter: &str, base: &Path| {
        let adapter = Adapter::open(of(adapter), &cpu(1)).unwrap();
        fuse(&ModelFiles::open(base).unwrap(), adapter, &cpu(1)).unwrap_err().to_string()
    };
    let other = refused("peft-qwen3", &Fixture::named("qwen2-v5").path);
    assert!(other.contains("expected a layer of 48 inputs and 64 outputs, as the adapter has it"), "{other}");
    let tied = refused("peft-llama-head", &Fixture::named("llama-v5").path);
    assert!(tied.contains("`lm_head.weight` is missing; the adapter is another model's"), "{tied}");
}

/// A GGUF model of a fixture's weights.
fn as_gguf(folder: &Path, gguf_type: GgufType, path: &Path) -> ModelFiles {
    let files = ModelFiles::directory(folder).unwrap();
    write_gguf(&files, gguf_type, path).unwrap();
    ModelFiles::open(path).unwrap()
}

/// Queries and keys of a Llama stand in another order there: an adapter is the same whatever the file of its base.
#[test]
fn adapters_over_gguf_are_those_over_safetensors_good() {
    let out = tempfile::tempdir().unwrap();
    for name in ["llama-v5", "qwen3-v5"] {
        let folder = Fixture::named(name).path;
        let gguf = as_gguf(&folder, GgufType::F32, &out.path().join(format!("{name}.gguf")));
        let (mut dense, mut in_gguf) = (load_f32(&ModelFiles::directory(&folder).unwrap()), load_f32(&gguf));
        // As one would learn it, over either.
        adapt(&mut *dense);
        let (learnt, saved) = (adapter(&mut *dense, ADAPTERS[1]).unwrap(), out.path().join(name));
        learnt.save(&saved, AdapterFormat::Peft, name).unwrap();
        let device = in_gguf.device().clone();
        let [plain, expected] = [None, Some(ADAPTERS[1])].map(|adapter| exactly(&*dense, adapter));
        assert!(plain.difference(&expected) / expected.largest() > 0.05);
        attach(&mut *in_gguf, Adapter::open(&saved, &device).unwrap(), ADAPTERS[1]).unwrap();
        let found = exactly(&*in_gguf, Some(ADAPTERS[1]));
        assert!(found.difference(&expected) / expected.largest() < TOLERANCE, "{name}");
        let again = adapter(&mut *in_gguf, ADAPTERS[1]).unwrap();
        for ((_, before), (_, after)) in learnt.layers().zip(again.layers()) {
            let b = |lora: &Lora| lora.matrices()[1].to_vec::<f32>().unwrap();
            assert_eq!(b(before), b(after), "{name}");
        }
        // And merged into either file.
        let target = out.path().join(format!("{name}-merged.gguf"));
        let fusion = fuse(&gguf, again, &device).unwrap();
        fusion.write(&target, |_| Ok::<_, ingle_nn::Error>(())).unwrap();
        let merged = exactly(&*load_f32(&ModelFiles::open(&target).unwrap()), None);
        assert!(merged.difference(&expected) / expected.largest() < TOLERANCE, "{name}");
    }
}

#[test]
fn merged_into_every_gguf_good() {
    let out = tempfile::tempdir().unwrap();
    let fixtures = folders("gguf-models");
    assert!(fixtures.len() >= 10, "{fixtures:?}");
    for folder in fixtures {
        let name = name_of(&folder);
        let files = ModelFiles::open(&folder).unwrap();
        let mut model = load_f32(&files);
        adapt(&mut *model);
        let learnt = adapter(&mut *model, ADAPTERS[1]).unwrap();
        let layers = learnt.layers().count();
        let target = out.path().join(format!("{name}.gguf"));
        let fusion = fuse(&files, learnt, &model.device().clone()).unwrap();
        let (total, mut written) = (fusion.bytes(), 0);
        let count = |bytes| {
            written += bytes;
            Ok::<_, ingle_nn::Error>(())
        };
        fusion.write(&target, count).unwrap();
        assert_eq!(written, total);
        let [plain, adapted] = [None, Some(ADAPTERS[1])].map(|adapter| exactly(&*model, adapter));
        let merged = ModelFiles::open(&target).unwrap();
        let apart = exactly(&*load_f32(&merged), None).difference(&adapted) / plain.difference(&adapted);
        println!("{name:<16}{apart:.1e}");
        let allowed = match name.rsplit('-').next() {
            Some("f32") => 1e-4,
            Some("f16" | "bf16") => 0.02,
            Some("q8_0") => 0.1,
            _ => 0.7,
        };
        assert!(apart < allowed, "{name}: {apart}");
        // The same tensors in the same places; others than those of the layers are the same.
        let [before, after] = [&files, &merged].map(|files| files.gguf().unwrap().unwrap());
        let describe =
            |gguf: &Gguf| gguf.tensors().map(|(name, t)| (name.to_owned(), t.describe())).collect::<Vec<_>>();
        assert_eq!(describe(&before), describe(&after), "{name}");
        let changed = before.tensors().zip(after.tensors()).filter(|(a, b)| a.1.content() != b.1.content());
        assert_eq!(changed.count(), layers, "{name}");
    }
}
