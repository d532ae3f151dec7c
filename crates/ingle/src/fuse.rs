// SPDX-License-Identifier: EUPL-1.2
//! An adapter merged into its model for good.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_models::COMPANIONS;
use ingle_nn::output::{OutputFile, Part, refused};
use ingle_nn::{Adapter, LoadProgress, ModelFiles};
use ingle_tensor::DeviceHandle;

use crate::{CancelToken, Error, Result, discover};

/// Which files are which weights in.
const INDEX: &str = "model.safetensors.index.json";

/// What [`fuse`] has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fused {
    /// Where.
    pub path: PathBuf,
    /// How many layers have changed.
    pub layers: usize,
    /// Bytes that the weights take, as many as before.
    pub bytes: usize,
}

/// Writes the model called `model` (see [`crate::load`]) to the new directory `out`, with the adapter in `adapter`, a
/// directory of PEFT's, mlx-lm's or Ingle's, merged into its weights. Each stays in the form that it has: a layer in
/// MLX's quantised format, or in blocks of GGUF, is unpacked, changed and quantised again. Of a GGUF model `out` is a
/// file, all else in it as it was. `progress` is called after each tensor; when `cancel` is cancelled, what was written
/// is removed again.
///
/// All is written beside `out` first: that is there whole or not at all. What changes a quantised weight by less than
/// half a step of its quants may be lost.
///
/// ```no_run
/// use ingle::CancelToken;
///
/// let fused = ingle::fuse("Qwen/Qwen3-0.6B", "adapters/formal", "qwen3-formal", &CancelToken::new(), &mut |_| {})?;
/// println!("{} layers have changed", fused.layers);
/// # Ok::<(), ingle::Error>(())
/// ```
///
/// # Errors
/// A model that is not there or is a GGUF in several files; an adapter that is not there, or is another model's;
/// [`Error::Option`] if `out` is no name of a GGUF file where one is to be written; [`ingle_nn::Error::Output`] if it is
/// there already or cannot be written; [`Error::Cancelled`].
pub fn fuse(
    model: &str,
    adapter: impl AsRef<Path>,
    out: impl AsRef<Path>,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Fused> {
    let (files, out) = (discover::resolve(model)?, out.as_ref());
    if out.exists() {
        return Err(refused(out, "is there already; remove it, or give another path").into());
    }
    let is_gguf = matches!(files, ModelFiles::Gguf(_));
    if is_gguf && !ModelFiles::is_gguf(out) {
        let expected = "a name that ends in .gguf, as the model's does".into();
        return Err(Error::Option { option: "out", expected, found: out.display().to_string() });
    }
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    let fusion = ingle_models::fuse(&files, Adapter::open(adapter, &device)?, &device)?;
    let (layers, total_bytes) = (fusion.layers(), fusion.bytes());

    let part = if is_gguf { Part::file(out)?.0 } else { folder(&files, out)? };
    let mut loaded_bytes = 0;
    fusion.write(part.path(), |bytes| {
        loaded_bytes += bytes;
        progress(LoadProgress { loaded_bytes, total_bytes });
        if cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    })?;
    part.finish()?;
    Ok(Fused { path: out.into(), layers, bytes: total_bytes })
}

/// A folder with all of a model but its weights.
fn folder(files: &ModelFiles, out: &Path) -> Result<Part> {
    let part = Part::folder(out)?;
    for name in COMPANIONS.into_iter().chain(["config.json", INDEX]) {
        if let Some(content) = files.find(name)? {
            let mut file = OutputFile::create(&part.path().join(name))?;
            file.write(&content)?;
            file.finish()?;
        }
    }
    Ok(part)
}
