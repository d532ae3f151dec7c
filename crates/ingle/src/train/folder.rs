// SPDX-License-Identifier: EUPL-1.2
//! The folder of a training.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ingle_models::Model;
use ingle_nn::ModelFiles;
use ingle_nn::output::{OutputFile, Part};
use ingle_train::record::{JsonLog, LossCurve, TensorBoard};
use ingle_train::{Ending, Event, Observer, TrainOptions, Trained, train_tokenizer};

use super::{Data, Learnt, ScratchConfig, Start, Together};
use crate::{Error, Result};

/// A folder in which a training keeps its checkpoints and its records, and puts what it has come to. As long as no step
/// was made, dropping it leaves nothing behind that was not there before.
pub(super) struct Folder {
    path: PathBuf,
    /// The folders that were made for it, innermost first.
    made: Vec<PathBuf>,
    content: Content,
}

/// What is in a [`Folder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Steps of a training.
    Steps,
    /// Nothing that was worth a step yet.
    Beginnings,
}

/// What a training begins with.
pub(super) struct Begin {
    pub model: Box<dyn Model>,
    pub trained: Trained,
    pub data: Data,
    pub options: TrainOptions,
    pub start: Start,
}

const CHECKPOINTS: &str = "checkpoints";
const LOG: &str = "log.jsonl";
/// The configuration and the tokeniser of a model that is trained from nothing.
const BEGINNING: &str = "beginning";

impl Folder {
    /// Makes the folder; one with something in it is only gone on with.
    pub fn open(path: &Path, start: Start) -> Result<Self> {
        let refused = |error: std::io::Error| output(path, error);
        let missing = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists());
        let missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
        std::fs::create_dir_all(path).map_err(refused)?;
        let content = match std::fs::read_dir(path).map_err(refused)?.next() {
            Some(_) => Content::Steps,
            None => Content::Beginnings,
        };
        if content == Content::Steps && start == Start::New {
            return Err(output(path, "is not empty; go on with what is in it (--resume), or give another folder"));
        }
        Ok(Folder { path: path.into(), made: missing, content })
    }

    /// Trains, with all records. Gives the model, unless the training was stopped and can go on.
    pub fn train(&mut self, begin: Begin, observer: &mut dyn Observer) -> Result<Learnt> {
        let mut trainer = begin.trainer(&self.path.join(CHECKPOINTS))?;
        let log = self.path.join(LOG);
        let mut lines = JsonLog::new(&log);
        let mut board = TensorBoard::new(&self.path);
        let mut curve = LossCurve::new(&self.path, &log);
        let mut stepped = |event: &Event| {
            if matches!(event, Event::Step(_)) {
                self.content = Content::Steps;
            }
            Ok(ControlFlow::Continue(()))
        };
        let outcome = trainer.run(&mut Together(vec![&mut stepped, &mut lines, &mut board, &mut curve, observer]))?;
        let learnt = match outcome.ending {
            Ending::Stopped => None,
            Ending::Done | Ending::Stalled => Some(trainer.into_model()?),
        };
        Ok((outcome, learnt))
    }

    /// Writes `name` anew in the folder.
    pub fn put(&self, name: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let path = self.path.join(name);
        for old in [path.clone(), path.with_extension("part")] {
            if old.exists() {
                std::fs::remove_dir_all(&old).map_err(|error| output(&old, error))?;
            }
        }
        write(&path)
    }

    /// The files that a model begins with: made from the text, or what an earlier run has made.
    pub fn beginning(&self, config: &ScratchConfig, text: &str) -> Result<ModelFiles> {
        let path = self.path.join(BEGINNING);
        if !path.exists() {
            let separator = config.data.separator.as_deref().unwrap_or("\n");
            let mut files = train_tokenizer(text.split_inclusive(separator), &config.tokenizer)?;
            files.extend(config.model_files(&files)?);
            self.put(BEGINNING, |path| {
                let part = Part::folder(path)?;
                for (name, content) in &files {
                    let mut file = OutputFile::create(&part.path().join(name))?;
                    file.write(content)?;
                    file.finish()?;
                }
                Ok(part.finish()?)
            })?;
        }
        Ok(ModelFiles::directory(path)?)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.content == Content::Steps {
            return;
        }
        // What cannot be removed is in nobody's way but that of a training in the same folder, which says so.
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
        for folder in &self.made {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

pub(super) fn output(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::Output { path: path.into(), message: message.to_string() }
}
