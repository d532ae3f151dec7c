// SPDX-License-Identifier: EUPL-1.2
//! What people see: messages, progress bars, lines of JSON.

use std::error::Error;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::Failure;

const RED_BOLD: &str = "\x1b[1;31m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Shows an error in one line on standard error, coloured on a terminal.
pub fn error(message: &str) {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(anstream::stderr(), "{RED_BOLD}error:{PLAIN} {line}");
}

/// Shows a remark on standard error, dimmed on a terminal.
pub fn note(message: &str) {
    let _ = writeln!(anstream::stderr(), "{DIM}{message}{PLAIN}");
}

/// Whether the failure is a reader that went away, as `head` does: no failure of ours.
pub fn is_closed_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Writes text to standard output and shows it at once.
pub fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes one line of JSON to standard output.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    out.flush()?;
    Ok(())
}

/// A progress bar on standard error, for a terminal only, that appears if the work takes over a second.
pub struct Progress {
    bar: ProgressBar,
    started: std::time::Instant,
}

impl Progress {
    /// Counts bytes of `what`.
    pub fn bytes(what: &str) -> Self {
        Self::new(what, "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
    }

    /// Counts `what`.
    pub fn count(what: &str) -> Self {
        Self::new(what, "{prefix} {bar:30} {pos}/{len} {per_sec} {eta}")
    }

    fn new(what: &str, template: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(what.to_owned());
        Progress { bar, started: std::time::Instant::now() }
    }

    /// So much is done, of so much.
    pub fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if self.bar.is_hidden() && io::stderr().is_terminal() && self.started.elapsed() > Duration::from_secs(1) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Shows another word before the bar.
    pub fn rename(&self, what: &str) {
        self.bar.set_prefix(what.to_owned());
    }

    /// Removes the bar.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}

/// A number of bytes as people read it: `1.2 GiB`.
pub fn bytes(count: usize) -> String {
    indicatif::BinaryBytes(count as u64).to_string()
}

/// A number with its thousands apart: `1,234,567`.
pub fn count(number: usize) -> String {
    indicatif::HumanCount(number as u64).to_string()
}
