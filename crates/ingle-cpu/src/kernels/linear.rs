// SPDX-License-Identifier: EUPL-1.2
//! `Linear`, over a weight however it lies, and `GatedMlp`, which is three of them.
//!
//! A packed weight is taken panel by panel ([`crate::packed`]). Within a panel the inner axis is cut into strips;
//! each strip is brought into the first cache once and met by every tile of rows of `x`. The sums so far wait in
//! the output meanwhile, exactly, so strips change no bit of them.

mod groups;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod quants;

use std::cell::RefCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use half::bf16;
use ingle_tensor::{Activation, DType, Quantization, Result, Spec};

use super::activation::{self, Glu};
use super::cast;
use super::rows::packed;
use super::{Context, Pointer, contiguous, contiguous_f32, in_dtype, matmul};
use crate::ahead::Stretch;
use crate::layout::Layout;
#[cfg(target_arch = "x86_64")]
use crate::packed::pairs as pair_panels;
use crate::packed::{PANEL, Packing, groups::GroupPanels, panels, sizes};
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
    with_packed(cx, x, packing, Weights { weight: &weight, bias, up: None }, output)
}

/// [`ingle_tensor::Op::GatedMlp`].
pub(crate) fn gated_mlp(
    cx: &Context,
    activation: Activation,
    [x, gate, up, down]: [CpuStorage; 4],
    output: &Spec,
) -> Result<CpuStorage> {
    // What the last product would round is rounded at once.
    let dtype = if down.packing().is_some_and(rounds_rows) { DType::BF16 } else { DType::F32 };
    let columns = gate.layout().shape()[0];
    let hidden = Spec::new(output.shape.with_axis(output.shape.len() - 1, columns), dtype);
    let hidden = glu(cx, activation, [x, gate, up], &hidden)?;
    linear(cx, [hidden, down], None, output)
}

/// Whether products with a weight that is packed so round rows to bf16.
fn rounds_rows(packing: Packing) -> bool {
    match packing {
        #[cfg(target_arch = "x86_64")]
        Packing::Pairs { .. } => true,
        #[cfg(target_arch = "x86_64")]
        Packing::Groups(panels) => panels.halves,
        #[cfg(not(target_arch = "x86_64"))]
        Packing::Groups(_) => false,
    }
}

/// `activation(x · gateᵀ) · (x · upᵀ)`. Where both weights are packed alike, one job reads them.
fn glu(cx: &Context, activation: Activation, [x, gate, up]: [CpuStorage; 3], output: &Spec) -> Result<CpuStorage> {
    let packing = gate.packing().filter(|packing| {
        let alike = up.packing() == Some(*packing) && gate.layout().is_contiguous() && up.layout().is_contiguous();
        alike && multiplies_two(packing, rows_of(output), cx.isa)
    });
    if let Some(packing) = packing {
        let weights = Weights { weight: &gate, bias: None, up: Some((activation, &up)) };
        return with_packed(cx, x.plain(cx)?, packing, weights, output);
    }
    let wide = Spec::new(&output.shape, DType::F32);
    let gate = linear(cx, [x.clone(), gate], None, &wide)?;
    let up = linear(cx, [x, up], None, &wide)?;
    cast::cast(cx, activation::glu(cx, activation, [gate, up])?, output.dtype)
}

/// Whether there is a kernel for the products of so many rows with two weights at once.
fn multiplies_two(packing: &Packing, m: usize, isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(packing, Packing::Pairs { .. }) {
        return isa == Isa::Amx || m < many(isa);
    }
    let _ = (packing, m, isa);
    true
}

/// Rows of a product.
fn rows_of(output: &Spec) -> usize {
    output.shape.split_last().map_or(1, |(_, rows)| rows.iter().product())
}

/// What rows are multiplied with.
struct Weights<'a> {
    weight: &'a CpuStorage,
    bias: Option<&'a [f32]>,
    /// A weight that is packed as the first one is, whose products are multiplied by the activated ones of the first.
    up: Option<(Activation, &'a CpuStorage)>,
}

/// The product of rows with weights that are packed.
fn with_packed<'a>(
    cx: &Context,
    x: CpuStorage,
    packing: Packing,
    weights: Weights<'a>,
    output: &Spec,
) -> Result<CpuStorage> {
    let Weights { weight, bias, up } = weights;
    let [n, k] = sizes(weight.layout().shape());
    let m = rows_of(output);
    let product = Product { m, n, k, bias };
    match packing {
        // The same sums in the same order, and few of them in memory.
        #[cfg(target_arch = "x86_64")]
        Packing::Pairs { .. } if m >= many(cx.isa) => match up {
            None => super::gemm::product(cx, "linear", [x, weight.clone()], bias, output),
            Some((activation, up)) => super::gemm::glu(cx, activation, [x, weight.clone(), up.clone()], output),
        },
        #[cfg(target_arch = "x86_64")]
        Packing::Pairs { k } => {
            let x = pairs::padded_rows(cx, x, k)?;
            let kernel =
                |weight: &'a CpuStorage| pairs::Pairs::new(packed::<bf16>(&x), weight.bytes(), &product, cx.isa);
            in_dtype(cx, "linear", output, |out| match up {
                None => product.run(cx, "linear", out, &kernel(weight)),
                Some((activation, up)) => product.run_glu(cx, out, activation, [&kernel(weight), &kernel(up)]),
            })
        }
        #[cfg(target_arch = "x86_64")]
        Packing::Groups(group_panels) if group_panels.halves => match up {
            None => quants::product(cx, x, ([weight.bytes()], None), &group_panels, &product, output),
            Some((activation, up)) => {
                let weights = [weight.bytes(), up.bytes()];
                quants::product(cx, x, (weights, Some(activation)), &group_panels, &product, output)
            }
        },
        Packing::Groups(group_panels) => {
            let x = contiguous_f32(cx, x)?;
            let together = groups::rows_together(m, &group_panels, cx.isa);
            let rows = groups::QuantisedRows::new(cx, packed::<f32>(&x), [m, k], &group_panels, together)?;
            let kernel =
                |weight: &'a CpuStorage| groups::Groups::new(&rows, weight.bytes(), group_panels, &product, cx.isa);
            in_dtype(cx, "linear", output, |out| match up {
                None => product.run(cx, "linear", out, &kernel(weight)),
                Some((activation, up)) => product.run_glu(cx, out, activation, [&kernel(weight), &kernel(up)]),
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
    /// Weights of which a unit of work meets the same panels.
    pub(super) weights: usize,
}

/// What a packed weight's kernel does.
pub(super) trait PanelKernel: Sync {
    fn reading(&self) -> Reading<'_>;

    /// What it adds to.
    fn start(&self) -> Start {
        Start::There
    }

    /// Adds to `out` the products of `rows` of `x` with the weight's panel `panel`, of which `columns` are wanted.
    ///
    /// # Safety
    /// The product has such a panel and such rows. `out` has room for as many rows of as many columns, which are no more
    /// than a panel's, with something in it if the kernel adds to what is there; and nobody else looks there.
    unsafe fn panel(&self, panel: usize, rows: Range<usize>, columns: usize, out: Outputs);
}

/// Where the products of some rows with a panel go.
#[derive(Clone, Copy)]
pub(super) struct Outputs {
    /// The first row's first.
    pub(super) at: *mut f32,
    /// From a row's to the next one's.
    pub(super) stride: usize,
}

impl Outputs {
    /// Those from `row` on.
    ///
    /// # Safety
    /// There is such a row.
    #[inline(always)]
    pub(super) unsafe fn from(self, row: usize) -> Self {
        // SAFETY: the caller's promise.
        Outputs { at: unsafe { self.at.add(row * self.stride) }, ..self }
    }
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
        let panel_bytes = (reading.panel_bytes * reading.weights).max(1);
        let together = if m <= reading.few {
            if let Some(weight) = reading.weight {
                let panel_bytes = reading.panel_bytes.max(1);
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
        debug_assert_eq!(out.len(), self.m * self.n, "an output for each row and column");
        let to = Pointer(out.as_mut_ptr());
        self.units(cx, op, &kernel.reading(), |panels, rows| {
            // SAFETY: the rows and columns of a unit lie inside `out` and belong to no other unit.
            unsafe { self.panels(kernel, panels.clone(), rows.clone(), self.outputs(to, panels.start, rows.start)) }
        })
    }

    /// Where the outputs of a panel begin, from a row on, in all of them.
    ///
    /// # Safety
    /// There is such a panel, and such a row.
    unsafe fn outputs(&self, all: Pointer<f32>, panel: usize, row: usize) -> Outputs {
        // SAFETY: the caller's promise.
        Outputs { at: unsafe { all.get().add(row * self.n + panel * PANEL) }, stride: self.n }
    }

    /// The products of some rows with some panels.
    ///
    /// # Safety
    /// The product has such panels and such rows; `out` has room for as many rows of as many columns, and nobody else
    /// looks there.
    unsafe fn panels(&self, kernel: &impl PanelKernel, panels: Range<usize>, rows: Range<usize>, out: Outputs) {
        let Product { n, bias, .. } = *self;
        for panel in panels.clone() {
            let first = panel * PANEL;
            let columns = PANEL.min(n - first);
            let given = if kernel.start() == Start::There { rows.len() } else { 0 };
            // SAFETY: the caller's promise.
            unsafe {
                let out = Outputs { at: out.at.add((panel - panels.start) * PANEL), ..out };
                for row in 0..given {
                    let out = std::slice::from_raw_parts_mut(out.from(row).at, columns);
                    match bias {
                        Some(bias) => out.copy_from_slice(&bias[first..first + columns]),
                        None => out.fill(0.0),
                    }
                }
                kernel.panel(panel, rows.clone(), columns, out);
            }
        }
    }

    /// Computes the products with a gate and with what it lets through, and what becomes of both into `out`, row-major.
    /// What a gate lets through stays in a cache.
    pub(super) fn run_glu(
        &self,
        cx: &Context,
        out: &mut [f32],
        activation: Activation,
        [gate, up]: [&impl PanelKernel; 2],
    ) -> Result<()> {
        debug_assert!(self.bias.is_none(), "products that meet have no bias");
        debug_assert_eq!(out.len(), self.m * self.n, "an output for each row and column");
        let to = Pointer(out.as_mut_ptr());
        let reading = gate.reading();
        self.units(cx, "linear", &Reading { weights: 2, ..reading }, |panels, rows| {
            // Few rows read a unit's panels in one go; many would fill the second cache with what waits.
            let at_once = if self.m <= reading.few { panels.len() } else { MEETING };
            for first in panels.clone().step_by(at_once) {
                let panels = first..panels.end.min(first + at_once);
                let columns = (panels.end * PANEL).min(self.n) - first * PANEL;
                let stride = panels.len() * PANEL;
                with_scratch(rows.len() * stride, |ups| {
                    let ups = Outputs { at: ups.as_mut_ptr(), stride };
                    // SAFETY: the rows and columns of a unit lie inside `out` and belong to no other unit; there is as
                    // much room for what they meet.
                    unsafe {
                        let gates = self.outputs(to, first, rows.start);
                        self.panels(gate, panels.clone(), rows.clone(), gates);
                        self.panels(up, panels, rows.clone(), ups);
                        for row in 0..rows.len() {
                            let gate = std::slice::from_raw_parts_mut(gates.from(row).at, columns);
                            let up = std::slice::from_raw_parts(ups.from(row).at, columns);
                            cx.isa.dispatch(Glu { activation, gate, up });
                        }
                    }
                });
            }
        })
    }
}

/// Panels of a gate, of many rows, that wait for those of what it lets through: 128 KiB of either.
const MEETING: usize = 2;

/// Calls `work` with so many numbers, of any value, in memory that is the thread's own and stays. It begins with a line of
/// the caches.
fn with_scratch<T>(len: usize, work: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let lines = len.div_ceil(Line::ZERO.0.len());
        if scratch.len() < lines {
            scratch.resize(lines, Line::ZERO);
        }
        // SAFETY: the lines are numbers, one after another, at least as many.
        work(unsafe { std::slice::from_raw_parts_mut(scratch.as_mut_ptr().cast(), len) })
    })
}

/// A line of the caches.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Line {
    const ZERO: Line = Line([0.0; 16]);
}

/// Rows of `x` in the tiles that cover `rows` of them, `most` at a time and as evenly as that allows.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most).max(1);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}
