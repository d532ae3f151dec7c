// SPDX-License-Identifier: EUPL-1.2
//! `ingle finetune` and `ingle train`, and what they write in the other commands.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{fails, ingle, json, jsonl, stdout};

/// A small model to train.
const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/end-to-end/byte-level");

/// A folder with data in it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let example = |i: usize| format!("{{\"text\": \"the fire number {} is lit\", \"label\": \"f{}\"}}\n", i, i % 3);
        std::fs::write(folder.path().join("train.jsonl"), (0..60).map(example).collect::<String>()).unwrap();
        std::fs::write(folder.path().join("valid.jsonl"), (60..70).map(example).collect::<String>()).unwrap();
        Bench { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The command line of a fine-tuning into the folder `out`.
    fn finetune(&self, out: &str, more: &[&str]) -> Vec<String> {
        let out = self.text(out);
        let (data, valid) = (self.text("train.jsonl"), self.text("valid.jsonl"));
        let files = ["finetune", "--model", BASE, "--data", &data, "--valid", &valid, "--out", &out, "--json"];
        let sizes = ["--batch-tokens", "64", "--max-length", "64", "--dtype", "f32"];
        files.iter().chain(&sizes).chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    fn run(&self, out: &str, more: &[&str]) -> Vec<Value> {
        let args = self.finetune(out, more);
        jsonl(&stdout(&args.iter().map(String::as_str).collect::<Vec<_>>()))
    }

    /// What the log says of the losses, as it is written there.
    fn losses(&self, out: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.path(out).join("log.jsonl")).unwrap();
        let until_loss = |line: &str| line.split_inclusive(',').take(3).collect::<String>();
        log.lines().map(until_loss).collect()
    }
}

fn json_file(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_adapter_is_trained_and_used_good() {
    let bench = Bench::new();
    let rate = ["--lora-rank", "4", "--learning-rate", "0.01", "--epochs", "6", "--validate-every", "20"];
    let events = bench.run("out", &rate);
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let steps = of("step");
    let loss = |event: &Value| event["loss"].as_f64().unwrap();
    assert!(loss(steps.last().unwrap()) < 0.5 * loss(steps[0]), "{steps:?}");
    assert!(of("begun")[0]["trained"].as_u64() < of("begun")[0]["parameters"].as_u64());
    assert!(of("validation").len() > 1);
    assert_eq!(of("ended")[0]["ending"], "done");
    for file in ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "loss.svg", "loss.png"] {
        assert!(bench.path("out").join(file).is_file(), "{file}");
    }
    let adapter = bench.path("out").join("adapter").display().to_string();
    let prompt = ["generate", "--prompt", "the fire number 65 is lit", "-n", "2", "--model", BASE];
    let (plain, adapted) = (stdout(&prompt), stdout(&[&prompt[..], &["--adapter", &adapter]].concat()));
    assert!(adapted.trim_start().starts_with('f') && !plain.trim_start().starts_with('f'), "{adapted} and {plain}");
    assert_eq!(bench.losses("out").len(), steps.len() + of("validation").len());
    let events = std::fs::read_dir(bench.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(events.filter(|name| name.to_string_lossy().starts_with("events.out.tfevents.")).count(), 1);
}

#[test]
fn a_classifier_is_trained_and_measured_good() {
    let bench = Bench::new();
    bench.run("out", &["--learning-rate", "0.005", "--epochs", "8", "--dropout", "0.05", "--bpe-dropout", "0.1"]);
    let (model, valid, found) = (bench.text("out/model"), bench.text("valid.jsonl"), bench.text("found.jsonl"));
    let classify = ["classify", &valid, "--label-field", "label", "--model", &model, "-o", &found];
    let output = ingle(&classify).assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    let lines = jsonl(&std::fs::read_to_string(&found).unwrap());
    let right = lines.iter().filter(|line| line["label"] == line["expected"]).count();
    assert_eq!(lines.len(), 10);
    assert!(said.contains(&format!("accuracy {right}0.00 %: {right} of 10\n")), "{said}");
    assert!(lines[0]["probabilities"].as_object().unwrap().keys().eq(["f0", "f1", "f2"]), "{}", lines[0]);
    let error = fails(&mut ingle(&["classify", &valid, "--label-field", "domain", "--model", &model]), 1);
    assert!(error.contains("text 1: expected a string in `domain`, found text, label"), "{error}");
}

#[test]
fn a_model_from_nothing_good() {
    let bench = Bench::new();
    let text = "Who lit the fire? The cook lit the fire.\n\n".repeat(40);
    std::fs::write(bench.path("text.txt"), text).unwrap();
    let config = "[model]\nmodel_type = \"qwen3\"\nhidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 2\n\
                  num_attention_heads = 2\nnum_key_value_heads = 1\nhead_dim = 16\ntie_word_embeddings = true\n\
                  [tokenizer]\nvocab_size = 290\nspecial_tokens = [\"<eos>\", \"<bos>\", \"<end_of_turn>\"]\n\
                  words = ' ?\\p{L}+|\\s+|\\S'\nchat_template = \"{{ bos_token }}{{ messages[0].content }}\"\n\
                  [data]\nseparator = \"\\n\\n\"\nend = \"<end_of_turn>\\n\"\nbpe_dropout = 0.1\n\
                  [training]\nsteps = 40\nlearning_rate = 1e-2\nbatch_tokens = 64\nmax_length = 32\ndropout = 0.05\n\
                  [generation]\ntemperature = 0.5\n";
    std::fs::write(bench.path("small.toml"), config).unwrap();
    let (config, data, out) = (bench.text("small.toml"), bench.text("text.txt"), bench.text("out"));
    let train = ["train", "--config", &config, "--data", &data, "--valid", &data, "--out", &out, "--json"];
    let events = jsonl(&stdout(&train));
    let ended = events.last().unwrap();
    assert_eq!((&ended["ending"], &ended["steps"]), (&"done".into(), &40.into()));
    assert!(ended["best"]["loss"].as_f64().unwrap() < 2.5, "{ended}");
    let model = bench.path("out").join("model").display().to_string();
    let info = json(&["info", "--model", &model, "--json"]);
    assert_eq!(info["architecture"], "qwen3");
    let answer = stdout(&["generate", "--model", &model, "--prompt", "Who lit", "-n", "6"]);
    assert!(answer.contains("fire"), "{answer}");
    let validation = events.iter().find(|event| event["event"] == "validation").unwrap();
    let (bits, loss) = (&validation["bits_per_character"], validation["loss"].as_f64().unwrap());
    let per_character = loss / std::f64::consts::LN_2 * validation["targets"].as_f64().unwrap() / (42.0 * 40.0);
    assert!((bits.as_f64().unwrap() - per_character).abs() < 1e-5, "{validation}");
    let file = |name: &str| json_file(&bench.path("out/model").join(name));
    assert_eq!(file("generation_config.json")["temperature"], 0.5);
    assert_eq!(file("config.json")["bos_token_id"], 1);
    assert_eq!(file("tokenizer_config.json")["eot_token"], "<end_of_turn>");
    let error = fails(&mut ingle(&train), 1);
    assert!(error.contains("is not empty; go on with what is in it (--resume), or give another folder"), "{error}");
}

/// Starts a command whose events can be read, or whose end waited for.
fn start(args: &[String]) -> std::process::Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ingle"));
    command.env_remove("INGLE_MODEL").args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn killed_or_interrupted_it_goes_on_as_if_nothing_had_happened_ugly() {
    use std::io::{BufRead, BufReader};

    let bench = Bench::new();
    let chance = ["--dropout", "0.1", "--bpe-dropout", "0.1"];
    let options = ["--epochs", "4", "--checkpoint-every", "3", "--validate-every", "7", "--learning-rate", "0.005"];
    let options = [options.as_slice(), &chance].concat();
    bench.run("whole", &options);
    let resume = [&options[..], &["--resume"]].concat();
    let mut broken = 0;
    for (signal, steps) in [("-KILL", 5), ("-INT", 11), ("-KILL", 17)] {
        let mut child = start(&bench.finetune("broken", &resume));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut seen = 0;
        for line in lines {
            seen = serde_json::from_str::<Value>(&line).unwrap()["step"].as_u64().unwrap_or(seen);
            if seen == steps {
                // The pipe stays open: it may be far ahead, but not at its end.
                assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
            }
        }
        // On a machine that is busy elsewhere it may have come to its end first.
        let was_broken = !bench.path("broken/model").exists();
        broken += usize::from(was_broken);
        let status = child.wait().unwrap();
        if was_broken && signal == "-INT" {
            assert_eq!(status.code(), Some(130));
        }
    }
    assert!(broken > 0, "none was broken off");
    bench.run("broken", &resume);
    assert_eq!(bench.losses("broken"), bench.losses("whole"));
    let weights = |out: &str| std::fs::read(bench.path(out).join("model/model.safetensors")).unwrap();
    assert_eq!(weights("broken"), weights("whole"));
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_checkpoint_ugly() {
    let bench = Bench::new();
    let options = ["--steps", "8", "--checkpoint-every", "2", "--learning-rate", "0.005"];
    bench.run("whole", &options);
    // As long as files may be, nothing larger than 20 KiB can be written; a checkpoint is.
    let limited = |args: &[String]| {
        let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
        let mut command = Command::new("bash");
        command.env_remove("INGLE_MODEL").args(["-c", script]).arg(assert_cmd::cargo::cargo_bin!("ingle")).args(args);
        command.output().unwrap()
    };
    let output = limited(&bench.finetune("full", &options));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("step-00000002.part") && error.lines().count() == 1, "{error}");
    // Room for the first two, and then none.
    std::fs::remove_dir_all(bench.path("full")).unwrap();
    let half = [&options[..], &["--resume"]].concat();
    let mut child = start(&bench.finetune("full", &half));
    while !bench.path("full/checkpoints/step-00000002").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = limited(&bench.finetune("full", &half));
    if !output.status.success() {
        let kept = std::fs::read_dir(bench.path("full/checkpoints")).unwrap().map(|e| e.unwrap().file_name());
        assert!(kept.into_iter().all(|name| !name.to_string_lossy().ends_with(".part")), "no half of one is left");
        bench.run("full", &half);
    }
    assert_eq!(bench.losses("full"), bench.losses("whole"));
}

#[test]
fn bad_usage_and_bad_data_bad() {
    let bench = Bench::new();
    let says = |more: &[&str], code, expected: &str| {
        let args = bench.finetune("out", more);
        let line = fails(&mut ingle(&args.iter().map(String::as_str).collect::<Vec<_>>()), code);
        assert!(line.contains(expected), "{line}");
        assert!(!bench.path("out").exists(), "{more:?} has left something behind");
    };
    says(&["--lora-rank", "0"], 1, "rank: expected at least 1, found 0");
    says(&["--lora-rank", "4", "--lora-targets", "w_proj"], 1, "targets: expected layers that the model has: ");
    says(&["--lora-rank", "4", "--lora-targets", "w_proj"], 1, "self_attn.q_proj");
    says(&["--lora-alpha", "4"], 2, "--lora-rank");
    says(&["--steps", "3", "--epochs", "1"], 2, "cannot be used with");
    says(&["--steps", "0"], 1, "length of the training: expected at least 1, found 0");
    says(&["--template", "x"], 1, "--template: expected {text} in it, found `x`");
    says(&["--dropout", "1"], 1, "dropout: expected a number from 0 and below 1, found 1");
    says(&["--bpe-dropout", "1"], 1, "BPE dropout: expected a number from 0 and below 1, found 1");
    says(&["--device", "abacus"], 1, "backend `abacus`: unknown; known are: cpu");
    let args = bench.finetune("out", &["--learning-rate", "1e30", "--clip-norm", "1e30", "--steps", "9"]);
    let output = start(&args).wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: step 3: the ") && error.contains("nothing was saved before"), "{error}");
    std::fs::remove_dir_all(bench.path("out")).unwrap();
    std::fs::write(bench.path("train.jsonl"), "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n").unwrap();
    says(&[], 1, "train.jsonl, line 2: expected an object with `text`");
    std::fs::remove_file(bench.path("valid.jsonl")).unwrap();
    std::fs::write(bench.path("train.jsonl"), "{\"text\": \"a b c\"}\n").unwrap();
    says(&[], 1, "valid.jsonl: No such file or directory (os error 2); name a file of examples that can be read");
}

/// Whatever is refused, and however late: the folder is as it was.
#[test]
fn a_training_that_does_not_begin_leaves_nothing_bad() {
    let bench = Bench::new();
    std::fs::write(bench.path("text.txt"), "Who lit the fire? The cook lit the fire.\n".repeat(20)).unwrap();
    std::fs::create_dir(bench.path("there")).unwrap();
    let says = |config: &str, files: [&str; 3], expected: &str| {
        std::fs::write(bench.path("small.toml"), config).unwrap();
        let [config, data, valid] = files.map(|name| bench.text(name));
        for out in ["there", "new/within/new"] {
            let out = bench.text(out);
            let train = ["train", "--config", &config, "--data", &data, "--valid", &valid, "--out", &out];
            let line = fails(&mut ingle(&train), 1);
            assert!(line.contains(expected), "{line}");
            assert_eq!(std::fs::read_dir(bench.path("there")).unwrap().count(), 0, "{expected}");
            assert!(!bench.path("new").exists(), "{expected}");
        }
    };
    let config = |model: &str, training: &str| {
        format!(
            "[model]\nmodel_type = \"llama\"\nhidden_size = 32\nintermediate_size = 64\nnum_hidden_layers = 1\n\
             num_attention_heads = 2\n{model}\n[tokenizer]\nvocab_size = 280\n\
             [training]\nsteps = 3\nlearning_rate = 1e-2\n{training}\n"
        )
    };
    let files = ["small.toml", "text.txt", "text.txt"];
    says(&config("", "dropout = 1.5"), files, "dropout: expected a number from 0 and below 1, found 1.5");
    says(&config("num_key_value_heads = 3", ""), files, "num_key_value_heads: expected a divisor");
    let missing = |name: &str, advice: &str| format!("{name}: No such file or directory (os error 2); {advice}");
    let plain = config("", "");
    let toml = missing("no.toml", "name a TOML file with [model], [tokenizer] and [training]");
    says(&plain, ["no.toml", "text.txt", "text.txt"], &toml);
    let advice = "name a file of examples that can be read";
    says(&plain, ["small.toml", "no.txt", "text.txt"], &missing("no.txt", advice));
    says(&plain, ["small.toml", "text.txt", "no.txt"], &missing("no.txt", advice));
}
