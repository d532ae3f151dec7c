// SPDX-License-Identifier: EUPL-1.2
//! Squares of words, turned on their diagonal: pairs of rows are interleaved word by word, pairs of those in twos, and
//! the quarters that come of it are put in order.

use std::arch::x86_64::*;

vouched! {
    /// Eight rows of words, `stride` apart, as columns of `to`, whose rows are `apart`.
    pub(super) unsafe fn turn8(from: *const u32, stride: usize, to: *mut u32, apart: usize) {
        let mut rows = [_mm256_setzero_si256(); 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm256_loadu_si256(from.add(i * stride).cast());
        }
        let mut twos = rows;
        for i in 0..4 {
            twos[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // Of rows 4i to 4i + 3: columns c and 4 + c.
        let mut fours = rows;
        for i in 0..2 {
            fours[4 * i] = _mm256_unpacklo_epi64(twos[4 * i], twos[4 * i + 2]);
            fours[4 * i + 1] = _mm256_unpackhi_epi64(twos[4 * i], twos[4 * i + 2]);
            fours[4 * i + 2] = _mm256_unpacklo_epi64(twos[4 * i + 1], twos[4 * i + 3]);
            fours[4 * i + 3] = _mm256_unpackhi_epi64(twos[4 * i + 1], twos[4 * i + 3]);
        }
        for c in 0..4 {
            let (low, high) = (fours[c], fours[4 + c]);
            _mm256_storeu_si256(to.add(c * apart).cast(), _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(to.add((4 + c) * apart).cast(), _mm256_permute2x128_si256::<0x31>(low, high));
        }
    }

    /// As [`turn8`], with sixteen.
    pub(super) unsafe fn turn16(from: *const u32, stride: usize, to: *mut u32, apart: usize) {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(from.add(i * stride).cast());
        }
        let mut twos = rows;
        for i in 0..8 {
            twos[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            twos[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // Of rows 4i to 4i + 3: columns c, 4 + c, 8 + c and 12 + c.
        let mut fours = rows;
        for i in 0..4 {
            fours[4 * i] = _mm512_unpacklo_epi64(twos[4 * i], twos[4 * i + 2]);
            fours[4 * i + 1] = _mm512_unpackhi_epi64(twos[4 * i], twos[4 * i + 2]);
            fours[4 * i + 2] = _mm512_unpacklo_epi64(twos[4 * i + 1], twos[4 * i + 3]);
            fours[4 * i + 3] = _mm512_unpackhi_epi64(twos[4 * i + 1], twos[4 * i + 3]);
        }
        // Quarters 0 and 2 of either, or 1 and 3.
        for c in 0..4 {
            let even = [even_quarters(fours[c], fours[4 + c]), even_quarters(fours[8 + c], fours[12 + c])];
            let odd = [odd_quarters(fours[c], fours[4 + c]), odd_quarters(fours[8 + c], fours[12 + c])];
            _mm512_storeu_si512(to.add(c * apart).cast(), even_quarters(even[0], even[1]));
            _mm512_storeu_si512(to.add((4 + c) * apart).cast(), even_quarters(odd[0], odd[1]));
            _mm512_storeu_si512(to.add((8 + c) * apart).cast(), odd_quarters(even[0], even[1]));
            _mm512_storeu_si512(to.add((12 + c) * apart).cast(), odd_quarters(odd[0], odd[1]));
        }
    }

    unsafe fn even_quarters(a: __m512i, b: __m512i) -> __m512i {
        _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
    }

    unsafe fn odd_quarters(a: __m512i, b: __m512i) -> __m512i {
        _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
    }
}
