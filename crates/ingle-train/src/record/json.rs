// SPDX-License-Identifier: EUPL-1.2
//! A record as JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ingle_nn::output::Part;
use serde_json::{Value, json};

use crate::{Error, Event, Observer, Result};

/// Appends each step and each validation as a line of JSON: `{"event": "step", "step": 7, "loss": 2.3, …}`.
///
/// When a training goes on from a checkpoint, lines about later steps are removed first: they will be made again.
#[derive(Debug)]
pub struct JsonLog {
    path: PathBuf,
    file: Option<File>,
}

impl JsonLog {
    /// A record in the file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        JsonLog { path: path.into(), file: None }
    }

    /// Keeps the lines up to a step, and opens the file to append.
    fn begin(&mut self, step: u64) -> Result<()> {
        let refused = |error: std::io::Error| Error::file(&self.path, error);
        // As they were written: a number that is read and written again may not be the same.
        let kept: String = text(&self.path)?
            .lines()
            .filter(|line| parsed(line).is_some_and(|line| line["step"].as_u64().is_some_and(|of| of <= step)))
            .map(|line| format!("{line}\n"))
            .collect();
        let (part, mut file) = Part::file(&self.path)?;
        file.write(kept.as_bytes())?;
        file.finish()?;
        part.finish()?;
        self.file = Some(OpenOptions::new().append(true).open(&self.path).map_err(refused)?);
        Ok(())
    }

    fn write(&mut self, kind: &str, value: Result<Value, serde_json::Error>) -> Result<()> {
        let refused = |error: std::io::Error| Error::file(&self.path, error);
        let mut line = json!({ "event": kind });
        let value = value.map_err(|error| refused(error.into()))?;
        if let (Value::Object(line), Value::Object(fields)) = (&mut line, value) {
            line.extend(fields);
        }
        match &mut self.file {
            Some(file) => file.write_all(format!("{line}\n").as_bytes()).map_err(refused),
            None => Ok(()),
        }
    }
}

/// The lines of a record; none if there is no such file. What a killed run has left half-written is passed over.
pub(super) fn lines(path: &Path) -> Result<Vec<Value>> {
    Ok(text(path)?.lines().filter_map(parsed).collect())
}

fn parsed(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}

fn text(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(|error| Error::file(path, error)),
    }
}

impl Observer for JsonLog {
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>> {
        match event {
            Event::Begun(beginning) => self.begin(beginning.step)?,
            Event::Step(step) => self.write("step", serde_json::to_value(step))?,
            Event::Validated(validation) => self.write("validation", serde_json::to_value(validation))?,
            Event::Saved(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
