// SPDX-License-Identifier: EUPL-1.2
//! `Linear`, over a weight however it lies.
//!
//! A packed weight is taken panel by panel ([`crate::packed`]). Within a panel the inner axis is cut into strips;
//! each strip is brought into the first cache once and met by every tile of rows of `x`. The sums so far wait in
//! the output meanwhile, exactly, so strips change no bit of them.

mod groups;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod quants;

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use half::bf16;
#[cfg(target_arch = "x86_64")]
use ingle_tensor::DType;
use ingle_tensor::{Quantization, Result, Spec};

use super::rows::packed;
use super::{Context, Pointer, contiguous, contiguous_f32, in_dtype, matmul};
use crate::ahead::Stretch;
use crate::layout::Layout;
#[cfg(target_arch = "x86_64")]
use crate::packed::pairs as pair_panels;
use crate::packed::{PANEL, Packing, groups::GroupPanels, panels, sizes};
#[cfg(target_arch = "x86_64")]
use crate::simd::Isa;
use crate::storage::CpuStorage;

/// [`ingle_tensor::Op::Linear`].
pub(crate) fn linear(
    cx: &Context,
    [x, weight]: [CpuStorage; 2],
    bias: Option<CpuStorage>,
    output: &Spec,
) -> Result<CpuStorage> {
    let x = x.plain(cx)?;
    let bias = bias.map(|bias| bias.plain(cx)).transpose()?;
    let packing = weight.packing().filter(|_| weight.layout().is_contiguous());
    let Some(packing) = packing else { return matmul::linear(cx, [x, weight], bias, output) };
    let bias = bias.map(|bias| contiguous_f32(cx, bias)).transpose()?;
    let bias = bias.as_ref().map(packed::<f32>);
    let [n, k] = sizes(weight.layout().shape());
    let m = output.shape[..output.shape.len() - 1].iter().product();
    let product = Product { m, n, k, bias };
    match packing {
        // The same sums in the same order, and few of them in memory.
        #[cfg(target_arch = "x86_64")]
        Packing::Pairs { .. } if m >= many(cx.isa) => super::gemm::product(cx, "linear", [x, weight], bias, output),
        #[cfg(target_arch = "x86_64")]
        Packing::Pairs { k } => {
            let x = pairs::padded_rows(cx, x, k)?;
            in_dtype(cx, "linear", output, |out| {
                product.run(cx, "linear", out, &pairs::Pairs::new(packed::<bf16>(&x), weight.bytes(), &product, cx.isa))
            })
        }
        #[cfg(target_arch = "x86_64")]
        Packing::Groups(group_panels) if group_panels.halves => {
            quants::product(cx, x, weight.bytes(), &group_panels, &product, output)
        }
        Packing::Groups(group_panels) => {
            let x = contiguous_f32(cx, x)?;
            let together = groups::rows_together(m, &group_panels, cx.isa);
            let rows = groups::QuantisedRows::new(cx, packed::<f32>(&x), [m, k], &group_panels, together)?;
            in_dtype(cx, "linear", output, |out| {
                product.run(
                    cx,
                    "linear",
                    out,
                    &groups::Groups::new(&rows, weight.bytes(), group_panels, &product, cx.isa),
                )
            })
        }
    }
}

/// [`ingle_tensor::Op::Pack`].
pub(crate) fn pack(cx: &Context, weight: CpuStorage) -> Result<CpuStorage> {
    #[cfg(target_arch = "x86_64")]
    if weight.dtype() == DType::BF16 && cx.isa.has_pairs() && weight.packing().is_none() {
        let weight = contiguous(cx, weight)?;
        let shape = weight.layout().shape();
        let [n, k] = sizes(shape);
        let buffer = pair_panels::pack(cx, packed(&weight), [n, k])?;
        return Ok(CpuStorage::new(buffer, Layout::contiguous(shape), DType::BF16).packed(Packing::Pairs { k }));
    }
    let _ = cx;
    Ok(weight)
}

/// [`ingle_tensor::Op::Dequantize`]: the quants are laid out in panels and stay quants.
pub(crate) fn dequantize(
    cx: &Context,
    inputs: Vec<CpuStorage>,
    quantization: Quantization,
    output: &Spec,
) -> Result<CpuStorage> {
    let inputs: Vec<CpuStorage> = inputs.into_iter().map(|input| contiguous(cx, input)).collect::<Result<_>>()?;
    let (panels, buffer) = GroupPanels::pack(cx, &inputs, quantization, sizes(&output.shape))?;
    Ok(CpuStorage::new(buffer, Layout::contiguous(&output.shape), output.dtype).packed(Packing::Groups(panels)))
}

/// A product of `m` rows with a weight of `n` rows.
pub(super) struct Product<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) bias: Option<&'a [f32]>,
}

/// Rows of `x` from which on a product of pairs is [`super::gemm`]'s.
#[cfg(target_arch = "x86_64")]
fn many(isa: Isa) -> usize {
    if isa == Isa::Amx { 32 } else { 256 }
}

/// The most rows of `x` in a unit of work: their part that a strip meets stays in the second cache.
const ROWS: usize = 256;

/// Bytes from which on a longer run of memory is read no faster.
const LONG: usize = 512 << 10;

/// Rows of `x` that a weight is read for rather than computed with.
const FEW: usize = 8;

/// Bytes that a thread takes at a time for few rows: so many that taking costs nothing, so few that the last are
/// not waited for.
const SHORT: usize = 48 << 10;

/// How a packed weight is read.
pub(super) struct Reading<'a> {
    /// The packed weight, if it was there before and will be read again.
    pub(super) weight: Option<&'a [u8]>,
    /// Bytes of a panel.
    pub(super) panel_bytes: usize,
    /// Rows of `x` that a weight is read for rather than computed with.
    pub(super) few: usize,
    /// Bytes that a thread takes at a time for so few.
    pub(super) short: usize,
    /// The most rows of `x` in a unit of work.
    pub(super) rows: usize,
    /// Rows of `x` of which all or none belong to a unit of work.
    pub(super) together: usize,
}

/// What a packed weight's kernel does.
pub(super) trait PanelKernel: Sync {
    fn reading(&self) -> Reading<'_>;

    /// What it adds to.
    fn start(&self) -> Start {
        Start::There
    }

    /// Adds to `out [rows, n]` the products of `rows` of `x` with the weight's panel `panel`. `columns` outputs are
    /// wanted.
    ///
    /// # Safety
    /// `out` points to the first row's output of the panel's first row, and rows of it are `n` apart.
    unsafe fn panel(&self, panel: usize, rows: Range<usize>, columns: usize, out: *mut f32);
}

/// What a product is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing: what is there is overwritten.
    Zero,
    /// What is there.
    There,
}

impl Product<'_> {
    /// Cuts the product into units, of some panels and some rows of `x` each, and calls `work` with the ranges of either
    /// for every unit.
    pub(super) fn units(
        &self,
        cx: &Context,
        op: &'static str,
        reading: &Reading<'_>,
        work: impl Fn(Range<usize>, Range<usize>) + Sync,
    ) -> Result<()> {
        let Product { m, n, k, .. } = *self;
        if m == 0 || n == 0 {
            return Ok(());
        }
        // Units that are equally long, and enough of them for every thread.
        let rows = m.div_ceil(m.div_ceil(reading.rows)).next_multiple_of(reading.together);
        let blocks = m.div_ceil(rows);
        let panels = panels(n);
        let threads = cx.pool.threads();
        let panel_bytes = reading.panel_bytes.max(1);
        let together = if m <= reading.few {
            if let Some(weight) = reading.weight {
                let weight = Stretch { address: weight.as_ptr().addr(), panel_bytes, panels };
                cx.order.follow(weight).inspect(|&next| cx.pool.read_ahead(next));
            }
            (reading.short / panel_bytes).clamp(1, panels)
        } else {
            // Memory is read fastest in long runs, so a chunk of panels is no shorter than that as long as every
            // thread gets one.
            let long = LONG / panel_bytes;
            long.min(panels * blocks / threads).max(panels * blocks / (8 * threads)).clamp(1, panels)
        };
        // As many chunks to each thread: a thread that was given one more would be waited for.
        let chunks = panels.div_ceil(together).next_multiple_of(threads).min(panels);
        // As even as whole panels allow.
        let chunk_start = |chunk: usize| chunk * panels / chunks;
        cx.parallel(op, (blocks * chunks, m.saturating_mul(n).saturating_mul(k)), |unit| {
            let (block, chunk) = (unit % blocks, unit / blocks);
            work(chunk_start(chunk)..chunk_start(chunk + 1), block * rows..((block + 1) * rows).min(m));
        })
    }

    /// Computes into `out`, row-major.
    pub(super) fn run(&self, cx: &Context, op: &'static str, out: &mut [f32], kernel: &impl PanelKernel) -> Result<()> {
        let Product { n, bias, .. } = *self;
        let to = Pointer(out.as_mut_ptr());
        self.units(cx, op, &kernel.reading(), |panels, rows| {
            for panel in panels {
                let first = panel * PANEL;
                let columns = PANEL.min(n - first);
                // SAFETY: the rows and columns of a unit lie inside `out` and belong to no other unit.
                unsafe {
                    let given = if kernel.start() == Start::There { rows.clone() } else { 0..0 };
                    for row in given {
                        let out = std::slice::from_raw_parts_mut(to.get().add(row * n + first), columns);
                        match bias {
                            Some(bias) => out.copy_from_slice(&bias[first..first + columns]),
                            None => out.fill(0.0),
                        }
                    }
                    kernel.panel(panel, rows.clone(), columns, to.get().add(rows.start * n + first));
                }
            }
        })
    }
}

/// Rows of `x` in the tiles that cover `rows` of them, `most` at a time and as evenly as that allows.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most).max(1);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}
