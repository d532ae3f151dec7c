// SPDX-License-Identifier: EUPL-1.2
//! Operands as the kernel reads them: words of 32 bits, each what one step along the inner axis takes of a row.

use std::marker::PhantomData;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use half::bf16;
use ingle_tensor::{DType, Result};

use super::{is_transposed, rows_and_columns};
use crate::kernels::{Context, Pieces, Pointer, contiguous, contiguous_f32, elements_mut};
use crate::memory::{Buffer, Contents};
#[cfg(target_arch = "x86_64")]
use crate::number::Number;
use crate::number::{Float, with_float};
#[cfg(target_arch = "x86_64")]
use crate::packed::Packing;
use crate::packed::{PANEL, panels};
#[cfg(target_arch = "x86_64")]
use crate::simd::Bf16Pairs;
use crate::simd::turned::{Words, turn};
use crate::simd::{Factor, Kernel, Simd, Source, Widened};
use crate::storage::CpuStorage;

/// Products whose factors fill words: one f32, or two bf16.
pub(super) trait Word: Source<Factor: Factor<Lane = f32>> {
    /// The word of neighbouring elements; the second counts only where a word has two.
    fn word<T: Float>(first: T, second: T) -> u32;
}

impl Word for Widened<f32> {
    #[inline(always)]
    fn word<T: Float>(first: T, _second: T) -> u32 {
        first.widen().to_bits()
    }
}

#[cfg(target_arch = "x86_64")]
impl Word for Bf16Pairs {
    #[inline(always)]
    fn word<T: Float>(first: T, second: T) -> u32 {
        let bits = |x: T| match T::DTYPE {
            DType::BF16 => u32::from(bytemuck::cast::<T, u16>(x)),
            _ => u32::from(bf16::narrow(x.widen()).to_bits()),
        };
        bits(first) | bits(second) << 16
    }
}

/// The first operand, `[m, k]`: rows as they are, or panels if it lies column by column.
pub(super) enum First {
    Rows(Rows),
    Panels(Panels),
    /// A few rows of f32 that lie column by column.
    Columns(Columns),
}

/// Up to so many rows of a first operand, packing takes longer than the product does with what lies in columns.
const FEW: usize = 16;

/// A matrix of f32 `[n, k]` that lies column by column, as it is.
pub(super) struct Columns(CpuStorage);

impl Columns {
    /// `None` if it must be packed first.
    fn new<F: Word>(matrix: &CpuStorage) -> Option<Columns> {
        let own = F::Factor::DEPTH == 1 && matrix.dtype() == DType::F32 && matrix.packing().is_none();
        (own && is_transposed(matrix.layout())).then(|| Columns(matrix.clone()))
    }

    fn words(&self) -> &[u32] {
        words(self.0.bytes()).get(self.0.layout().offset()..).unwrap_or_default()
    }

    fn stride(&self) -> usize {
        self.0.layout().strides()[1]
    }
}

impl First {
    /// With `in_rows`, always row by row.
    pub(super) fn new<F: Word>(cx: &Context, x: CpuStorage, in_rows: bool) -> Result<First> {
        let [m, _] = rows_and_columns(x.layout());
        if is_transposed(x.layout()) && in_rows {
            return Ok(First::Rows(Rows::turned::<F>(cx, x)?));
        }
        if let (Some(columns), true) = (Columns::new::<F>(&x), m <= FEW) {
            return Ok(First::Columns(columns));
        }
        if is_transposed(x.layout()) {
            return Ok(First::Panels(Panels::pack::<F>(cx, x)?));
        }
        Ok(First::Rows(Rows::new::<F>(cx, x)?))
    }

    pub(super) fn words(&self) -> &[u32] {
        match self {
            First::Rows(Rows::Packed(buffer) | Rows::Turned { rows: buffer, .. }) => words(buffer.bytes()),
            First::Rows(Rows::Own(storage)) => words(storage.contiguous_bytes()),
            First::Panels(panels) => panels.words(),
            First::Columns(columns) => columns.words(),
        }
    }

    /// Where a row's word of a step is.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, step: usize, steps: usize) -> usize {
        match self {
            First::Rows(rows) => row * rows.apart(steps) + step,
            First::Panels(_) => (row / PANEL * steps + step) * PANEL + row % PANEL,
            First::Columns(columns) => step * columns.stride() + row,
        }
    }

    /// Words from one row to the next, and from one step to the next; within a panel.
    #[inline(always)]
    pub(super) fn apart(&self, steps: usize) -> [usize; 2] {
        match self {
            First::Rows(rows) => [rows.apart(steps), 1],
            First::Panels(_) => [1, PANEL],
            First::Columns(columns) => [1, columns.stride()],
        }
    }

    /// The end of the rows from `row` on that are as far [apart](First::apart) as each other.
    #[inline(always)]
    pub(super) fn together(&self, row: usize) -> usize {
        match self {
            First::Rows(_) | First::Columns(_) => usize::MAX,
            First::Panels(_) => row / PANEL * PANEL + PANEL,
        }
    }

    /// Words that `m` rows take.
    pub(super) fn words_needed(&self, m: usize, steps: usize) -> usize {
        match self {
            First::Rows(_) if m == 0 => 0,
            First::Rows(rows) => (m - 1) * rows.apart(steps) + steps,
            First::Panels(_) => m.next_multiple_of(PANEL) * steps,
            First::Columns(columns) => steps.saturating_sub(1) * columns.stride() + m,
        }
    }
}

fn words(bytes: &[u8]) -> &[u32] {
    bytemuck::cast_slice(&bytes[..bytes.len() - bytes.len() % size_of::<u32>()])
}

/// Rows of words.
pub(super) enum Rows {
    Packed(Buffer),
    /// So many words from one to the next.
    Turned {
        rows: Buffer,
        apart: usize,
    },
    /// Without gaps f32 are words as they are, and so are bf16 of an even number that begin where a word may.
    Own(CpuStorage),
}

impl Rows {
    fn new<F: Word>(cx: &Context, x: CpuStorage) -> Result<Rows> {
        if F::Factor::DEPTH == 1 {
            return Ok(Rows::Own(contiguous_f32(cx, x)?));
        }
        let x = contiguous(cx, x)?;
        let [m, k] = rows_and_columns(x.layout());
        let x = if k.is_multiple_of(2) { x.rounded(cx)?.unwrap_or(x) } else { x };
        // A host's bytes may begin at any bf16.
        if x.dtype() == DType::BF16 && k.is_multiple_of(2) && x.contiguous_bytes().as_ptr().cast::<u32>().is_aligned() {
            return Ok(Rows::Own(x));
        }
        let steps = k.div_ceil(2);
        let mut buffer = cx.buffer::<u32>(m * steps, Contents::Anything)?;
        with_float!("linear", x.dtype(), T => {
            let from = x.contiguous::<T>().unwrap_or_default();
            cx.pieces("linear", elements_mut(&mut buffer), Pieces { size: steps.max(1), cost: 2 }, |row, to| {
                cx.isa.dispatch(Neighbours { from: &from[row * k..][..k], to, word: PhantomData::<F> });
            })
        })?;
        Ok(Rows::Packed(buffer))
    }
}

impl Rows {
    /// Words from one row of `steps` to the next.
    #[inline(always)]
    fn apart(&self, steps: usize) -> usize {
        match self {
            Rows::Turned { apart, .. } => *apart,
            Rows::Packed(_) | Rows::Own(_) => steps,
        }
    }

    /// Of a matrix that lies column by column.
    fn turned<F: Word>(cx: &Context, x: CpuStorage) -> Result<Rows> {
        let x = x.plain(cx)?;
        let x = if F::Factor::DEPTH == 2 { x.rounded(cx)?.unwrap_or(x) } else { x };
        let [m, k] = rows_and_columns(x.layout());
        let steps = k.div_ceil(F::Factor::DEPTH);
        let (offset, stride) = (x.layout().offset(), x.layout().strides()[1]);
        // Beginnings of rows that are a power of two apart would be in each other's way in the first cache.
        let apart = steps.next_multiple_of(LINE) + LINE;
        let mut rows = cx.buffer::<u32>(m * apart, Contents::Anything)?;
        let to = Pointer(elements_mut::<u32>(&mut rows).as_mut_ptr());
        let chunks = steps.div_ceil(TOGETHER);
        with_float!("linear", x.dtype(), T => {
            let from = x.buffer::<T>().get(offset..).unwrap_or_default();
            cx.parallel("linear", (panels(m) * chunks, m.saturating_mul(steps).saturating_mul(2)), |unit| {
                let (panel, chunk) = (unit % panels(m), unit / panels(m));
                let rows = panel * PANEL..((panel + 1) * PANEL).min(m);
                let here = chunk * TOGETHER..((chunk + 1) * TOGETHER).min(steps);
                let mut words = [0; TOGETHER * PANEL];
                let words = &mut words[..here.len() * PANEL];
                let part =
                    Part { from, stride, k, rows: rows.clone(), first: here.start, to: words, word: PhantomData::<F> };
                cx.isa.dispatch(Across(part));
                // SAFETY: the buffer, which outlives the call, has room for these steps of these rows, which are in no
                // other unit.
                let to = Pointer(unsafe { to.get().add(rows.start * apart + here.start) });
                cx.isa.dispatch(Columnwise { from: words, rows: rows.len(), to, apart });
            })
        })?;
        Ok(Rows::Turned { rows, apart })
    }
}

/// Writes steps of a panel as rows, `apart` words from one to the next. Made only by [`Rows::turned`], which vouches
/// for the room.
struct Columnwise<'a> {
    from: &'a [u32],
    rows: usize,
    to: Pointer<u32>,
    apart: usize,
}

impl Kernel for Columnwise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Columnwise { from, rows, to, apart } = self;
        let from_steps = Words { at: from.as_ptr(), apart: PANEL };
        // SAFETY: below `dispatch`; a panel has no fewer rows, and the maker vouches for the room.
        unsafe { turn::<S>([from.len() / PANEL, rows], from_steps, Words { at: to.get(), apart }) }
    }
}

/// Writes a row's neighbours as words.
struct Neighbours<'a, T, F> {
    from: &'a [T],
    to: &'a mut [u32],
    word: PhantomData<F>,
}

impl<T: Float, F: Word> Kernel for Neighbours<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let depth = F::Factor::DEPTH;
        let (whole, rest) = self.from.split_at(self.from.len() / depth * depth);
        for (to, from) in self.to.iter_mut().zip(whole.chunks_exact(depth)) {
            *to = F::word(from[0], from[depth - 1]);
        }
        if let (Some(to), Some(last)) = (self.to.last_mut(), rest.first()) {
            *to = F::word(*last, T::narrow(0.0));
        }
    }
}

/// The second operand, `[n, k]`.
pub(super) enum Second {
    Packed(Panels),
    /// A weight that lies in such panels.
    #[cfg(target_arch = "x86_64")]
    Own(CpuStorage),
    /// Whole panels, for a few rows of the first operand.
    Columns(Columns),
}

impl Second {
    /// For `m` rows of the first operand.
    pub(super) fn new<F: Word>(cx: &Context, matrix: CpuStorage, m: usize) -> Result<Second> {
        #[cfg(target_arch = "x86_64")]
        if let (Some(Packing::Pairs { .. }), 2, true) =
            (matrix.packing(), F::Factor::DEPTH, matrix.layout().is_contiguous())
        {
            return Ok(Second::Own(matrix));
        }
        let whole = rows_and_columns(matrix.layout())[0].is_multiple_of(PANEL);
        if let (Some(columns), true) = (Columns::new::<F>(&matrix), whole && m <= FEW) {
            return Ok(Second::Columns(columns));
        }
        Ok(Second::Packed(Panels::pack::<F>(cx, matrix)?))
    }

    pub(super) fn words(&self) -> &[u32] {
        match self {
            Second::Packed(panels) => panels.words(),
            #[cfg(target_arch = "x86_64")]
            Second::Own(weight) => words(weight.bytes()),
            Second::Columns(columns) => columns.words(),
        }
    }

    /// Words from one step to the next, and from one panel to the next.
    pub(super) fn apart(&self, steps: usize) -> [usize; 2] {
        match self {
            Second::Columns(columns) => [columns.stride(), PANEL],
            _ => [PANEL, steps * PANEL],
        }
    }

    /// Words that `n` rows take.
    pub(super) fn words_needed(&self, n: usize, steps: usize) -> usize {
        match self {
            Second::Columns(columns) => steps.saturating_sub(1) * columns.stride() + n,
            _ => n.next_multiple_of(PANEL) * steps,
        }
    }
}

/// A matrix `[n, k]` in panels of [`PANEL`] rows: the words of a step side by side, those of the next behind them.
/// Rows that are missing in the last panel are zeros.
pub(super) struct Panels(Buffer);

/// Words of a cache line.
const LINE: usize = 16;

/// Steps that are packed together.
const TOGETHER: usize = 32;

impl Panels {
    pub(super) fn pack<F: Word>(cx: &Context, matrix: CpuStorage) -> Result<Panels> {
        #[cfg(target_arch = "x86_64")]
        if let (Some(Packing::Pairs { .. }), 2) = (matrix.packing(), F::Factor::DEPTH) {
            return Panels::of_pairs(cx, &matrix);
        }
        let matrix = matrix.plain(cx)?;
        let transposed = is_transposed(matrix.layout());
        let rounded = if F::Factor::DEPTH == 2 { matrix.rounded(cx)? } else { None };
        let matrix = rounded.unwrap_or(matrix);
        let matrix = if transposed { matrix } else { contiguous(cx, matrix)? };
        let [n, k] = rows_and_columns(matrix.layout());
        let steps = k.div_ceil(F::Factor::DEPTH);
        let mut buffer = cx.buffer::<u32>(panels(n) * PANEL * steps, Contents::Anything)?;
        let to = Pointer(elements_mut::<u32>(&mut buffer).as_mut_ptr());
        let offset = matrix.layout().offset();
        let stride = if transposed { matrix.layout().strides()[1] } else { k };
        let cost = (panels(n) * PANEL * steps).saturating_mul(2);
        with_float!("linear", matrix.dtype(), T => {
            let from = matrix.buffer::<T>().get(offset..).unwrap_or_default();
            cx.parallel("linear", (steps.div_ceil(TOGETHER), cost), |chunk| {
                for panel in 0..panels(n) {
                    let here = chunk * TOGETHER..((chunk + 1) * TOGETHER).min(steps);
                    // SAFETY: each panel's steps are in one chunk, each chunk is taken once, and the buffer, which has
                    // room for every step of every panel, outlives the call.
                    let to = unsafe {
                        let first = to.get().add((panel * steps + here.start) * PANEL);
                        std::slice::from_raw_parts_mut(first, here.len() * PANEL)
                    };
                    let rows = panel * PANEL..((panel + 1) * PANEL).min(n);
                    let part = Part { from, stride, k, rows, first: here.start, to, word: PhantomData::<F> };
                    if transposed { cx.isa.dispatch(Across(part)) } else { cx.isa.dispatch(Along(part)) }
                }
            })
        })?;
        Ok(Panels(buffer))
    }

    /// The transpose of a packed weight of pairs, as `matrix` is a view of it.
    #[cfg(target_arch = "x86_64")]
    fn of_pairs(cx: &Context, matrix: &CpuStorage) -> Result<Panels> {
        let [n, k] = rows_and_columns(matrix.layout());
        // A panel of the weight has as many rows as are packed together, in twos.
        const { assert!(TOGETHER * 2 == PANEL) };
        let (steps, words_of_row) = (k.div_ceil(2), n.div_ceil(2));
        let mut buffer = cx.buffer::<u32>(panels(n) * PANEL * steps, Contents::Anything)?;
        let to = Pointer(elements_mut::<u32>(&mut buffer).as_mut_ptr());
        let weight = words(matrix.bytes());
        let cost = (panels(n) * PANEL * steps).saturating_mul(2);
        cx.parallel("linear", (panels(k), cost), |chunk| {
            let from = &weight[chunk * PANEL * words_of_row..][..PANEL * words_of_row];
            let here = chunk * TOGETHER..((chunk + 1) * TOGETHER).min(steps);
            for (panel, from) in from.chunks(TOGETHER * PANEL).enumerate() {
                // SAFETY: as in `pack`.
                let to = unsafe {
                    let first = to.get().add((panel * steps + here.start) * PANEL);
                    std::slice::from_raw_parts_mut(first, here.len() * PANEL)
                };
                cx.isa.dispatch(Turned { from, to });
            }
        })?;
        Ok(Panels(buffer))
    }

    pub(super) fn words(&self) -> &[u32] {
        words(self.0.bytes())
    }
}

/// A square of a weight's pairs, its rows in twos: each two rows' words become a step of the transpose.
#[cfg(target_arch = "x86_64")]
struct Turned<'a> {
    from: &'a [u32],
    to: &'a mut [u32],
}

#[cfg(target_arch = "x86_64")]
impl Kernel for Turned<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Turned { from, to } = self;
        let words = from.len() / PANEL;
        let mut rows = [[0u32; TOGETHER]; PANEL];
        let from = Words { at: from.as_ptr(), apart: PANEL };
        // SAFETY: below `dispatch`; there are so many words of a panel's rows, and no more than a row here has room for.
        unsafe { turn::<S>([words, PANEL], from, Words { at: rows.as_mut_ptr().cast(), apart: TOGETHER }) }
        for (two, to) in rows.as_chunks::<2>().0.iter().zip(to.chunks_exact_mut(PANEL)) {
            let [first, second] = two.each_ref().map(|row| bytemuck::cast_slice::<u32, u16>(&row[..words]));
            let (to, rest) = to.split_at_mut(2 * words);
            for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
                *to = u32::from(*first) | u32::from(*second) << 16;
            }
            rest.fill(0);
        }
    }
}

/// Some steps of a panel.
struct Part<'a, T, F> {
    from: &'a [T],
    /// Elements from one row, or from one column, to the next.
    stride: usize,
    k: usize,
    /// The matrix's rows of this panel.
    rows: Range<usize>,
    /// The first step.
    first: usize,
    to: &'a mut [u32],
    word: PhantomData<F>,
}

/// From a matrix that lies column by column: a step's words are neighbours already.
struct Across<'a, T, F>(Part<'a, T, F>);

impl<T: Float, F: Word> Kernel for Across<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Part { from, stride, k, rows, first, to, .. } = self.0;
        let depth = F::Factor::DEPTH;
        let nothing = [T::narrow(0.0); PANEL];
        for (step, to) in (first..).zip(to.chunks_exact_mut(PANEL)) {
            let column = |at: usize| match at < k {
                true => &from[at * stride + rows.start..][..rows.len()],
                false => &nothing[..rows.len()],
            };
            let (even, odd) = (column(step * depth), column(step * depth + depth - 1));
            // What is past the last row is zero.
            let (to, rest) = to.split_at_mut(rows.len());
            for ((to, even), odd) in to.iter_mut().zip(even).zip(odd) {
                *to = F::word(*even, *odd);
            }
            rest.fill(0);
        }
    }
}

/// From a matrix that lies row by row: a row's words go to their places, a cache line of them at a time.
struct Along<'a, T, F>(Part<'a, T, F>);

impl<T: Float, F: Word> Kernel for Along<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Part { from, stride, k, rows, first, to, .. } = self.0;
        let depth = F::Factor::DEPTH;
        let steps = to.len() / PANEL;
        let here = first * depth..((first + steps) * depth).min(k);
        if rows.len() < PANEL {
            to.fill(0);
        }
        let mut words = [0; TOGETHER];
        for (column, row) in rows.enumerate() {
            let words = &mut words[..steps];
            let from = &from[row * stride..][here.clone()];
            Neighbours { from, to: words, word: PhantomData::<F> }.run::<S>();
            for (to, word) in to.chunks_exact_mut(PANEL).zip(words) {
                to[column] = *word;
            }
        }
    }
}
