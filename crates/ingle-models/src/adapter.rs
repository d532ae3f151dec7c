// SPDX-License-Identifier: EUPL-1.2
//! Adapters on models, whatever their writers call the layers.

use std::collections::BTreeSet;

use ingle_nn::{Adapter, AdapterId, Result, Visitor};

use crate::Model;
use crate::load::{HEAD_PREFIXES, MODEL_PREFIXES};

/// Gives `model` an adapter, as `id`: see [`Adapter::attach`]. The adapter's files may name the language model as it
/// stands beside a vision tower, and the model's be without one, or the other way round. Changes of a vision tower are
/// left out, as the tower is.
///
/// # Errors
/// Those of [`Adapter::attach`].
pub fn attach(model: &mut dyn Model, adapter: Adapter, id: AdapterId) -> Result<()> {
    let mut layers = BTreeSet::new();
    model.visit(&mut Visitor::linears(&mut |name, _| layers.extend([name.to_owned()])));
    let rename = |name: &str| {
        if layers.contains(name) {
            return Some(name.to_owned());
        }
        if name.contains("vision_tower") || name.contains("multi_modal_projector") {
            return None;
        }
        let own = layers.iter().find(|layer| within(layer) == within(name));
        Some(own.cloned().unwrap_or_else(|| name.to_owned()))
    };
    adapter.rename(rename).attach(model, id)
}

/// A layer's name within the language model.
fn within(name: &str) -> &str {
    if HEAD_PREFIXES.contains(&name) {
        return "lm_head";
    }
    let under = |prefix: &&str| name.strip_prefix(prefix)?.strip_prefix('.');
    MODEL_PREFIXES.iter().filter(|prefix| !prefix.is_empty()).find_map(under).unwrap_or(name)
}
