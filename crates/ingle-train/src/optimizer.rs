// SPDX-License-Identifier: EUPL-1.2
//! Optimisers, and what they keep of a parameter.

use ingle_tensor::{Adam, DType, Momentum, Op, Sgd, Tensor, WeightDecay};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How weights follow their gradients. The defaults and the results are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Loshchilov & Hutter 2019.
    AdamW(AdamOptions),
    /// Kingma & Ba 2015; the weight decay is added to the gradient.
    Adam(AdamOptions),
    /// Gradient descent, with or without momentum.
    Sgd(SgdOptions),
}

/// Parameters of [`Optimizer::AdamW`] and [`Optimizer::Adam`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamOptions {
    /// How much of the gradient's running mean stays.
    pub beta1: f64,
    /// How much of the running mean of its square stays.
    pub beta2: f64,
    /// Added to the divisor.
    pub eps: f64,
    /// How strongly weights are pulled towards zero.
    pub weight_decay: f64,
}

/// Parameters of [`Optimizer::Sgd`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SgdOptions {
    /// How much of the momentum stays; none is kept at 0.
    pub momentum: f64,
    /// Where the gradient is followed from.
    pub lookahead: Lookahead,
    /// How strongly weights are pulled towards zero.
    pub weight_decay: f64,
}

/// Where momentum looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lookahead {
    /// From where it is.
    #[default]
    None,
    /// From where it is about to be (Nesterov 1983).
    Nesterov,
}

impl Default for AdamOptions {
    fn default() -> Self {
        AdamOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Optimizer::AdamW(AdamOptions::default())
    }
}

impl Optimizer {
    /// The step as an operation. Weight decay is for matrices: pulling the weight of a norm or a bias towards zero
    /// regularises nothing.
    fn op(&self, rank: usize) -> Op {
        let decay = |decay: f64| if rank >= 2 { decay } else { 0.0 };
        let adam = |options: &AdamOptions, weight_decay| {
            let AdamOptions { beta1, beta2, eps, .. } = *options;
            Op::Adam(Adam { beta1, beta2, eps, weight_decay })
        };
        match self {
            Optimizer::AdamW(options) => adam(options, WeightDecay::Decoupled(decay(options.weight_decay))),
            Optimizer::Adam(options) => adam(options, WeightDecay::Gradient(decay(options.weight_decay))),
            Optimizer::Sgd(options) => {
                Op::Sgd(Sgd { momentum: options.momentum(), weight_decay: decay(options.weight_decay) })
            }
        }
    }

    /// Rows of a parameter's state.
    pub(crate) fn state_rows(&self) -> usize {
        match self {
            Optimizer::AdamW(_) | Optimizer::Adam(_) => 3,
            Optimizer::Sgd(options) => options.momentum().state_rows(),
        }
    }

    /// What changes from step to step, in the order in which the operation reads it: of step `step`, from 1.
    pub(crate) fn rates(&self, step: u64, learning_rate: f64, factor: f64) -> Vec<f32> {
        // In f64: 1 − β₂ᵗ cancels at first.
        let rates = match self {
            Optimizer::AdamW(AdamOptions { beta1, beta2, .. }) | Optimizer::Adam(AdamOptions { beta1, beta2, .. }) => {
                let unbias = |beta: f64| 1.0 - beta.powf(step as f64);
                vec![learning_rate, unbias(*beta1), unbias(*beta2), factor]
            }
            Optimizer::Sgd(_) => vec![learning_rate, factor],
        };
        rates.into_iter().map(|rate| rate as f32).collect()
    }

    /// Refuses what does not converge whatever the data.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |option, value: f64, most: f64| match (0.0..most).contains(&value) {
            true => Ok(()),
            false if most == f64::INFINITY => Err(Error::option(option, "a number of at least 0", value)),
            false => Err(Error::option(option, format!("a number from 0 and below {most}"), value)),
        };
        match self {
            Optimizer::AdamW(options) | Optimizer::Adam(options) => {
                within("beta1", options.beta1, 1.0)?;
                within("beta2", options.beta2, 1.0)?;
                within("eps", options.eps, f64::INFINITY)?;
                within("weight decay", options.weight_decay, f64::INFINITY)
            }
            Optimizer::Sgd(options) => {
                within("momentum", options.momentum, 1.0)?;
                within("weight decay", options.weight_decay, f64::INFINITY)
            }
        }
    }
}

impl SgdOptions {
    fn momentum(&self) -> Momentum {
        match self.lookahead {
            _ if self.momentum == 0.0 => Momentum::None,
            Lookahead::None => Momentum::Heavy(self.momentum),
            Lookahead::Nesterov => Momentum::Nesterov(self.momentum),
        }
    }
}

/// A weight that learns: its exact value and what the optimiser remembers of it, in f32.
///
/// Each parameter has a state of its own rather than a part of one for all: no gradient is copied to lie beside the
/// others, each is freed as soon as it was used, and a checkpoint has them by name.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    dtype: DType,
    /// `f32[rows, …]`, the weights first. Taken out while it is donated to a step.
    state: Option<Tensor>,
}

impl Parameter {
    /// A parameter that begins as `weight`, and is computed with in its dtype.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn new(name: &str, weight: &Tensor, optimizer: &Optimizer) -> Result<Self> {
        let shape = weight.shape();
        let first = weight.detach().cast(DType::F32)?.reshape([&[1], &**shape].concat())?;
        let rest = [&[optimizer.state_rows() - 1], &**shape].concat();
        let rest = Tensor::full(weight.device(), rest, DType::F32, 0.0)?;
        let state = Tensor::concat(&[first, rest], 0)?;
        Ok(Parameter { name: name.to_owned(), dtype: weight.dtype(), state: Some(state) })
    }

    /// As checkpoints call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The weight as it is computed with. While it is held, a step cannot be made in place.
    ///
    /// # Errors
    /// Past the device's memory; [`Error::Option`] after a step that failed.
    pub fn weight(&self) -> Result<Tensor> {
        let state = self.state()?;
        Ok(state.slice(0, 0, 1)?.reshape(&state.shape()[1..])?.cast(self.dtype)?)
    }

    /// The exact weights and what the optimiser remembers, `f32[rows, …]`.
    ///
    /// # Errors
    /// [`Error::Option`] after a step that failed.
    pub fn state(&self) -> Result<&Tensor> {
        self.state.as_ref().ok_or_else(|| self.lost())
    }

    /// Goes on from another state of the same shape.
    ///
    /// # Errors
    /// [`Error::Option`] if its shape or dtype is another.
    pub fn restore(&mut self, state: Tensor) -> Result<()> {
        let own = self.state()?.spec();
        if own != state.spec() {
            return Err(Error::option("optimiser state", format!("{own} for `{}`", self.name), state.spec()));
        }
        self.state = Some(state);
        Ok(())
    }

    /// One step along `gradient`.
    ///
    /// # Errors
    /// Those of the operation; the state is lost then.
    pub(crate) fn step(&mut self, optimizer: &Optimizer, gradient: Tensor, rates: &Tensor) -> Result<()> {
        let state = self.state.take().ok_or_else(|| self.lost())?;
        let op = optimizer.op(gradient.shape().len());
        self.state = Some(Tensor::apply(&op, vec![state, gradient, rates.clone()])?);
        Ok(())
    }

    fn lost(&self) -> Error {
        let found = "none, for an earlier step has failed; go on from the last checkpoint";
        Error::option("optimiser state", format!("one of `{}`", self.name), found)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use ingle_cpu::{CpuDevice, CpuOptions};
    use ingle_tensor::DeviceHandle;

    use super::*;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/training/optimizers.json");

    fn cpu() -> DeviceHandle {
        Arc::new(CpuDevice::new(CpuOptions::default()).unwrap())
    }

    /// As in `scripts/fixtures/make_training.py`.
    fn gradient(device: &DeviceHandle, t: usize) -> Tensor {
        let numbers: Vec<f32> = (0..24).map(|i| ((i * 7919 + t * 104_729) % 10_007) as f32 / 10_007.0 - 0.5).collect();
        Tensor::from_slice(device, &numbers, [4, 6]).unwrap()
    }

    fn optimizer(name: &str) -> (Optimizer, f64) {
        let sgd = |momentum, lookahead| Optimizer::Sgd(SgdOptions { momentum, lookahead, weight_decay: 0.01 });
        match name {
            "adamw" => (Optimizer::AdamW(AdamOptions { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: 0.1 }), 0.01),
            "adam" => (Optimizer::Adam(AdamOptions { beta1: 0.9, beta2: 0.999, eps: 1e-6, weight_decay: 0.05 }), 0.01),
            "sgd" => (sgd(0.0, Lookahead::None), 0.05),
            "momentum" => (sgd(0.9, Lookahead::None), 0.05),
            "nesterov" => (sgd(0.9, Lookahead::Nesterov), 0.05),
            other => panic!("no optimiser {other}"),
        }
    }

    #[test]
    fn a_hundred_steps_are_pytorchs_good() {
        let device = cpu();
        let wanted: BTreeMap<String, BTreeMap<u64, Vec<f32>>> =
            serde_json::from_slice(&std::fs::read(FIXTURE).unwrap()).unwrap();
        assert_eq!(wanted.len(), 5);
        for (name, steps) in wanted {
            let (optimizer, rate) = optimizer(&name);
            let first = gradient(&device, 1000).scale(4.0).unwrap();
            let mut parameter = Parameter::new("weight", &first, &optimizer).unwrap();
            for t in 1..=100 {
                let rates = optimizer.rates(t, rate, 1.0);
                let rates = Tensor::from_slice(&device, &rates, [rates.len()]).unwrap();
                parameter.step(&optimizer, gradient(&device, t as usize), &rates).unwrap();
                let Some(wanted) = steps.get(&t) else { continue };
                let found = parameter.weight().unwrap().to_vec::<f32>().unwrap();
                for (found, wanted) in found.iter().zip(wanted) {
                    assert!((found - wanted).abs() <= 3e-6, "{name}, step {t}: {found} and not {wanted}");
                }
            }
        }
    }

    #[test]
    fn a_step_is_in_place_good() {
        let device = cpu();
        let optimizer = Optimizer::default();
        let weight = Tensor::full(&device, [1000, 1000], DType::F32, 1.0).unwrap();
        let mut parameter = Parameter::new("weight", &weight, &optimizer).unwrap();
        let gradient = weight.neg().unwrap();
        let rates = optimizer.rates(1, 0.1, 1.0);
        let rates = Tensor::from_slice(&device, &rates, [4]).unwrap();
        device.reset_peak_memory();
        let before = device.memory().active;
        parameter.step(&optimizer, gradient, &rates).unwrap();
        assert!(device.memory().peak < before + 100_000, "{:?}, {before} before", device.memory());
        assert!((parameter.weight().unwrap().to_vec::<f32>().unwrap()[0] - 1.099).abs() < 1e-3);
    }

    #[test]
    fn half_width_weights_have_exact_masters_good() {
        let device = cpu();
        let optimizer = Optimizer::Sgd(SgdOptions::default());
        let weight = Tensor::full(&device, [2, 2], DType::BF16, 1.0).unwrap();
        let mut parameter = Parameter::new("weight", &weight, &optimizer).unwrap();
        let gradient = Tensor::full(&device, [2, 2], DType::BF16, 1.0).unwrap();
        let rates = Tensor::from_slice(&device, &[0.001f32, 1.0], [2]).unwrap();
        for _ in 0..10 {
            parameter.step(&optimizer, gradient.clone(), &rates).unwrap();
        }
        // A step of a thousandth is less than half an ulp of bf16, ten of them are more.
        assert_eq!(parameter.weight().unwrap().dtype(), DType::BF16);
        assert_eq!(parameter.weight().unwrap().to_f32_vec().unwrap(), [0.988_281_25; 4]);
    }

    #[test]
    fn options_that_diverge_bad() {
        let adam = |change: fn(&mut AdamOptions)| {
            let mut options = AdamOptions::default();
            change(&mut options);
            Optimizer::Adam(options).check().unwrap_err().to_string()
        };
        assert_eq!(adam(|options| options.beta1 = 1.0), "beta1: expected a number from 0 and below 1, found 1");
        assert_eq!(adam(|options| options.eps = -1.0), "eps: expected a number of at least 0, found -1");
        let sgd = Optimizer::Sgd(SgdOptions { momentum: f64::NAN, ..SgdOptions::default() });
        assert!(sgd.check().is_err());
    }

    #[test]
    fn a_state_of_another_shape_bad() {
        let device = cpu();
        let optimizer = Optimizer::default();
        let weight = Tensor::full(&device, [2, 3], DType::F32, 1.0).unwrap();
        let mut parameter = Parameter::new("w", &weight, &optimizer).unwrap();
        let refused = parameter.restore(weight).unwrap_err().to_string();
        assert_eq!(refused, "optimiser state: expected f32[3, 2, 3] for `w`, found f32[2, 3]");
    }
}
