// SPDX-License-Identifier: EUPL-1.2
//! Ctrl-C: the work ends cleanly, and nothing that was there is lost.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Starts the command, away from the user's own settings.
fn start(args: &[&str]) -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ingle"));
    command.env_remove("INGLE_MODEL").args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// What Ctrl-C sends.
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn an_interrupted_answer_ends_cleanly_ugly() {
    let mut child = start(&["generate", "--prompt", "ROMEO:", "--ignore-eos", "-n", "100000000", "--stats"]);
    let mut first = [0; 16];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.ends_with(b"\n"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("tokens/s"), "the figures come all the same");
}

/// Waits until the command listens for Ctrl-C, which ends it at once before.
#[cfg(target_os = "linux")]
fn await_listening(child: &Child) {
    const SIGINT: u64 = 1 << 1;
    let caught = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim);
        u64::from_str_radix(mask.unwrap_or("0"), 16).unwrap()
    };
    while caught() & SIGINT == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn interrupted_json_is_whole_all_the_same_ugly() {
    let endless = ["--prompt", "ROMEO:", "--ignore-eos", "-n", "100000000"];
    let generate = [&["generate", "--json"], &endless[..]].concat();
    let bench = ["bench", "--json", "-p", "16", "-g", "100000000", "-r", "1"];
    for (args, field) in [(&generate[..], "text"), (&bench, "tests")] {
        let child = start(args);
        await_listening(&child);
        std::thread::sleep(Duration::from_millis(200));
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{args:?}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(!result[field].is_null(), "{result}");
        if field == "text" {
            assert_eq!(result["finish_reason"], "cancelled");
        }
    }
}

#[test]
fn an_interrupted_script_of_a_chat_ends_ugly() {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ingle"));
    command.args(["chat", "--model", "demo", "--ignore-eos", "-n", "100000000"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Speak of love.\nAnd of war?\n").unwrap();
    let mut first = [0; 16];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stdout.ends_with(b"\n") && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_script_of_a_chat_that_waits_for_a_line_ends_ugly() {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ingle"));
    command.args(["chat", "--model", "demo", "--ignore-eos", "-n", "1", "--stats"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Held open, so that the program waits for the next line.
    let mut lines = child.stdin.take().unwrap();
    lines.write_all(b"Speak of love.\n").unwrap();
    // What is said after an answer.
    child.stderr.as_mut().unwrap().read_exact(&mut [0; 8]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn an_interrupted_batch_keeps_what_it_did_and_the_old_file_ugly() {
    let folder = tempfile::tempdir().unwrap();
    let (prompts, target) = (folder.path().join("prompts.txt"), folder.path().join("answers.jsonl"));
    std::fs::write(&prompts, "ROMEO:\n".repeat(100_000)).unwrap();
    std::fs::write(&target, "the old answers").unwrap();
    let child = start(&["batch", prompts.to_str().unwrap(), "-n", "8", "-o", target.to_str().unwrap()]);
    let part = folder.path().join("answers.jsonl.part");
    while !std::fs::metadata(&part).is_ok_and(|file| file.len() > 0) {
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("of 100000; what was done is in") && error.contains("answers.jsonl.part"), "{error}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "the old answers");
    let kept = std::fs::read_to_string(&part).unwrap();
    assert!(kept.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
}

#[test]
fn an_interrupted_benchmark_ends_at_once_ugly() {
    for test in [["-g", "100000000"], ["-g0", "--classify=1000000x16"]] {
        let mut child = start(&[&["bench", "-p", "0", "-r", "1"][..], &test[..]].concat());
        let mut first = [0; 16];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "error: interrupted\n");
    }
}
