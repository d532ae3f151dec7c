// SPDX-License-Identifier: EUPL-1.2
//! What can go wrong when a model's files are read or its layers run.

use std::path::PathBuf;

/// The result of reading or running a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model's files were refused or a layer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation was refused.
    #[error(transparent)]
    Tensor(#[from] ingle_tensor::Error),
    /// The model's directory is not there.
    #[error(
        "{}: no such model directory; give a directory that holds config.json and *.safetensors, or a .gguf file",
        path.display()
    )]
    MissingDirectory {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file of the model is not there.
    #[error("{file}: file not found; {hint}")]
    MissingFile {
        /// The file, with its folder.
        file: String,
        /// What it is for, or what to do.
        hint: String,
    },
    /// A file could not be read.
    #[error("{file}: {source}")]
    Io {
        /// The file, with its folder.
        file: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{file}: {message}")]
    Malformed {
        /// The file, with its folder.
        file: String,
        /// What was found and what was expected.
        message: String,
    },
    /// A tensor is not in the weight files.
    #[error("{file}: tensor `{tensor}` is missing; {hint}")]
    MissingTensor {
        /// The file or files searched.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// What it is near to, or what to do.
        hint: String,
    },
    /// A tensor is there, but not as the configuration says.
    #[error("{file}: tensor `{tensor}`: expected {expected}, found {found}")]
    UnfitTensor {
        /// The file that holds it.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// Shape or dtype that the configuration calls for.
        expected: String,
        /// Shape or dtype in the file.
        found: String,
    },
    /// A file or directory could not be written.
    #[error("{}: {message}", path.display())]
    Output {
        /// What was to be written.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// An adapter that cannot be.
    #[error("lora: {field}: expected {expected}, found {found}")]
    Lora {
        /// What is wrong with it.
        field: &'static str,
        /// What would do.
        expected: String,
        /// What there is.
        found: String,
    },
    /// A forward pass failed before, and took the cache with it.
    #[error("key-value cache of layer {layer}: lost in an earlier failure; reset the cache")]
    CacheLost {
        /// The layer.
        layer: usize,
    },
}
