// SPDX-License-Identifier: EUPL-1.2
//! A model whose weights learn: gradients, steps, and the loss without them.

use ingle_models::Model;
use ingle_nn::{Activations, Draw, Dropout, Routes, Visitor};
use ingle_tensor::{DType, Op, Tensor, grad};

use crate::batch::{Inputs, Pass};
use crate::data::PackedBatch;
use crate::{Error, Optimizer, Parameter, Recompute, Result, TrainOptions, Trained};

/// A model, and the state of each weight that is trained.
pub(crate) struct Learner {
    model: Box<dyn Model>,
    trained: Trained,
    parameters: Vec<Parameter>,
    optimizer: Optimizer,
    recompute: Recompute,
    seed: u64,
    /// Of what enters the residual stream.
    dropout: f64,
    /// Of keys and values.
    cache: DType,
}

/// What differs from step to step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    /// From 1.
    pub step: u64,
    pub learning_rate: f64,
    /// What gradients are multiplied by.
    pub factor: f64,
}

/// The gradient of each parameter, in their order.
pub(crate) struct Gradients(Vec<Tensor>);

impl Gradients {
    /// The norm of all of them together.
    pub fn norm(&self) -> Result<f32> {
        let square = |gradient: &Tensor| -> Result<Tensor> {
            Ok(Tensor::apply(&Op::SquaredNorm, vec![gradient.clone()])?.reshape([1])?)
        };
        let squares = self.0.iter().map(square).collect::<Result<Vec<_>>>()?;
        let squares = Tensor::concat(&squares, 0)?.to_vec::<f32>()?;
        Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt() as f32)
    }

    fn add(&mut self, others: Vec<Tensor>) -> Result<()> {
        for (sum, other) in self.0.iter_mut().zip(others) {
            let wide = std::mem::replace(sum, other.clone()).cast(DType::F32)?;
            *sum = wide.add(&other.cast(DType::F32)?)?;
        }
        Ok(())
    }
}

impl Learner {
    pub fn new(mut model: Box<dyn Model>, trained: Trained, options: &TrainOptions) -> Result<Self> {
        if let (Trained::Weights, Some(quantisation)) = (trained, &model.summary().quantisation) {
            let expected = "weights that are not quantised, or an adapter to train beside them";
            return Err(Error::option("model", expected, quantisation));
        }
        let mut parameters = Vec::new();
        visit(&mut *model, trained, &mut |name, weight| {
            parameters.push(Parameter::new(name, weight, &options.optimizer)?);
            *weight = nothing(weight)?;
            Ok(())
        })?;
        if parameters.is_empty() {
            return Err(Error::option("model", "one with the adapter that is to be trained", "none"));
        }
        // As where text is generated.
        let cache = match model.summary().dtype {
            DType::F32 => DType::F32,
            _ => DType::BF16,
        };
        let TrainOptions { optimizer, recompute, seed, dropout, .. } = *options;
        Ok(Learner { model, trained, parameters, optimizer, recompute, seed, dropout, cache })
    }

    pub fn model(&self) -> &dyn Model {
        &*self.model
    }

    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// How many numbers learn.
    pub fn trained_elements(&self) -> usize {
        let rows = self.optimizer.state_rows();
        let elements = |parameter: &Parameter| parameter.state().map_or(0, |state| state.shape().elements() / rows);
        self.parameters.iter().map(elements).sum()
    }

    /// The mean cross-entropy over all tokens to be predicted of several batches, and its gradients. What drops out
    /// depends on the number of the first of the batches, counted from the beginning of the training.
    pub fn gradients(&mut self, batches: &[PackedBatch], first_batch: u64) -> Result<(f32, Gradients)> {
        let targets: usize = batches.iter().map(PackedBatch::targets).sum();
        let weights = self.weights()?;
        let mut losses = 0.0;
        let mut sum: Option<Gradients> = None;
        for (index, packed) in batches.iter().enumerate() {
            let draw = Draw { seed: self.seed, pass: (first_batch + index as u64) as u32 };
            let inputs = Inputs::new(&*self.model, packed, self.pass(Some(draw)))?;
            let trained = self.trained;
            let loss = |weights: &[Tensor]| -> Result<Tensor> {
                Ok(forward(&mut *self.model, trained, weights, inputs)?.scale(1.0 / targets as f64)?)
            };
            let (loss, gradients) = grad::value_and_grad(loss, &weights)?;
            self.let_go()?;
            losses += f64::from(first(&loss)?);
            match &mut sum {
                Some(sum) => sum.add(gradients)?,
                None => sum = Some(Gradients(gradients)),
            }
        }
        Ok((losses as f32, sum.unwrap_or(Gradients(Vec::new()))))
    }

    /// A step of every parameter. Nobody else may hold their weights, or they are copied.
    pub fn step(&mut self, gradients: Gradients, rates: Rates) -> Result<()> {
        let Rates { step, learning_rate, factor } = rates;
        let rates = self.optimizer.rates(step, learning_rate, factor);
        let rates = Tensor::from_slice(self.model.device(), &rates, [rates.len()])?;
        for (parameter, gradient) in self.parameters.iter_mut().zip(gradients.0) {
            parameter.step(&self.optimizer, gradient, &rates)?;
        }
        Ok(())
    }

    /// The mean cross-entropy over all batches in nats per token, and how many tokens were predicted.
    pub fn loss(&mut self, batches: impl Iterator<Item = Result<PackedBatch>>) -> Result<(f32, usize)> {
        let weights = self.weights()?;
        let (mut losses, mut targets) = (0.0, 0);
        for packed in batches {
            let packed = packed?;
            let inputs = Inputs::new(&*self.model, &packed, self.pass(None))?;
            losses += f64::from(first(&forward(&mut *self.model, self.trained, &weights, inputs)?)?);
            targets += packed.targets();
        }
        self.let_go()?;
        if targets == 0 {
            return Err(Error::option("validation data", "examples with tokens to predict", "none"));
        }
        Ok(((losses / targets as f64) as f32, targets))
    }

    /// The model with the weights that it has come to.
    pub fn into_model(mut self) -> Result<Box<dyn Model>> {
        let weights = self.weights()?;
        put(&mut *self.model, self.trained, &weights)?;
        Ok(self.model)
    }

    /// The weights as they are now. Matrices lie as products read them fastest; an adapter's are too narrow for that.
    fn weights(&self) -> Result<Vec<Tensor>> {
        let weight = |parameter: &Parameter| -> Result<Tensor> {
            let weight = parameter.weight()?;
            match self.trained {
                Trained::Weights if weight.shape().len() == 2 => Ok(weight.pack()?),
                _ => Ok(weight),
            }
        };
        self.parameters.iter().map(weight).collect()
    }

    fn pass(&self, draw: Option<Draw>) -> Pass {
        let routes = match self.trained {
            Trained::Weights => Routes::default(),
            Trained::Adapter(adapter) => Routes { draw, ..Routes::all(adapter) },
        };
        let activations = match (draw, self.recompute) {
            (Some(_), Recompute::Blocks) => Activations::Recomputed,
            _ => Activations::Kept,
        };
        let dropout = draw.filter(|_| self.dropout > 0.0).map(|draw| Dropout { probability: self.dropout, draw });
        let hidden = Some(self.cache).filter(|&dtype| dtype != DType::F32);
        Pass { cache: self.cache, hidden, routes, activations, dropout }
    }

    /// Takes the weights out of the model, so that a step can be made in place.
    fn let_go(&mut self) -> Result<()> {
        visit(&mut *self.model, self.trained, &mut |_, weight| {
            *weight = nothing(weight)?;
            Ok(())
        })
    }
}

/// The sum of the cross-entropies of a batch, `f32[1]`, with these weights.
fn forward(model: &mut dyn Model, trained: Trained, weights: &[Tensor], inputs: Inputs) -> Result<Tensor> {
    put(model, trained, weights)?;
    let Inputs { batch, mut cache, targets } = inputs;
    Ok(model.cross_entropy(&batch, &mut cache, &targets)?.sum_axis(0)?)
}

/// Puts weights into the model, in the order in which it shows them.
fn put(model: &mut dyn Model, trained: Trained, weights: &[Tensor]) -> Result<()> {
    let mut weights = weights.iter();
    visit(model, trained, &mut |_, weight| {
        if let Some(next) = weights.next() {
            *weight = next.clone();
        }
        Ok(())
    })
}

/// Shows each weight that is trained.
fn visit(model: &mut dyn Model, trained: Trained, see: &mut dyn FnMut(&str, &mut Tensor) -> Result<()>) -> Result<()> {
    let mut result = Ok(());
    let mut look = |name: &str, weight: &mut Tensor| {
        if result.is_ok() {
            result = see(name, weight);
        }
    };
    model.visit(&mut match trained {
        Trained::Weights => Visitor::weights(&mut look),
        Trained::Adapter(adapter) => Visitor::adapter(adapter, &mut look),
    });
    result
}

/// What stands where a weight was.
fn nothing(weight: &Tensor) -> Result<Tensor> {
    Ok(Tensor::full(weight.device(), [0], weight.dtype(), 0.0)?)
}

/// The one element of a loss.
fn first(loss: &Tensor) -> Result<f32> {
    Ok(loss.to_vec::<f32>()?.first().copied().unwrap_or(f32::NAN))
}
