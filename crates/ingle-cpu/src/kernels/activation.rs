// SPDX-License-Identifier: EUPL-1.2
//! Non-linearities of one element, alone and as gates.

mod grad;

use ingle_tensor::{Activation, Op, Result};

pub(crate) use self::grad::{activate_grad, glu_grad};
use super::elementwise::{COSTLY, update};
use super::{BLOCK, Context, Reader};
use crate::math;
use crate::number::with_float;
use crate::simd::{Kernel, Simd};
use crate::storage::CpuStorage;

/// [`Op::Activate`].
pub(crate) fn activate(cx: &Context, activation: Activation, x: CpuStorage) -> Result<CpuStorage> {
    let name = Op::Activate(activation).name();
    let shape = x.layout().shape().clone();
    with_float!(name, x.dtype(), T => {
        update::<T>(cx, name, (x, &shape), COSTLY, |_, block| cx.isa.dispatch(Activate { activation, block }))
    })
}

/// [`Op::Glu`].
pub(crate) fn glu(cx: &Context, activation: Activation, [gate, up]: [CpuStorage; 2]) -> Result<CpuStorage> {
    let shape = gate.layout().shape().clone();
    with_float!("glu", gate.dtype(), T => {
        let up = Reader::<T>::new(cx, &up, &shape);
        update::<T>(cx, "glu", (gate, &shape), COSTLY, |first, block| {
            let mut scratch = [0.0; BLOCK];
            let up = up.block(first, &mut scratch, block.len());
            cx.isa.dispatch(Glu { activation, gate: block, up });
        })
    })
}

/// [`Op::SoftCap`].
pub(crate) fn soft_cap(cx: &Context, cap: f32, x: CpuStorage) -> Result<CpuStorage> {
    let shape = x.layout().shape().clone();
    with_float!("soft_cap", x.dtype(), T => {
        update::<T>(cx, "soft_cap", (x, &shape), COSTLY, |_, block| cx.isa.dispatch(SoftCap { cap, block }))
    })
}

/// `x · sigmoid(x)`, rounded once less.
#[inline(always)]
fn silu<S: Simd>(x: f32) -> f32 {
    x / (1.0 + math::exp::<S>(-x))
}

/// `x/2 · (1 + erf(x/√2))`.
#[inline(always)]
fn gelu<S: Simd>(x: f32) -> f32 {
    (0.5 * x) * (1.0 + math::erf::<S>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, by way of `(1 + tanh u) / 2 = 1 / (1 + exp(−2u))`, which
/// costs half as much and does not cancel where the tangent is near −1.
#[inline(always)]
fn gelu_tanh<S: Simd>(x: f32) -> f32 {
    /// `−2 √(2/π)`.
    const ROOT: f32 = -1.595_769_2;
    x / (1.0 + math::exp::<S>(ROOT * (x + 0.044_715 * (x * x * x))))
}

struct Activate<'a> {
    activation: Activation,
    block: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        match self.activation {
            Activation::Silu => {
                for x in self.block {
                    *x = silu::<S>(*x);
                }
            }
            Activation::Gelu => {
                for x in self.block {
                    *x = gelu::<S>(*x);
                }
            }
            Activation::GeluTanh => {
                for x in self.block {
                    *x = gelu_tanh::<S>(*x);
                }
            }
        }
    }
}

/// Puts `activation(gate) · up` in the gate's place.
pub(super) struct Glu<'a> {
    pub(super) activation: Activation,
    pub(super) gate: &'a mut [f32],
    pub(super) up: &'a [f32],
}

impl Kernel for Glu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Glu { activation, gate, up } = self;
        match activation {
            Activation::Silu => {
                for (x, up) in gate.iter_mut().zip(up) {
                    *x = silu::<S>(*x) * up;
                }
            }
            Activation::Gelu => {
                for (x, up) in gate.iter_mut().zip(up) {
                    *x = gelu::<S>(*x) * up;
                }
            }
            Activation::GeluTanh => {
                for (x, up) in gate.iter_mut().zip(up) {
                    *x = gelu_tanh::<S>(*x) * up;
                }
            }
        }
    }
}

struct SoftCap<'a> {
    cap: f32,
    block: &'a mut [f32],
}

impl Kernel for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        soft_cap_all::<S>(self.block, self.cap);
    }
}

/// `cap · tanh(x / cap)` of each element.
#[inline(always)]
pub(super) fn soft_cap_all<S: Simd>(block: &mut [f32], cap: f32) {
    let inverse = (1.0 / f64::from(cap)) as f32;
    for x in block {
        *x = cap * math::tanh::<S>(*x * inverse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn activations_at_their_ends_ugly() {
        // What goes in and what comes out; where −∞ meets a zero there is no limit to compute.
        let ends = [
            (f32::INFINITY, f32::INFINITY),
            (1e13, 1e13),
            (1e30, 1e30),
            (105.0, 105.0),
            (0.0, 0.0),
            (-0.0, -0.0),
            (-1e13, -0.0),
            (-1e30, -0.0),
        ];
        for isa in Isa::available() {
            for activation in [Activation::Silu, Activation::GeluTanh] {
                for (x, expected) in ends {
                    // As many as vectors and a rest take.
                    let mut block = [x; 35];
                    isa.dispatch(Activate { activation, block: &mut block });
                    let right = block.iter().all(|y: &f32| y.to_bits() == expected.to_bits());
                    assert!(right, "{isa}: {activation:?}({x}) = {}, not {expected}", block[0]);
                }
                let mut block = [f32::NAN; 35];
                isa.dispatch(Activate { activation, block: &mut block });
                assert!(block.iter().all(|y| y.is_nan()), "{isa}: {activation:?}");
            }
            // As precise as ever up to where e⁻ˣ is infinite; beyond it is zero, which is off by less than 3e-37.
            for (x, off) in [(-88.0f32, 1e-43), (-89.0, 3e-37), (-100.0, 3e-37)] {
                let mut block = [x];
                isa.dispatch(Activate { activation: Activation::Silu, block: &mut block });
                let exact = f64::from(x) / (1.0 + f64::from(-x).exp());
                let step = exact.abs() * 4e-7 + off;
                assert!((f64::from(block[0]) - exact).abs() <= step, "{isa}: silu({x}) = {}, not {exact}", block[0]);
            }
        }
    }
}
