// SPDX-License-Identifier: EUPL-1.2
//! Products of bf16 pairs, which AVX-512 has, and of 16-bit integers.

use std::arch::x86_64::*;

use half::bf16;

use super::super::x86::{Avx2, Avx512, sum8_avx512};
use super::{Bf16Pairs, ProductKernel, Products, QuantisedRows};

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn with_avx512_pairs<K: ProductKernel<Bf16Pairs>>(kernel: K) -> K::Output {
    kernel.run::<Avx512Pairs>()
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn with_avx2_words<K: ProductKernel<QuantisedRows>>(kernel: K) -> K::Output {
    kernel.run::<Avx2Words>()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn with_avx512f_words<K: ProductKernel<QuantisedRows>>(kernel: K) -> K::Output {
    kernel.run::<Avx512fWords>()
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn with_avx512_words<K: ProductKernel<QuantisedRows>>(kernel: K) -> K::Output {
    kernel.run::<Avx512Words>()
}

/// Places of the 16-bit elements of two vectors in turn, from `first` on.
const fn in_turn(first: i16) -> [i16; 32] {
    let mut places = [0; 32];
    let mut i = 0;
    while i < 32 {
        places[i] = first + i as i16 / 2 + if i % 2 == 0 { 0 } else { 32 };
        i += 1;
    }
    places
}

vouched! {
    /// The 16-bit elements of two vectors in turn.
    unsafe fn beside(v: [__m512i; 2]) -> [__m512i; 2] {
        const LOW: [i16; 32] = in_turn(0);
        const HIGH: [i16; 32] = in_turn(16);
        let (low, high) = (_mm512_loadu_si512(LOW.as_ptr().cast()), _mm512_loadu_si512(HIGH.as_ptr().cast()));
        [_mm512_permutex2var_epi16(v[0], low, v[1]), _mm512_permutex2var_epi16(v[0], high, v[1])]
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx512Pairs;

impl Products<Bf16Pairs> for Avx512Pairs {
    type Floats = Avx512;
    type Vector = __m512i;
    type Sums = __m512;
    const TILES: usize = 2;

    vouched! {
        unsafe fn read(from: *const bf16) -> __m512i {
            _mm512_loadu_si512(from.cast())
        }

        unsafe fn read_beside(rows: [*const bf16; 2]) -> [__m512i; 2] {
            beside([_mm512_loadu_si512(rows[0].cast()), _mm512_loadu_si512(rows[1].cast())])
        }

        unsafe fn load(from: *const bf16) -> __m512i {
            _mm512_loadu_si512(from.cast())
        }

        unsafe fn store(to: *mut bf16, v: __m512i) {
            _mm512_storeu_si512(to.cast(), v)
        }

        unsafe fn splat(from: *const bf16) -> __m512i {
            _mm512_set1_epi32(from.cast::<i32>().read_unaligned())
        }

        unsafe fn only(v: __m512i, i: usize) -> __m512i {
            _mm512_maskz_mov_epi16(0x5555_5555 << i, v)
        }

        unsafe fn zero() -> __m512 {
            _mm512_setzero_ps()
        }

        unsafe fn load_sums(from: *const f32) -> __m512 {
            _mm512_loadu_ps(from)
        }

        unsafe fn store_sums(to: *mut f32, sums: __m512) {
            _mm512_storeu_ps(to, sums)
        }

        unsafe fn mul_add(a: __m512i, b: __m512i, sums: __m512) -> __m512 {
            _mm512_dpbf16_ps(sums, std::mem::transmute::<__m512i, __m512bh>(a), std::mem::transmute::<__m512i, __m512bh>(b))
        }

        unsafe fn sum8(sums: [__m512; 8]) -> [f32; 8] {
            sum8_avx512(sums)
        }
    }
}

/// Of AVX-512 without VNNI: a product and a sum.
#[derive(Clone, Copy)]
pub(super) struct Avx512fWords;

/// With VNNI both are one.
#[derive(Clone, Copy)]
pub(super) struct Avx512Words;

macro_rules! avx512_words {
    ($name:ident: $mul_add:expr) => {
        impl Products<QuantisedRows> for $name {
            type Floats = Avx512;
            type Vector = __m512i;
            type Sums = __m512i;
            const TILES: usize = 2;

            vouched! {
                unsafe fn read(from: *const i8) -> __m512i {
                    _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast()))
                }

                unsafe fn read_beside(rows: [*const i8; 2]) -> [__m512i; 2] {
                    let (first, second) = (_mm256_loadu_si256(rows[0].cast()), _mm256_loadu_si256(rows[1].cast()));
                    beside([_mm512_cvtepi8_epi16(first), _mm512_cvtepi8_epi16(second)])
                }

                unsafe fn load(from: *const i16) -> __m512i {
                    _mm512_loadu_si512(from.cast())
                }

                unsafe fn store(to: *mut i16, v: __m512i) {
                    _mm512_storeu_si512(to.cast(), v)
                }

                unsafe fn splat(from: *const i16) -> __m512i {
                    _mm512_set1_epi32(from.cast::<i32>().read_unaligned())
                }

                unsafe fn only(v: __m512i, i: usize) -> __m512i {
                    _mm512_maskz_mov_epi16(0x5555_5555 << i, v)
                }

                unsafe fn zero() -> __m512i {
                    _mm512_setzero_si512()
                }

                unsafe fn load_sums(from: *const i32) -> __m512i {
                    _mm512_loadu_si512(from.cast())
                }

                unsafe fn store_sums(to: *mut i32, sums: __m512i) {
                    _mm512_storeu_si512(to.cast(), sums)
                }

                unsafe fn mul_add(a: __m512i, b: __m512i, sums: __m512i) -> __m512i {
                    $mul_add(a, b, sums)
                }

                unsafe fn sum8(sums: [__m512i; 8]) -> [f32; 8] {
                    let [a, b, c, d, e, f, g, h] = sums;
                    let (ab, cd, ef, gh) = (halves(a, b), halves(c, d), halves(e, f), halves(g, h));
                    let (low, high) = (quarters(ab, cd), quarters(ef, gh));
                    let pairs = _mm512_add_epi32(_mm512_unpacklo_epi32(low, high), _mm512_unpackhi_epi32(low, high));
                    let sums = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0b01_00_11_10>(pairs));
                    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
                    let sums = _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sums));
                    let mut out = [0.0; 8];
                    _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtepi32_ps(sums));
                    out
                }
            }
        }
    };
}

avx512_words!(Avx512fWords: |a, b, sums| _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)));
avx512_words!(Avx512Words: |a, b, sums| _mm512_dpwssd_epi32(sums, a, b));

vouched! {
    /// Lane `i` with lane `i + 8`: of `a`, then of `b`.
    unsafe fn halves(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b))
    }

    /// Of the eight lanes of each half of `a` and of `b`: lane `i` with lane `i + 4`.
    unsafe fn quarters(a: __m512i, b: __m512i) -> __m512i {
        _mm512_add_epi32(_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Avx2Words;

impl Products<QuantisedRows> for Avx2Words {
    type Floats = Avx2;
    type Vector = __m256i;
    type Sums = __m256i;
    const TILES: usize = 1;

    vouched! {
        unsafe fn read(from: *const i8) -> __m256i {
            _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()))
        }

        unsafe fn read_beside(rows: [*const i8; 2]) -> [__m256i; 2] {
            let (first, second) = (_mm_loadu_si128(rows[0].cast()), _mm_loadu_si128(rows[1].cast()));
            let (low, high) = (_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second));
            [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
        }

        unsafe fn load(from: *const i16) -> __m256i {
            _mm256_loadu_si256(from.cast())
        }

        unsafe fn store(to: *mut i16, v: __m256i) {
            _mm256_storeu_si256(to.cast(), v)
        }

        unsafe fn splat(from: *const i16) -> __m256i {
            _mm256_set1_epi32(from.cast::<i32>().read_unaligned())
        }

        unsafe fn only(v: __m256i, i: usize) -> __m256i {
            _mm256_and_si256(v, _mm256_set1_epi32(if i == 0 { 0xffff } else { !0xffff }))
        }

        unsafe fn zero() -> __m256i {
            _mm256_setzero_si256()
        }

        unsafe fn load_sums(from: *const i32) -> __m256i {
            _mm256_loadu_si256(from.cast())
        }

        unsafe fn store_sums(to: *mut i32, sums: __m256i) {
            _mm256_storeu_si256(to.cast(), sums)
        }

        unsafe fn mul_add(a: __m256i, b: __m256i, sums: __m256i) -> __m256i {
            _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
        }

        unsafe fn sum8(sums: [__m256i; 8]) -> [f32; 8] {
            let [a, b, c, d, e, f, g, h] = sums;
            // Of each half: the sums of four vectors' quarters.
            let low = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let high = _mm256_hadd_epi32(_mm256_hadd_epi32(e, f), _mm256_hadd_epi32(g, h));
            let sums = _mm256_add_epi32(
                _mm256_permute2x128_si256::<0x20>(low, high),
                _mm256_permute2x128_si256::<0x31>(low, high),
            );
            let mut out = [0.0; 8];
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtepi32_ps(sums));
            out
        }
    }
}
