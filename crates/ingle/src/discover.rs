// SPDX-License-Identifier: EUPL-1.2
//! Finding models: the built-in one, those in a folder, those in the hub's cache.

use std::path::{Path, PathBuf};

use ingle_models::Summary;
use ingle_nn::ModelFiles;

use crate::{Error, Result, hub, paper};

/// The name of the built-in model.
pub const DEMO: &str = "demo";

/// The built-in model's files.
const DEMO_FILES: ModelFiles = ModelFiles::Embedded {
    name: DEMO,
    files: &[
        ("config.json", include_bytes!("../models/demo/config.json")),
        ("generation_config.json", include_bytes!("../models/demo/generation_config.json")),
        ("model.safetensors", include_bytes!("../models/demo/model.safetensors")),
        ("tokenizer.json", include_bytes!("../models/demo/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("../models/demo/tokenizer_config.json")),
    ],
};

/// A model that was found.
#[derive(Debug)]
pub struct Found {
    /// What to give to [`crate::load`].
    pub name: String,
    /// What it is, read from its configuration and headers alone; or what there keeps it from being loaded.
    pub summary: Result<Summary>,
}

/// The built-in model.
pub fn demo() -> Found {
    Found { name: DEMO.into(), summary: paper::summary(&DEMO_FILES) }
}

/// The models in the folder `dir` and the folders below it: folders with a `config.json` and with weights, and
/// GGUF files. Sorted by name; no weights are read.
///
/// # Errors
/// If `dir` cannot be listed. A model that cannot be used is listed with the reason.
pub fn discover(dir: impl AsRef<Path>) -> Result<Vec<Found>> {
    let dir = dir.as_ref();
    let mut found = Vec::new();
    walk(dir, DEPTH, &mut found)?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The models that were pulled from the hub, by their names there.
///
/// # Errors
/// If the hub's cache is there but cannot be listed.
pub fn pulled() -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for (repo, folder) in hub::all_cached(&hub::PullOptions::default())? {
        let summary = ModelFiles::open(folder).map_err(Error::from).and_then(|files| paper::summary(&files));
        found.push(Found { name: repo, summary });
    }
    Ok(found)
}

/// How deep [`discover`] looks: deep enough for owner/name folders and the hub's snapshots, and an end to a
/// folder that links to itself.
const DEPTH: usize = 6;

fn walk(dir: &Path, depth: usize, found: &mut Vec<Found>) -> Result<()> {
    let refused = |error: std::io::Error| Error::Directory { path: dir.into(), message: error.to_string() };
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut has_weights = false;
    for entry in std::fs::read_dir(dir).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            _ if path.is_dir() => folders.push(path),
            Some("gguf") if ModelFiles::is_gguf(&path) => {
                let files = ModelFiles::Gguf(path);
                found.push(Found { name: files.name(), summary: paper::summary(&files) });
            }
            extension => has_weights |= extension == Some("safetensors"),
        }
    }
    if has_weights && dir.join("config.json").is_file() {
        let files = ModelFiles::Directory(dir.into());
        found.push(Found { name: files.name(), summary: paper::summary(&files) });
    }
    if depth > 0 {
        for folder in folders {
            // A folder below that may not be read hides nothing of the others.
            let _ = walk(&folder, depth - 1, found);
        }
    }
    Ok(())
}

/// The files of the model called `model`: the built-in one, a directory, a GGUF file, or a pulled model.
pub(crate) fn resolve(model: &str) -> Result<ModelFiles> {
    if model == DEMO {
        return Ok(DEMO_FILES);
    }
    if Path::new(model).exists() {
        return Ok(ModelFiles::open(model)?);
    }
    if let Some(folder) = hub::cached(model, &hub::PullOptions::default()) {
        return Ok(ModelFiles::open(folder)?);
    }
    Err(Error::UnknownModel { model: model.into() })
}
