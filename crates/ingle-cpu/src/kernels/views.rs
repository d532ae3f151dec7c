// SPDX-License-Identifier: EUPL-1.2
//! Layout operations: views where strides can say it, copies where not; and the creation of tensors.

use ingle_tensor::{DType, Element, Result, Shape, Spec};

#[cfg(target_arch = "x86_64")]
use super::gemm;
use super::{BLOCK, Context, Pieces, contiguous, elements_mut};
use crate::layout::{Layout, Run, Runs};
use crate::memory::Contents;
use crate::number::{Convert, with_number};
#[cfg(target_arch = "x86_64")]
use crate::packed::Packing;
use crate::storage::CpuStorage;

/// [`ingle_tensor::Op::Full`].
pub(crate) fn full(cx: &Context, spec: &Spec, value: f64) -> Result<CpuStorage> {
    with_number!(spec.dtype, T => {
        let value = <T as Convert>::from_f64(value);
        let layout = Layout::contiguous(&spec.shape);
        if bytemuck::bytes_of(&value).iter().all(|&byte| byte == 0) {
            let buffer = cx.buffer::<T>(spec.shape.elements(), Contents::Zeros)?;
            return Ok(CpuStorage::new(buffer, layout, spec.dtype));
        }
        cx.make::<T>(&spec.shape, |out| {
            cx.pieces("full", out, Pieces { size: BLOCK, cost: 1 }, |_, piece| piece.fill(value))
        })
    })
}

/// [`ingle_tensor::Op::Arange`].
pub(crate) fn arange(cx: &Context, shape: &Shape) -> Result<CpuStorage> {
    cx.make::<i32>(shape, |out| {
        for (out, value) in out.iter_mut().zip(0..) {
            *out = value;
        }
        Ok(())
    })
}

/// [`ingle_tensor::Op::Permute`]. The transpose of a weight in pairs is a view of it, too.
pub(crate) fn permute(cx: &Context, x: CpuStorage, axes: &[usize]) -> Result<CpuStorage> {
    let layout = x.layout().permute(axes);
    #[cfg(target_arch = "x86_64")]
    if let Some(Packing::Pairs { .. }) = x.packing() {
        let turns = |from: &Layout, to: &Layout| from.is_contiguous() && gemm::is_transposed(to);
        if turns(x.layout(), &layout) || turns(&layout, x.layout()) {
            return Ok(x.view(layout));
        }
    }
    Ok(x.plain(cx)?.view(layout))
}

/// [`ingle_tensor::Op::Reshape`].
pub(crate) fn reshape(cx: &Context, storage: CpuStorage, shape: &Shape) -> Result<CpuStorage> {
    if let Some(layout) = storage.layout().reshape(shape) {
        return Ok(storage.view(layout));
    }
    let copy = contiguous(cx, storage)?;
    Ok(copy.view(Layout::contiguous(shape)))
}

/// The elements of any view, row-major in a buffer of their own.
pub(crate) fn copy(cx: &Context, storage: &CpuStorage) -> Result<CpuStorage> {
    let shape = storage.layout().shape().clone();
    // Only the width of the elements matters here.
    match storage.dtype().size() {
        1 => retyped::<u8>(cx, storage, &shape),
        2 => retyped::<half::f16>(cx, storage, &shape),
        4 => retyped::<u32>(cx, storage, &shape),
        _ => retyped::<i64>(cx, storage, &shape),
    }
}

fn retyped<T: Element>(cx: &Context, storage: &CpuStorage, shape: &Shape) -> Result<CpuStorage> {
    const SIZE: usize = 4 * BLOCK;
    let mut buffer = cx.buffer::<T>(shape.elements(), Contents::Anything)?;
    let from = storage.raw::<T>();
    let runs = storage.layout().runs();
    if let Some([rows, columns]) = runs.transposed() {
        let work = Pieces { size: TRANSPOSED_ROWS * columns, cost: 2 };
        cx.pieces("copy", elements_mut::<T>(&mut buffer), work, |piece, out| {
            let first = piece * TRANSPOSED_ROWS;
            if first % rows + TRANSPOSED_ROWS <= rows {
                // One run of the first row's elements, which are the first column of what was transposed.
                runs.walk(first * columns, columns, |run| transpose(&from[run.start..], run, out));
            } else {
                copy_runs(from, &runs, first * columns, out);
            }
        })?;
        return Ok(CpuStorage::new(buffer, Layout::contiguous(shape), storage.dtype()));
    }
    cx.pieces("copy", elements_mut::<T>(&mut buffer), Pieces { size: SIZE, cost: 2 }, |piece, out| {
        copy_runs(from, &runs, piece * SIZE, out);
    })?;
    Ok(CpuStorage::new(buffer, Layout::contiguous(shape), storage.dtype()))
}

/// Rows of a transposed matrix that are written together: their elements lie side by side where they are read.
const TRANSPOSED_ROWS: usize = 16;

/// Writes [`TRANSPOSED_ROWS`] rows of the transpose, of which `run` is the first.
fn transpose<T: Element>(from: &[T], run: Run, out: &mut [T]) {
    let columns = run.len;
    for (column, from) in from.chunks(run.stride).take(columns).enumerate() {
        for (row, element) in from[..TRANSPOSED_ROWS].iter().enumerate() {
            out[row * columns + column] = *element;
        }
    }
}

/// Copies elements of a view, from `first` on, as many as `out` holds.
pub(super) fn copy_runs<T: Element>(from: &[T], runs: &Runs, first: usize, out: &mut [T]) {
    let mut done = 0;
    runs.walk(first, out.len(), |run| {
        let out = &mut out[done..done + run.len];
        match run.stride {
            1 => out.copy_from_slice(&from[run.start..run.start + run.len]),
            0 => out.fill(from[run.start]),
            stride => {
                for (to, from) in out.iter_mut().zip(from[run.start..].iter().step_by(stride)) {
                    *to = *from;
                }
            }
        }
        done += run.len;
    });
}

/// [`ingle_tensor::Op::Concat`].
pub(crate) fn concat(cx: &Context, parts: &[CpuStorage], axis: usize, output: &Spec) -> Result<CpuStorage> {
    match output.dtype.size() {
        1 => concat_as::<u8>(cx, parts, axis, output),
        2 => concat_as::<half::f16>(cx, parts, axis, output),
        4 => concat_as::<u32>(cx, parts, axis, output),
        _ => concat_as::<i64>(cx, parts, axis, output),
    }
}

fn concat_as<T: Element>(cx: &Context, parts: &[CpuStorage], axis: usize, output: &Spec) -> Result<CpuStorage> {
    let mut buffer = cx.buffer::<T>(output.shape.elements(), Contents::Anything)?;
    // Everything inside one index of the axes before `axis` lies together, in the parts as in the result.
    let width = |shape: &Shape| shape[axis..].iter().product::<usize>();
    let parts: Vec<_> = parts
        .iter()
        .map(|part| (part.raw::<T>(), part.layout().runs(), width(part.layout().shape())))
        .filter(|(_, _, width)| *width > 0)
        .collect();
    let work = Pieces { size: width(&output.shape), cost: 2 };
    cx.pieces("concat", elements_mut::<T>(&mut buffer), work, |row, out| {
        let mut done = 0;
        for (from, runs, width) in &parts {
            copy_runs(from, runs, row * width, &mut out[done..done + width]);
            done += width;
        }
    })?;
    Ok(CpuStorage::new(buffer, Layout::contiguous(&output.shape), output.dtype))
}

/// The elements as row-major bytes.
pub(crate) fn bytes(cx: &Context, storage: CpuStorage) -> Result<Vec<u8>> {
    fn packed<T: Element>(storage: &CpuStorage) -> Vec<u8> {
        storage.contiguous::<T>().map_or_else(Vec::new, |elements| bytemuck::cast_slice(elements).to_vec())
    }
    let storage = contiguous(cx, storage)?;
    Ok(match storage.dtype() {
        DType::F32 => packed::<f32>(&storage),
        DType::F16 => packed::<half::f16>(&storage),
        DType::BF16 => packed::<half::bf16>(&storage),
        DType::U8 => packed::<u8>(&storage),
        DType::I8 => packed::<i8>(&storage),
        DType::I32 => packed::<i32>(&storage),
        DType::U32 => packed::<u32>(&storage),
        DType::I64 => packed::<i64>(&storage),
    })
}
