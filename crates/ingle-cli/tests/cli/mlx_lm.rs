// SPDX-License-Identifier: EUPL-1.2
//! `--device mlx_lm`, as a person chooses it.

use crate::common::{fails, ingle};

#[test]
fn no_python_is_told_in_one_line_bad() {
    let error = fails(&mut ingle(&["generate", "-p", "x", "--device", "mlx_lm", "--python", "/no/such/python"]), 1);
    assert!(error.contains("/no/such/python") && error.contains("INGLE_PYTHON"), "{error}");
    let error = fails(ingle(&["generate", "-p", "x", "--device", "mlx_lm"]).env("INGLE_PYTHON", "/no/python"), 1);
    assert!(error.contains("`/no/python`"), "{error}");
}

#[test]
fn devices_say_why_it_is_not_available_bad() {
    let output = ingle(&["devices", "--json"]).env("INGLE_PYTHON", "/no/such/python").output().unwrap();
    assert!(output.status.success());
    let devices: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let devices = devices.as_array().unwrap();
    let found = devices.iter().find(|device| device["name"] == "mlx_lm").unwrap();
    assert_eq!(found["available"], false);
    assert!(found["reason"].as_str().unwrap().contains("/no/such/python"), "{found}");
    assert_ne!(devices[0]["name"], "mlx_lm", "it is never the default");
}

#[cfg(feature = "mlx-lm-tests")]
mod real {
    use crate::common::stdout;

    #[test]
    fn it_says_what_the_cpu_says_good() {
        let run =
            |device| stdout(&["generate", "-p", "ROMEO:", "-n", "40", "-t", "0", "--dtype", "f32", "--device", device]);
        assert_eq!(run("mlx_lm"), run("cpu"));
    }

    /// Not even a parent that is killed leaves its Python behind.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_child_dies_with_its_parent_ugly() {
        use std::io::Read;
        use std::process::{Command, Stdio};
        use std::time::{Duration, Instant};

        let mut parent = Command::new(assert_cmd::cargo::cargo_bin!("ingle"))
            .args(["generate", "-p", "ROMEO:", "--ignore-eos", "--device", "mlx_lm", "--model", "demo"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 4];
        parent.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let mut children = String::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", parent.id())).unwrap() {
            // A thread may have ended meanwhile.
            children += &std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
        }
        let children: Vec<u32> = children.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert_eq!(children.len(), 1, "{children:?}");
        parent.kill().unwrap();
        parent.wait().unwrap();
        // Whoever adopts it may be slow to reap it.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", children[0])).unwrap_or_default();
        let alive = || !state().is_empty() && !state().contains(") Z ");
        let patience = Instant::now() + Duration::from_secs(60);
        while alive() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!alive(), "{}", state());
    }
}
