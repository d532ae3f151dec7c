// SPDX-License-Identifier: EUPL-1.2
//! Rules of the products of matrices.

use super::{Gradients, Saved, sum_to};
use crate::{Result, Spec, Tensor};

/// The last two axes exchanged.
fn transposed(x: &Tensor) -> Result<Tensor> {
    let rank = x.shape().len();
    let mut axes: Vec<usize> = (0..rank).collect();
    axes.swap(rank - 2, rank - 1);
    x.permute(&axes)
}

/// `C = A·B`: `dA = dC·Bᵀ` and `dB = Aᵀ·dC`, summed where the leading axes were stretched.
pub(super) fn matmul(saved: &Saved) -> Result<Gradients> {
    let [a, b] = &saved.inputs[..] else { return Ok(vec![]) };
    let of_a = saved.of(0, |g| sum_to(&g.matmul(&transposed(b)?)?, a.spec()))?;
    let of_b = saved.of(1, |g| sum_to(&transposed(a)?.matmul(g)?, b.spec()))?;
    Ok(vec![of_a, of_b])
}

/// `y = x·Wᵀ + b`: `dx = dy·W`, `dW = dyᵀ·x`, `db = Σ dy`.
pub(super) fn linear(saved: &Saved) -> Result<Gradients> {
    let (x, weight) = (&saved.inputs[0], &saved.inputs[1]);
    let (n, k) = (weight.shape()[0], weight.shape()[1]);
    let tokens: usize = x.shape()[..x.shape().len() - 1].iter().product();
    let of_x = saved.of(0, |g| g.linear(&transposed(weight)?, None))?;
    let of_weight = saved.of(1, |g| {
        // Rounded to the weight's dtype, as `x` met the weight; what they give is rounded once.
        let rounded = |x: &Tensor, width: usize| transposed(&x.reshape([tokens, width])?.cast(weight.dtype())?);
        rounded(g, n)?.linear(&rounded(x, k)?, None)
    })?;
    let Some(bias) = saved.inputs.get(2) else { return Ok(vec![of_x, of_weight]) };
    let of_bias = saved.of(2, |g| sum_to(&g.reshape([tokens, n])?, &Spec::new([n], bias.dtype())))?;
    Ok(vec![of_x, of_weight, of_bias])
}
