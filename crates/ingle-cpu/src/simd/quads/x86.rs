// SPDX-License-Identifier: EUPL-1.2
//! Dot products of quads on x86-64.

use std::arch::x86_64::*;

use super::super::x86::{Avx2, Avx512};
use super::Quads;

/// What AVX-512 with and without VNNI share: all but the dot product.
macro_rules! quads_avx512 {
    () => {
        type Floats = Avx512;
        type Sums = __m512i;
        type Weights = __m512i;

        vouched! {
            unsafe fn splat(value: i32) -> __m512i {
                _mm512_set1_epi32(value)
            }

            unsafe fn load(from: *const u8) -> __m512i {
                _mm512_loadu_si512(from.cast())
            }

            unsafe fn table(numbers: &[u8; 16]) -> __m512i {
                _mm512_broadcast_i32x4(_mm_loadu_si128(numbers.as_ptr().cast()))
            }

            unsafe fn look_up(table: __m512i, places: __m512i) -> __m512i {
                _mm512_shuffle_epi8(table, places)
            }

            unsafe fn to_floats(sums: __m512i) -> __m512 {
                _mm512_cvtepi32_ps(sums)
            }

            unsafe fn load_sums(from: *const i32) -> __m512i {
                _mm512_loadu_si512(from.cast())
            }

            unsafe fn load_bytes(from: *const i8) -> __m512i {
                _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))
            }

            unsafe fn load_pairs(from: *const u8) -> __m512i {
                _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast()))
            }

            unsafe fn mul(a: __m512i, b: __m512i) -> __m512i {
                _mm512_mullo_epi32(a, b)
            }

            unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
                _mm512_add_epi32(a, b)
            }

            unsafe fn total(sums: __m512i) -> i32 {
                _mm512_reduce_add_epi32(sums)
            }

            unsafe fn larger(largest: __m512i, x: __m512) -> __m512i {
                _mm512_max_epi32(largest, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX)))
            }

            unsafe fn largest(lanes: __m512i) -> i32 {
                _mm512_reduce_max_epi32(lanes)
            }

            unsafe fn round(x: __m512) -> __m512i {
                _mm512_cvtps_epi32(x)
            }

            unsafe fn store_bytes(to: *mut i8, numbers: __m512i) {
                _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(numbers));
            }
        }

        #[inline(always)]
        unsafe fn bits<const WIDTH: usize>(weights: __m512i, place: usize) -> __m512i {
            // SAFETY: the instruction set is there.
            unsafe {
                let mask = _mm512_set1_epi8(((1u16 << WIDTH) - 1) as i8);
                _mm512_and_si512(_mm512_srl_epi16(weights, _mm_cvtsi32_si128((place * WIDTH) as i32)), mask)
            }
        }

        #[inline(always)]
        unsafe fn join<const PLACES: u32>(low: __m512i, high: __m512i) -> __m512i {
            // SAFETY: the instruction set is there.
            unsafe { _mm512_or_si512(low, _mm512_sll_epi16(high, _mm_cvtsi32_si128(PLACES as i32))) }
        }

        #[inline(always)]
        unsafe fn add_shifted<const PLACES: u32>(sums: __m512i, more: __m512i) -> __m512i {
            // SAFETY: the instruction set is there.
            unsafe { _mm512_add_epi32(sums, _mm512_sll_epi32(more, _mm_cvtsi32_si128(PLACES as i32))) }
        }
    };
}

/// AVX-512 with VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni;

impl Quads for Avx512Vnni {
    quads_avx512!();

    const SHIFT: i32 = 0;

    vouched! {
        unsafe fn dot(sums: __m512i, weights: __m512i, x: i32) -> __m512i {
            _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(x))
        }

        unsafe fn dot_pairs(sums: __m512i, pairs: __m512i, x: i32) -> __m512i {
            _mm512_dpwssd_epi32(sums, pairs, _mm512_set1_epi32(x))
        }
    }
}

impl Avx512 {
    vouched! {
        /// Of weights up to 128.
        unsafe fn dot_bytes(sums: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            let pairs = _mm512_maddubs_epi16(weights, x);
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}

impl Avx2 {
    vouched! {
        /// Of weights up to 128.
        unsafe fn dot_bytes(sums: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            let pairs = _mm256_maddubs_epi16(weights, x);
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

impl Quads for Avx512 {
    quads_avx512!();

    const SHIFT: i32 = 128;
    const NARROW_SHIFT: i32 = 0;

    vouched! {
        unsafe fn dot(sums: __m512i, weights: __m512i, x: i32) -> __m512i {
            // Two products with 255 would overflow 16 bits, two with 128 do not: the sign goes to the other side.
            let weights = _mm512_xor_si512(weights, _mm512_set1_epi8(i8::MIN));
            let x = _mm512_set1_epi32(x);
            let x = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), x);
            Self::dot_bytes(sums, _mm512_abs_epi8(weights), x)
        }

        unsafe fn dot_narrow(sums: __m512i, weights: __m512i, x: i32) -> __m512i {
            Self::dot_bytes(sums, weights, _mm512_set1_epi32(x))
        }

        unsafe fn dot_pairs(sums: __m512i, pairs: __m512i, x: i32) -> __m512i {
            _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi32(x)))
        }
    }
}

impl Quads for Avx2 {
    type Floats = Avx2;
    type Sums = __m256i;
    type Weights = __m256i;
    const SHIFT: i32 = 128;
    const NARROW_SHIFT: i32 = 0;

    vouched! {
        unsafe fn splat(value: i32) -> __m256i {
            _mm256_set1_epi32(value)
        }

        unsafe fn load(from: *const u8) -> __m256i {
            _mm256_loadu_si256(from.cast())
        }

        unsafe fn dot(sums: __m256i, weights: __m256i, x: i32) -> __m256i {
            // Two products with 255 would overflow 16 bits, two with 128 do not: the sign goes to the other side.
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(i8::MIN));
            let x = _mm256_sign_epi8(_mm256_set1_epi32(x), weights);
            Self::dot_bytes(sums, _mm256_abs_epi8(weights), x)
        }

        unsafe fn dot_narrow(sums: __m256i, weights: __m256i, x: i32) -> __m256i {
            Self::dot_bytes(sums, weights, _mm256_set1_epi32(x))
        }

        unsafe fn dot_pairs(sums: __m256i, pairs: __m256i, x: i32) -> __m256i {
            _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi32(x)))
        }

        unsafe fn table(numbers: &[u8; 16]) -> __m256i {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(numbers.as_ptr().cast()))
        }

        unsafe fn look_up(table: __m256i, places: __m256i) -> __m256i {
            _mm256_shuffle_epi8(table, places)
        }

        unsafe fn to_floats(sums: __m256i) -> __m256 {
            _mm256_cvtepi32_ps(sums)
        }
    }

    vouched! {
        unsafe fn load_sums(from: *const i32) -> __m256i {
            _mm256_loadu_si256(from.cast())
        }

        unsafe fn load_bytes(from: *const i8) -> __m256i {
            _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))
        }

        unsafe fn load_pairs(from: *const u8) -> __m256i {
            _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast()))
        }

        unsafe fn mul(a: __m256i, b: __m256i) -> __m256i {
            _mm256_mullo_epi32(a, b)
        }

        unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(a, b)
        }

        unsafe fn total(sums: __m256i) -> i32 {
            let v = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<1>(v)))
        }

        unsafe fn larger(largest: __m256i, x: __m256) -> __m256i {
            _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX)))
        }

        unsafe fn largest(lanes: __m256i) -> i32 {
            let v = _mm_max_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
            let v = _mm_max_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_max_epi32(v, _mm_shuffle_epi32::<1>(v)))
        }

        unsafe fn round(x: __m256) -> __m256i {
            _mm256_cvtps_epi32(x)
        }

        unsafe fn store_bytes(to: *mut i8, numbers: __m256i) {
            let words = _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256::<1>(numbers));
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words));
        }
    }

    #[inline(always)]
    unsafe fn bits<const WIDTH: usize>(weights: __m256i, place: usize) -> __m256i {
        // SAFETY: the instruction set is there.
        unsafe {
            let mask = _mm256_set1_epi8(((1u16 << WIDTH) - 1) as i8);
            _mm256_and_si256(_mm256_srl_epi16(weights, _mm_cvtsi32_si128((place * WIDTH) as i32)), mask)
        }
    }

    #[inline(always)]
    unsafe fn join<const PLACES: u32>(low: __m256i, high: __m256i) -> __m256i {
        // SAFETY: the instruction set is there.
        unsafe { _mm256_or_si256(low, _mm256_sll_epi16(high, _mm_cvtsi32_si128(PLACES as i32))) }
    }

    #[inline(always)]
    unsafe fn add_shifted<const PLACES: u32>(sums: __m256i, more: __m256i) -> __m256i {
        // SAFETY: the instruction set is there.
        unsafe { _mm256_add_epi32(sums, _mm256_sll_epi32(more, _mm_cvtsi32_si128(PLACES as i32))) }
    }
}
