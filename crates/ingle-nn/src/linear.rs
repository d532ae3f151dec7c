// SPDX-License-Identifier: EUPL-1.2
//! The affine map that most of a language model's arithmetic is.

use ingle_tensor::{Activation, DType, Tensor};

use crate::{AdapterId, Lora, Parameters, Result, Routes, Rows, Visitor, Weights};

/// `x · weightᵀ + bias`, and the changes of the adapters that it has.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    adapters: Vec<(AdapterId, Lora)>,
}

/// Whether a [`Linear`] has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `x · weightᵀ`.
    Absent,
    /// `x · weightᵀ + bias`.
    Present,
}

impl Linear {
    /// Loads `weight [outputs, inputs]`, in whichever form its file holds it, and, if there is one,
    /// `bias [outputs]`.
    ///
    /// # Errors
    /// Those of [`Weights::matrix`] and [`Weights::tensor`].
    pub fn load(weights: &Weights<'_>, [outputs, inputs]: [usize; 2], bias: Bias) -> Result<Self> {
        let bias = match bias {
            Bias::Absent => None,
            Bias::Present => Some(weights.tensor("bias", [outputs], 0.0)?),
        };
        Ok(Linear { weight: weights.matrix([outputs, inputs])?, bias, adapters: Vec::new() })
    }

    /// A map of this weight, `[outputs, inputs]`, and no bias.
    pub fn from_weight(weight: Tensor) -> Self {
        Linear { weight, bias: None, adapters: Vec::new() }
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        [self.weight.shape()[0], self.weight.shape()[1]]
    }

    /// `[outputs, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Adds an adapter's part, or puts it in the place of the one it had.
    ///
    /// # Errors
    /// [`ingle_tensor::Error::Shape`] if it is for a layer of another shape.
    pub fn attach(&mut self, adapter: AdapterId, lora: Lora) -> Result<()> {
        if lora.layer_shape() != self.shape() {
            let shown = |[outputs, inputs]: [usize; 2]| format!("a layer of {inputs} inputs and {outputs} outputs");
            let (expected, found) = (shown(self.shape()), shown(lora.layer_shape()));
            return Err(ingle_tensor::Error::Shape { op: "lora", expected, found }.into());
        }
        self.detach(adapter);
        self.adapters.push((adapter, lora));
        Ok(())
    }

    /// Takes an adapter's part away, if it has one.
    pub fn detach(&mut self, adapter: AdapterId) -> Option<Lora> {
        let index = self.adapters.iter().position(|(id, _)| *id == adapter)?;
        Some(self.adapters.remove(index).1)
    }

    /// The adapters that it has parts of.
    pub fn adapters(&self) -> impl Iterator<Item = AdapterId> {
        self.adapters.iter().map(|(id, _)| *id)
    }

    /// An adapter's part, if it has one.
    pub fn adapter(&self, adapter: AdapterId) -> Option<&Lora> {
        self.adapters.iter().find(|(id, _)| *id == adapter).map(|(_, lora)| lora)
    }

    /// `x […, inputs]` → `[…, outputs]`, in the dtype of `x`. Where `routes` have any, `x` is `[T, inputs]`.
    ///
    /// # Errors
    /// Those of the tensor operation.
    pub fn forward(&self, x: &Tensor, routes: &Routes) -> Result<Tensor> {
        let y = x.linear(&self.weight, self.bias.as_ref())?;
        self.adapted(y, x, routes)
    }

    /// `down(activation(gate(x)) · up(x))` of the maps gate, up and down, for `x` as [`Linear::forward`] takes it: in one
    /// operation if `x` is f32 and none of them has a bias or changes for these rows.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn gated_mlp(maps: [&Linear; 3], x: &Tensor, routes: &Routes, activation: Activation) -> Result<Tensor> {
        // In another dtype one operation would round less in between, and a row would differ by what stands beside it.
        let changes = |map: &Linear| routes.routes.iter().any(|route| map.adapter(route.adapter).is_some());
        if x.dtype() == DType::F32 && maps.iter().all(|map| map.bias.is_none() && !changes(map)) {
            return Ok(x.gated_mlp(maps.map(|map| &map.weight), activation)?);
        }
        let [gate, up, down] = maps;
        let up = up.forward(x, routes)?;
        down.forward(&gate.forward(x, routes)?.glu(&up, activation)?, routes)
    }

    /// `y`, what the base makes of `x`, with the changes of the adapters that its rows go through. A row gets the same
    /// bits whether it is gathered from others or not.
    fn adapted(&self, mut y: Tensor, x: &Tensor, routes: &Routes) -> Result<Tensor> {
        for route in &routes.routes {
            let Some(lora) = self.adapter(route.adapter) else { continue };
            y = match &route.rows {
                Rows::All => y.add(&lora.forward(x, routes.draw)?)?,
                Rows::Some(rows) => {
                    let change = lora.forward(&x.take_rows(rows)?, routes.draw)?;
                    let changed = y.take_rows(rows)?.add(&change)?;
                    y.write_rows(&changed, rows)?
                }
            };
        }
        Ok(y)
    }
}

impl Parameters for Linear {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor.weight("weight", &mut self.weight);
        if let Some(bias) = &mut self.bias {
            visitor.weight("bias", bias);
        }
        for (id, lora) in &mut self.adapters {
            visitor.adapter_weight(*id, "lora_A.weight", &mut lora.a);
            visitor.adapter_weight(*id, "lora_B.weight", &mut lora.b);
        }
    }
}
