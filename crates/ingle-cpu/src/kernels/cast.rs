// SPDX-License-Identifier: EUPL-1.2
//! Conversion between dtypes.

use ingle_tensor::{DType, Result};

use super::{BLOCK, Context, Narrow, Pieces, Reader};
use crate::number::{Convert, Float, Integer, with_float_or_integer, with_number};
use crate::storage::CpuStorage;

/// [`ingle_tensor::Op::Cast`].
pub(crate) fn cast(cx: &Context, storage: CpuStorage, dtype: DType) -> Result<CpuStorage> {
    if storage.dtype() == dtype {
        return Ok(storage);
    }
    if dtype == DType::BF16
        && let Some(rounded) = storage.known_rounded()
    {
        return Ok(rounded);
    }
    convert(cx, storage, dtype)
}

/// The elements in another dtype, in memory of their own.
pub(crate) fn convert(cx: &Context, storage: CpuStorage, dtype: DType) -> Result<CpuStorage> {
    with_float_or_integer!(storage.dtype(),
        From => with_float_or_integer!(dtype,
            To => from_float::<From, To>(cx, &storage, |from, to| cx.isa.dispatch(Narrow { from, to })),
            To => from_float::<From, To>(cx, &storage, To::from_f32_all)),
        From => with_number!(dtype, To => from_integer::<From, To>(cx, &storage)))
}

const WORK: Pieces = Pieces { size: BLOCK, cost: 1 };

fn from_float<From: Float, To: Convert>(
    cx: &Context,
    storage: &CpuStorage,
    convert: impl Fn(&[f32], &mut [To]) + Sync,
) -> Result<CpuStorage> {
    let shape = storage.layout().shape();
    let reader = Reader::<From>::new(cx, storage, shape);
    cx.make::<To>(shape, |out| {
        cx.pieces("cast", out, WORK, |piece, out| {
            let mut scratch = [0.0; BLOCK];
            convert(reader.block(piece * BLOCK, &mut scratch, out.len()), out);
        })
    })
}

fn from_integer<From: Integer, To: Convert>(cx: &Context, storage: &CpuStorage) -> Result<CpuStorage> {
    let shape = storage.layout().shape();
    let reader = Reader::<From>::new(cx, storage, shape);
    cx.make::<To>(shape, |out| {
        cx.pieces("cast", out, WORK, |piece, out| {
            let mut scratch = [From::default(); BLOCK];
            let from = reader.block(piece * BLOCK, &mut scratch, out.len());
            for (to, from) in out.iter_mut().zip(from) {
                *to = To::from_i64((*from).into());
            }
        })
    })
}
