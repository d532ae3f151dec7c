// SPDX-License-Identifier: EUPL-1.2
//! An adapter: low-rank changes of some layers, by name.

use std::collections::BTreeMap;

use ingle_tensor::{DType, DeviceHandle};

use crate::{AdapterId, Error, Lora, LoraConfig, Parameters, Result, Visitor};

mod files;
mod fusion;
mod mlx;
mod peft;

pub use files::AdapterFormat;
pub use fusion::Fusion;

/// Low-rank changes of some of a model's layers.
///
/// ```
/// # use std::sync::Arc;
/// # use ingle_cpu::{CpuDevice, CpuOptions};
/// # use ingle_nn::{Adapter, AdapterId, Linear, LoraConfig, Parameters, Routes, Target, Visitor};
/// # use ingle_tensor::{DeviceHandle, Tensor};
/// # struct Model { q_proj: Linear }
/// # impl Parameters for Model {
/// #     fn visit(&mut self, visitor: &mut Visitor<'_>) { visitor.linear("q_proj", &mut self.q_proj) }
/// # }
/// # let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
/// # let weight = Tensor::from_slice(&device, &[1f32, 0.0, 0.0, 1.0], [2, 2])?;
/// # let mut model = Model { q_proj: Linear::from_weight(weight) };
/// let config = LoraConfig { rank: 1, targets: vec![Target::new("q_proj")], ..LoraConfig::default() };
/// let id = AdapterId(0);
/// Adapter::create(&mut model, &device, &config, 7)?.attach(&mut model, id)?;
///
/// // A new adapter changes nothing until it has learnt.
/// let x = Tensor::from_slice(&device, &[3f32, 4.0], [1, 2])?;
/// assert_eq!(model.q_proj.forward(&x, &Routes::all(id))?.to_vec::<f32>()?, [3.0, 4.0]);
/// model.visit(&mut Visitor::adapter(id, &mut |name, weight| {
///     if name == "q_proj.lora_B.weight" {
///         *weight = weight.shift(1.0).expect("the same shape");
///     }
/// }));
/// assert_ne!(model.q_proj.forward(&x, &Routes::all(id))?.to_vec::<f32>()?, [3.0, 4.0]);
/// # Ok::<(), ingle_nn::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Adapter {
    layers: BTreeMap<String, Lora>,
}

impl Adapter {
    /// The changes of these layers, by the names that [`Visitor::linears`] gives them.
    pub fn new(layers: impl IntoIterator<Item = (String, Lora)>) -> Self {
        Adapter { layers: layers.into_iter().collect() }
    }

    /// Begins an adapter of the layers of `model` that `config` names, on `device`, in f32. It changes nothing yet.
    ///
    /// # Errors
    /// Those of [`LoraConfig::check`]; [`Error::Lora`], with the layers that there are, for a target that is none of
    /// them; past the device's memory.
    pub fn create(model: &mut dyn Parameters, device: &DeviceHandle, config: &LoraConfig, seed: u64) -> Result<Self> {
        config.check()?;
        let mut layers: Vec<(String, [usize; 2])> = Vec::new();
        model.visit(&mut Visitor::linears(&mut |name, linear| layers.push((name.to_owned(), linear.shape()))));
        for target in &config.targets {
            if !layers.iter().any(|(name, _)| target.matches(name)) {
                let expected = format!("layers that the model has: {}", kinds(layers.iter().map(|(name, _)| name)));
                return Err(Error::Lora { field: "targets", expected, found: format!("`{target}`") });
            }
        }
        layers.retain(|(name, _)| config.targets.iter().any(|target| target.matches(name)));
        let create = |(name, shape): (String, _)| {
            let lora = Lora::create(&name, device, shape, config, seed)?;
            Ok((name, lora))
        };
        Ok(Adapter { layers: layers.into_iter().map(create).collect::<Result<_>>()? })
    }

    /// The adapter that `model` has as `id`; one without layers if it has none.
    pub fn of(model: &mut dyn Parameters, id: AdapterId) -> Self {
        let mut layers = BTreeMap::new();
        model.visit(&mut Visitor::linears(&mut |name, linear| {
            if let Some(lora) = linear.adapter(id) {
                layers.insert(name.to_owned(), lora.clone());
            }
        }));
        Adapter { layers }
    }

    /// Each layer's part with its name, sorted by name.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Lora)> {
        self.layers.iter().map(|(name, lora)| (name.as_str(), lora))
    }

    /// The same, its layers called otherwise; those of which `rename` gives no name are left out.
    #[must_use]
    pub fn rename(self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let renamed = |(name, lora): (String, Lora)| Some((rename(&name)?, lora));
        Adapter { layers: self.layers.into_iter().filter_map(renamed).collect() }
    }

    /// The same, of which `change` makes each layer's part another.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn map(self, change: impl Fn(&str, Lora) -> Result<Lora>) -> Result<Self> {
        let changed = |(name, lora): (String, Lora)| {
            let lora = change(&name, lora)?;
            Ok((name, lora))
        };
        Ok(Adapter { layers: self.layers.into_iter().map(changed).collect::<Result<_>>()? })
    }

    /// How many weights it has.
    pub fn parameters(&self) -> usize {
        self.layers.values().flat_map(Lora::matrices).map(|matrix| matrix.shape().elements()).sum()
    }

    /// The same in `dtype`.
    ///
    /// # Errors
    /// The device's own.
    pub fn cast(self, dtype: DType) -> Result<Self> {
        self.map(|_, lora| lora.cast(dtype))
    }

    /// Gives the model's layers their parts, as `id`. A model that has an `id` already has it replaced. If it fails, the
    /// model has none.
    ///
    /// # Errors
    /// [`Error::Lora`] for a layer that the model has not, or has in another shape: the adapter is another model's.
    pub fn attach(self, model: &mut dyn Parameters, id: AdapterId) -> Result<()> {
        let mut parts = self.layers;
        let mut failed = None;
        let mut known = Vec::new();
        model.visit(&mut Visitor::linears(&mut |name, linear| {
            linear.detach(id);
            known.push(name.to_owned());
            let Some(lora) = parts.remove(name) else { return };
            let ([outputs, inputs], [expected_outputs, expected_inputs]) = (lora.layer_shape(), linear.shape());
            if linear.attach(id, lora).is_err() && failed.is_none() {
                let expected = format!(
                    "an adapter of this model, whose `{name}` has {expected_inputs} inputs and {expected_outputs} outputs"
                );
                let found = format!("one for {inputs} inputs and {outputs} outputs");
                failed = Some(Error::Lora { field: "adapter", expected, found });
            }
        }));
        if let (None, Some(stranger)) = (&failed, parts.keys().next()) {
            let expected = format!("an adapter of this model, which has {}", kinds(known.iter()));
            failed = Some(Error::Lora { field: "adapter", expected, found: format!("one for `{stranger}`") });
        }
        match failed {
            None => Ok(()),
            Some(error) => {
                Adapter::detach(model, id);
                Err(error)
            }
        }
    }

    /// Takes the adapter `id` away from a model.
    pub fn detach(model: &mut dyn Parameters, id: AdapterId) {
        model.visit(&mut Visitor::linears(&mut |_, linear| drop(linear.detach(id))));
    }
}

/// Names of layers as people need them: each kind once, with how many layers there are of it.
fn kinds<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut kinds: Vec<(String, usize)> = Vec::new();
    for name in names {
        let numbered = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let kind = name.split('.').map(|part| if numbered(part) { "*" } else { part }).collect::<Vec<_>>().join(".");
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let shown: Vec<String> = kinds
        .into_iter()
        .map(|(kind, count)| if count > 1 { format!("{kind} ({count} layers)") } else { kind })
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests;
