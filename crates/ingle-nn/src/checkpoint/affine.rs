// SPDX-License-Identifier: EUPL-1.2
//! How MLX quantised a checkpoint, layer by layer.

use std::collections::BTreeMap;

use ingle_tensor::Quantization;

/// How MLX quantised the layers of a checkpoint: `quantization` in its `config.json`. A layer with a matrix
/// `<layer>.weight` that was quantised has `<layer>.scales` and `<layer>.biases` beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffineLayers {
    /// The form of every quantised layer that is not in `layers`: [`Quantization::Affine`].
    pub default: Quantization,
    /// Layers by name for which the file says something else.
    pub layers: BTreeMap<String, LayerForm>,
}

/// What a `config.json` says of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerForm {
    /// It was left as it was.
    Dense,
    /// It was quantised so.
    Quantised(Quantization),
}

impl AffineLayers {
    /// The form of a layer that is stored quantised.
    pub(crate) fn form(&self, layer: &str) -> LayerForm {
        self.layers.get(layer).copied().unwrap_or(LayerForm::Quantised(self.default))
    }
}
