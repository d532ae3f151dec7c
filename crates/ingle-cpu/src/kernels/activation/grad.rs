// SPDX-License-Identifier: EUPL-1.2
//! Gradients of the non-linearities.

use ingle_tensor::{Activation, Op, Result, Spec};

use crate::kernels::elementwise::{COSTLY, update};
use crate::kernels::{BLOCK, Context, Narrow, Pointer, Reader};
use crate::math;
use crate::number::{Float, with_float};
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// [`Op::ActivateGrad`].
pub(crate) fn activate_grad(
    cx: &Context,
    activation: Activation,
    [x, gradient]: [CpuStorage; 2],
) -> Result<CpuStorage> {
    let name = Op::ActivateGrad(activation).name();
    let shape = x.layout().shape().clone();
    with_float!(name, x.dtype(), T => {
        let x = Reader::<T>::new(cx, &x, &shape);
        update::<T>(cx, name, (gradient, &shape), COSTLY, |first, gradient| {
            let mut scratch = [0.0; BLOCK];
            let x = x.block(first, &mut scratch, gradient.len());
            cx.isa.dispatch(ActivateGrad { activation, x, gradient });
        })
    })
}

/// [`Op::GluGrad`].
pub(crate) fn glu_grad(
    cx: &Context,
    activation: Activation,
    inputs: [CpuStorage; 3],
    output: &Spec,
) -> Result<CpuStorage> {
    with_float!("glu_grad", output.dtype, T => glu_grad_as::<T>(cx, activation, &inputs, output))
}

fn glu_grad_as<T: Float>(
    cx: &Context,
    activation: Activation,
    inputs: &[CpuStorage; 3],
    output: &Spec,
) -> Result<CpuStorage> {
    let shape = inputs[0].layout().shape();
    let readers = inputs.each_ref().map(|x| Reader::<T>::new(cx, x, shape));
    cx.make::<T>(&output.shape, |out| {
        let (of_gate, of_up) = out.split_at_mut(out.len() / 2);
        let of_up = Pointer(of_up.as_mut_ptr());
        cx.pieces("glu_grad", of_gate, COSTLY, |piece, of_gate| {
            let (first, len) = (piece * BLOCK, of_gate.len());
            // SAFETY: there are as many elements as of the gate's gradient, cut into the same pieces; both outlive
            // the call.
            let of_up = unsafe { std::slice::from_raw_parts_mut(of_up.get().add(first), len) };
            let mut scratch = [[0.0; BLOCK]; 3];
            let [a, b, c] = &mut scratch;
            let [gate, up, gradient] = &readers;
            let read = [gate.block(first, a, len), up.block(first, b, len), gradient.block(first, c, len)];
            match (T::as_wide_mut(of_gate), T::as_wide_mut(of_up)) {
                (Some(of_gate), Some(of_up)) => {
                    cx.isa.dispatch(GluGrad { activation, read, of_gate, of_up });
                }
                _ => {
                    let mut wide = [[0.0; BLOCK]; 2];
                    let [gate, up] = wide.each_mut().map(|wide| &mut wide[..len]);
                    cx.isa.dispatch(GluGrad { activation, read, of_gate: &mut *gate, of_up: &mut *up });
                    cx.isa.dispatch(Narrow { from: gate, to: of_gate });
                    cx.isa.dispatch(Narrow { from: up, to: of_up });
                }
            }
        })
    })
}

/// A function's value and derivative.
#[derive(Clone, Copy)]
struct Curve {
    value: f32,
    slope: f32,
}

/// `x s`, and `s + x s (1 − s)`, with `s` the sigmoid.
#[inline(always)]
fn silu<S: Simd>(x: f32) -> Curve {
    let s = math::sigmoid::<S>(x);
    Curve { value: x * s, slope: s + x * (s - s * s) }
}

/// `x Φ(x)`, and `Φ(x) + x φ(x)`.
#[inline(always)]
fn gelu<S: Simd>(x: f32) -> Curve {
    /// `1/√(2π)`.
    const PEAK: f32 = 0.398_942_3;
    let below = 0.5 * (1.0 + math::erf::<S>(x * std::f32::consts::FRAC_1_SQRT_2));
    Curve { value: x * below, slope: below + x * (PEAK * math::exp::<S>(-0.5 * (x * x))) }
}

/// `x/2 (1 + t)`, and `(1 + t)/2 + x/2 (1 − t²) √(2/π) (1 + 3 · 0.044715 x²)`, with `t` the tangent.
#[inline(always)]
fn gelu_tanh<S: Simd>(x: f32) -> Curve {
    const ROOT: f32 = 0.797_884_6;
    let square = x * x;
    let t = math::tanh::<S>(ROOT * (x + 0.044_715 * (square * x)));
    let inner = ROOT * (1.0 + 0.134_145 * square);
    Curve { value: (0.5 * x) * (1.0 + t), slope: 0.5 * ((1.0 + t) + x * (1.0 - t * t) * inner) }
}

struct ActivateGrad<'a> {
    activation: Activation,
    x: &'a [f32],
    gradient: &'a mut [f32],
}

impl Kernel for ActivateGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.activation {
            Activation::Silu => self.each(silu::<S>),
            Activation::Gelu => self.each(gelu::<S>),
            Activation::GeluTanh => self.each(gelu_tanh::<S>),
        }
    }
}

impl ActivateGrad<'_> {
    #[inline(always)]
    fn each(self, curve: impl Fn(f32) -> Curve) {
        for (gradient, x) in self.gradient.iter_mut().zip(self.x) {
            *gradient *= curve(*x).slope;
        }
    }
}

struct GluGrad<'a> {
    activation: Activation,
    /// The gate, what it multiplies, and the gradient of the result.
    read: [&'a [f32]; 3],
    of_gate: &'a mut [f32],
    of_up: &'a mut [f32],
}

impl Kernel for GluGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.activation {
            Activation::Silu => self.each(silu::<S>),
            Activation::Gelu => self.each(gelu::<S>),
            Activation::GeluTanh => self.each(gelu_tanh::<S>),
        }
    }
}

impl GluGrad<'_> {
    #[inline(always)]
    fn each(self, curve: impl Fn(f32) -> Curve) {
        let GluGrad { read: [gate, up, gradient], of_gate, of_up, .. } = self;
        let results = of_gate.iter_mut().zip(of_up);
        for (((of_gate, of_up), gate), (up, gradient)) in results.zip(gate).zip(up.iter().zip(gradient)) {
            let Curve { value, slope } = curve(*gate);
            *of_gate = gradient * up * slope;
            *of_up = gradient * value;
        }
    }
}
