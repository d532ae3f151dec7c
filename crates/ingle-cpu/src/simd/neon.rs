// SPDX-License-Identifier: EUPL-1.2
//! NEON.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::{Kernel, QuadKernel, Quads, Simd};

#[target_feature(enable = "neon")]
pub(crate) fn with_neon<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

#[target_feature(enable = "neon")]
pub(crate) fn with_neon_quads<K: QuadKernel>(kernel: K) -> K::Output {
    kernel.run::<NeonProducts>()
}

#[target_feature(enable = "neon,dotprod")]
pub(crate) fn with_neon_dotprod<K: QuadKernel>(kernel: K) -> K::Output {
    kernel.run::<NeonDotprod>()
}

/// Whether the machine has the 8-bit dot product.
pub(crate) fn has_dotprod() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// Two registers, so that a vector is as long as on AVX2.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// The first `n` of eight elements; the others zero.
#[inline(always)]
unsafe fn part<T: Copy + Default>(from: *const T, n: usize) -> [T; 8] {
    let mut elements = [T::default(); 8];
    for (i, element) in elements.iter_mut().enumerate().take(n) {
        // SAFETY: the caller vouches for `n` elements.
        *element = unsafe { *from.add(i) };
    }
    elements
}

impl Simd for Neon {
    type Vector = float32x4x2_t;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 3;

    vouched! {
        unsafe fn splat(value: f32) -> float32x4x2_t {
            float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value))
        }

        unsafe fn load(from: *const f32) -> float32x4x2_t {
            float32x4x2_t(vld1q_f32(from), vld1q_f32(from.add(4)))
        }

        unsafe fn load_part(from: *const f32, n: usize) -> float32x4x2_t {
            Self::load(part(from, n).as_ptr())
        }

        unsafe fn load_bf16(from: *const bf16) -> float32x4x2_t {
            let bits = vld1q_u16(from.cast());
            let low = vshll_n_u16::<16>(vget_low_u16(bits));
            let high = vshll_n_u16::<16>(vget_high_u16(bits));
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }

        unsafe fn load_bf16_part(from: *const bf16, n: usize) -> float32x4x2_t {
            Self::load_bf16(part(from, n).as_ptr())
        }

        unsafe fn load_f16(from: *const f16) -> float32x4x2_t {
            // The half-precision vector types are not stable in Rust; one by one the conversion is one instruction.
            Self::load(std::array::from_fn::<f32, 8, _>(|i| (*from.add(i)).to_f32()).as_ptr())
        }

        unsafe fn load_f16_part(from: *const f16, n: usize) -> float32x4x2_t {
            Self::load_f16(part(from, n).as_ptr())
        }

        unsafe fn store(to: *mut f32, value: float32x4x2_t) {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }

        unsafe fn store_part(to: *mut f32, n: usize, value: float32x4x2_t) {
            let mut elements = [0.0; 8];
            Self::store(elements.as_mut_ptr(), value);
            std::ptr::copy_nonoverlapping(elements.as_ptr(), to, n);
        }

        unsafe fn add(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1))
        }

        unsafe fn mul(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1))
        }

        unsafe fn mul_add(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1))
        }

        unsafe fn max(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vmaxnmq_f32(a.0, b.0), vmaxnmq_f32(a.1, b.1))
        }

        unsafe fn sum(v: float32x4x2_t) -> f32 {
            let quarter = vaddq_f32(v.0, v.1);
            let pair = vadd_f32(vget_low_f32(quarter), vget_high_f32(quarter));
            vget_lane_f32::<0>(pair) + vget_lane_f32::<1>(pair)
        }

        unsafe fn sum4(v: [float32x4x2_t; 4]) -> [f32; 4] {
            v.map(|v| Self::sum(v))
        }
    }

    #[inline(always)]
    fn prefetch(_address: *const u8) {
        // The intrinsic is not stable in Rust.
    }

    #[inline(always)]
    fn mul_add1(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// What both kinds of dot product share.
macro_rules! quads {
    ($quad:ident) => {
        type Floats = Neon;
        type Sums = int32x4x2_t;
        type Weights = uint8x16x2_t;
        const SHIFT: i32 = 128;
        const NARROW_SHIFT: i32 = 0;

        vouched! {
            unsafe fn splat(value: i32) -> int32x4x2_t {
                int32x4x2_t(vdupq_n_s32(value), vdupq_n_s32(value))
            }

            unsafe fn load(from: *const u8) -> uint8x16x2_t {
                uint8x16x2_t(vld1q_u8(from), vld1q_u8(from.add(16)))
            }

            unsafe fn table(numbers: &[u8; 16]) -> uint8x16x2_t {
                let numbers = vld1q_u8(numbers.as_ptr());
                uint8x16x2_t(numbers, numbers)
            }

            unsafe fn look_up(table: uint8x16x2_t, places: uint8x16x2_t) -> uint8x16x2_t {
                uint8x16x2_t(vqtbl1q_u8(table.0, places.0), vqtbl1q_u8(table.1, places.1))
            }

            unsafe fn dot(sums: int32x4x2_t, weights: uint8x16x2_t, x: i32) -> int32x4x2_t {
                let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
                int32x4x2_t($quad(sums.0, signed(weights.0), x), $quad(sums.1, signed(weights.1), x))
            }

            unsafe fn dot_narrow(sums: int32x4x2_t, weights: uint8x16x2_t, x: i32) -> int32x4x2_t {
                let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
                let weights = int8x16x2_t(vreinterpretq_s8_u8(weights.0), vreinterpretq_s8_u8(weights.1));
                int32x4x2_t($quad(sums.0, weights.0, x), $quad(sums.1, weights.1, x))
            }

            unsafe fn to_floats(sums: int32x4x2_t) -> float32x4x2_t {
                float32x4x2_t(vcvtq_f32_s32(sums.0), vcvtq_f32_s32(sums.1))
            }

            unsafe fn load_bytes(from: *const i8) -> int32x4x2_t {
                let words = vmovl_s8(vld1_s8(from));
                int32x4x2_t(vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words))
            }

            unsafe fn load_pairs(from: *const u8) -> int32x4x2_t {
                let pairs = vld1q_u8(from);
                let (low, high) = (vmovl_u8(vget_low_u8(pairs)), vmovl_high_u8(pairs));
                int32x4x2_t(vreinterpretq_s32_u16(low), vreinterpretq_s32_u16(high))
            }

            unsafe fn dot_pairs(sums: int32x4x2_t, pairs: int32x4x2_t, x: i32) -> int32x4x2_t {
                let x = vdupq_n_s32(x);
                int32x4x2_t(vaddq_s32(sums.0, words(pairs.0, x)), vaddq_s32(sums.1, words(pairs.1, x)))
            }

            unsafe fn mul(a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
                int32x4x2_t(vmulq_s32(a.0, b.0), vmulq_s32(a.1, b.1))
            }

            unsafe fn add(a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
                int32x4x2_t(vaddq_s32(a.0, b.0), vaddq_s32(a.1, b.1))
            }

            unsafe fn total(sums: int32x4x2_t) -> i32 {
                vaddvq_s32(vaddq_s32(sums.0, sums.1))
            }

            unsafe fn larger(largest: int32x4x2_t, x: float32x4x2_t) -> int32x4x2_t {
                let magnitude = vdupq_n_s32(i32::MAX);
                int32x4x2_t(
                    vmaxq_s32(largest.0, vandq_s32(vreinterpretq_s32_f32(x.0), magnitude)),
                    vmaxq_s32(largest.1, vandq_s32(vreinterpretq_s32_f32(x.1), magnitude))
                )
            }

            unsafe fn largest(lanes: int32x4x2_t) -> i32 {
                vmaxvq_s32(vmaxq_s32(lanes.0, lanes.1))
            }

            unsafe fn round(x: float32x4x2_t) -> int32x4x2_t {
                int32x4x2_t(vcvtnq_s32_f32(x.0), vcvtnq_s32_f32(x.1))
            }

            unsafe fn store_bytes(to: *mut i8, numbers: int32x4x2_t) {
                vst1_s8(to, vmovn_s16(vcombine_s16(vmovn_s32(numbers.0), vmovn_s32(numbers.1))))
            }
        }

        #[inline(always)]
        unsafe fn bits<const WIDTH: usize>(weights: uint8x16x2_t, place: usize) -> uint8x16x2_t {
            // SAFETY: the instruction set is there.
            unsafe {
                let mask = vdupq_n_u8(((1u16 << WIDTH) - 1) as u8);
                let right = vdupq_n_s8(-((place * WIDTH) as i8));
                uint8x16x2_t(vandq_u8(vshlq_u8(weights.0, right), mask), vandq_u8(vshlq_u8(weights.1, right), mask))
            }
        }

        #[inline(always)]
        unsafe fn join<const PLACES: u32>(low: uint8x16x2_t, high: uint8x16x2_t) -> uint8x16x2_t {
            // SAFETY: the instruction set is there.
            unsafe {
                let left = vdupq_n_s8(PLACES as i8);
                uint8x16x2_t(vorrq_u8(low.0, vshlq_u8(high.0, left)), vorrq_u8(low.1, vshlq_u8(high.1, left)))
            }
        }

        #[inline(always)]
        unsafe fn add_shifted<const PLACES: u32>(sums: int32x4x2_t, more: int32x4x2_t) -> int32x4x2_t {
            // SAFETY: the instruction set is there.
            unsafe {
                let left = vdupq_n_s32(PLACES as i32);
                int32x4x2_t(vaddq_s32(sums.0, vshlq_s32(more.0, left)), vaddq_s32(sums.1, vshlq_s32(more.1, left)))
            }
        }
    };
}

/// NEON without the 8-bit dot product: products, then their sums.
#[derive(Clone, Copy)]
pub(crate) struct NeonProducts;

impl Quads for NeonProducts {
    quads!(quad);
}

/// NEON with the 8-bit dot product.
#[derive(Clone, Copy)]
pub(crate) struct NeonDotprod;

impl Quads for NeonDotprod {
    quads!(sdot);
}

vouched! {
    /// Of each lane the sum of the products of its halves.
    unsafe fn words(a: int32x4_t, b: int32x4_t) -> int32x4_t {
        let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
        vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b))
    }

    /// Sixteen bytes as signed numbers: 128 less.
    unsafe fn signed(weights: uint8x16_t) -> int8x16_t {
        vreinterpretq_s8_u8(veorq_u8(weights, vdupq_n_u8(128)))
    }

    unsafe fn quad(sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
        let high = vmull_high_s8(weights, x);
        // Neighbours, then neighbours of those: four products to a lane.
        vaddq_s32(sums, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    }
}

vouched! {
    /// The dot product instruction, whose intrinsic is not stable in Rust.
    unsafe fn sdot(sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
        let mut sums = sums;
        std::arch::asm!(
            ".arch_extension dotprod",
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
        sums
    }
}
