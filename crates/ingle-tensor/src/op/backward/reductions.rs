// SPDX-License-Identifier: EUPL-1.2
//! Rules of the reductions.

use super::in_f32;
use crate::{DType, Result, Tensor};

/// The largest elements share the gradient equally.
pub(super) fn max(g: &Tensor, x: &Tensor, y: &Tensor, axis: usize) -> Result<Tensor> {
    let largest = x.equal(y)?.cast(DType::F32)?;
    let share = largest.div(&largest.sum_axis(axis)?)?;
    in_f32([g], x.dtype(), |[g]| g.mul(&share))
}
