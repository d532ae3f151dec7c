// SPDX-License-Identifier: EUPL-1.2
//! Models made smaller: that they load and stay the same model, and what is refused.

use std::path::{Path, PathBuf};

use ingle::{
    CancelToken, DType, EndTokens, GenerateOptions, GgufType, LoadOptions, QuantizeFormat, Quantized, Sampling,
};
use ingle::{TextModel, quantize};

const MLX: QuantizeFormat = QuantizeFormat::Mlx { bits: 8, group_size: 64 };

fn fixture(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name).to_str().unwrap().to_owned()
}

fn write(model: &str, out: &Path, format: &QuantizeFormat) -> ingle::Result<Quantized> {
    quantize(model, out, format, &CancelToken::new(), &mut |_| {})
}

fn load(model: &str) -> Box<dyn TextModel> {
    ingle::load(model, &LoadOptions::default()).unwrap()
}

fn answer(model: &dyn TextModel, prompt: &str) -> Vec<u32> {
    let options = GenerateOptions {
        max_tokens: Some(16),
        sampling: Some(Sampling::default()),
        end_tokens: EndTokens::Ignore,
        ..GenerateOptions::default()
    };
    let completion = model.generate(prompt.into(), &options).unwrap().collect_all().unwrap();
    completion.tokens.iter().map(|token| token.id).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The largest difference of a logit, over the largest magnitude.
fn difference(a: &dyn TextModel, b: &dyn TextModel, tokens: &[u32]) -> f32 {
    let (a, b) = (a.logits(tokens.to_vec(), 0).unwrap(), b.logits(tokens.to_vec(), 0).unwrap());
    let pairs = || a.iter().flatten().zip(b.iter().flatten());
    let largest = pairs().fold(0.0f32, |most, (a, _)| most.max(a.abs()));
    pairs().fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn demo_in_mlx_8_bit_good() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("demo-8bit");
    let mut reports = Vec::new();
    let written = quantize("demo", &out, &MLX, &CancelToken::new(), &mut |progress| reports.push(progress)).unwrap();
    assert_eq!((written.path.as_path(), names(folder.path())), (out.as_path(), vec!["demo-8bit".to_owned()]));
    let expected =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert_eq!(names(&out), expected);
    assert!(reports.windows(2).all(|pair| pair[0].loaded_bytes <= pair[1].loaded_bytes));
    assert_eq!(reports.last().map(|last| last.loaded_bytes), Some(written.original_bytes));

    let (demo, small) = (load("demo"), load(out.to_str().unwrap()));
    let summary = small.info().summary;
    assert_eq!(summary.quantisation.as_deref(), Some("8-bit, groups of 64"));
    assert_eq!((summary.parameters, summary.weight_bytes), (written.parameters, written.bytes));
    assert!(written.bytes * 16 < written.original_bytes * 9, "{written:?}");
    let tokens =
        demo.tokenize("KING:\nMy lords, the fire is out, and the night is cold.", ingle::Special::Add).unwrap();
    let difference = difference(demo.as_ref(), small.as_ref(), &tokens);
    assert!(difference < 0.05, "{difference}");
    assert_eq!(answer(demo.as_ref(), "ROMEO:")[..4], answer(small.as_ref(), "ROMEO:")[..4]);
}

/// What loses nothing changes nothing: text, chat template and special tokens come along.
#[test]
fn gguf_of_the_same_numbers_is_the_same_model_good() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["byte-level", "sentencepiece-llama"] {
        let model = fixture(&format!("end-to-end/{name}"));
        // What is computed is as exact as what is stored, so F32 is compared with the original in f32.
        for (gguf_type, dtype, allowed) in
            [(GgufType::Bf16, None, 1e-5), (GgufType::F32, Some(DType::F32), 1e-5), (GgufType::Q8_0, None, 0.1)]
        {
            let original = ingle::load(&model, &LoadOptions { dtype, ..LoadOptions::default() }).unwrap();
            let out = folder.path().join(format!("{name}-{}.gguf", gguf_type.name()));
            let written = write(&model, &out, &QuantizeFormat::Gguf(gguf_type)).unwrap();
            let copy = load(out.to_str().unwrap());
            assert_eq!(copy.info().summary.parameters, written.parameters);
            let prompt = "The king said";
            let tokens = original.tokenize(prompt, ingle::Special::Add).unwrap();
            assert_eq!(copy.tokenize(prompt, ingle::Special::Add).unwrap(), tokens, "{name}");
            let difference = difference(original.as_ref(), copy.as_ref(), &tokens);
            assert!(difference < allowed, "{name} {}: {difference}", gguf_type.name());
            let messages = [ingle::Message::new("user", "Who lit the fire?")];
            assert_eq!(copy.chat_prompt(&messages).unwrap(), original.chat_prompt(&messages).unwrap(), "{name}");
            if gguf_type != GgufType::Q8_0 {
                assert_eq!(answer(copy.as_ref(), prompt), answer(original.as_ref(), prompt), "{name}");
            }
        }
    }
}

#[test]
fn gguf_files_are_found_good() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("owner");
    std::fs::create_dir(&below).unwrap();
    let model = fixture("end-to-end/byte-level");
    write(&model, &below.join("small.gguf"), &QuantizeFormat::Gguf(GgufType::Q4_0)).unwrap();
    std::fs::write(below.join("mmproj-small.gguf"), b"no model").unwrap();
    std::fs::write(below.join("broken.gguf"), b"GGUF").unwrap();
    let found = ingle::discover(folder.path()).unwrap();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].name.ends_with("broken.gguf") && found[0].summary.is_err());
    assert_eq!(found[1].summary.as_ref().unwrap().architecture, "qwen3");
    // A folder with one usable name in it, and one more, is for the user to decide.
    assert!(ingle::load(below.to_str().unwrap(), &LoadOptions::default()).is_err());
    std::fs::remove_file(below.join("broken.gguf")).unwrap();
    assert_eq!(load(below.to_str().unwrap()).info().summary.layers, 2);
}

#[test]
fn matrices_that_groups_do_not_divide_are_counted_ugly() {
    let folder = tempfile::tempdir().unwrap();
    let left = |group_size: usize| {
        let out = folder.path().join(group_size.to_string());
        write("demo", &out, &QuantizeFormat::Mlx { bits: 4, group_size }).unwrap().left
    };
    // The demo model's MLPs have 448 hidden units, each layer's down-projection rows of so many.
    assert_eq!(left(64), 0);
    assert_eq!(left(128), load("demo").info().summary.layers);
}

#[test]
fn what_cannot_be_written_bad() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let refused = |model: &str, out: &Path, format: &QuantizeFormat| {
        let error = write(model, out, format).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let there = folder.path().to_path_buf();
    assert!(refused("demo", &there, &MLX).ends_with("is there already; remove it, or give another path"));
    let seven = QuantizeFormat::Mlx { bits: 7, group_size: 64 };
    assert_eq!(refused("demo", &out, &seven), "bits: expected one of 2, 3, 4, 5, 6, 8, found 7");
    let sixteen = QuantizeFormat::Mlx { bits: 4, group_size: 16 };
    assert_eq!(refused("demo", &out, &sixteen), "group_size: expected one of 32, 64, 128, found 16");
    let quantised = fixture("mlx-models/qwen3-4bit-64");
    assert!(
        refused(&quantised, &out, &MLX)
            .ends_with("is quantised already (4-bit, groups of 64); give the original checkpoint")
    );
    let gguf = fixture("gguf-models/qwen3-f16");
    assert!(refused(&gguf, &out, &MLX).contains("is a GGUF file; give the directory"));
    assert!(refused("no/such/model", &out, &MLX).contains("no such directory, GGUF file"));
    let nowhere: PathBuf = folder.path().join("no/such/folder/out");
    assert!(refused("demo", &nowhere, &MLX).contains("out.part: "));
    // The demo model parts its texts in its own way.
    let error = refused("demo", &out, &QuantizeFormat::Gguf(GgufType::Q8_0));
    assert!(error.starts_with("demo/tokenizer.json: pre_tokenizer: expected one that parts texts as those of gpt-2"));
    assert!(names(folder.path()).is_empty(), "something was left behind");
}

#[test]
fn interruption_leaves_nothing_behind_ugly() {
    let folder = tempfile::tempdir().unwrap();
    for (name, format) in [("mlx", MLX), ("model.gguf", QuantizeFormat::Gguf(GgufType::Q8_0))] {
        let (cancel, out) = (CancelToken::new(), folder.path().join(name));
        let mut calls = 0;
        let model = fixture("end-to-end/byte-level");
        let error = quantize(&model, &out, &format, &cancel, &mut |_| {
            calls += 1;
            if calls == 3 {
                cancel.cancel();
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "interrupted");
        assert!(names(folder.path()).is_empty());
    }
}
