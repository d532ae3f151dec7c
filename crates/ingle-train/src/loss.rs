// SPDX-License-Identifier: EUPL-1.2
//! Losses.

use ingle_tensor::{DType, Shape, Tensor};

use crate::Result;

/// The mean cross-entropy of `logits [T, V]` and `targets i32[T]`, in nats, as `f32[]`. A negative target is masked:
/// it counts neither in the sum nor in what that is divided by. NaN if all are.
///
/// # Errors
/// Those of [`ingle_tensor::Op::CrossEntropy`].
///
/// ```
/// # use std::sync::Arc;
/// # use ingle_cpu::{CpuDevice, CpuOptions};
/// # use ingle_tensor::{DeviceHandle, Tensor};
/// # let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
/// let logits = Tensor::from_slice(&device, &[0f32, 0.0, 9.0, -9.0], [2, 2])?;
/// let masked = Tensor::from_slice(&device, &[0i32, -1], [2])?;
/// let loss = ingle_train::cross_entropy(&logits, &masked)?.to_vec::<f32>()?;
/// assert_eq!(loss, [std::f32::consts::LN_2]);
/// # Ok::<(), ingle_train::Error>(())
/// ```
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let zero = Tensor::full(targets.device(), Shape::default(), DType::I32, 0.0)?;
    let count = zero.less_equal(targets)?.cast(DType::F32)?.sum_axis(0)?;
    Ok(logits.cross_entropy(targets)?.sum_axis(0)?.div(&count)?.reshape(Shape::default())?)
}

/// The mean of the squared differences of two tensors of one shape and float dtype, as `f32[]`.
///
/// # Errors
/// Shapes or dtypes that differ.
pub fn mean_squared_error(found: &Tensor, wanted: &Tensor) -> Result<Tensor> {
    let elements = found.shape().elements();
    let off = found.cast(DType::F32)?.sub(&wanted.cast(DType::F32)?)?.reshape([elements])?;
    Ok(off.mul(&off)?.sum_axis(0)?.scale(1.0 / elements as f64)?.reshape(Shape::default())?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_cpu::{CpuDevice, CpuOptions};
    use ingle_tensor::{DeviceHandle, grad};

    use super::*;
    use crate::Error;

    fn cpu() -> DeviceHandle {
        Arc::new(CpuDevice::new(CpuOptions::default()).unwrap())
    }

    #[test]
    fn a_mean_of_what_is_not_masked_good() {
        let device = cpu();
        let logits = Tensor::from_slice(&device, &[1f32, 2.0, 3.0, 0.5, 0.5, 0.5, 4.0, -1.0, 0.0], [3, 3]).unwrap();
        let loss = |targets: [i32; 3]| {
            let targets = Tensor::from_slice(&device, &targets, [3]).unwrap();
            cross_entropy(&logits, &targets).unwrap().to_vec::<f32>().unwrap()[0]
        };
        let (first, second) = (loss([2, -1, -1]), loss([-1, 1, -1]));
        assert!((second - 3f32.ln()).abs() < 1e-6);
        assert!((loss([2, 1, -100]) - (first + second) / 2.0).abs() < 1e-6);
        assert!(loss([-1, -1, -1]).is_nan());
    }

    #[test]
    fn squares_and_their_gradient_good() {
        let device = cpu();
        let found = Tensor::from_slice(&device, &[1f32, 2.0, 4.0, 0.0], [2, 2]).unwrap();
        let wanted = Tensor::from_slice(&device, &[1f32, 0.0, 1.0, 1.0], [2, 2]).unwrap();
        let loss = |x: &[Tensor]| mean_squared_error(&x[0], &wanted);
        let (value, gradient) = grad::value_and_grad(loss, &[found]).unwrap();
        assert_eq!(value.to_vec::<f32>().unwrap(), [3.5]);
        assert_eq!(gradient[0].to_vec::<f32>().unwrap(), [0.0, 1.0, 1.5, -0.5]);
    }

    #[test]
    fn shapes_that_differ_bad() {
        let device = cpu();
        let full = |shape: [usize; 2]| Tensor::full(&device, shape, DType::F32, 1.0).unwrap();
        assert!(matches!(mean_squared_error(&full([2, 3]), &full([3, 2])), Err(Error::Engine(_))));
    }
}
