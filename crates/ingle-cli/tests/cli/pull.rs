// SPDX-License-Identifier: EUPL-1.2
//! `ingle pull` from a server on this machine that speaks the hub's protocol.

#[path = "../../../ingle/tests/hub_server/mod.rs"]
#[expect(dead_code, reason = "the library's own tests use the rest of it")]
mod hub_server;

use std::fs;
use std::path::Path;

use self::hub_server::{Hub, Manner};
use crate::common::{fails, ingle};

/// A hub that has the built-in model's files as owner/model.
fn hub() -> Hub {
    let mut hub = Hub::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ingle/models/demo");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let (name, content) = (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap());
        if name.ends_with(".safetensors") { hub.put_large(&name, &content) } else { hub.put(&name, &content) }
    }
    hub
}

fn with_hub(args: &[&str], hub: &Hub, home: &Path) -> assert_cmd::Command {
    let mut command = ingle(args);
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HOME", home).env("HF_TOKEN", "hf_verysecret");
    command
}

#[test]
fn an_interrupted_pull_goes_on_and_the_model_runs_by_its_name_good() {
    let (mut hub, home) = (hub(), tempfile::tempdir().unwrap());
    hub.manner("model.safetensors", Manner::HangUpAfter(3_000_000));
    let line = fails(&mut with_hub(&["pull", "owner/model"], &hub, home.path()), 1);
    assert!(line.contains("model.safetensors") && !line.contains("hf_verysecret"), "{line}");
    assert!(fails(&mut with_hub(&["info", "--model", "owner/model"], &hub, home.path()), 1).contains("ingle pull"));

    hub.manner("model.safetensors", Manner::Serve);
    with_hub(&["pull", "owner/model"], &hub, home.path()).assert().success();
    let requests = hub.requests();
    assert!(requests.iter().any(|request| request.range.is_some()), "the second pull goes on where the first ended");
    assert!(requests.iter().any(|request| request.authorization.as_deref() == Some("Bearer hf_verysecret")));

    let info = with_hub(&["info", "--json", "--model", "owner/model"], &hub, home.path()).assert().success();
    let info: serde_json::Value = serde_json::from_slice(&info.get_output().stdout).unwrap();
    assert_eq!(info["architecture"], "gemma3_text");
    let models = with_hub(&["models"], &hub, home.path()).assert().success();
    let models = String::from_utf8(models.get_output().stdout.clone()).unwrap();
    assert!(models.lines().any(|line| line.starts_with("owner/model ")), "{models}");
}

#[test]
fn a_model_that_is_not_there_bad() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let line = fails(&mut with_hub(&["pull", "owner/nothing"], &hub, home.path()), 1);
    assert!(line.contains("owner/nothing"), "{line}");
    fails(&mut with_hub(&["pull", "not-a-name"], &hub, home.path()), 1);
    fails(&mut with_hub(&["pull"], &hub, home.path()), 2);
}
