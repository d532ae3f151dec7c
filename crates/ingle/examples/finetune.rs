// SPDX-License-Identifier: EUPL-1.2
//! Fine-tuning from a program, which hears of every step and has a say in when to stop:
//!
//! ```sh
//! cargo run --release -p ingle --example finetune
//! ```

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use ingle::train::{Ending, Event, FinetuneOptions, LoraConfig, Schedule, Target, TrainOptions, Until, finetune};
use ingle::{AdapterSource, ClassifyOptions, LoadOptions, Outcome};

/// What is to be learnt: a text, and the label that follows it.
const LESSONS: [(&str, &str); 6] = [
    ("Good morrow, gentle lord", "greeting"),
    ("Well met, my noble friend", "greeting"),
    ("Draw thy sword, thou villain", "threat"),
    ("I'll have thy head for this", "threat"),
    ("What news from the field", "question"),
    ("Who goes there in the dark", "question"),
];

/// As long as a reader waits.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let (data, out) = (folder.path().join("lessons.jsonl"), folder.path().join("out"));
    let line = |(text, label): (&str, &str)| format!("{{\"text\": \"{text}\", \"label\": \"{label}\"}}\n");
    std::fs::write(&data, LESSONS.map(line).concat())?;

    let targets = ["q_proj", "v_proj", "up_proj", "down_proj"].map(Target::new).to_vec();
    let options = FinetuneOptions {
        adapter: Some(LoraConfig { targets, ..LoraConfig::default() }),
        training: TrainOptions {
            schedule: Schedule::constant(5e-3),
            batch_tokens: 128,
            max_length: 64,
            until: Until::Steps(60),
            ..TrainOptions::default()
        },
        ..FinetuneOptions::new(&data, &out)
    };
    let (begun, mut losses) = (Instant::now(), Vec::new());
    let outcome = finetune("demo", &options, &mut |event: &Event| {
        match event {
            Event::Begun(begin) => println!("{} of {} weights learn", begin.trained, begin.parameters),
            Event::Step(step) => {
                losses.push(step.loss);
                if step.step % 10 == 0 {
                    println!("step {}: loss {:.3}, {:.0} tokens/s", step.step, step.loss, step.tokens_per_second);
                }
            }
            Event::Saved(path) => println!("saved {}", path.display()),
            _ => {}
        }
        // One that is stopped has a checkpoint, from which `Start::Resume` goes on.
        Ok(if begun.elapsed() < PATIENCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    let (first, last) = (losses.first().copied().unwrap_or_default(), losses.last().copied().unwrap_or_default());
    println!("{:?} after {} steps: loss {first:.3} → {last:.3}", outcome.ending, outcome.steps);
    if outcome.ending == Ending::Stopped {
        return Ok(());
    }
    let adapters = vec![AdapterSource { name: "lessons".into(), path: out.join("adapter") }];
    let model = ingle::load("demo", &LoadOptions { adapters, ..LoadOptions::default() })?.adapted(Some("lessons"))?;
    let labels = ["greeting", "threat", "question"].map(str::to_owned).to_vec();
    let texts = LESSONS.map(|(text, _)| text.to_owned()).to_vec();
    let mut right = 0;
    for (outcome, (text, label)) in model.classify(texts, &ClassifyOptions::Labels(labels))?.zip(LESSONS) {
        let Outcome::Labels(scores) = outcome? else { continue };
        let best = scores.iter().max_by(|a, b| a.probability.total_cmp(&b.probability));
        println!("{text}: {}", best.map_or("", |best| &best.label));
        right += usize::from(best.is_some_and(|best| best.label == label));
    }
    println!("{right} of {} right", LESSONS.len());
    Ok(())
}
