// SPDX-License-Identifier: EUPL-1.2
//! AVX2 and AVX-512.

mod turn;

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::quads::Avx512Vnni;
use super::{Kernel, PairKernel, Pairs, QuadKernel, Simd};

pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

pub(crate) fn has_avx512f() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn with_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn with_avx512f<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(crate) fn with_avx512bf16<K: PairKernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512Bf16>()
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn with_avx2_quads<K: QuadKernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(crate) fn with_avx512f_quads<K: QuadKernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn with_avx512vnni<K: QuadKernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512Vnni>()
}

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

vouched! {
    /// The first `n` of eight lanes.
    unsafe fn avx2_mask(n: usize) -> __m256i {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lanes)
    }
}

vouched! {
    /// The first `n` of eight 16-bit elements; the others zero.
    unsafe fn load_half_part(from: *const u16, n: usize) -> __m128i {
        let mut elements = [0u16; 8];
        for (i, element) in elements.iter_mut().enumerate().take(n) {
            *element = *from.add(i);
        }
        _mm_loadu_si128(elements.as_ptr().cast())
    }
}

impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 3;

    vouched! {
        unsafe fn splat(value: f32) -> __m256 {
            _mm256_set1_ps(value)
        }

        unsafe fn load(from: *const f32) -> __m256 {
            _mm256_loadu_ps(from)
        }

        unsafe fn load_part(from: *const f32, n: usize) -> __m256 {
            _mm256_maskload_ps(from, avx2_mask(n))
        }

        unsafe fn load_bf16(from: *const bf16) -> __m256 {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }

        unsafe fn load_bf16_part(from: *const bf16, n: usize) -> __m256 {
            let wide = _mm256_cvtepu16_epi32(load_half_part(from.cast(), n));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }

        unsafe fn load_f16(from: *const f16) -> __m256 {
            _mm256_cvtph_ps(_mm_loadu_si128(from.cast()))
        }

        unsafe fn load_f16_part(from: *const f16, n: usize) -> __m256 {
            _mm256_cvtph_ps(load_half_part(from.cast(), n))
        }

        unsafe fn store(to: *mut f32, value: __m256) {
            _mm256_storeu_ps(to, value)
        }

        unsafe fn store_part(to: *mut f32, n: usize, value: __m256) {
            _mm256_maskstore_ps(to, avx2_mask(n), value)
        }

        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            _mm256_add_ps(a, b)
        }

        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }

        unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }

        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            _mm256_max_ps(a, b)
        }

        unsafe fn sum(v: __m256) -> f32 {
            sum_quarters(_mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)))
        }

        unsafe fn sum4(v: [__m256; 4]) -> [f32; 4] {
            sum4_quarters(v.map(|v| _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))))
        }
    }

    #[inline(always)]
    unsafe fn turn(from: *const u32, stride: usize, to: *mut u32, apart: usize) {
        // SAFETY: the instruction set is there, and the caller vouches for the square on either side.
        unsafe { turn::turn8(from, stride, to, apart) }
    }

    #[inline(always)]
    unsafe fn spread<const WIDTH: usize, const SHIFT: usize>(from: *const u8, to: *mut u8, apart: usize) {
        // SAFETY: the caller vouches for 64 bytes there, and at each place.
        unsafe {
            let mask = _mm256_set1_epi8(((1u16 << WIDTH) - 1) as i8);
            for half in [0, 32] {
                let line = _mm256_loadu_si256(from.add(half).cast());
                for place in 0..8 / WIDTH {
                    let to = to.add(place * apart + half);
                    let right = _mm_cvtsi32_si128((place * WIDTH) as i32);
                    let mut own = _mm256_and_si256(_mm256_srl_epi16(line, right), mask);
                    if SHIFT > 0 {
                        own = _mm256_sll_epi16(own, _mm_cvtsi32_si128(SHIFT as i32));
                        own = _mm256_or_si256(own, _mm256_loadu_si256(to.cast()));
                    }
                    _mm256_storeu_si256(to.cast(), own);
                }
            }
        }
    }

    // The numbers are whole sub-blocks, and so whole registers.
    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], numbers: &mut [u8]) {
        // SAFETY: the instruction set is there.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            let table = _mm256_broadcastsi128_si256(table);
            for numbers in numbers.chunks_exact_mut(32) {
                let index = _mm256_loadu_si256(numbers.as_ptr().cast());
                _mm256_storeu_si256(numbers.as_mut_ptr().cast(), _mm256_shuffle_epi8(table, index));
            }
        }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: every x86-64 has it, and it does nothing with an address that is not valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(address: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn mul_add1(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// The first `n` of sixteen lanes.
#[inline(always)]
fn avx512_mask(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}

vouched! {
    /// Lane `i` with lane `i + 8`, then `i + 4` of those.
    unsafe fn fold_to_four(v: __m512) -> __m128 {
        let half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
    }
}

vouched! {
    /// Lane `i` with lane `i + 8`: of `a`, then of `b`.
    unsafe fn fold_to_halves(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(_mm512_shuffle_f32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b))
    }

    /// Of each half of `a`, then of `b`: lane `i` with lane `i + 4`.
    unsafe fn fold_to_quarters(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
    }

    /// [`Simd::sum`] of eight vectors.
    pub(super) unsafe fn sum8_avx512(v: [__m512; 8]) -> [f32; 8] {
        let low = fold_to_quarters(fold_to_halves(v[0], v[1]), fold_to_halves(v[2], v[3]));
        let high = fold_to_quarters(fold_to_halves(v[4], v[5]), fold_to_halves(v[6], v[7]));
        let pairs = _mm512_add_ps(_mm512_unpacklo_ps(low, high), _mm512_unpackhi_ps(low, high));
        let sums = _mm512_add_ps(pairs, _mm512_shuffle_ps::<0b01_00_11_10>(pairs, pairs));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
        let mut out = [0.0; 8];
        _mm256_storeu_ps(out.as_mut_ptr(), _mm512_castps512_ps256(_mm512_permutexvar_ps(order, sums)));
        out
    }
}

impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 6;

    vouched! {
        unsafe fn splat(value: f32) -> __m512 {
            _mm512_set1_ps(value)
        }

        unsafe fn load(from: *const f32) -> __m512 {
            _mm512_loadu_ps(from)
        }

        unsafe fn load_part(from: *const f32, n: usize) -> __m512 {
            _mm512_maskz_loadu_ps(avx512_mask(n), from)
        }

        unsafe fn load_integers(from: *const i32) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_loadu_si512(from.cast()))
        }

        unsafe fn load_bf16(from: *const bf16) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }

        unsafe fn load_bf16_part(from: *const bf16, n: usize) -> __m512 {
            let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(avx512_mask(n), from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }

        unsafe fn load_f16(from: *const f16) -> __m512 {
            _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
        }

        unsafe fn load_f16_part(from: *const f16, n: usize) -> __m512 {
            _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(avx512_mask(n), from.cast()))
        }

        unsafe fn store(to: *mut f32, value: __m512) {
            _mm512_storeu_ps(to, value)
        }

        unsafe fn store_part(to: *mut f32, n: usize, value: __m512) {
            _mm512_mask_storeu_ps(to, avx512_mask(n), value)
        }

        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }

        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }

        unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }

        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            _mm512_max_ps(a, b)
        }

        unsafe fn sum(v: __m512) -> f32 {
            sum_quarters(fold_to_four(v))
        }

        unsafe fn sum4(v: [__m512; 4]) -> [f32; 4] {
            sum4_quarters([fold_to_four(v[0]), fold_to_four(v[1]), fold_to_four(v[2]), fold_to_four(v[3])])
        }

        unsafe fn sum8(v: [__m512; 8]) -> [f32; 8] {
            sum8_avx512(v)
        }
    }

    #[inline(always)]
    unsafe fn turn(from: *const u32, stride: usize, to: *mut u32, apart: usize) {
        // SAFETY: the instruction set is there, and the caller vouches for the square on either side.
        unsafe { turn::turn16(from, stride, to, apart) }
    }

    #[inline(always)]
    unsafe fn spread<const WIDTH: usize, const SHIFT: usize>(from: *const u8, to: *mut u8, apart: usize) {
        // SAFETY: the caller vouches for 64 bytes there, and at each place.
        unsafe {
            let line = _mm512_loadu_si512(from.cast());
            let mask = _mm512_set1_epi8(((1u16 << WIDTH) - 1) as i8);
            for place in 0..8 / WIDTH {
                let to = to.add(place * apart);
                let right = _mm_cvtsi32_si128((place * WIDTH) as i32);
                let mut own = _mm512_and_si512(_mm512_srl_epi16(line, right), mask);
                if SHIFT > 0 {
                    own = _mm512_sll_epi16(own, _mm_cvtsi32_si128(SHIFT as i32));
                    own = _mm512_or_si512(own, _mm512_loadu_si512(to.cast()));
                }
                _mm512_storeu_si512(to.cast(), own);
            }
        }
    }

    // The numbers are whole sub-blocks, and so whole registers.
    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], numbers: &mut [u8]) {
        // SAFETY: the instruction set is there.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            let table = _mm512_broadcast_i32x4(table);
            for numbers in numbers.chunks_exact_mut(64) {
                let index = _mm512_loadu_si512(numbers.as_ptr().cast());
                _mm512_storeu_si512(numbers.as_mut_ptr().cast(), _mm512_shuffle_epi8(table, index));
            }
        }
    }

    #[inline(always)]
    fn prefetch(address: *const u8) {
        // SAFETY: every x86-64 has it, and it does nothing with an address that is not valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    fn prefetch_far(address: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn mul_add1(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16;

impl Pairs for Avx512Bf16 {
    type Sums = Avx512;
    type Vector = __m512bh;

    vouched! {
        unsafe fn load(from: *const bf16) -> __m512bh {
            std::mem::transmute(_mm512_loadu_si512(from.cast()))
        }

        unsafe fn load_part(from: *const bf16, n: usize) -> __m512bh {
            std::mem::transmute(_mm512_maskz_loadu_epi16(u32::MAX >> (32 - n), from.cast()))
        }

        unsafe fn mul_add(a: __m512bh, b: __m512bh, sums: __m512) -> __m512 {
            _mm512_dpbf16_ps(sums, a, b)
        }
    }
}

vouched! {
    /// `(0 + 2) + (1 + 3)`.
    unsafe fn sum_quarters(v: __m128) -> f32 {
        let pair = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps::<1>(pair, pair)))
    }
}

vouched! {
    /// `(0 + 2) + (1 + 3)` of four at once, by transposing.
    unsafe fn sum4_quarters(v: [__m128; 4]) -> [f32; 4] {
        let ab_low = _mm_unpacklo_ps(v[0], v[1]);
        let ab_high = _mm_unpackhi_ps(v[0], v[1]);
        let cd_low = _mm_unpacklo_ps(v[2], v[3]);
        let cd_high = _mm_unpackhi_ps(v[2], v[3]);
        let lane0 = _mm_movelh_ps(ab_low, cd_low);
        let lane1 = _mm_movehl_ps(cd_low, ab_low);
        let lane2 = _mm_movelh_ps(ab_high, cd_high);
        let lane3 = _mm_movehl_ps(cd_high, ab_high);
        let sums = _mm_add_ps(_mm_add_ps(lane0, lane2), _mm_add_ps(lane1, lane3));
        let mut out = [0.0; 4];
        _mm_storeu_ps(out.as_mut_ptr(), sums);
        out
    }
}
