// SPDX-License-Identifier: EUPL-1.2
//! Optimisers' steps, in place: each block of the state and its gradient pass through the first cache once.

use ingle_tensor::{Adam, Momentum, Result, Sgd, Shape, WeightDecay};

use super::reduce::sum;
use super::rows::packed;
use super::{BLOCK, Context, Pieces, Pointer, Reader, contiguous, views};
use crate::number::with_float;
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// Blocks that a thread takes at once.
const TOGETHER: usize = 32;

/// What an element costs, about: its memory, mostly.
const COST: usize = 4;

/// [`ingle_tensor::Op::SquaredNorm`]: parts of a fixed length, added in order.
pub(crate) fn squared_norm(cx: &Context, x: CpuStorage) -> Result<CpuStorage> {
    const PART: usize = TOGETHER * BLOCK;
    let (shape, len) = (x.layout().shape().clone(), x.elements());
    let mut parts = vec![0f64; len.div_ceil(PART)];
    with_float!("squared_norm", x.dtype(), T => {
        let reader = Reader::<T>::new(cx, &x, &shape);
        cx.pieces("squared_norm", &mut parts, Pieces { size: 1, cost: PART }, |part, out| {
            let end = ((part + 1) * PART).min(len);
            for first in (part * PART..end).step_by(BLOCK) {
                let mut block = [0.0; BLOCK];
                let block = &mut block[..BLOCK.min(end - first)];
                reader.copy(first, block);
                out[0] += f64::from(cx.isa.dispatch(Squares(block)));
            }
        })
    })?;
    cx.make::<f32>(&Shape::default(), |out| {
        out.fill(parts.iter().sum::<f64>() as f32);
        Ok(())
    })
}

/// The sum of a block's squares, which take its place.
struct Squares<'a>(&'a mut [f32]);

impl Kernel for Squares<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        for x in self.0.iter_mut() {
            *x *= *x;
        }
        sum::<S>(self.0)
    }
}

/// Calls `change` with each block of every row of the state, in place if it is given away, and of the gradient.
fn step<const ROWS: usize>(
    cx: &Context,
    op: &'static str,
    [mut state, gradient]: [CpuStorage; 2],
    change: impl Fn([&mut [f32]; ROWS], &[f32]) + Sync,
) -> Result<CpuStorage> {
    if state.donated::<f32>().is_none() {
        state = views::copy(cx, &state)?;
    }
    let Some(own) = state.donated::<f32>() else { return Ok(state) };
    let len = gradient.elements();
    debug_assert_eq!(own.len(), ROWS * len);
    let start = Pointer(own.as_mut_ptr());
    let shape = gradient.layout().shape().clone();
    let blocks = len.div_ceil(BLOCK);
    with_float!(op, gradient.dtype(), T => {
        let reader = Reader::<T>::new(cx, &gradient, &shape);
        cx.parallel(op, (blocks.div_ceil(TOGETHER), len * COST), |chunk| {
            for block in chunk * TOGETHER..((chunk + 1) * TOGETHER).min(blocks) {
                let first = block * BLOCK;
                let here = BLOCK.min(len - first);
                let mut scratch = [0.0; BLOCK];
                let gradient = reader.block(first, &mut scratch, here);
                // SAFETY: the state has `ROWS` rows of `len` elements; blocks do not overlap, each is taken once, and
                // the state outlives the call.
                let rows = std::array::from_fn(|row| unsafe {
                    std::slice::from_raw_parts_mut(start.get().add(row * len + first), here)
                });
                change(rows, gradient);
            }
        })
    })?;
    Ok(state)
}

/// The rates, which are as many as [`ingle_tensor::Op::infer`] has counted.
fn rates<const N: usize>(cx: &Context, rates: CpuStorage) -> Result<[f32; N]> {
    let rates = contiguous(cx, rates)?;
    let mut list = [0.0; N];
    list.iter_mut().zip(packed::<f32>(&rates)).for_each(|(to, from)| *to = *from);
    Ok(list)
}

/// [`ingle_tensor::Op::Adam`].
pub(crate) fn adam(cx: &Context, inputs: [CpuStorage; 3], parameters: &Adam) -> Result<CpuStorage> {
    let [state, gradient, given] = inputs;
    let rates = rates(cx, given)?;
    step(cx, "adam", [state, gradient], |rows, gradient| {
        cx.isa.dispatch(AdamStep { parameters, rates, rows, gradient });
    })
}

struct AdamStep<'a> {
    parameters: &'a Adam,
    rates: [f32; 4],
    rows: [&'a mut [f32]; 3],
    gradient: &'a [f32],
}

impl Kernel for AdamStep<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Adam { beta1, beta2, eps, weight_decay } = *self.parameters;
        let [rate, unbias1, unbias2, factor] = self.rates;
        let (keep, pull) = match weight_decay {
            WeightDecay::Gradient(decay) => (1.0, decay as f32),
            WeightDecay::Decoupled(decay) => ((1.0 - f64::from(rate) * decay) as f32, 0.0),
        };
        // Of 1 − β little would be left if β were rounded first.
        let (new1, beta2, new2) = ((1.0 - beta1) as f32, beta2 as f32, (1.0 - beta2) as f32);
        let eps = eps as f32;
        let (size, root) = (rate / unbias1, unbias2.sqrt());
        let [weights, means, squares] = self.rows;
        for (((w, m), v), g) in weights.iter_mut().zip(means).zip(squares).zip(self.gradient) {
            let g = g * factor + pull * *w;
            *m += (g - *m) * new1;
            *v = *v * beta2 + g * g * new2;
            *w = *w * keep - size * *m / (v.sqrt() / root + eps);
        }
    }
}

/// [`ingle_tensor::Op::Sgd`].
pub(crate) fn sgd(cx: &Context, inputs: [CpuStorage; 3], parameters: &Sgd) -> Result<CpuStorage> {
    let [state, gradient, given] = inputs;
    let rates = rates(cx, given)?;
    let decay = parameters.weight_decay as f32;
    let storages = [state, gradient];
    match parameters.momentum {
        Momentum::None => step(cx, "sgd", storages, |[weights], gradient| {
            cx.isa.dispatch(Descent { rates, decay, weights, gradient });
        }),
        Momentum::Heavy(momentum) => step(cx, "sgd", storages, |[weights, gathered], gradient| {
            let descent = Descent { rates, decay, weights, gradient };
            cx.isa.dispatch(WithMomentum { descent, gathered, momentum: momentum as f32, ahead: [0.0, 1.0] });
        }),
        Momentum::Nesterov(momentum) => step(cx, "sgd", storages, |[weights, gathered], gradient| {
            let descent = Descent { rates, decay, weights, gradient };
            cx.isa.dispatch(WithMomentum {
                descent,
                gathered,
                momentum: momentum as f32,
                ahead: [1.0, momentum as f32],
            });
        }),
    }
}

struct Descent<'a> {
    rates: [f32; 2],
    decay: f32,
    weights: &'a mut [f32],
    gradient: &'a [f32],
}

impl Kernel for Descent<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let [rate, factor] = self.rates;
        for (w, g) in self.weights.iter_mut().zip(self.gradient) {
            *w -= rate * (g * factor + self.decay * *w);
        }
    }
}

struct WithMomentum<'a> {
    descent: Descent<'a>,
    gathered: &'a mut [f32],
    momentum: f32,
    /// How much of the gradient and of the momentum the weights move by.
    ahead: [f32; 2],
}

impl Kernel for WithMomentum<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Descent { rates: [rate, factor], decay, weights, gradient } = self.descent;
        let [of_gradient, of_gathered] = self.ahead;
        for ((w, b), g) in weights.iter_mut().zip(self.gathered).zip(gradient) {
            let g = g * factor + decay * *w;
            *b = *b * self.momentum + g;
            *w -= rate * (of_gradient * g + of_gathered * *b);
        }
    }
}
