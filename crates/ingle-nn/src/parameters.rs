// SPDX-License-Identifier: EUPL-1.2
//! A model's weights by name, to be read, counted and replaced.

use ingle_tensor::Tensor;

use crate::checkpoint::join;
use crate::{AdapterId, Linear};

/// What has weights: a layer, or a model made of them.
///
/// ```
/// # use std::sync::Arc;
/// # use ingle_cpu::{CpuDevice, CpuOptions};
/// # use ingle_nn::{Linear, Parameters, Visitor};
/// # use ingle_tensor::{DeviceHandle, Tensor};
/// # let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
/// struct Twice {
///     up_proj: Linear,
///     down_proj: Linear,
/// }
///
/// impl Parameters for Twice {
///     fn visit(&mut self, visitor: &mut Visitor<'_>) {
///         visitor.linear("up_proj", &mut self.up_proj);
///         visitor.linear("down_proj", &mut self.down_proj);
///     }
/// }
///
/// # let one = |value: f32| Tensor::from_slice(&device, &[value], [1, 1]).map(Linear::from_weight);
/// let mut twice = Twice { up_proj: one(2.0)?, down_proj: one(3.0)? };
/// let mut names = Vec::new();
/// twice.visit(&mut Visitor::weights(&mut |name, weight| {
///     names.push(name.to_owned());
///     *weight = weight.detach();
/// }));
/// assert_eq!(names, ["up_proj.weight", "down_proj.weight"]);
/// # Ok::<(), ingle_nn::Error>(())
/// ```
pub trait Parameters {
    /// Shows every weight to `visitor`, under the name that checkpoints have for it and always in the same order. One
    /// that two layers share is shown once, and what becomes of it becomes of both.
    fn visit(&mut self, visitor: &mut Visitor<'_>);
}

/// Goes from layer to layer and looks at what it was made to look at.
pub struct Visitor<'a> {
    prefix: String,
    wanted: Wanted<'a>,
}

enum Wanted<'a> {
    Weights(&'a mut dyn FnMut(&str, &mut Tensor)),
    Adapter(AdapterId, &'a mut dyn FnMut(&str, &mut Tensor)),
    Linears(&'a mut dyn FnMut(&str, &mut Linear)),
}

impl<'a> Visitor<'a> {
    /// Calls `visit` with each weight and its name: `model.layers.0.self_attn.q_proj.weight`; adapters aside. It may
    /// put another tensor of the same shape in its place.
    pub fn weights(visit: &'a mut dyn FnMut(&str, &mut Tensor)) -> Self {
        Visitor { prefix: String::new(), wanted: Wanted::Weights(visit) }
    }

    /// Calls `visit` with each weight of one adapter and its name: `model.layers.0.self_attn.q_proj.lora_A.weight`. It
    /// may put another tensor of the same shape in its place.
    pub fn adapter(adapter: AdapterId, visit: &'a mut dyn FnMut(&str, &mut Tensor)) -> Self {
        Visitor { prefix: String::new(), wanted: Wanted::Adapter(adapter, visit) }
    }

    /// Calls `visit` with each linear layer and its name: `model.layers.0.self_attn.q_proj`. A head that is the
    /// embedding table is none.
    pub fn linears(visit: &'a mut dyn FnMut(&str, &mut Linear)) -> Self {
        Visitor { prefix: String::new(), wanted: Wanted::Linears(visit) }
    }

    /// The same, among the weights of a layer called `name`. An empty name changes nothing.
    #[must_use]
    pub fn scope(&mut self, name: &str) -> Visitor<'_> {
        let prefix = if name.is_empty() { self.prefix.clone() } else { join(&self.prefix, name) };
        let wanted = match &mut self.wanted {
            Wanted::Weights(visit) => Wanted::Weights(visit),
            Wanted::Adapter(adapter, visit) => Wanted::Adapter(*adapter, visit),
            Wanted::Linears(visit) => Wanted::Linears(visit),
        };
        Visitor { prefix, wanted }
    }

    /// Looks at a weight.
    pub fn weight(&mut self, name: &str, weight: &mut Tensor) {
        if let Wanted::Weights(visit) = &mut self.wanted {
            visit(&join(&self.prefix, name), weight);
        }
    }

    /// Looks at a weight of an adapter.
    pub(crate) fn adapter_weight(&mut self, adapter: AdapterId, name: &str, weight: &mut Tensor) {
        if let Wanted::Adapter(wanted, visit) = &mut self.wanted
            && *wanted == adapter
        {
            visit(&join(&self.prefix, name), weight);
        }
    }

    /// Looks at a linear layer.
    pub fn linear(&mut self, name: &str, linear: &mut Linear) {
        match &mut self.wanted {
            Wanted::Linears(visit) => visit(&join(&self.prefix, name), linear),
            Wanted::Weights(_) | Wanted::Adapter(..) => linear.visit(&mut self.scope(name)),
        }
    }
}
