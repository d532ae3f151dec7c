// SPDX-License-Identifier: EUPL-1.2
//! The backend `mlx_lm`: a model in a Python process that runs mlx-lm.
//!
//! The child (`child/*.py`) tokenises, renders chat templates, computes and samples, all with mlx-lm; what it is told and
//! what it tells are lines of JSON ([`protocol`]). On this side, [`process`] keeps the child, [`link`] gives every
//! request its answer or an error in time, and [`model`] is the [`crate::TextModel`].

mod answer;
mod link;
mod model;
mod process;
mod protocol;
mod python;

use std::path::PathBuf;
use std::time::Duration;

use ingle_nn::ModelFiles;

use crate::backend::Backend;
use crate::{Error, LoadOptions, LoadProgress, Result, TextModel};

/// The backend's name.
const NAME: &str = "mlx_lm";

/// What the backend `mlx_lm` needs to know.
///
/// It runs a model directory with [mlx-lm](https://github.com/ml-explore/mlx-lm) in a Python process of its own. Its
/// answers are mlx-lm's: seeded per request, but not the same bits whatever else is in the batch.
///
/// ```no_run
/// use ingle::{LoadOptions, MlxLmOptions};
///
/// let mlx_lm = MlxLmOptions { python: Some("venv/bin/python".into()), ..MlxLmOptions::default() };
/// let options = LoadOptions { device: Some("mlx_lm".into()), mlx_lm, ..LoadOptions::default() };
/// let model = ingle::load("mlx-community/SmolLM3-3B-4bit", &options)?;
/// # Ok::<(), ingle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MlxLmOptions {
    /// The Python interpreter; `INGLE_PYTHON` in the environment if `None`, else `python3`.
    pub python: Option<PathBuf>,
    /// The longest silence: a process that owes an answer and says nothing for so long is ended, and what waits for
    /// it fails. Five minutes if `None`: a part of a prompt, or of the weights, must not take longer.
    pub deadline: Option<Duration>,
}

impl MlxLmOptions {
    const DEADLINE: Duration = Duration::from_secs(300);

    fn deadline(&self) -> Duration {
        self.deadline.unwrap_or(Self::DEADLINE)
    }
}

/// Models on mlx-lm, in a Python process each.
pub(crate) struct MlxLm;

impl Backend for MlxLm {
    fn name(&self) -> &'static str {
        NAME
    }

    fn probe(&self) -> Result<String, String> {
        python::versions(&python::interpreter(None))
    }

    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn TextModel>> {
        Ok(Box::new(model::MlxLmModel::load(files, options, progress)?))
    }
}

/// The child has failed, or refuses something.
fn failed(message: &str) -> Error {
    Error::Subprocess { backend: NAME, message: message.to_owned() }
}
