// SPDX-License-Identifier: EUPL-1.2
//! Weights of a model that begins.

use std::cell::Cell;

use half::{bf16, f16};
use ingle_tensor::{DType, DeviceHandle, Shape, Tensor};

use super::Loaded;
use crate::checkpoint::join;
use crate::random::{normal, stream};
use crate::{Error, Result};

/// The numbers with which a new model begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Initialisation {
    /// Another seed gives other numbers.
    pub seed: u64,
    /// Of the normal distribution that matrices are drawn from; its mean is 0.
    pub standard_deviation: f64,
    /// Of all weights: a float.
    pub dtype: DType,
}

/// Makes weights. A matrix depends on its name and the seed, not on which were made before.
pub(super) struct Initialiser {
    device: DeviceHandle,
    initialisation: Initialisation,
    made: Cell<Loaded>,
}

impl Initialiser {
    pub fn new(device: &DeviceHandle, initialisation: Initialisation) -> Self {
        Initialiser { device: device.clone(), initialisation, made: Cell::default() }
    }

    pub fn device(&self) -> &DeviceHandle {
        &self.device
    }

    pub fn made(&self) -> Loaded {
        self.made.get()
    }

    pub fn constant(&self, shape: Shape, value: f64) -> Result<Tensor> {
        Ok(self.count(Tensor::full(&self.device, shape, self.initialisation.dtype, value)?))
    }

    pub fn matrix(&self, layer: &str, [rows, columns]: [usize; 2]) -> Result<Tensor> {
        let Initialisation { seed, standard_deviation, dtype } = self.initialisation;
        let shape = [rows, columns];
        let refused = || ingle_tensor::Error::Shape {
            op: "initialise",
            expected: "a matrix that memory can hold".into(),
            found: Shape::from(shape).to_string(),
        };
        let count = rows.checked_mul(columns).ok_or_else(refused)?;
        let numbers = normal(seed, stream(&join(layer, "weight")), count).map(|x| x * standard_deviation as f32);
        // A narrow matrix is never a wide one first.
        let tensor = match dtype {
            DType::F16 => Tensor::from_slice(&self.device, &numbers.map(f16::from_f32).collect::<Vec<_>>(), shape),
            DType::BF16 => Tensor::from_slice(&self.device, &numbers.map(bf16::from_f32).collect::<Vec<_>>(), shape),
            _ => Tensor::from_slice(&self.device, &numbers.collect::<Vec<_>>(), shape),
        };
        let tensor = tensor.map_err(Error::from)?;
        Ok(self.count(tensor))
    }

    fn count(&self, tensor: Tensor) -> Tensor {
        let Loaded { parameters, bytes } = self.made.get();
        let (more, wider) = (tensor.shape().elements(), tensor.spec().bytes());
        self.made.set(Loaded { parameters: parameters + more, bytes: bytes + wider });
        tensor
    }
}
