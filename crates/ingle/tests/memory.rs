// SPDX-License-Identifier: EUPL-1.2
//! Memory stays put over a long answer, and is given back when a model drops.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ingle::{EndTokens, GenerateOptions, LoadOptions, Sampling, TextModel};

/// One test at a time: each weighs the whole process, and would find the models that another has loaded.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory of the whole process in bytes, as the system counts it.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Device memory and process memory after so many tokens of one answer.
fn at(model: &dyn TextModel, marks: &[usize]) -> Vec<[usize; 2]> {
    let options = GenerateOptions {
        max_tokens: marks.last().copied(),
        sampling: Some(Sampling { temperature: 1.0, seed: 3, ..Sampling::default() }),
        end_tokens: EndTokens::Ignore,
        ..GenerateOptions::default()
    };
    let mut sizes = Vec::new();
    for (index, token) in model.generate("ROMEO:".into(), &options).unwrap().enumerate() {
        token.unwrap();
        if marks.contains(&(index + 1)) {
            #[cfg(target_os = "linux")]
            sizes.push([model.memory().active, resident()]);
            #[cfg(not(target_os = "linux"))]
            sizes.push([model.memory().active, 0]);
        }
    }
    assert_eq!(sizes.len(), marks.len());
    sizes
}

#[test]
fn five_thousand_tokens_take_no_more_than_five_hundred_good() {
    let _alone = alone();
    let model = ingle::load("demo", &LoadOptions::default()).unwrap();
    let sizes = at(model.as_ref(), &[500, 5000]);
    println!("active and resident bytes after 500 tokens {:?}, after 5000 {:?}", sizes[0], sizes[1]);
    for (early, late) in sizes[0].into_iter().zip(sizes[1]) {
        assert!(late as f64 <= early as f64 * 1.05, "{early} bytes after 500 tokens, {late} after 5000");
    }
}

#[test]
fn a_dropped_model_gives_its_memory_back_good() {
    let _alone = alone();
    // The first load warms what the process keeps for good.
    let load = || ingle::load("demo", &LoadOptions::default()).unwrap();
    at(load().as_ref(), &[20]);
    #[cfg(target_os = "linux")]
    {
        at(load().as_ref(), &[20]);
        let before = resident();
        for _ in 0..20 {
            at(load().as_ref(), &[20]);
        }
        let grown = resident().saturating_sub(before);
        println!("20 models left {grown} bytes behind");
        assert!(grown < 4 << 20, "20 models left {grown} bytes behind");
    }
}

#[test]
fn a_stream_outlives_its_model_with_an_end_ugly() {
    let _alone = alone();
    let model = ingle::load("demo", &LoadOptions::default()).unwrap();
    let options =
        GenerateOptions { max_tokens: Some(100_000), end_tokens: EndTokens::Ignore, ..GenerateOptions::default() };
    let mut stream = model.generate("ROMEO:".into(), &options).unwrap();
    assert!(stream.next().unwrap().is_ok());
    drop(model);
    assert!(stream.by_ref().count() < 100_000);
    assert_eq!(stream.finish().map(|finish| finish.reason), Some(ingle::FinishReason::Cancelled));
}
