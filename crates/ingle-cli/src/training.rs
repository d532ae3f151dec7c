// SPDX-License-Identifier: EUPL-1.2
//! What people see of a training: a progress bar, lines of JSON, a clean stop.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ingle::CancelToken;
use ingle::train::{Ending, Event, Observer, Outcome, Step, TrainError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::interrupt::Interrupted;
use crate::{Failure, interrupt, output};

mod args;

pub use args::{MachineArgs, RunArgs};

/// How what happens is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// To people, on standard error.
    People,
    /// To programs: lines of JSON on standard output.
    Json,
}

/// Shows a training, and ends it when Ctrl-C is pressed.
pub struct Display {
    shown: Shown,
    bar: ProgressBar,
    cancel: CancelToken,
}

/// The bar's length: how much is done, in so many parts.
const PARTS: f64 = 10_000.0;

impl Display {
    /// Shows what is to come.
    ///
    /// # Errors
    /// If Ctrl-C cannot be listened to.
    fn new(shown: Shown) -> Result<Self, Failure> {
        let target = match shown {
            Shown::People if io::stderr().is_terminal() => ProgressDrawTarget::stderr(),
            _ => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(PARTS as u64), target);
        if let Ok(style) = ProgressStyle::with_template("training {bar:30} {percent}% {msg}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Ok(Display { shown, bar, cancel: interrupt::token()? })
    }

    /// Says what it has come to.
    ///
    /// # Errors
    /// If nobody can be told; [`Interrupted`] if Ctrl-C stopped it.
    fn finish(&self, outcome: &Outcome, out: &Path) -> Result<(), Failure> {
        self.bar.finish_and_clear();
        let ending = match outcome.ending {
            Ending::Done => "done",
            Ending::Stalled => "stalled",
            Ending::Stopped => "stopped",
        };
        if self.shown == Shown::Json {
            let best = outcome.best.map(|(step, loss)| json!({ "step": step, "loss": loss }));
            let line = json!({ "event": "ended", "ending": ending, "steps": outcome.steps, "best": best, "out": out });
            output::json(&line)?;
            return stopped(outcome.ending);
        }
        let (steps, out) = (outcome.steps, out.display());
        let best = outcome.best.map(|(step, loss)| format!("; lowest validation loss {loss:.4}, after step {step}"));
        let best = best.unwrap_or_default();
        output::note(&match outcome.ending {
            Ending::Done => format!("{steps} steps{best}; what was learnt is in {out}"),
            Ending::Stalled => format!("{steps} steps, the last without gain{best}; what was learnt is in {out}"),
            Ending::Stopped => format!("stopped after step {steps}; the same command with --resume goes on"),
        });
        stopped(outcome.ending)
    }

    fn json(&self, kind: &str, value: &impl Serialize) {
        let mut line = json!({ "event": kind });
        if let (Value::Object(line), Ok(Value::Object(fields))) = (&mut line, serde_json::to_value(value)) {
            line.extend(fields);
        }
        // If nobody reads any more the training goes on: its log has it all.
        let _ = output::json(&line);
    }

    fn step(&self, step: &Step) {
        self.bar.set_position((step.done * PARTS) as u64);
        let (memory, left) = (output::bytes(step.peak_bytes), duration(step.seconds_left));
        let speed = format!("{:.0} tokens/s", step.tokens_per_second);
        self.bar.set_message(format!("step {} loss {:.4} {speed} {memory} {left} left", step.step, step.loss));
    }

    fn remark(&self, text: &str) {
        self.bar.suspend(|| output::note(text));
    }
}

impl Observer for Display {
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>, TrainError> {
        match (self.shown, event) {
            (Shown::Json, Event::Begun(beginning)) => self.json("begun", beginning),
            (Shown::Json, Event::Step(step)) => self.json("step", step),
            (Shown::Json, Event::Validated(validation)) => self.json("validation", validation),
            (Shown::Json, Event::Saved(path)) => self.json("saved", &json!({ "path": path })),
            (Shown::People, Event::Begun(beginning)) => {
                let (trained, all) = (output::count(beginning.trained), output::count(beginning.parameters));
                let examples = output::count(beginning.examples);
                let after = match beginning.step {
                    0 => String::new(),
                    step => format!(", going on after step {step}"),
                };
                self.remark(&format!("{trained} weights learn, of {all}; {examples} examples{after}"));
            }
            (Shown::People, Event::Step(step)) => self.step(step),
            (Shown::People, Event::Validated(validation)) => {
                let best = if validation.best { ", the lowest so far" } else { "" };
                let (step, loss) = (validation.step, validation.loss);
                let bits = validation.bits_per_character.map(|bits| format!(", {bits:.4} bits per character"));
                let bits = bits.unwrap_or_default();
                self.remark(&format!("step {step}: validation loss {loss:.4}{bits}{best}"));
            }
            _ => {}
        }
        Ok(if self.cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }
}

/// Ctrl-C alone stops a training.
fn stopped(ending: Ending) -> Result<(), Failure> {
    match ending {
        Ending::Stopped => Err(Interrupted::silent()),
        Ending::Done | Ending::Stalled => Ok(()),
    }
}

/// A time as people read it: `2m 5s`.
fn duration(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds as u64 } else { 0 };
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_read_them_good() {
        assert_eq!([7.9, 125.0, 7_500.0].map(duration), ["7s", "2m 5s", "2h 5m"]);
        assert_eq!(duration(f64::INFINITY), "0s");
    }
}
