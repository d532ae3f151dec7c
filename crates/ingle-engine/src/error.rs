// SPDX-License-Identifier: EUPL-1.2
//! What can go wrong between text in and text out.

/// The result of an engine operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request, a tokeniser or a template was refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model file or a layer failed.
    #[error(transparent)]
    Model(std::sync::Arc<ingle_nn::Error>),
    /// A request that cannot be carried out, and why.
    #[error("request: {message}")]
    Request {
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// A sampling option out of range.
    #[error("{option}: expected {expected}, found {found}")]
    Sampling {
        /// The option's name.
        option: &'static str,
        /// The values it takes.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The tokeniser's file is missing or malformed, or a text cannot be encoded.
    #[error("{file}: {message}")]
    Tokenizer {
        /// The tokeniser's file.
        file: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The engine has stopped, and no answer will come.
    #[error("engine: {message}; load the model again")]
    Stopped {
        /// Why.
        message: String,
    },
    /// A chat template failed.
    #[error("chat template ({origin}): {message}")]
    Template {
        /// Where the template comes from.
        origin: String,
        /// What failed.
        message: String,
    },
}

impl From<ingle_nn::Error> for Error {
    fn from(error: ingle_nn::Error) -> Self {
        Error::Model(std::sync::Arc::new(error))
    }
}

impl From<ingle_tensor::Error> for Error {
    fn from(error: ingle_tensor::Error) -> Self {
        ingle_nn::Error::from(error).into()
    }
}
