// SPDX-License-Identifier: EUPL-1.2
//! Running the `ingle` command in tests.

use assert_cmd::Command;
use serde_json::Value;

/// The command, away from the user's own settings.
pub fn ingle(args: &[&str]) -> Command {
    let mut command = Command::cargo_bin("ingle").expect("the binary is built with its tests");
    command.env_remove("INGLE_MODEL").env_remove("HF_TOKEN").env("HF_HOME", "/nonexistent").args(args);
    command
}

/// What a successful run prints on standard output.
pub fn stdout(args: &[&str]) -> String {
    let output = ingle(args).assert().success().get_output().stdout.clone();
    String::from_utf8(output).expect("output is UTF-8")
}

/// What a successful run prints, as JSON.
pub fn json(args: &[&str]) -> Value {
    parse(&stdout(args))
}

/// Lines of JSON.
pub fn jsonl(text: &str) -> Vec<Value> {
    text.lines().map(parse).collect()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("expected JSON, found {error} in: {text}"))
}

/// Asserts that the command fails with this exit code and one line on standard error, and returns the line.
#[track_caller]
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.assert().failure().code(code).get_output().clone();
    let error = String::from_utf8(output.stderr).expect("errors are UTF-8");
    assert!(output.stdout.is_empty(), "a failure prints no result: {:?}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(error.lines().count(), 1, "an error is one line: {error}");
    assert!(error.starts_with("error: "), "{error}");
    error.trim_end().to_owned()
}
