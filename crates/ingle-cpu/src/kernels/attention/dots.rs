// SPDX-License-Identifier: EUPL-1.2
//! Dot products of queries with keys.

use super::CHUNK;
use super::gather::Ahead;
use crate::simd::{Products, Source};

/// Keys in a tile of dot products.
pub(super) const KEYS: usize = 8;

/// Queries, row by row, each `width` factors long: whole vectors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queries<'a, T> {
    pub(super) factors: &'a [T],
    pub(super) width: usize,
}

/// [`KEYS`] keys.
pub(super) trait Keys<F: Source, P: Products<F>>: Copy {
    /// The factors of key `k` from `at` on.
    ///
    /// # Safety
    ///
    /// Below `dispatch`; the key is that long.
    unsafe fn key(&self, k: usize, at: usize) -> P::Vector;

    /// What one unit of each key stands for, if rows of the source have scales.
    ///
    /// # Safety
    ///
    /// As of [`Keys::key`].
    unsafe fn scales(&self) -> [f32; KEYS];
}

/// Keys that were gathered, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Gathered<T> {
    pub(super) factors: *const T,
    pub(super) width: usize,
    pub(super) scales: *const f32,
}

impl<F: Source, P: Products<F>> Keys<F, P> for Gathered<F::Factor> {
    #[inline(always)]
    unsafe fn scales(&self) -> [f32; KEYS] {
        // SAFETY: the caller's promise.
        unsafe { self.scales.cast::<[f32; KEYS]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn key(&self, k: usize, at: usize) -> P::Vector {
        // SAFETY: the caller's promise.
        unsafe { P::load(self.factors.add(k * self.width + at)) }
    }
}

/// Keys where they lie in the cache.
#[derive(Clone, Copy)]
pub(super) struct InPlace<T> {
    pub(super) rows: [*const T; KEYS],
    pub(super) width: usize,
    pub(super) ahead: Ahead<T>,
}

impl<F: Source, P: Products<F>> Keys<F, P> for InPlace<F::Element> {
    #[inline(always)]
    unsafe fn scales(&self) -> [f32; KEYS] {
        let mut scales = [1.0; KEYS];
        for (scale, row) in scales.iter_mut().zip(self.rows) {
            // SAFETY: the caller's promise.
            *scale = unsafe { F::scale(row, self.width) };
        }
        scales
    }

    #[inline(always)]
    unsafe fn key(&self, k: usize, at: usize) -> P::Vector {
        self.ahead.prefetch::<P::Floats>(k, at);
        // SAFETY: the caller's promise.
        unsafe { P::read(self.rows[k].add(at)) }
    }
}

/// Dot products of every query with [`KEYS`] keys; query `r`'s go to `scores[r · CHUNK]` onwards.
///
/// # Safety
///
/// Below `dispatch`; keys are as long as queries, and `scores` has room for every row.
#[inline(always)]
pub(super) unsafe fn dots<F: Source, P: Products<F>>(
    queries: Queries<'_, F::Factor>,
    keys: impl Keys<F, P>,
    scores: &mut [f32],
) {
    let Queries { factors, width } = queries;
    let rows = factors.len() / width.max(1);
    debug_assert!(rows == 0 || scores.len() >= (rows - 1) * CHUNK + KEYS);
    let mut row = 0;
    while row < rows {
        // SAFETY: the caller's promise.
        unsafe {
            let (query, scores) = (factors.as_ptr().add(row * width), scores.as_mut_ptr().add(row * CHUNK));
            if P::TILES > 1 && rows - row > 1 {
                tile::<F, P, 2>(query, keys, width, scores);
                row += 2;
            } else {
                tile::<F, P, 1>(query, keys, width, scores);
                row += 1;
            }
        }
    }
}

/// Of `R` queries. The sums of a query and a key have the same order for every `R`.
///
/// # Safety
///
/// As of [`dots`].
#[inline(always)]
unsafe fn tile<F: Source, P: Products<F>, const R: usize>(
    queries: *const F::Factor,
    keys: impl Keys<F, P>,
    width: usize,
    scores: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[P::zero(); KEYS]; R];
        let mut at = 0;
        while at < width {
            let mut query = [P::load(queries.add(at)); R];
            for (r, query) in query.iter_mut().enumerate().skip(1) {
                *query = P::load(queries.add(r * width + at));
            }
            for k in 0..KEYS {
                let key = keys.key(k, at);
                for (sums, query) in sums.iter_mut().zip(query) {
                    sums[k] = P::mul_add(query, key, sums[k]);
                }
            }
            at += P::STEP;
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let mut sums = P::sum8(sums);
            if F::BESIDE > 0 {
                for (sum, scale) in sums.iter_mut().zip(keys.scales()) {
                    *sum *= scale;
                }
            }
            scores.add(r * CHUNK).cast::<[f32; KEYS]>().write_unaligned(sums);
        }
    }
}
