// SPDX-License-Identifier: EUPL-1.2
//! Adapters on models, whatever their writers call the layers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ingle_nn::quantise::RowOrder;
use ingle_nn::{Adapter, AdapterId, Checkpoint, Error, Fusion, ModelFiles, Result, Visitor};
use ingle_tensor::DeviceHandle;

use crate::Model;
use crate::decoder::row_order;
use crate::load::{HEAD_PREFIXES, MODEL_PREFIXES, PLAIN, Source};
use crate::quantization::Quantised;

/// Gives `model` an adapter, as `id`: see [`Adapter::attach`]. The adapter's files may name the language model as it
/// stands beside a vision tower, and the model's be without one, or the other way round. Changes of a vision tower are
/// left out, as the tower is. An adapter's outputs are in the order that a checkpoint in safetensors has, whatever the
/// order of the model's.
///
/// # Errors
/// Those of [`Adapter::attach`].
pub fn attach(model: &mut dyn Model, adapter: Adapter, id: AdapterId) -> Result<()> {
    let mut layers = BTreeMap::new();
    model.visit(&mut Visitor::linears(&mut |name, linear| layers.extend([(name.to_owned(), linear.shape()[0])])));
    let adapter = renamed(adapter, &layers.keys().cloned().collect());
    // One of another shape is refused with its own.
    let fits = |name: &str, outputs| layers.get(name).is_some_and(|known| *known == outputs);
    let adapter = reordered(adapter, Towards::Model, |name, outputs| match fits(name, outputs) {
        true => model.row_order(name),
        false => RowOrder::Unchanged,
    })?;
    adapter.attach(model, id)
}

/// The adapter that `model` has as `id`, its outputs in the order that a checkpoint in safetensors has; one without
/// layers if it has none.
///
/// # Errors
/// The device's own.
pub fn adapter(model: &mut dyn Model, id: AdapterId) -> Result<Adapter> {
    reordered(Adapter::of(model, id), Towards::Files, |name, _| model.row_order(name))
}

/// The model of `files`, on its way into the same files with `adapter` merged into them.
///
/// # Errors
/// As [`crate::read_summary`]; those of [`Fusion::new`]; [`Error::Malformed`] for a GGUF model in several files, and for
/// weights that are quantised otherwise than in GGUF or by MLX.
pub fn fuse(files: &ModelFiles, adapter: Adapter, device: &DeviceHandle) -> Result<Fusion> {
    let source = Source::open(files)?;
    if let ModelFiles::Gguf(path) = files {
        return fuse_gguf(path, source, adapter, device);
    }
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

fn fuse_gguf(path: &Path, source: Source, adapter: Adapter, device: &DeviceHandle) -> Result<Fusion> {
    let parts = source.checkpoint.files();
    if parts > 1 {
        let message = format!("is in {parts} files; make it one (llama-gguf-split --merge)");
        return Err(Error::Malformed { file: path.display().to_string(), message });
    }
    // A decoder's names are known, and the checkpoint says what its file calls them.
    let adapter = adapter.rename(|name| match within(name) {
        _ if is_of_vision(name) => None,
        "lm_head" => Some(PLAIN.lm_head.to_owned()),
        within => Some(format!("{}.{within}", PLAIN.model)),
    });
    let rows = source.config.qk_rows();
    let outputs = |name: &str| source.checkpoint.get(&format!("{name}.weight"))?.shape().first().copied();
    // One of another shape is refused with its own.
    let adapter = reordered(adapter, Towards::Model, |name, own| match outputs(name) == Some(own) {
        true => row_order(name, rows),
        false => RowOrder::Unchanged,
    })?;
    Fusion::new(source.checkpoint, adapter, device)
}

/// From where to where outputs are put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    Model,
    Files,
}

/// The adapter, of which each layer's outputs come in the order that `order` tells by its name and their number.
fn reordered(adapter: Adapter, towards: Towards, order: impl Fn(&str, usize) -> RowOrder) -> Result<Adapter> {
    adapter.map(|name, lora| {
        let outputs = lora.layer_shape()[0];
        let order = order(name, outputs);
        if order == RowOrder::Unchanged {
            return Ok(lora);
        }
        let mut from: Vec<i32> = (0..outputs).map(|row| order.source(row, outputs) as i32).collect();
        if towards == Towards::Files {
            let mut rows: Vec<i32> = (0..outputs as i32).collect();
            rows.sort_by_key(|row| from[*row as usize]);
            from = rows;
        }
        lora.reorder(&from)
    })
}

/// The adapter with the names of its layers as `layers` has them, where it has them at all.
fn renamed(adapter: Adapter, layers: &BTreeSet<String>) -> Adapter {
    adapter.rename(|name| {
        if layers.contains(name) {
            return Some(name.to_owned());
        }
        if is_of_vision(name) {
            return None;
        }
        let own = layers.iter().find(|layer| within(layer) == within(name));
        Some(own.cloned().unwrap_or_else(|| name.to_owned()))
    })
}

fn is_of_vision(name: &str) -> bool {
    name.contains("vision_tower") || name.contains("multi_modal_projector")
}

/// A layer's name within the language model.
fn within(name: &str) -> &str {
    if HEAD_PREFIXES.contains(&name) {
        return "lm_head";
    }
    let under = |prefix: &&str| name.strip_prefix(prefix)?.strip_prefix('.');
    MODEL_PREFIXES.iter().filter(|prefix| !prefix.is_empty()).find_map(under).unwrap_or(name)
}
