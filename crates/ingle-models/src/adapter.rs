// SPDX-License-Identifier: EUPL-1.2
//! Adapters on models, whatever their writers call the layers.

use std::collections::BTreeSet;

use ingle_nn::{Adapter, AdapterId, Checkpoint, Error, Fusion, ModelFiles, Result, Visitor};
use ingle_tensor::DeviceHandle;

use crate::Model;
use crate::load::{HEAD_PREFIXES, MODEL_PREFIXES, Source};
use crate::quantization::Quantised;

/// Gives `model` an adapter, as `id`: see [`Adapter::attach`]. The adapter's files may name the language model as it
/// stands beside a vision tower, and the model's be without one, or the other way round. Changes of a vision tower are
/// left out, as the tower is.
///
/// # Errors
/// Those of [`Adapter::attach`].
pub fn attach(model: &mut dyn Model, adapter: Adapter, id: AdapterId) -> Result<()> {
    let mut layers = BTreeSet::new();
    model.visit(&mut Visitor::linears(&mut |name, _| layers.extend([name.to_owned()])));
    renamed(adapter, &layers).attach(model, id)
}

/// The model of `files`, on its way into the same files with `adapter` merged into them.
///
/// # Errors
/// As [`crate::read_summary`]; those of [`Fusion::new`]; [`Error::Malformed`] for a GGUF file, and for weights that are
/// quantised otherwise than MLX does.
pub fn fuse(files: &ModelFiles, adapter: Adapter, device: &DeviceHandle) -> Result<Fusion> {
    if let ModelFiles::Gguf(path) = files {
        let message = "is a GGUF file; give the directory of the checkpoint that it was made of".into();
        return Err(Error::Malformed { file: path.display().to_string(), message });
    }
    let source = Source::open(files)?;
    // All tensors, those of a vision tower among them.
    let checkpoint = Checkpoint::open(files)?;
    let checkpoint = match source.quantised {
        Some(Quantised::Mlx(affine)) => checkpoint.with_affine(affine)?,
        Some(Quantised::Foreign(_)) => {
            let quantisation = source.summary.quantisation.unwrap_or_default();
            let message =
                format!("quantised weights ({quantisation}) are not supported yet; use the original checkpoint");
            return Err(Error::Malformed { file: files.locate("config.json"), message });
        }
        None => checkpoint,
    };
    let weights = source.checkpoint.tensors().filter_map(|(name, _)| name.strip_suffix(".weight"));
    let layers = weights.map(str::to_owned).collect();
    Fusion::new(checkpoint, renamed(adapter, &layers), device)
}

/// The adapter with the names of its layers as `layers` has them, where it has them at all.
fn renamed(adapter: Adapter, layers: &BTreeSet<String>) -> Adapter {
    adapter.rename(|name| {
        if layers.contains(name) {
            return Some(name.to_owned());
        }
        if name.contains("vision_tower") || name.contains("multi_modal_projector") {
            return None;
        }
        let own = layers.iter().find(|layer| within(layer) == within(name));
        Some(own.cloned().unwrap_or_else(|| name.to_owned()))
    })
}

/// A layer's name within the language model.
fn within(name: &str) -> &str {
    if HEAD_PREFIXES.contains(&name) {
        return "lm_head";
    }
    let under = |prefix: &&str| name.strip_prefix(prefix)?.strip_prefix('.');
    MODEL_PREFIXES.iter().filter(|prefix| !prefix.is_empty()).find_map(under).unwrap_or(name)
}
