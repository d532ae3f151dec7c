// SPDX-License-Identifier: EUPL-1.2
//! Backends: what loads a model. Users choose these by name.

#[cfg(mlx)]
mod mlx;

use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_nn::ModelFiles;

use crate::engine_model::EngineModel;
use crate::mlx_lm::MlxLm;
use crate::{Error, Inspection, LoadOptions, LoadProgress, Result, Summary, TextModel, WeightForm};

/// Loads models and runs them in its own way.
pub trait Backend: Send + Sync {
    /// The name by which it is chosen: `cpu`.
    fn name(&self) -> &'static str;

    /// What it would run on here, for people; or why it cannot run here, in one line.
    ///
    /// # Errors
    /// The reason, if it cannot run on this machine.
    fn probe(&self) -> Result<String, String>;

    /// Loads a model. `progress` is called now and then while weights are read.
    ///
    /// # Errors
    /// Whatever is wrong with the files, the options or the machine.
    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn TextModel>>;

    /// What a model is, without loading it where the backend can tell from its headers.
    ///
    /// # Errors
    /// As [`Backend::load`].
    fn inspect(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Inspection> {
        let model = self.load(files, options, &mut |_| {})?;
        let info = model.info();
        let Summary { parameters, weight_bytes: bytes, dtype, quantisation, .. } = info.summary.clone();
        let name = quantisation.unwrap_or_else(|| dtype.name().to_owned());
        Ok(Inspection { info, weights: vec![WeightForm { name, parameters, bytes }], memory: Some(model.memory()) })
    }
}

/// Backends by rank: the best first.
type Registry = RwLock<Vec<&'static dyn Backend>>;

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| RwLock::new(built_in()));

/// The backends that come with the crate.
fn built_in() -> Vec<&'static dyn Backend> {
    let backends: Vec<&'static dyn Backend> = vec![&Cpu, &MlxLm];
    #[cfg(mlx)]
    let backends = mlx::beside(backends);
    backends
}

/// Every backend there is, the preferred first; not all may be able to run here ([`Backend::probe`]).
pub fn backends() -> Vec<&'static dyn Backend> {
    REGISTRY.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Adds a backend of one's own, preferred to those registered before. One of the same name is replaced.
pub fn register_backend(backend: &'static dyn Backend) {
    let mut registry = REGISTRY.write().unwrap_or_else(PoisonError::into_inner);
    registry.retain(|known| known.name() != backend.name());
    registry.insert(0, backend);
}

/// The backend called `name`, or the best that can run here.
///
/// # Errors
/// [`Error::UnknownBackend`] for a name that is not registered; [`Error::BackendUnavailable`] for one that
/// cannot run here; what is wrong with `INGLE_CPU`, where the choice would come to the processor.
pub fn choose_backend(name: Option<&str>) -> Result<&'static dyn Backend> {
    let Some(name) = name else { return first_that_runs(backends()) };
    let backend = backend_named(name)?;
    match backend.probe() {
        Ok(_) => Ok(backend),
        Err(reason) => Err(Error::BackendUnavailable { name: name.into(), reason }),
    }
}

/// The first that can run here; or why each cannot.
fn first_that_runs(backends: Vec<&'static dyn Backend>) -> Result<&'static dyn Backend> {
    let mut reasons = vec![];
    for backend in backends {
        match backend.probe() {
            Ok(_) => return Ok(backend),
            // Every machine has a processor: it was asked for something that it lacks, and to run elsewhere instead, or to
            // say what is wrong with the others, would hide that.
            Err(_) if backend.name() == Cpu.name() && is_set(INSTRUCTIONS) => {
                return cpu(&LoadOptions::default()).map(|_| backend);
            }
            Err(reason) => reasons.push(format!("{}: {reason}", backend.name())),
        }
    }
    let reason = format!("no backend can run on this machine: {}", reasons.join("; "));
    Err(Error::BackendUnavailable { name: "any".into(), reason })
}

/// The backend called `name`, whether or not it can run here: its [`Backend::load`] will tell.
pub(crate) fn backend_named(name: &str) -> Result<&'static dyn Backend> {
    let known = backends();
    known.iter().copied().find(|backend| backend.name() == name).ok_or_else(|| {
        let mut known = known.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(", ");
        if cfg!(not(mlx)) {
            known.push_str(" (mlx and metal need a build with `--features mlx`)");
        }
        Error::UnknownBackend { name: name.into(), known }
    })
}

/// What names the processor's instruction set, for `ingle-cpu`.
const INSTRUCTIONS: &str = "INGLE_CPU";

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// The processor: the default, with nothing to install.
struct Cpu;

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn probe(&self) -> Result<String, String> {
        match CpuDevice::new(CpuOptions::default()) {
            Ok(device) => Ok(ingle_tensor::Device::description(&device)),
            Err(error) => Err(error.to_string()),
        }
    }

    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn TextModel>> {
        Ok(Box::new(EngineModel::load(self.name(), files, Arc::new(cpu(options)?), options, progress)?))
    }

    fn inspect(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Inspection> {
        // It has to be there to run the model, though not for this.
        cpu(options)?;
        EngineModel::inspect(self.name(), files, options)
    }
}

fn cpu(options: &LoadOptions) -> Result<CpuDevice> {
    Ok(CpuDevice::new(CpuOptions { threads: options.threads, ..CpuOptions::default() })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cannot run anywhere.
    struct Broken(&'static str);

    impl Backend for Broken {
        fn name(&self) -> &'static str {
            self.0
        }

        fn probe(&self) -> Result<String, String> {
            Err(format!("{} is not plugged in", self.0))
        }

        fn load(
            &self,
            _files: &ModelFiles,
            _options: &LoadOptions,
            _progress: &mut dyn FnMut(LoadProgress),
        ) -> Result<Box<dyn TextModel>> {
            Err(Error::BackendUnavailable { name: self.0.into(), reason: "it cannot run".into() })
        }
    }

    #[test]
    fn where_none_can_run_each_says_why_bad() {
        let Err(error) = first_that_runs(vec![&Broken("abacus"), &Broken("loom")]) else {
            panic!("one of them ran");
        };
        let error = error.to_string();
        for part in ["abacus: abacus is not plugged in", "loom: loom is not plugged in"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn one_that_can_run_is_found_behind_one_that_cannot_good() {
        let found = first_that_runs(vec![&Broken("abacus"), &Cpu]);
        assert!(found.is_ok_and(|backend| backend.name() == "cpu"));
    }
}
