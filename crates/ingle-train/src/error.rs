// SPDX-License-Identifier: EUPL-1.2
//! What can go wrong in training.

use std::path::PathBuf;

/// The result of a step of training.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why training was refused or ended; each shows as one line.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The tokeniser, a model's files, a forward pass or a device.
    #[error(transparent)]
    Engine(#[from] ingle_engine::Error),
    /// A line of training data is not what it should be.
    #[error("{file}, line {line}: expected {expected}, found {found}")]
    Line {
        /// The file.
        file: String,
        /// Its line, from 1.
        line: usize,
        /// What would have done.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file or folder could not be read or written, or holds something else.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        message: String,
    },
    /// An option that cannot be met.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What it takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The loss, or the norm of its gradient, is no number any more.
    #[error("step {step}: the {what} is {value}; {advice}")]
    NotFinite {
        /// The step that was not made.
        step: u64,
        /// The loss, or the gradient's norm.
        what: &'static str,
        /// What it is instead.
        value: f32,
        /// What was kept, and what to do.
        advice: String,
    },
}

impl Error {
    /// An error about a path.
    pub(crate) fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Self {
        Error::File { path: path.into(), message: message.to_string() }
    }

    /// The error that the examples at a path cannot be read.
    pub fn unread(path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Error::file(path, format!("{error}; name a file of examples that can be read"))
    }

    /// An error about an option.
    pub(crate) fn option(option: &'static str, expected: impl Into<String>, found: impl std::fmt::Display) -> Self {
        Error::Option { option, expected: expected.into(), found: found.to_string() }
    }
}

impl From<ingle_nn::Error> for Error {
    fn from(error: ingle_nn::Error) -> Self {
        ingle_engine::Error::from(error).into()
    }
}

impl From<ingle_tensor::Error> for Error {
    fn from(error: ingle_tensor::Error) -> Self {
        ingle_engine::Error::from(error).into()
    }
}
