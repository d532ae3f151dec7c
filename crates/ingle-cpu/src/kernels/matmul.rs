// SPDX-License-Identifier: EUPL-1.2
//! Matrix products: every output element is a dot product of two rows.
//!
//! A dot product takes the vector lanes along `k`: lane `i` sums the terms `i, i + LANES, …` in one register, and
//! the lanes are added up in a fixed tree. A tile computes several outputs at once for each load; since every
//! tile shape does the same for each of its outputs, a row's result does not depend on how many rows there are.

use half::{bf16, f16};
use ingle_tensor::{DType, Result, Spec};

use super::rows::packed;
use super::{Context, Pointer, contiguous_f32, in_dtype};
use crate::layout::Layout;
use crate::number::with_float;
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// Bytes of the second operand that a chunk of work keeps in the second cache.
const CACHED: usize = 256 * 1024;

/// Rows of a first operand in a chunk of work.
const ROWS: usize = 96;

/// What a dot product's second operand is made of.
pub(super) trait Operand: ingle_tensor::Element {
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector;
    unsafe fn load_part<S: Simd>(from: *const Self, n: usize) -> S::Vector;
}

macro_rules! operands {
    ($($rust:ty: $load:ident $load_part:ident,)*) => {
        $(impl Operand for $rust {
            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
                // SAFETY: the caller's promise, passed on.
                unsafe { S::$load(from) }
            }

            #[inline(always)]
            unsafe fn load_part<S: Simd>(from: *const Self, n: usize) -> S::Vector {
                // SAFETY: the caller's promise, passed on.
                unsafe { S::$load_part(from, n) }
            }
        })*
    };
}

operands! {
    f32: load load_part,
    bf16: load_bf16 load_bf16_part,
    f16: load_f16 load_f16_part,
}

/// A product of matrices `x [m, k]` and `w [n, k]`, rows of each `stride` elements apart, to `out [m, n]`; or
/// several such products with one shape.
pub(super) struct Product<'a, W> {
    pub(super) op: &'static str,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) x: &'a [f32],
    pub(super) x_stride: usize,
    pub(super) w: &'a [W],
    pub(super) w_stride: usize,
    /// Where each product's operands start.
    pub(super) starts: &'a [(usize, usize)],
    pub(super) bias: Option<&'a [f32]>,
}

impl<W: Operand> Product<'_, W> {
    /// Computes into `out`, product by product row-major.
    pub(super) fn run(&self, cx: &Context, out: &mut [f32]) -> Result<()> {
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
            cx.isa.dispatch(Block { product: self, x, w, out, rows, columns });
        })
    }
}

/// A block of a product's outputs, on one thread. Made only by [`Product::run`], which checks its bounds.
struct Block<'a, W> {
    product: &'a Product<'a, W>,
    x: *const f32,
    w: *const W,
    out: *mut f32,
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl<W: Operand> Kernel for Block<'_, W> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let mut row = self.rows.start;
        while row < self.rows.end {
            let left = (self.rows.end - row).min(S::TILE_ROWS);
            // SAFETY: below `dispatch`, with rows inside the block.
            unsafe {
                match left {
                    1 => self.tiles::<S, 1>(row),
                    2 => self.tiles::<S, 2>(row),
                    3 => self.tiles::<S, 3>(row),
                    4 => self.tiles::<S, 4>(row),
                    5 => self.tiles::<S, 5>(row),
                    _ => self.tiles::<S, 6>(row),
                }
            }
            row += left;
        }
    }
}

impl<W: Operand> Block<'_, W> {
    /// Tiles of `R` rows from `row` on, along all columns.
    #[inline(always)]
    unsafe fn tiles<S: Simd, const R: usize>(&self, row: usize) {
        let Product { n, k, x_stride, w_stride, bias, .. } = *self.product;
        // SAFETY: rows and columns lie inside the block, whose bounds were checked.
        unsafe {
            let x: [*const f32; R] = std::array::from_fn(|r| self.x.add((row + r) * x_stride));
            let put = |r: usize, column: usize, value: f32| {
                let bias = bias.map_or(0.0, |bias| bias[column]);
                *self.out.add((row + r) * n + column) = value + bias;
            };
            let mut column = self.columns.start;
            while column + 4 <= self.columns.end {
                let w: [*const W; 4] = std::array::from_fn(|c| self.w.add((column + c) * w_stride));
                let sums = dot_tile::<S, W, R, 4>(x, w, k);
                for (r, sums) in sums.into_iter().enumerate() {
                    for (c, sum) in S::sum4(sums).into_iter().enumerate() {
                        put(r, column + c, sum);
                    }
                }
                column += 4;
            }
            while column < self.columns.end {
                let sums = dot_tile::<S, W, R, 1>(x, [self.w.add(column * w_stride)], k);
                for (r, [sum]) in sums.into_iter().enumerate() {
                    put(r, column, S::sum(sum));
                }
                column += 1;
            }
        }
    }
}

/// The lanes of the dot products of `R` rows with `C` rows, `k` long.
#[inline(always)]
pub(super) unsafe fn dot_tile<S: Simd, W: Operand, const R: usize, const C: usize>(
    x: [*const f32; R],
    w: [*const W; C],
    k: usize,
) -> [[S::Vector; C]; R] {
    // SAFETY: the caller vouches for `k` elements in each row.
    unsafe {
        let mut sums = [[S::splat(0.0); C]; R];
        let mut at = 0;
        while at + S::LANES <= k {
            let w: [S::Vector; C] = std::array::from_fn(|c| W::load::<S>(w[c].add(at)));
            for r in 0..R {
                let x = S::load(x[r].add(at));
                for c in 0..C {
                    sums[r][c] = S::mul_add(x, w[c], sums[r][c]);
                }
            }
            at += S::LANES;
        }
        if at < k {
            let w: [S::Vector; C] = std::array::from_fn(|c| W::load_part::<S>(w[c].add(at), k - at));
            for r in 0..R {
                let x = S::load_part(x[r].add(at), k - at);
                for c in 0..C {
                    sums[r][c] = S::mul_add(x, w[c], sums[r][c]);
                }
            }
        }
        sums
    }
}

/// [`ingle_tensor::Op::MatMul`].
pub(crate) fn matmul(cx: &Context, [a, b]: [CpuStorage; 2], output: &Spec) -> Result<CpuStorage> {
    let rank = output.shape.len();
    let lead = output.shape[..rank - 2].to_vec();
    let (m, n) = (output.shape[rank - 2], output.shape[rank - 1]);
    let k = a.layout().shape().last().copied().unwrap_or(0);

    let a = rows_of(cx, a)?;
    let swap = |layout: &Layout| {
        let rank = layout.shape().len();
        let axes: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
        layout.permute(&axes)
    };
    let b_rows = swap(b.layout());
    let b = rows_of(cx, b.view(b_rows))?;

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
    in_dtype(cx, "matmul", output, |out| product.run(cx, out))
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
    let x = contiguous_f32(cx, x)?;
    let weight = super::contiguous(cx, weight)?;
    let bias = bias.map(|bias| contiguous_f32(cx, bias)).transpose()?;
    let bias = bias.as_ref().map(packed::<f32>);
    let (n, k) = (weight.layout().shape()[0], weight.layout().shape()[1]);
    let m = output.shape[..output.shape.len() - 1].iter().product();
    let x = packed::<f32>(&x);
    with_float!("linear", weight.dtype(), W => {
        let w = packed::<W>(&weight);
        let product = Product { op: "linear", m, n, k, x, x_stride: k, w, w_stride: k, starts: &[(0, 0)], bias };
        in_dtype(cx, "linear", output, |out| product.run(cx, out))
    })
}
