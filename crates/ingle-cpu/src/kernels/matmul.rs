// SPDX-License-Identifier: EUPL-1.2
//! Matrix products: every output element is a dot product of two rows.
//!
//! A dot product takes the vector lanes along `k`: lane `i` sums the terms `i, i + LANES, …` in one register, and
//! the lanes are added up in a fixed tree. A tile computes several outputs at once for each load; since every
//! tile shape does the same for each of its outputs, a row's result does not depend on how many rows there are.

mod dot;

#[cfg(target_arch = "x86_64")]
use half::bf16;
use ingle_tensor::{DType, Element, Result, Spec};

use self::dot::Dot;
pub(crate) use self::dot::Operand;
#[cfg(target_arch = "x86_64")]
use self::dot::Paired;
pub(super) use self::dot::{Single, dot_tile};
#[cfg(target_arch = "x86_64")]
use super::cast;
use super::rows::packed;
use super::{Context, Pointer, contiguous, contiguous_f32, gemm, in_dtype};
use crate::layout::Layout;
use crate::number::with_float;
use crate::simd::{Kernel, Simd};
#[cfg(target_arch = "x86_64")]
use crate::simd::{PairKernel, Pairs};
use crate::storage::CpuStorage;

/// Bytes of the second operand that a chunk of work keeps in the second cache.
const CACHED: usize = 256 * 1024;

/// Up to so many elements a dot product is too short for vectors along it: they lie across several of them.
const SHORT: usize = 16;

/// Rows of a first operand in a chunk of work.
const ROWS: usize = 96;

/// A product of matrices `x [m, k]` and `w [n, k]`, rows of each `stride` elements apart, to `out [m, n]`; or
/// several such products with one shape.
struct Product<'a, X, W> {
    op: &'static str,
    m: usize,
    n: usize,
    k: usize,
    x: &'a [X],
    x_stride: usize,
    w: &'a [W],
    w_stride: usize,
    /// Where each product's operands start.
    starts: &'a [(usize, usize)],
    bias: Option<&'a [f32]>,
}

impl<'a, X: Element, W: Element> Product<'a, X, W> {
    /// Computes into `out`, product by product row-major; `block` computes one block.
    fn run(&self, cx: &Context, out: &mut [f32], block: impl Fn(Block<'_, X, W>) + Sync) -> Result<()> {
        let (m, n, k) = (self.m, self.n, self.k);
        if out.is_empty() {
            return Ok(());
        }
        if k == 0 {
            out.chunks_exact_mut(n).for_each(|row| match self.bias {
                Some(bias) => row.copy_from_slice(bias),
                None => row.fill(0.0),
            });
            return Ok(());
        }
        // The bounds that the kernels rely on.
        for &(x, w) in self.starts {
            assert!(x + (m - 1) * self.x_stride + k <= self.x.len(), "x is shorter than its shape");
            assert!(w + (n - 1) * self.w_stride + k <= self.w.len(), "w is shorter than its shape");
        }
        assert!(out.len() == m * n * self.starts.len() && self.bias.is_none_or(|bias| bias.len() == n));

        let work = m.saturating_mul(n).saturating_mul(k).saturating_mul(self.starts.len());
        let wanted = 4 * cx.pool.threads();
        let fits = (CACHED / (k * size_of::<W>())).max(4);
        let columns = fits.min(n.div_ceil(wanted)).next_multiple_of(4);
        let blocks = (m.div_ceil(ROWS), n.div_ceil(columns));
        let to = Pointer(out.as_mut_ptr());
        cx.parallel(self.op, (self.starts.len() * blocks.0 * blocks.1, work), |chunk| {
            let (rest, column) = (chunk / blocks.1, chunk % blocks.1);
            let (batch, row) = (rest / blocks.0, rest % blocks.0);
            let rows = row * ROWS..((row + 1) * ROWS).min(m);
            let columns = column * columns..((column + 1) * columns).min(n);
            let (x, w) = self.starts[batch];
            // SAFETY: the starts were checked above, and each product has its own `m · n` outputs.
            let (x, w, out) = unsafe { (self.x.as_ptr().add(x), self.w.as_ptr().add(w), to.get().add(batch * m * n)) };
            block(Block { product: self, x, w, out, rows, columns });
        })
    }
}

/// A block of a product's outputs, on one thread. Made only by [`Product::run`], which checks its bounds.
struct Block<'a, X, W> {
    product: &'a Product<'a, X, W>,
    x: *const X,
    w: *const W,
    out: *mut f32,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl<W: Operand> Kernel for Block<'_, f32, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        self.compute::<Single<S, W>>();
    }
}

#[cfg(target_arch = "x86_64")]
impl PairKernel for Block<'_, bf16, bf16> {
    type Output = ();

    #[inline(always)]
    fn run<P: Pairs>(self) {
        self.compute::<Paired<P>>();
    }
}

impl<X: Element, W: Element> Block<'_, X, W> {
    #[inline(always)]
    fn compute<D: Dot<X = X, W = W>>(self) {
        let mut row = self.rows.start;
        while row < self.rows.end {
            let left = (self.rows.end - row).min(D::Sums::TILE_ROWS);
            // SAFETY: below `dispatch`, with rows inside the block.
            unsafe {
                match left {
                    1 => self.tiles::<D, 1>(row),
                    2 => self.tiles::<D, 2>(row),
                    3 if const { D::Sums::TILE_ROWS > 2 } => self.tiles::<D, 3>(row),
                    4 if const { D::Sums::TILE_ROWS > 3 } => self.tiles::<D, 4>(row),
                    5 if const { D::Sums::TILE_ROWS > 3 } => self.tiles::<D, 5>(row),
                    _ if const { D::Sums::TILE_ROWS > 3 } => self.tiles::<D, 6>(row),
                    // No tile has more rows than the registers hold.
                    _ => {}
                }
            }
            row += left;
        }
    }

    /// Tiles of `R` rows from `row` on, along all columns.
    #[inline(always)]
    unsafe fn tiles<D: Dot<X = X, W = W>, const R: usize>(&self, row: usize) {
        let Product { n, k, x_stride, w_stride, bias, .. } = *self.product;
        // SAFETY: rows and columns lie inside the block, whose bounds were checked.
        unsafe {
            let x: [*const X; R] = std::array::from_fn(|r| self.x.add((row + r) * x_stride));
            let put = |r: usize, column: usize, value: f32| {
                let bias = bias.map_or(0.0, |bias| bias[column]);
                *self.out.add((row + r) * n + column) = value + bias;
            };
            let mut column = self.columns.start;
            while column + 4 <= self.columns.end {
                let w: [*const W; 4] = std::array::from_fn(|c| self.w.add((column + c) * w_stride));
                let sums = dot_tile::<D, R, 4>(x, w, k);
                for (r, sums) in sums.into_iter().enumerate() {
                    for (c, sum) in D::Sums::sum4(sums).into_iter().enumerate() {
                        put(r, column + c, sum);
                    }
                }
                column += 4;
            }
            while column < self.columns.end {
                let sums = dot_tile::<D, R, 1>(x, [self.w.add(column * w_stride)], k);
                for (r, [sum]) in sums.into_iter().enumerate() {
                    put(r, column, D::Sums::sum(sum));
                }
                column += 1;
            }
        }
    }
}

/// [`ingle_tensor::Op::MatMul`].
pub(crate) fn matmul(cx: &Context, [a, b]: [CpuStorage; 2], output: &Spec) -> Result<CpuStorage> {
    let rank = output.shape.len();
    let lead = output.shape[..rank - 2].to_vec();
    let (m, n) = (output.shape[rank - 2], output.shape[rank - 1]);
    let k = a.layout().shape().last().copied().unwrap_or(0);
    let swap = |layout: &Layout| {
        let rank = layout.shape().len();
        let axes: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        layout.permute(&axes)
    };
    let b_rows = swap(b.layout());
    let b = b.view(b_rows);
    if gemm::is_transposed(b.layout()) && a.layout().shape().len() == 2 {
        return gemm::product(cx, "matmul", [a, b], None, output);
    }
    let (a, b) = (rows_of(cx, a)?, rows_of(cx, b)?);

    let a_starts = starts(a.layout(), &lead);
    let b_starts = starts(b.layout(), &lead);
    let starts: Vec<(usize, usize)> = a_starts.into_iter().zip(b_starts).collect();
    let stride = |layout: &Layout| layout.strides()[layout.shape().len() - 2];
    let product = Product {
        op: "matmul",
        m,
        n,
        k,
        x: a.buffer(),
        x_stride: stride(a.layout()),
        w: b.buffer::<f32>(),
        w_stride: stride(b.layout()),
        starts: &starts,
        bias: None,
    };
    in_dtype(cx, "matmul", output, |out| product.run(cx, out, |block| cx.isa.dispatch(block)))
}

/// The matrix as f32 whose rows each lie without gaps: the storage itself where it is that already.
fn rows_of(cx: &Context, storage: CpuStorage) -> Result<CpuStorage> {
    let layout = storage.layout();
    let inner = layout.shape().len() - 1;
    if storage.dtype() == DType::F32 && (layout.strides()[inner] == 1 || layout.shape()[inner] == 1) {
        return Ok(storage);
    }
    contiguous_f32(cx, storage)
}

/// Where each matrix of a batch stretched to the leading axes `lead` starts.
fn starts(layout: &Layout, lead: &[usize]) -> Vec<usize> {
    let rank = layout.shape().len();
    let matrix = &layout.shape()[rank - 2..];
    let full: Vec<usize> = lead.iter().chain(matrix).copied().collect();
    let mut batch = layout.broadcast(&full.into());
    for axis in [lead.len(), lead.len() + 1] {
        let len = batch.shape()[axis];
        batch = batch.slice(axis, 0, 1, len.min(1));
    }
    let mut all = Vec::new();
    batch.runs().walk(0, batch.elements(), |run| all.extend((0..run.len).map(|i| run.start + i * run.stride)));
    all
}

/// [`ingle_tensor::Op::Linear`].
pub(crate) fn linear(
    cx: &Context,
    [x, weight]: [CpuStorage; 2],
    bias: Option<CpuStorage>,
    output: &Spec,
) -> Result<CpuStorage> {
    let bias = bias.map(|bias| contiguous_f32(cx, bias)).transpose()?;
    let bias = bias.as_ref().map(packed::<f32>);
    if gemm::is_transposed(weight.layout()) || (1..=SHORT).contains(&weight.layout().shape()[1]) {
        return gemm::product(cx, "linear", [x, weight], bias, output);
    }
    let weight = contiguous(cx, weight)?;
    let (n, k) = (weight.layout().shape()[0], weight.layout().shape()[1]);
    let m = output.shape[..output.shape.len() - 1].iter().product();
    let op = "linear";
    let starts = &[(0, 0)];
    #[cfg(target_arch = "x86_64")]
    if weight.dtype() == DType::BF16 && cx.isa.has_pairs() {
        let x = contiguous(cx, cast::cast(cx, x, DType::BF16)?)?;
        let (x, w) = (packed::<bf16>(&x), packed::<bf16>(&weight));
        let product = Product { op, m, n, k, x, x_stride: k, w, w_stride: k, starts, bias };
        return in_dtype(cx, op, output, |out| {
            // SAFETY: this is the instruction set that has pairs.
            product.run(cx, out, |block| unsafe { cx.isa.dispatch_pairs(block) })
        });
    }
    let x = contiguous_f32(cx, x)?;
    let x = packed::<f32>(&x);
    with_float!(op, weight.dtype(), W => {
        let w = packed::<W>(&weight);
        let product = Product { op, m, n, k, x, x_stride: k, w, w_stride: k, starts, bias };
        in_dtype(cx, op, output, |out| product.run(cx, out, |block| cx.isa.dispatch(block)))
    })
}
