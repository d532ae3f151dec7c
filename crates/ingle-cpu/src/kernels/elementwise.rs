// SPDX-License-Identifier: EUPL-1.2
//! Element-by-element operations, block by block: read and widen, compute, round and write.

use ingle_tensor::{BinaryOp, CompareOp, Op, Result, Shape, UnaryOp};

use super::{BLOCK, Context, Narrow, Pieces, Reader, Widen};
use crate::math;
use crate::number::{Arithmetic, Number, with_float_or_integer, with_number};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

const WORK: Pieces = Pieces { size: BLOCK, cost: 1 };

/// What transcendental functions cost beside an addition.
pub(super) const COSTLY: Pieces = Pieces { size: BLOCK, cost: 8 };

/// Changes every element of `a`, stretched to `shape`: in its own memory if it was donated, else in a copy.
/// `change(first, block)` gets the elements from number `first` on.
pub(super) fn update<T: Number>(
    cx: &Context,
    op: &'static str,
    (mut a, shape): (CpuStorage, &Shape),
    work: Pieces,
    change: impl Fn(usize, &mut [T::Wide]) + Sync,
) -> Result<CpuStorage> {
    if a.layout().shape() == shape
        && let Some(own) = a.donated::<T>()
    {
        cx.pieces(op, own, work, |piece, out| match T::as_wide_mut(out) {
            Some(wide) => change(piece * BLOCK, wide),
            None => {
                let mut scratch = [T::Wide::default(); BLOCK];
                let wide = &mut scratch[..out.len()];
                cx.isa.dispatch(Widen { from: &*out, to: &mut *wide });
                change(piece * BLOCK, wide);
                cx.isa.dispatch(Narrow { from: wide, to: out });
            }
        })?;
        return Ok(a);
    }
    let reader = Reader::<T>::new(cx, &a, shape);
    cx.make::<T>(shape, |out| {
        cx.pieces(op, out, work, |piece, out| match T::as_wide_mut(out) {
            Some(wide) => {
                reader.copy(piece * BLOCK, wide);
                change(piece * BLOCK, wide);
            }
            None => {
                let mut scratch = [T::Wide::default(); BLOCK];
                let wide = &mut scratch[..out.len()];
                reader.copy(piece * BLOCK, wide);
                change(piece * BLOCK, wide);
                cx.isa.dispatch(Narrow { from: wide, to: out });
            }
        })
    })
}

/// [`ingle_tensor::Op::Unary`].
pub(crate) fn unary(cx: &Context, op: UnaryOp, x: CpuStorage) -> Result<CpuStorage> {
    let name = Op::Unary(op).name();
    let shape = x.layout().shape().clone();
    let work = if matches!(op, UnaryOp::Neg | UnaryOp::Abs) { WORK } else { COSTLY };
    with_float_or_integer!(x.dtype(),
        T => update::<T>(cx, name, (x, &shape), work, |_, block| cx.isa.dispatch(Map { op, block })),
        T => update::<T>(cx, name, (x, &shape), work, |_, block| {
            let negated = |x: &T| <T as Default>::default().sub(*x);
            match op {
                UnaryOp::Neg => block.iter_mut().for_each(|x| *x = negated(x)),
                // Infer leaves only the absolute value besides.
                _ => block.iter_mut().filter(|x| **x < T::default()).for_each(|x| *x = negated(x)),
            }
        })
    )
}

/// A unary function of f32s.
struct Map<'a> {
    op: UnaryOp,
    block: &'a mut [f32],
}

impl Kernel for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        macro_rules! each {
            ($x:ident => $value:expr) => {
                for element in self.block {
                    let $x = *element;
                    *element = $value;
                }
            };
        }
        match self.op {
            UnaryOp::Neg => each!(x => -x),
            UnaryOp::Abs => each!(x => x.abs()),
            UnaryOp::Exp => each!(x => math::exp::<S>(x)),
            UnaryOp::Log => each!(x => x.ln()),
            UnaryOp::Sqrt => each!(x => x.sqrt()),
            UnaryOp::Rsqrt => each!(x => 1.0 / x.sqrt()),
            UnaryOp::Recip => each!(x => 1.0 / x),
            UnaryOp::Sin => each!(x => x.sin()),
            UnaryOp::Cos => each!(x => x.cos()),
            UnaryOp::Tanh => each!(x => math::tanh::<S>(x)),
            UnaryOp::Sigmoid => each!(x => math::sigmoid::<S>(x)),
            UnaryOp::Erf => each!(x => math::erf::<S>(x)),
        }
    }
}

/// [`ingle_tensor::Op::Binary`].
pub(crate) fn binary(cx: &Context, op: BinaryOp, [a, b]: [CpuStorage; 2], shape: &Shape) -> Result<CpuStorage> {
    let name = Op::Binary(op).name();
    with_float_or_integer!(a.dtype(),
        T => {
            let reader = Reader::<T>::new(cx, &b, shape);
            update::<T>(cx, name, (a, shape), WORK, |first, a| {
                let mut scratch = [0.0; BLOCK];
                let b = reader.block(first, &mut scratch, a.len());
                cx.isa.dispatch(Zip { op, a, b });
            })
        },
        T => {
            let reader = Reader::<T>::new(cx, &b, shape);
            update::<T>(cx, name, (a, shape), WORK, |first, a| {
                let mut scratch = [T::default(); BLOCK];
                let b = reader.block(first, &mut scratch, a.len());
                Zip { op, a, b }.apply();
            })
        }
    )
}

/// `a ← op(a, b)`.
struct Zip<'a, W> {
    op: BinaryOp,
    a: &'a mut [W],
    b: &'a [W],
}

impl Kernel for Zip<'_, f32> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        self.apply();
    }
}

impl<W: Arithmetic> Zip<'_, W> {
    #[inline(always)]
    fn apply(self) {
        macro_rules! each {
            ($method:ident) => {
                for (a, b) in self.a.iter_mut().zip(self.b) {
                    *a = a.$method(*b);
                }
            };
        }
        match self.op {
            BinaryOp::Add => each!(add),
            BinaryOp::Sub => each!(sub),
            BinaryOp::Mul => each!(mul),
            BinaryOp::Div => each!(div),
            BinaryOp::Max => each!(larger),
            BinaryOp::Min => each!(smaller),
        }
    }
}

/// [`ingle_tensor::Op::Compare`].
pub(crate) fn compare(cx: &Context, op: CompareOp, [a, b]: &[CpuStorage; 2], shape: &Shape) -> Result<CpuStorage> {
    let name = Op::Compare(op).name();
    with_number!(a.dtype(), T => {
        let (a, b) = (Reader::<T>::new(cx, a, shape), Reader::<T>::new(cx, b, shape));
        cx.make::<u8>(shape, |out| {
            cx.pieces(name, out, WORK, |piece, out| {
                let mut scratch = [[<T as Number>::Wide::default(); BLOCK]; 2];
                let [scratch_a, scratch_b] = &mut scratch;
                let a = a.block(piece * BLOCK, scratch_a, out.len());
                let b = b.block(piece * BLOCK, scratch_b, out.len());
                let pairs = out.iter_mut().zip(a).zip(b);
                match op {
                    CompareOp::Equal => pairs.for_each(|((out, a), b)| *out = (a == b).into()),
                    CompareOp::Less => pairs.for_each(|((out, a), b)| *out = (a < b).into()),
                    CompareOp::LessEqual => pairs.for_each(|((out, a), b)| *out = (a <= b).into()),
                }
            })
        })
    })
}

/// [`ingle_tensor::Op::Select`].
pub(crate) fn select(cx: &Context, inputs: [CpuStorage; 3], shape: &Shape) -> Result<CpuStorage> {
    let [condition, a, b] = inputs;
    let condition = Reader::<u8>::new(cx, &condition, shape);
    with_number!(a.dtype(), T => {
        let b = Reader::<T>::new(cx, &b, shape);
        update::<T>(cx, "select", (a, shape), WORK, |first, a| {
            let mut scratch = [0; BLOCK];
            let condition = condition.block(first, &mut scratch, a.len());
            let mut scratch = [<T as Number>::Wide::default(); BLOCK];
            let b = b.block(first, &mut scratch, a.len());
            for ((a, b), condition) in a.iter_mut().zip(b).zip(condition) {
                *a = if *condition != 0 { *a } else { *b };
            }
        })
    })
}
