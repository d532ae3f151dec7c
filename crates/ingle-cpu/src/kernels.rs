// SPDX-License-Identifier: EUPL-1.2
//! The kernels, and what they share: threads, memory and the instruction set.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod cast;
pub(crate) mod elementwise;
pub(crate) mod gemm;
pub(crate) mod linear;
pub(crate) mod loss;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod optimizer;
pub(crate) mod quantised_rows;
pub(crate) mod reduce;
pub(crate) mod rope;
pub(crate) mod rows;
#[cfg(target_arch = "x86_64")]
mod tiled;
pub(crate) mod views;

use std::sync::Arc;

use ingle_tensor::{DType, Element, Error, Result, Shape, Spec};

use crate::ahead::Order;
use crate::layout::{Layout, Runs};
use crate::memory::{Buffer, Contents, MemoryPool};
use crate::number::Number;
use crate::pool::ThreadPool;
use crate::simd::{Isa, Kernel, Simd};
use crate::storage::CpuStorage;

/// Elements that an element-by-element kernel handles at once: they stay in the first cache.
pub(crate) const BLOCK: usize = 512;

/// Elements of simple work worth waking a thread for.
const GRAIN: usize = 16 * 1024;

/// Runs of pieces for each thread, at most: few enough to be long, enough for the threads to end together.
const PARTS: usize = 8;

/// What every kernel works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) pool: ThreadPool,
    pub(crate) memory: Arc<MemoryPool>,
    pub(crate) isa: Isa,
    /// The order in which weights are read.
    pub(crate) order: Order,
}

impl Context {
    /// A new row-major tensor whose elements `fill` writes, every one.
    pub(crate) fn make<T: Element>(
        &self,
        shape: &Shape,
        fill: impl FnOnce(&mut [T]) -> Result<()>,
    ) -> Result<CpuStorage> {
        let mut buffer = self.buffer::<T>(shape.elements(), Contents::Anything)?;
        fill(elements_mut(&mut buffer))?;
        Ok(CpuStorage::new(buffer, Layout::contiguous(shape), T::DTYPE))
    }

    /// Memory for `len` elements.
    pub(crate) fn buffer<T: Element>(&self, len: usize, contents: Contents) -> Result<Buffer> {
        let bytes = len.saturating_mul(size_of::<T>());
        self.memory.take(bytes, contents)
    }

    /// Calls `run` for every number below `chunks`, on several threads if all of it costs enough simple steps.
    pub(crate) fn parallel(
        &self,
        op: &'static str,
        (chunks, cost): (usize, usize),
        run: impl Fn(usize) + Sync,
    ) -> Result<()> {
        let all = |_: usize| (0..chunks).for_each(&run);
        let done = if cost < GRAIN { self.pool.run(1, &all) } else { self.pool.run(chunks, &run) };
        done.map_err(|panicked| Error::Device {
            op,
            device: "cpu",
            message: format!("a kernel failed ({}); please report it", panicked.0),
        })
    }

    /// Cuts `out` into pieces of `size` elements and calls `run` for each with the piece's number, on several
    /// threads; the last piece may be shorter. `cost` is how much one element costs, in simple steps.
    pub(crate) fn pieces<T: Send>(
        &self,
        op: &'static str,
        out: &mut [T],
        work: Pieces,
        run: impl Fn(usize, &mut [T]) + Sync,
    ) -> Result<()> {
        let len = out.len();
        let size = work.size.max(1);
        let pieces = len.div_ceil(size);
        // Of much, long runs: memory is read ahead within them.
        let parts = self.pool.threads() * PARTS;
        let together = (GRAIN / size.saturating_mul(work.cost).max(1)).max(pieces / parts).max(1);
        let chunks = pieces.div_ceil(together);
        let start = Pointer(out.as_mut_ptr());
        self.parallel(op, (chunks, len.saturating_mul(work.cost)), |chunk| {
            for piece in chunk * together..((chunk + 1) * together).min(pieces) {
                let first = piece * size;
                // SAFETY: pieces do not overlap, each is taken once, and `out` outlives the call.
                let part = unsafe { std::slice::from_raw_parts_mut(start.get().add(first), size.min(len - first)) };
                run(piece, part);
            }
        })
    }
}

/// How [`Context::pieces`] cuts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    /// Elements in a piece.
    pub(crate) size: usize,
    /// Simple steps per element.
    pub(crate) cost: usize,
}

/// A pointer that threads may share; each use says why it is sound.
#[derive(Clone, Copy)]
pub(crate) struct Pointer<T>(pub(crate) *mut T);

impl<T> Pointer<T> {
    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: a pointer alone does nothing; whoever dereferences it answers for that.
unsafe impl<T> Send for Pointer<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Pointer<T> {}

/// A new buffer's elements; new buffers are the pool's own.
pub(crate) fn elements_mut<T: Element>(buffer: &mut Buffer) -> &mut [T] {
    buffer.bytes_mut().map_or(&mut [], |bytes| bytemuck::cast_slice_mut(bytes))
}

/// [`Number::widen_all`] by the vectors of an instruction set.
struct Widen<'a, T: Number> {
    from: &'a [T],
    to: &'a mut [T::Wide],
}

impl<T: Number> Kernel for Widen<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        T::widen_all(self.from, self.to);
    }
}

/// [`Number::narrow_all`] by the vectors of an instruction set.
struct Narrow<'a, T: Number> {
    from: &'a [T::Wide],
    to: &'a mut [T],
}

impl<T: Number> Kernel for Narrow<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        T::narrow_all(self.from, self.to);
    }
}

/// Elements from which on [`Widen`] is worth a call.
const VECTORS: usize = 32;

/// Reads any view of numbers block by block, widened.
pub(crate) struct Reader<'a, T: Number> {
    elements: &'a [T],
    runs: Runs,
    isa: Isa,
}

impl<'a, T: Number> Reader<'a, T> {
    /// Reads `storage` stretched to `shape`.
    pub(crate) fn new(cx: &Context, storage: &'a CpuStorage, shape: &Shape) -> Self {
        Reader { elements: storage.buffer(), runs: storage.layout().broadcast(shape).runs(), isa: cx.isa }
    }

    /// Elements `first .. first + len` in row-major order, in `scratch` or where they lie. `len` is at most
    /// that of `scratch`.
    pub(crate) fn block<'b>(&'b self, first: usize, scratch: &'b mut [T::Wide], len: usize) -> &'b [T::Wide] {
        if let Some(run) = self.runs.single()
            && run.stride == 1
            && let Some(wide) = T::as_wide(&self.elements[run.start + first..run.start + first + len])
        {
            return wide;
        }
        self.copy(first, &mut scratch[..len]);
        &scratch[..len]
    }

    /// Elements from `first` on, as many as `to` holds.
    pub(crate) fn copy(&self, first: usize, to: &mut [T::Wide]) {
        let mut done = 0;
        self.runs.walk(first, to.len(), |run| {
            let to = &mut to[done..done + run.len];
            match run.stride {
                // Of a few a call would take longer.
                1 if run.len >= VECTORS => {
                    self.isa.dispatch(Widen { from: &self.elements[run.start..][..run.len], to })
                }
                1 => T::widen_all(&self.elements[run.start..][..run.len], to),
                0 => to.fill(self.elements[run.start].widen()),
                stride => {
                    for (to, from) in to.iter_mut().zip(self.elements[run.start..].iter().step_by(stride)) {
                        *to = from.widen();
                    }
                }
            }
            done += run.len;
        });
    }
}

/// The same elements, row-major without gaps: the storage itself where it already is.
pub(crate) fn contiguous(cx: &Context, storage: CpuStorage) -> Result<CpuStorage> {
    if storage.layout().is_contiguous() {
        return Ok(storage);
    }
    views::copy(cx, &storage)
}

/// The elements of a float tensor as f32, row-major without gaps.
pub(crate) fn contiguous_f32(cx: &Context, storage: CpuStorage) -> Result<CpuStorage> {
    match storage.dtype() {
        DType::F32 => contiguous(cx, storage),
        _ => cast::cast(cx, storage, DType::F32),
    }
}

/// A tensor of `output`'s dtype from f32 that `fill` computes.
fn in_dtype(
    cx: &Context,
    op: &'static str,
    output: &Spec,
    fill: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<CpuStorage> {
    let wide = cx.make::<f32>(&output.shape, fill)?;
    if !output.dtype.is_float() {
        let (expected, found) = ("a floating-point result".into(), output.to_string());
        return Err(Error::DType { op, expected, found });
    }
    cast::cast(cx, wide, output.dtype)
}
