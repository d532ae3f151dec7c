// SPDX-License-Identifier: EUPL-1.2
//! Rows of a table by number: reading them and writing them.

use ingle_tensor::{DType, Element, Error, Result, Spec};

use super::{BLOCK, Context, Narrow, Pieces, Pointer, Widen, contiguous, elements_mut, views};
use crate::layout::Layout;
use crate::memory::Contents;
use crate::number::{Float, with_float};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// An index tensor's values, each checked against the length of the axis it points into.
fn checked(op: &'static str, index: &[i32], len: usize) -> Result<()> {
    match index.iter().find(|&&i| usize::try_from(i).map_or(true, |i| i >= len)) {
        Some(&index) => Err(Error::Index { op, index: index.into(), len }),
        None => Ok(()),
    }
}

/// The elements of a tensor that [`contiguous`] gave.
pub(super) fn packed<T: Element>(storage: &CpuStorage) -> &[T] {
    storage.contiguous().unwrap_or_default()
}

/// [`ingle_tensor::Op::TakeRows`].
pub(crate) fn take(cx: &Context, [table, index]: [CpuStorage; 2], output: &Spec) -> Result<CpuStorage> {
    let index = contiguous(cx, index)?;
    let index = packed::<i32>(&index);
    checked("take_rows", index, table.layout().shape()[0])?;
    if let Some(packing) = table.packing() {
        let rows: Vec<usize> = index.iter().map(|&row| row as usize).collect();
        let buffer = packing.rows(cx, table.bytes(), &rows, table.dtype())?;
        return Ok(CpuStorage::new(buffer, Layout::contiguous(&output.shape), output.dtype));
    }
    match table.dtype().size() {
        1 => take_as::<u8>(cx, table, index, output),
        2 => take_as::<half::f16>(cx, table, index, output),
        4 => take_as::<u32>(cx, table, index, output),
        _ => take_as::<i64>(cx, table, index, output),
    }
}

fn take_as<T: Element>(cx: &Context, table: CpuStorage, index: &[i32], output: &Spec) -> Result<CpuStorage> {
    let width: usize = output.shape[1..].iter().product();
    let mut buffer = cx.buffer::<T>(output.shape.elements(), Contents::Anything)?;
    let from = table.raw::<T>();
    // One row as a view: rows differ only in where they start.
    let row = table.layout().slice(0, 0, 1, 1.min(table.layout().shape()[0])).runs();
    let stride = table.layout().strides()[0];
    let rows = elements_mut::<T>(&mut buffer);
    cx.pieces("take_rows", rows, Pieces { size: width, cost: 1 }, |t, out| {
        views::copy_runs(from.get(index[t] as usize * stride..).unwrap_or_default(), &row, 0, out);
    })?;
    Ok(CpuStorage::new(buffer, Layout::contiguous(&output.shape), output.dtype))
}

/// [`ingle_tensor::Op::WriteRows`].
pub(crate) fn write(cx: &Context, [target, rows, index]: [CpuStorage; 3]) -> Result<CpuStorage> {
    let index = contiguous(cx, index)?;
    let index = packed::<i32>(&index);
    checked("write_rows", index, target.layout().shape()[0])?;
    let rows = contiguous(cx, rows)?;
    let (to, from) = (target.dtype(), rows.dtype());
    if (to, from) == (DType::I8, DType::I8) {
        return write_each::<i8, i8>(cx, target, &rows, index, <[i8]>::copy_from_slice);
    }
    with_float!("write_rows", to, To => with_float!("write_rows", from, From => {
        write_each::<To, From>(cx, target, &rows, index, |to, from| cx.isa.dispatch(Convert { from, to }))
    }))
}

/// Writes each row as `convert` makes it of the one given.
fn write_each<To: Element, From: Element>(
    cx: &Context,
    target: CpuStorage,
    rows: &CpuStorage,
    index: &[i32],
    convert: impl Fn(&mut [To], &[From]) + Sync,
) -> Result<CpuStorage> {
    let rows = packed::<From>(rows);
    let mut target = target;
    if target.donated::<To>().is_none() {
        target = views::copy(cx, &target)?;
    }
    let Some(out) = target.donated::<To>() else { return Ok(target) };
    let width = rows.len() / index.len().max(1);
    if width == 0 {
        return Ok(target);
    }
    let places = out.len() / width;
    if rows.len() < SEVERAL || !differ(index, places) {
        for (row, &i) in rows.chunks_exact(width).zip(index) {
            convert(&mut out[i as usize * width..][..width], row);
        }
        return Ok(target);
    }
    let start = Pointer(out.as_mut_ptr());
    let together = (SEVERAL / width).max(1);
    cx.parallel("write_rows", (index.len().div_ceil(together), rows.len()), |chunk| {
        let first = chunk * together;
        let index = &index[first..(first + together).min(index.len())];
        for (row, &i) in rows[first * width..].chunks_exact(width).zip(index) {
            // SAFETY: the indices were checked and found to differ, so that each place is one row's; the target
            // outlives the call.
            convert(unsafe { std::slice::from_raw_parts_mut(start.get().add(i as usize * width), width) }, row);
        }
    })?;
    Ok(target)
}

/// Elements from which on rows are written by several threads, each so many at a time.
const SEVERAL: usize = 32 << 10;

/// Whether numbers below `len` all differ.
fn differ(index: &[i32], len: usize) -> bool {
    let mut seen = vec![false; len];
    index.iter().all(|&i| !std::mem::replace(&mut seen[i as usize], true))
}

/// [`ingle_tensor::Op::AddRows`].
pub(crate) fn add(cx: &Context, [rows, index]: [CpuStorage; 2], output: &Spec) -> Result<CpuStorage> {
    let index = contiguous(cx, index)?;
    let index = packed::<i32>(&index);
    checked("add_rows", index, output.shape[0])?;
    let rows = contiguous(cx, rows)?;
    let dtype = rows.dtype();
    with_float!("add_rows", dtype, T => add_as::<T>(cx, &rows, index, output))
}

fn add_as<T: Float>(cx: &Context, rows: &CpuStorage, index: &[i32], output: &Spec) -> Result<CpuStorage> {
    let rows = packed::<T>(rows);
    let count = output.shape[0];
    let width: usize = output.shape[1..].iter().product();
    // The numbers of the rows for each place, in their order: those of place `i` are `order[starts[i]..starts[i + 1]]`.
    let mut starts = vec![0; count + 1];
    for &place in index {
        starts[place as usize + 1] += 1;
    }
    for place in 0..count {
        starts[place + 1] += starts[place];
    }
    let mut next = starts.clone();
    let mut order = vec![0; index.len()];
    for (t, &place) in index.iter().enumerate() {
        order[next[place as usize]] = t;
        next[place as usize] += 1;
    }
    let cost = 1 + index.len() / count.max(1);
    cx.make::<T>(&output.shape, |out| {
        cx.pieces("add_rows", out, Pieces { size: width, cost }, |place, out| {
            let (mut sums, mut scratch) = ([0.0; BLOCK], [0.0; BLOCK]);
            for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                let sums = &mut sums[..out.len()];
                sums.fill(0.0);
                for &t in &order[starts[place]..starts[place + 1]] {
                    let row = &rows[t * width + block * BLOCK..][..out.len()];
                    let wide = &mut scratch[..out.len()];
                    cx.isa.dispatch(Widen { from: row, to: &mut *wide });
                    for (sum, x) in sums.iter_mut().zip(wide) {
                        *sum += *x;
                    }
                }
                cx.isa.dispatch(Narrow { from: sums, to: out });
            }
        })
    })
}

/// Rounds a row of one float type to another.
struct Convert<'a, From, To> {
    from: &'a [From],
    to: &'a mut [To],
}

impl<From: Float, To: Float> Kernel for Convert<'_, From, To> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut scratch = [0.0; BLOCK];
        for (from, to) in self.from.chunks(BLOCK).zip(self.to.chunks_mut(BLOCK)) {
            match From::as_wide(from) {
                Some(wide) => To::narrow_all(wide, to),
                None => {
                    let wide = &mut scratch[..from.len()];
                    From::widen_all(from, wide);
                    To::narrow_all(wide, to);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ingle_tensor::Shape;

    use super::*;
    use crate::ahead::Order;
    use crate::memory::MemoryPool;
    use crate::pool::ThreadPool;
    use crate::simd::Isa;

    /// Writes rows of `width` equal numbers, the number of each; gives the first number of each place.
    fn written(index: &[i32], places: usize, width: usize) -> Vec<f32> {
        let cx =
            Context { pool: ThreadPool::new(2), memory: MemoryPool::new(), isa: Isa::best(), order: Order::default() };
        let target = cx.make::<half::bf16>(&Shape::from([places, width]), |out| {
            out.fill(half::bf16::from_f32(-1.0));
            Ok(())
        });
        let rows = cx.make::<f32>(&Shape::from([index.len(), width]), |out| {
            out.chunks_mut(width).zip(0u8..).for_each(|(row, number)| row.fill(number.into()));
            Ok(())
        });
        let index_of = cx.make::<i32>(&Shape::from([index.len()]), |out| {
            out.copy_from_slice(index);
            Ok(())
        });
        let written = write(&cx, [target.unwrap(), rows.unwrap(), index_of.unwrap()]).unwrap();
        let rows = packed::<half::bf16>(&written).chunks(width);
        rows.map(|row| if row.iter().all(|x| *x == row[0]) { row[0].to_f32() } else { f32::NAN }).collect()
    }

    #[test]
    fn many_rows_go_to_their_places_good() {
        assert_eq!(written(&[4, 0, 2], 5, SEVERAL), [1.0, -1.0, 2.0, -1.0, 0.0]);
        assert_eq!(written(&[4, 0, 2], 5, 8), [1.0, -1.0, 2.0, -1.0, 0.0]);
    }

    #[test]
    fn the_last_of_rows_for_one_place_stays_ugly() {
        assert_eq!(written(&[1, 0, 1], 2, SEVERAL), [1.0, 2.0]);
    }
}
