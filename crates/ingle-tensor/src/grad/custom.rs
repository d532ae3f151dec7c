// SPDX-License-Identifier: EUPL-1.2
//! Functions whose way back their author knows better.

use std::sync::Arc;

use super::node::{Node, needs};
use crate::{Result, Tensor};

/// Pulls a cotangent of a function's result back to its inputs, in their order; none for one whose gradient is zero
/// or was not asked for.
pub type Pull = Box<dyn Fn(&Tensor) -> Result<Vec<Option<Tensor>>> + Send + Sync>;

/// What a function with a way back of its own gives: the result, and what pulls its cotangent back.
pub struct Custom {
    /// The result.
    pub value: Tensor,
    /// The way back. It may hold what it needs; that is freed when it has been used.
    pub pull: Pull,
}

impl std::fmt::Debug for Custom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Custom").field("value", &self.value).finish_non_exhaustive()
    }
}

/// Runs `f` on `inputs`, and goes back by the rule that it gives rather than through what it computed: for what is
/// cheaper to go back from in one step than in many. `f` is also told by which of its inputs one differentiates.
///
/// The result has no second derivative. Nothing but `inputs` is differentiated by, whatever `f` captures.
///
/// # Errors
/// Those of `f`; on the way back those of its rule, and [`crate::Error::NoDerivative`] in a derivative of higher order.
///
/// ```
/// # #[cfg(not(feature = "conformance"))] fn main() {}
/// # #[cfg(feature = "conformance")] fn main() -> Result<(), ingle_tensor::Error> {
/// use std::sync::Arc;
///
/// use ingle_tensor::conformance::Reference; // any device
/// use ingle_tensor::grad::{self, Custom};
/// use ingle_tensor::{DeviceHandle, Error, Tensor};
///
/// // The square, of which only the slope is kept.
/// let device: DeviceHandle = Arc::new(Reference::new());
/// let square = |x: &[Tensor], _wanted: &[bool]| {
///     let slope = x[0].scale(2.0)?;
///     Ok::<_, Error>(Custom { value: x[0].mul(&x[0])?, pull: Box::new(move |g| Ok(vec![Some(g.mul(&slope)?)])) })
/// };
/// let x = Tensor::from_slice(&device, &[3f32], [1])?;
/// let (_, gradients) = grad::value_and_grad(|x| grad::custom_vjp(square, x), &[x])?;
/// assert_eq!(gradients[0].to_vec::<f32>()?, [6.0]);
/// # Ok(()) }
/// ```
pub fn custom_vjp<E>(f: impl FnOnce(&[Tensor], &[bool]) -> Result<Custom, E>, inputs: &[Tensor]) -> Result<Tensor, E> {
    let wanted = needs(inputs);
    let detached: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    let Custom { value, pull } = f(&detached, &wanted)?;
    let value = value.into_detached();
    if !wanted.contains(&true) {
        return Ok(value);
    }
    let node = Node::custom(pull, value.spec().clone(), inputs.iter().map(Tensor::hollow).collect());
    Ok(value.with_node(Arc::new(node)))
}
