// SPDX-License-Identifier: EUPL-1.2
//! `ingle bench`: what it measures and how it says it. None of this looks at the time it took.

use crate::common::{fails, ingle, json, stdout};

#[test]
fn bench_measures_what_it_is_asked_good() {
    let bench = json(&["bench", "--json", "-p", "16,0", "-g", "4", "-b", "1,2", "-d", "0,40", "-r", "2"]);
    let tests = bench["tests"].as_array().unwrap();
    let names: Vec<_> = tests.iter().map(|test| test["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp16", "tg4", "tg4@d40", "pp16x2", "tg4x2", "tg4@d40x2"]);
    for test in tests {
        assert_eq!(test["samples"].as_array().unwrap().len(), 2, "{test}");
        assert!(test["mean"].as_f64().unwrap() > 0.0 && test["sd"].as_f64().unwrap() >= 0.0, "{test}");
        assert_eq!(test["unit"], "tokens/s");
    }
    for field in ["load_s", "start_to_first_token_s", "weight_bytes", "parameters"] {
        assert!(bench[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(bench["start_to_first_token_s"].as_f64() > bench["load_s"].as_f64());
    if cfg!(target_os = "linux") {
        assert!(bench["peak_rss_bytes"].as_f64() > bench["weight_bytes"].as_f64());
    }
}

#[test]
fn bench_counts_the_bytes_that_a_token_reads_good() {
    let bench = json(&["bench", "--json", "-p", "8", "-g", "4", "-b", "1,2", "-d", "0,60", "-r", "1"]);
    let bytes = |name: &str| {
        let tests = bench["tests"].as_array().unwrap();
        tests.iter().find(|test| test["test"] == name).unwrap()["bytes_per_token"].as_f64()
    };
    let weights = bench["weight_bytes"].as_f64().unwrap();
    assert_eq!(bytes("pp8"), None);
    let (alone, deep, two) = (bytes("tg4").unwrap(), bytes("tg4@d60").unwrap(), bytes("tg4x2").unwrap());
    assert!(alone > weights && deep > alone, "{weights} {alone} {deep}");
    // Two sequences share the weights, not the cache.
    assert_eq!(two, weights / 2.0 + (alone - weights));
}

#[test]
fn bench_classifies_good() {
    let bench = json(&["bench", "--json", "-p", "0", "-g", "0", "--classify", "6x16,3x5", "-r", "1"]);
    let tests = bench["tests"].as_array().unwrap();
    let names: Vec<_> = tests.iter().map(|test| test["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["classify6x16", "classify3x5"]);
    assert!(tests.iter().all(|test| test["unit"] == "sentences/s"));
}

#[test]
fn bench_prints_a_table_good() {
    let table = stdout(&["bench", "-p", "16", "-g", "2", "-r", "1", "--classify", "2x8"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("| model") && lines[1].starts_with("| ---"), "{table}");
    assert!(lines[2].contains(" pp16 ") && lines[3].contains(" tg2 ") && lines[4].contains("sentences/s"), "{table}");
    assert!(lines[2].contains(" ± 0.00 ") && lines[2].contains(" - |"), "{table}");
    assert!(lines[6].contains("first token"), "{table}");
    let bars = |line: &str| line.matches('|').count();
    assert!(lines[..5].iter().all(|line| bars(line) == 9), "{table}");
}

#[test]
fn bench_refuses_bad() {
    let error = fails(&mut ingle(&["bench", "--classify", "256"]), 2);
    assert!(error.contains("256x16"), "{error}");
    assert!(fails(&mut ingle(&["bench", "-r", "0"]), 2).contains("at least 1"));
    let most = ingle::MAX_SEQUENCES;
    let error = fails(&mut ingle(&["bench", "-b", &(most + 1).to_string()]), 2);
    assert!(error.contains(&format!("from 1 to {most}")), "{error}");
    assert!(stdout(&["bench", "--help"]).contains(&format!("at once, {most} at most")));
    let error = fails(&mut ingle(&["bench", "--json", "-p", "100000000", "-g", "0", "-r", "1"]), 1);
    assert!(error.contains("context"), "{error}");
}
