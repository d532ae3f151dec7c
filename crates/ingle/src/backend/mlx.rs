// SPDX-License-Identifier: EUPL-1.2
//! The backend on MLX: `metal` on Apple Silicon, `mlx` elsewhere.

use std::sync::Arc;

use ingle_mlx::MlxDevice;
use ingle_nn::ModelFiles;
use ingle_tensor::Device;

use super::Backend;
use crate::engine_model::EngineModel;
use crate::{Error, Inspection, LoadOptions, LoadProgress, Result, TextModel};

/// MLX, on what it computes on here.
struct Mlx;

/// The others and this one: before them where MLX has a GPU, else after the processor, which is the first of them.
pub(super) fn beside(mut others: Vec<&'static dyn Backend>) -> Vec<&'static dyn Backend> {
    let place = if ingle_mlx::has_gpu() { 0 } else { others.len().min(1) };
    others.insert(place, &Mlx);
    others
}

impl Backend for Mlx {
    fn name(&self) -> &'static str {
        ingle_mlx::name()
    }

    fn probe(&self) -> Result<String, String> {
        MlxDevice::new().map(|device| device.description()).map_err(|error| error.to_string())
    }

    fn load(
        &self,
        files: &ModelFiles,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Box<dyn TextModel>> {
        Ok(Box::new(EngineModel::load(self.name(), files, Arc::new(device(options)?), options, progress)?))
    }

    fn inspect(&self, files: &ModelFiles, options: &LoadOptions) -> Result<Inspection> {
        // It has to be there to run the model, though not for this.
        device(options)?;
        EngineModel::inspect(self.name(), files, options)
    }
}

fn device(options: &LoadOptions) -> Result<MlxDevice> {
    if let Some(threads) = options.threads {
        let expected = "none on this backend, whose threads are MLX's own".into();
        return Err(Error::Option { option: "threads", expected, found: threads.to_string() });
    }
    Ok(MlxDevice::new()?)
}
