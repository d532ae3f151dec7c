// SPDX-License-Identifier: EUPL-1.2
//! On MLX, too, memory stays put over a long answer and is given back when a model drops. MLX counts for the whole
//! process, so these are alone in theirs, one after the other.
#![cfg(mlx)]

use ingle::{EndTokens, GenerateOptions, LoadOptions, Sampling, TextModel};

fn load() -> Box<dyn TextModel> {
    let names = ingle::backends().into_iter().map(|backend| backend.name());
    let name = names.into_iter().find(|name| ["metal", "mlx"].contains(name)).unwrap();
    ingle::load("demo", &LoadOptions { device: Some(name.into()), ..LoadOptions::default() }).unwrap()
}

/// The least active memory over the last tokens before each mark: between them a step's results come and go.
fn at(model: &dyn TextModel, marks: &[usize]) -> Vec<usize> {
    let options = GenerateOptions {
        max_tokens: marks.last().copied(),
        sampling: Some(Sampling { temperature: 1.0, seed: 3, ..Sampling::default() }),
        end_tokens: EndTokens::Ignore,
        ..GenerateOptions::default()
    };
    let mut least = vec![usize::MAX; marks.len()];
    for (index, token) in model.generate("ROMEO:".into(), &options).unwrap().enumerate() {
        token.unwrap();
        for (least, mark) in least.iter_mut().zip(marks) {
            if (mark - 40..*mark).contains(&index) {
                *least = (*least).min(model.memory().active);
            }
        }
    }
    least
}

/// What is active at rest: MLX frees what a step made when its stream gets there, so the least of some readings.
fn active(model: &dyn TextModel) -> usize {
    let reading = |_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        model.memory().active
    };
    (0..50).map(reading).min().unwrap()
}

#[test]
fn memory_neither_grows_nor_stays_behind_good() {
    let model = load();
    let marks = [500, 1000, 2000, 3000, 4000, 5000];
    let sizes = at(model.as_ref(), &marks);
    for (mark, size) in marks.iter().zip(&sizes) {
        println!("after {mark} tokens {size} bytes are active");
    }
    for size in &sizes {
        assert!(size.abs_diff(sizes[0]) as f64 <= sizes[0] as f64 * 0.01, "{sizes:?}");
    }
    // Two devices share MLX's figures.
    let other = load();
    drop(model);
    let before = active(other.as_ref());
    for _ in 0..50 {
        at(load().as_ref(), &[60]);
    }
    let after = active(other.as_ref());
    println!("before 50 models {before} bytes are active, after them {after}");
    assert_eq!(before, after);
}
