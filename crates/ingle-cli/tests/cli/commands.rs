// SPDX-License-Identifier: EUPL-1.2
//! Every command, once, on the built-in model.

use crate::common::{ingle, json, jsonl, stdout};

#[test]
fn generate_streams_text_good() {
    let text = stdout(&["generate", "--prompt", "ROMEO:", "--max-tokens", "40", "--temperature", "0"]);
    assert!(text.trim().len() > 20, "{text:?}");
    let again =
        stdout(&["generate", "--prompt", "ROMEO:", "--max-tokens", "40", "--temperature", "0", "--threads", "1"]);
    assert_eq!(text, again, "the same request gives the same answer");
}

#[test]
fn generate_reads_stdin_as_the_prompt_good() {
    let prompt = "ROMEO:\nO";
    let by_flag = json(&["generate", "--json", "-n", "8", "-t", "0", "--prompt", prompt]);
    let output = ingle(&["generate", "--json", "-n", "8", "-t", "0"]).write_stdin(prompt).assert().success();
    let by_stdin: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(by_flag["tokens"], by_stdin["tokens"]);
    assert_eq!(by_flag["usage"]["generated_tokens"], 8);
    assert_eq!(by_flag["finish_reason"], "length");
}

#[test]
fn generate_seed_decides_the_draw_good() {
    let draw = |seed: &str| stdout(&["generate", "--prompt", "ROMEO:", "-n", "30", "-t", "1", "--seed", seed]);
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn generate_stop_string_ends_the_answer_good() {
    let whole = json(&["generate", "--json", "--prompt", "ROMEO:", "-n", "60", "-t", "0"]);
    let text = whole["text"].as_str().unwrap();
    let stop: String = text.chars().skip(20).take(6).collect();
    let cut = json(&["generate", "--json", "--prompt", "ROMEO:", "-n", "60", "-t", "0", "--stop", &stop]);
    let expected = text.split(&stop).next().unwrap();
    assert_eq!(cut["text"].as_str().unwrap(), expected);
    assert_eq!(cut["finish_reason"], "stop");
}

#[test]
fn generate_logprobs_name_the_greedy_token_good() {
    let answer = json(&["generate", "--json", "--prompt", "ROMEO:", "-n", "5", "-t", "0", "--logprobs", "3"]);
    for (index, row) in answer["logprobs"].as_array().unwrap().iter().enumerate() {
        assert_eq!(row["top"].as_array().unwrap().len(), 3);
        assert_eq!(row["top"][0]["id"], answer["tokens"][index]);
        assert_eq!(row["top"][0]["logprob"], row["logprob"]);
    }
}

#[test]
fn generate_logprobs_are_shown_to_people_good() {
    let args = ["--prompt", "ROMEO:", "-n", "5", "-t", "0"];
    let answer = stdout(&[&["generate"], &args[..]].concat());
    let output = ingle(&[&["generate", "--logprobs", "2"], &args[..]].concat()).assert().success();
    assert_eq!(String::from_utf8_lossy(&output.get_output().stdout), answer);
    let notes = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    let json = json(&[&["generate", "--logprobs", "2", "--json"], &args[..]].concat());
    let rows = json["logprobs"].as_array().unwrap();
    assert_eq!(notes.lines().count(), rows.len());
    for (line, row) in notes.lines().zip(rows) {
        let chosen: f64 = line.split_whitespace().next().unwrap().parse().unwrap();
        assert!((chosen - row["logprob"].as_f64().unwrap()).abs() < 1e-4, "{line}: {row}");
        assert_eq!(line.matches(&format!("{:.4}", row["top"][1]["logprob"].as_f64().unwrap())).count(), 1, "{line}");
    }
    let output = ingle(&["chat", "--logprobs", "0", "-n", "3", "-t", "0"]).write_stdin("Hello\n").assert().success();
    assert_eq!(String::from_utf8_lossy(&output.get_output().stderr).lines().count(), 3);
}

#[test]
fn chat_keeps_history_and_takes_commands_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("talk.json");
    let script = format!("Speak of love.\nAnd of war?\n/save {}\n/reset\n/nonsense\n", file.display());
    let output = ingle(&["chat", "-n", "20", "-t", "0", "--stats"]).write_stdin(script).assert().success();
    let notes = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    let cached: Vec<usize> = notes
        .lines()
        .filter_map(|line| line.split_once(" prompt tokens (")?.1.split_once(" cached")?.0.parse().ok())
        .collect();
    assert_eq!(cached.len(), 2, "{notes}");
    assert_eq!(cached[0], 0);
    assert!(cached[1] > 0, "the second turn reuses the first: {notes}");
    assert!(notes.contains("/nonsense: unknown command"), "{notes}");

    let saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let roles: Vec<_> = saved.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"]);
    let loaded = file.display().to_string();
    ingle(&["chat", "-n", "5", "-t", "0", "--load", &loaded]).write_stdin("Go on.\n").assert().success();
}

#[test]
fn batch_equals_generate_one_by_one_good() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = ["ROMEO:", "JULIET:\nO", "First Citizen:", "KING RICHARD III:\nNow is"];
    let file = folder.path().join("prompts.txt");
    std::fs::write(&file, prompts.join("\n")).unwrap();
    let out = folder.path().join("answers.jsonl");
    let (file, out) = (file.display().to_string(), out.display().to_string());
    ingle(&["batch", &file, "-n", "12", "-t", "0", "--output", &out]).assert().success();
    // A line of the file is a prompt: the one with a line break in it became two.
    let lines = jsonl(&std::fs::read_to_string(&out).unwrap());
    assert_eq!(lines.len(), 6);
    for (line, prompt) in lines.iter().zip(["ROMEO:", "JULIET:", "O", "First Citizen:", "KING RICHARD III:", "Now is"])
    {
        let alone = json(&["generate", "--json", "-n", "12", "-t", "0", "--prompt", prompt]);
        assert_eq!(line["tokens"], alone["tokens"], "{prompt}");
    }
}

#[test]
fn batch_takes_jsonl_and_passes_ids_on_good() {
    let lines = "{\"id\": \"a\", \"prompt\": \"ROMEO:\\nO\"}\n{\"id\": 2, \"messages\": [{\"role\": \"user\", \"content\": \
                 \"Hello\"}]}\n{\"prompt\": \"\"}\n";
    let output = ingle(&["batch", "-n", "4", "-t", "0"]).write_stdin(lines).assert().success();
    let answers = jsonl(&String::from_utf8(output.get_output().stdout.clone()).unwrap());
    assert_eq!(answers[0]["id"], "a");
    assert_eq!(answers[1]["id"], 2);
    assert_eq!(answers.len(), 3);
}

#[test]
fn classify_top_and_labels_good() {
    let text = "JULIET:\nO Romeo, Romeo! wherefore art thou\nKING:\nMy\n";
    let output = ingle(&["classify", "--top", "4"]).write_stdin(text).assert().success();
    let rows = jsonl(&String::from_utf8(output.get_output().stdout.clone()).unwrap());
    assert_eq!(rows.len(), 4);
    for row in &rows {
        let top: Vec<f64> = row["top"].as_array().unwrap().iter().map(|t| t["probability"].as_f64().unwrap()).collect();
        assert_eq!(top.len(), 4);
        assert!(top.is_sorted_by(|a, b| a >= b), "{top:?}");
    }
    let output = ingle(&["classify", "--labels", "lord,wherefore art thou,sea"]).write_stdin(text).assert().success();
    let rows = jsonl(&String::from_utf8(output.get_output().stdout.clone()).unwrap());
    for row in &rows {
        let sum: f64 = row["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{row}");
        assert!(row["probabilities"][row["label"].as_str().unwrap()] == row["probability"]);
    }
}

#[test]
fn classify_scores_labels_exactly_good() {
    // The label's log-probability by hand, from the logits of the whole text.
    let (text, label) = ("KING:\nMy", "gracious lord");
    let ids = |text: &str| -> Vec<u64> {
        json(&["tokenize", "--text", text])["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
    };
    let (prompt, whole) = (ids(text), ids(&format!("{text} {label}")));
    assert_eq!(whole[..prompt.len()], prompt[..], "the label begins where the text ends");
    let list = whole.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let logits = json(&["logits", "--tokens", &list]);
    let expected: f64 = (prompt.len()..whole.len())
        .map(|position| {
            let row = logits["rows"][position - 1]["logits"].as_array().unwrap();
            let row: Vec<f64> = row.iter().map(|x| x.as_f64().unwrap()).collect();
            row[whole[position] as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln()
        })
        .sum();
    let other = "sea";
    let labels = format!("{label},{other}");
    let output = ingle(&["classify", "--labels", &labels])
        .write_stdin(format!("{}\n", serde_json::json!({"text": text})))
        .assert()
        .success();
    let row = &jsonl(&String::from_utf8(output.get_output().stdout.clone()).unwrap())[0];
    let found = row["logprobs"][label].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-3, "{found} instead of {expected}");
}

#[test]
fn logits_rows_are_whole_and_last_is_last_good() {
    let all = json(&["logits", "--tokens", "2,300,17,45"]);
    let rows = all["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert!(
        rows.iter().all(|row| row["logits"].as_array().unwrap().len() as u64 == all["vocab_size"].as_u64().unwrap())
    );
    let last = json(&["logits", "--tokens", "2,300,17,45", "--last", "1"]);
    assert_eq!(last["rows"].as_array().unwrap().len(), 1);
    assert_eq!(last["rows"][0], rows[3]);
}

#[test]
fn tokenize_takes_stdin_exactly_good() {
    let by_flag = json(&["tokenize", "--text", "  O Romeo\n"]);
    let output = ingle(&["tokenize"]).write_stdin("  O Romeo\n").assert().success();
    let by_stdin: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(by_flag, by_stdin);
    let bare = json(&["tokenize", "--text", "  O Romeo\n", "--no-special"]);
    assert_eq!(by_flag["ids"].as_array().unwrap().len(), bare["ids"].as_array().unwrap().len() + 1);
    assert_eq!(by_flag["pieces"][0], "<bos>");
}

#[test]
fn info_models_devices_say_what_there_is_good() {
    let info = json(&["info", "--json"]);
    assert_eq!(info["architecture"], "gemma3_text");
    assert_eq!(info["backend"], "cpu");
    assert!(info["parameters"].as_u64().unwrap() > 1_000_000);
    assert!(stdout(&["info"]).contains("gemma3_text"));

    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models");
    let models = json(&["models", "--json", fixtures]);
    let names: Vec<_> = models.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names[0], "demo");
    assert!(names.iter().any(|name| name.contains("qwen3")), "{names:?}");
    assert!(stdout(&["models", fixtures]).lines().count() == names.len());

    let devices = json(&["devices", "--json"]);
    assert_eq!(devices[0]["name"], "cpu");
    assert_eq!(devices[0]["available"], true);
}

#[test]
fn kv_dtype_decides_what_a_token_takes_good() {
    let bytes = |dtype: &str| {
        let info = json(&["info", "--json", "--kv-dtype", dtype]);
        assert_eq!(info["kv_dtype"], dtype);
        info["kv_bytes_per_token"].as_u64().unwrap()
    };
    let (f32, bf16, q8) = (bytes("f32"), bytes("bf16"), bytes("q8"));
    // Heads are 64 wide; a scale takes 4 bytes.
    assert_eq!(f32, 2 * bf16);
    assert_eq!(q8 * 128, bf16 * 68);
    assert!(stdout(&["info", "--kv-dtype", "q8"]).contains("per token in q8"));

    let bench = |dtype: &str| {
        let args = ["bench", "--json", "-p", "8", "-g", "4", "-b", "1", "-d", "60", "-r", "1", "--kv-dtype", dtype];
        let bench = json(&args);
        let tests = bench["tests"].as_array().unwrap();
        let read = tests.iter().find_map(|test| test["bytes_per_token"].as_f64()).unwrap();
        read - bench["weight_bytes"].as_f64().unwrap()
    };
    // In the middle of 4 tokens after 60.
    assert_eq!(bench("q8"), 62.0 * q8 as f64);
    assert_eq!(bench("bf16"), 62.0 * bf16 as f64);
    let answer = stdout(&["generate", "--prompt", "ROMEO:", "-n", "20", "--kv-dtype", "q8"]);
    assert!(!answer.trim().is_empty());
}

#[test]
fn help_teaches_good() {
    for command in
        ["generate", "chat", "batch", "classify", "logits", "tokenize", "info", "models", "pull", "bench", "devices"]
    {
        assert!(stdout(&[command, "--help"]).contains("Usage:"), "{command}");
    }
    assert!(stdout(&["--help"]).contains("ingle pull"));
    let help = stdout(&["generate", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    for told in
        ["generation_config.json says", "take the likeliest token (temperature 0)", "the model's own, else 1, if"]
    {
        assert!(help.contains(told), "{told}: {help}");
    }
}
