// SPDX-License-Identifier: EUPL-1.2
//! What can go wrong, as the public face tells it.

use std::path::PathBuf;

/// The result of an operation of the public face.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was refused or failed; each shows as one line.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The engine, a model file or a device.
    #[error(transparent)]
    Engine(#[from] ingle_engine::Error),
    /// The hub, or its cache on this machine.
    #[error(transparent)]
    Hub(#[from] crate::hub::Error),
    /// A training, or the data for it.
    #[error(transparent)]
    Train(#[from] ingle_train::Error),
    /// There is no model of that name.
    #[error(
        "model `{model}`: no such directory, GGUF file, built-in model or pulled model; give a directory that holds \
         config.json and *.safetensors, a .gguf file, or `demo`, or fetch it with `ingle pull owner/name`"
    )]
    UnknownModel {
        /// What was asked for.
        model: String,
    },
    /// There is no backend of that name.
    #[error("backend `{name}`: unknown; known are: {known}")]
    UnknownBackend {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The backend cannot run on this machine.
    #[error("backend `{name}`: not available here: {reason}")]
    BackendUnavailable {
        /// What was asked for.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A load option that cannot be met.
    #[error("{option}: expected {expected}, found {found}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// What it takes.
        expected: String,
        /// What was given.
        found: String,
    },
    /// An adapter that does not belong to the model.
    #[error("{}: {message}", path.display())]
    Adapter {
        /// The adapter's directory.
        path: PathBuf,
        /// What does not fit.
        message: String,
    },
    /// A directory could not be listed.
    #[error("{}: {message}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// A file or directory could not be written.
    #[error("{}: {message}", path.display())]
    Output {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// The work was ended from elsewhere.
    #[error("interrupted")]
    Cancelled,
    /// Nothing to classify among.
    #[error("labels: expected {expected}, found {found}")]
    Labels {
        /// What would have done.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The process that a backend runs a model in has failed, or has refused something.
    #[error("backend `{backend}`: {message}")]
    Subprocess {
        /// The backend's name.
        backend: &'static str,
        /// The process's own words, or how it ended.
        message: String,
    },
    /// The backend cannot do this.
    #[error("backend `{backend}` cannot {what}")]
    Unsupported {
        /// The backend's name.
        backend: String,
        /// What was asked of it.
        what: &'static str,
    },
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
