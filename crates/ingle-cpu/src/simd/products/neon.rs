// SPDX-License-Identifier: EUPL-1.2
//! Products of 16-bit integers.

use std::arch::aarch64::*;

use super::super::neon::Neon;
use super::{ProductKernel, Products, QuantisedRows};

#[target_feature(enable = "neon")]
pub(super) fn with_neon_words<K: ProductKernel<QuantisedRows>>(kernel: K) -> K::Output {
    kernel.run::<NeonWords>()
}

#[derive(Clone, Copy)]
pub(super) struct NeonWords;

impl Products<QuantisedRows> for NeonWords {
    type Floats = Neon;
    type Vector = int16x8x2_t;
    type Sums = int32x4x2_t;
    const TILES: usize = 1;

    vouched! {
        unsafe fn read(from: *const i8) -> int16x8x2_t {
            let bytes = vld1q_s8(from);
            int16x8x2_t(vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes))
        }

        unsafe fn read_beside(rows: [*const i8; 2]) -> [int16x8x2_t; 2] {
            let (first, second) = (vld1q_s8(rows[0]), vld1q_s8(rows[1]));
            let (low, high) = (vzip1q_s8(first, second), vzip2q_s8(first, second));
            [
                int16x8x2_t(vmovl_s8(vget_low_s8(low)), vmovl_high_s8(low)),
                int16x8x2_t(vmovl_s8(vget_low_s8(high)), vmovl_high_s8(high)),
            ]
        }

        unsafe fn load(from: *const i16) -> int16x8x2_t {
            int16x8x2_t(vld1q_s16(from), vld1q_s16(from.add(8)))
        }

        unsafe fn store(to: *mut i16, v: int16x8x2_t) {
            vst1q_s16(to, v.0);
            vst1q_s16(to.add(8), v.1);
        }

        unsafe fn splat(from: *const i16) -> int16x8x2_t {
            let pair = vreinterpretq_s16_s32(vdupq_n_s32(from.cast::<i32>().read_unaligned()));
            int16x8x2_t(pair, pair)
        }

        unsafe fn only(v: int16x8x2_t, i: usize) -> int16x8x2_t {
            let mask = vreinterpretq_s16_s32(vdupq_n_s32(if i == 0 { 0xffff } else { !0xffff }));
            int16x8x2_t(vandq_s16(v.0, mask), vandq_s16(v.1, mask))
        }

        unsafe fn zero() -> int32x4x2_t {
            int32x4x2_t(vdupq_n_s32(0), vdupq_n_s32(0))
        }

        unsafe fn load_sums(from: *const i32) -> int32x4x2_t {
            int32x4x2_t(vld1q_s32(from), vld1q_s32(from.add(4)))
        }

        unsafe fn store_sums(to: *mut i32, sums: int32x4x2_t) {
            vst1q_s32(to, sums.0);
            vst1q_s32(to.add(4), sums.1);
        }

        unsafe fn mul_add(a: int16x8x2_t, b: int16x8x2_t, sums: int32x4x2_t) -> int32x4x2_t {
            let pairs = |a: int16x8_t, b: int16x8_t| {
                vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b))
            };
            int32x4x2_t(vaddq_s32(sums.0, pairs(a.0, b.0)), vaddq_s32(sums.1, pairs(a.1, b.1)))
        }

        unsafe fn sum8(sums: [int32x4x2_t; 8]) -> [f32; 8] {
            sums.map(|sums| vaddvq_s32(vaddq_s32(sums.0, sums.1)) as f32)
        }
    }
}
