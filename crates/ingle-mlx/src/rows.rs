// SPDX-License-Identifier: EUPL-1.2
//! Rows taken and written by number.

use std::sync::Arc;

use ingle_tensor::{Error, Result, Spec};

use crate::array::{Array, int};
use crate::bridge;
use crate::layout;
use crate::storage::{Form, MlxStorage, narrowed};

/// That each number of an index is a row of a table of `len` rows. MLX itself would not notice one outside.
///
/// # Errors
/// [`Error::Index`] for a number outside.
pub(crate) fn check(op: &'static str, index: &[i32], len: usize) -> Result<()> {
    let outside = |row: &&i32| !usize::try_from(**row).is_ok_and(|row| row < len);
    match index.iter().find(outside) {
        None => Ok(()),
        Some(&row) => Err(Error::Index { op, index: row.into(), len }),
    }
}

/// That each target is a class, or negative for none.
///
/// # Errors
/// [`Error::Index`] for one past the classes.
pub(crate) fn check_targets(op: &'static str, targets: &[i32], classes: usize) -> Result<()> {
    match targets.iter().find(|&&target| usize::try_from(target).is_ok_and(|target| target >= classes)) {
        None => Ok(()),
        Some(&target) => Err(Error::Index { op, index: target.into(), len: classes }),
    }
}

/// The first of numbers that follow each other.
fn run(index: &[i32]) -> Option<i32> {
    let first = *index.first()?;
    index.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)).then_some(first)
}

/// The rows of a table that a checked index names; at least one.
pub(crate) fn take(op: &'static str, (table, spec): (MlxStorage, &Spec), index: &Array) -> Result<Array> {
    let taken = |table: &Array| Array::new(op, bridge::take(table.get(), index.get()));
    match table.form {
        Form::Dense(table) => taken(&table),
        Form::Turned(table) => narrowed(op, &taken(&layout::permute(op, &table, &[1, 0])?)?, spec.dtype),
        Form::Affine(affine) => MlxStorage::new(Form::Affine(affine.rows(op, index)?)).plain(op, spec.dtype),
    }
}

/// Rows as 8-bit integers, each with its scale behind it.
pub(crate) fn quantize(op: &'static str, (x, spec): (&Array, &Spec), output: &Spec) -> Result<Array> {
    // Of a row of nothing the scale is 0; MLX knows no maximum of it.
    match spec.shape.elements() {
        0 => layout::full(op, output, 0.0),
        _ => Array::new(op, bridge::quantize_rows(x.get())),
    }
}

/// The floats that such rows stand for; at least one.
pub(crate) fn dequantize(op: &'static str, x: &Array) -> Result<Array> {
    Array::new(op, bridge::dequantize_rows(x.get()))
}

/// Sums of the rows that a checked index gives the same number.
pub(crate) fn add(
    op: &'static str,
    rows: &Array,
    (index, numbers): (&Array, &Arc<[i32]>),
    output: &Spec,
) -> Result<Array> {
    let count = output.shape[0];
    check(op, numbers, count)?;
    match (output.shape.elements(), numbers.is_empty()) {
        (0, _) => layout::empty(op, output),
        (_, true) => layout::full(op, output, 0.0),
        (_, false) => Array::new(op, bridge::add_rows(rows.get(), index.get(), int(op, count)?)),
    }
}

/// A target with the rows that a checked index names replaced. The target is given away: if this was its last
/// handle, MLX writes in place.
pub(crate) fn write(
    op: &'static str,
    (target, spec): (Array, &Spec),
    rows: &Array,
    (index, numbers): (&Array, &Arc<[i32]>),
) -> Result<Array> {
    check(op, numbers, spec.shape[0])?;
    if spec.shape.elements() == 0 || numbers.is_empty() {
        return Ok(target);
    }
    let written = match run(numbers) {
        Some(first) => bridge::overwrite(target.get(), rows.get(), first),
        None => bridge::scatter(target.get(), index.get(), rows.get()),
    };
    Array::new(op, written)
}
