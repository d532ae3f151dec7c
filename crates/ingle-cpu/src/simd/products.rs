// SPDX-License-Identifier: EUPL-1.2
//! Sums of products of numbers of one type, lane by lane: one product to a lane at a time, or two beside each
//! other where the type is narrow.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::marker::PhantomData;

use bytemuck::Pod;
use half::bf16;
use ingle_tensor::Element;

use super::{Isa, Kernel, Simd};
use crate::kernels::matmul::Operand;

/// A type of number that products are made of.
pub(crate) trait Factor: Pod + Default + Send + Sync {
    /// What products are summed in.
    type Lane: Pod + Default + Send + Sync;
    /// Neighbouring products that go to one lane: 1 or 2.
    const DEPTH: usize;
}

impl Factor for f32 {
    type Lane = f32;
    const DEPTH: usize = 1;
}

impl Factor for bf16 {
    type Lane = f32;
    const DEPTH: usize = 2;
}

/// Sums are exact, as long as none passes `2³¹`: who makes the factors must rule that out.
impl Factor for i16 {
    type Lane = i32;
    const DEPTH: usize = 2;
}

/// What factors are read from, and so which products there are.
pub(crate) trait Source: 'static {
    type Element: Element;
    type Factor: Factor;
    /// Elements of a row behind its features: those of its scale, if it has one.
    const BESIDE: usize;

    /// What one unit of a row of `width` features stands for.
    ///
    /// # Safety
    ///
    /// The row has so many elements and those beside them.
    unsafe fn scale(row: *const Self::Element, width: usize) -> f32;

    /// Runs a kernel compiled for an instruction set.
    ///
    /// # Safety
    ///
    /// The machine has it, and it has these products.
    unsafe fn dispatch<K: ProductKernel<Self>>(isa: Isa, kernel: K) -> K::Output;
}

/// Floats, widened to f32.
pub(crate) struct Widened<C>(PhantomData<C>);

/// bf16 in pairs, as it is.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Bf16Pairs;

/// Rows of [`ingle_tensor::Op::QuantizeRows`].
pub(crate) struct QuantisedRows;

/// Work made of products, to be compiled for every instruction set that has them. Implementations of `run` must
/// be `#[inline(always)]`.
pub(crate) trait ProductKernel<F: Source + ?Sized> {
    type Output;
    fn run<P: Products<F>>(self) -> Self::Output;
}

/// An instruction set that has the products of a source.
#[derive(Debug)]
pub(crate) struct Multiplier<F> {
    isa: Isa,
    source: PhantomData<fn() -> F>,
}

impl<F> Clone for Multiplier<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Multiplier<F> {}

impl<C: Operand> Multiplier<Widened<C>> {
    pub(crate) fn widened(isa: Isa) -> Self {
        Multiplier { isa, source: PhantomData }
    }
}

impl Multiplier<QuantisedRows> {
    pub(crate) fn quantised(isa: Isa) -> Self {
        Multiplier { isa, source: PhantomData }
    }
}

#[cfg(target_arch = "x86_64")]
impl Multiplier<Bf16Pairs> {
    /// `None` if the instruction set lacks them.
    pub(crate) fn pairs(isa: Isa) -> Option<Self> {
        isa.has_pairs().then_some(Multiplier { isa, source: PhantomData })
    }
}

impl<F: Source> Multiplier<F> {
    /// Runs a kernel compiled for this instruction set.
    ///
    /// Devices are made only with an instruction set that the machine has, which makes this sound.
    #[inline]
    pub(crate) fn dispatch<K: ProductKernel<F>>(self, kernel: K) -> K::Output {
        debug_assert!(self.isa.is_available());
        // SAFETY: the device checked that the machine has the instruction set; whoever made this, that it has the
        // products.
        unsafe { F::dispatch(self.isa, kernel) }
    }
}

/// Vectors of factors, [`Factor::DEPTH`] to a lane, and of the sums of their products.
///
/// # Safety
///
/// As of [`Simd`], below [`Multiplier::dispatch`]. What is read and written is [`Products::STEP`] elements or
/// factors, or [`Products::LANES`] sums.
#[allow(clippy::missing_safety_doc)] // said above
pub(crate) trait Products<F: Source + ?Sized>: Copy + 'static {
    /// The same instruction set's f32.
    type Floats: Simd;
    type Vector: Copy;
    type Sums: Copy;
    /// Lanes of a vector.
    const LANES: usize = Self::Floats::LANES;
    /// Factors of a vector.
    const STEP: usize = Self::Floats::LANES * F::Factor::DEPTH;
    /// Times eight: sums that leave registers for the factors.
    const TILES: usize;

    /// Elements as factors.
    unsafe fn read(from: *const F::Element) -> Self::Vector;
    /// Elements of `DEPTH` rows as factors, those of one place beside each other: as many vectors.
    unsafe fn read_beside(rows: [*const F::Element; 2]) -> [Self::Vector; 2];
    unsafe fn load(from: *const F::Factor) -> Self::Vector;
    unsafe fn store(to: *mut F::Factor, v: Self::Vector);
    /// The same `DEPTH` factors in every lane.
    unsafe fn splat(from: *const F::Factor) -> Self::Vector;
    /// Only the `i`-th factor of each lane, the others zero.
    unsafe fn only(v: Self::Vector, i: usize) -> Self::Vector;
    unsafe fn zero() -> Self::Sums;
    unsafe fn load_sums(from: *const Lane<F>) -> Self::Sums;
    unsafe fn store_sums(to: *mut Lane<F>, sums: Self::Sums);
    /// To each lane the products of its factors.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, sums: Self::Sums) -> Self::Sums;
    /// The sum of each vector's lanes.
    unsafe fn sum8(sums: [Self::Sums; 8]) -> [f32; 8];
}

/// What the products of `F` are summed in.
pub(crate) type Lane<F> = <<F as Source>::Factor as Factor>::Lane;

impl<C: Operand> Source for Widened<C> {
    type Element = C;
    type Factor = f32;
    const BESIDE: usize = 0;

    #[inline(always)]
    unsafe fn scale(_row: *const C, _width: usize) -> f32 {
        1.0
    }

    unsafe fn dispatch<K: ProductKernel<Self>>(isa: Isa, kernel: K) -> K::Output {
        isa.dispatch(InSingles { kernel, source: PhantomData })
    }
}

struct InSingles<K, C> {
    kernel: K,
    source: PhantomData<C>,
}

impl<C: Operand, K: ProductKernel<Widened<C>>> Kernel for InSingles<K, C> {
    type Output = K::Output;

    #[inline(always)]
    fn run<S: Simd>(self) -> K::Output {
        self.kernel.run::<Singles<S>>()
    }
}

/// Products in f32.
#[derive(Clone, Copy)]
struct Singles<S>(PhantomData<S>);

impl<S: Simd, C: Operand> Products<Widened<C>> for Singles<S> {
    type Floats = S;
    type Vector = S::Vector;
    type Sums = S::Vector;
    const TILES: usize = S::TILE_ROWS.div_ceil(3);

    vouched! {
        unsafe fn read(from: *const C) -> S::Vector {
            C::load::<S>(from)
        }

        unsafe fn read_beside(rows: [*const C; 2]) -> [S::Vector; 2] {
            [C::load::<S>(rows[0]); 2]
        }

        unsafe fn load(from: *const f32) -> S::Vector {
            S::load(from)
        }

        unsafe fn store(to: *mut f32, v: S::Vector) {
            S::store(to, v)
        }

        unsafe fn splat(from: *const f32) -> S::Vector {
            S::splat(*from)
        }

        unsafe fn zero() -> S::Vector {
            S::splat(0.0)
        }

        unsafe fn load_sums(from: *const f32) -> S::Vector {
            S::load(from)
        }

        unsafe fn store_sums(to: *mut f32, sums: S::Vector) {
            S::store(to, sums)
        }

        unsafe fn mul_add(a: S::Vector, b: S::Vector, sums: S::Vector) -> S::Vector {
            S::mul_add(a, b, sums)
        }

        unsafe fn sum8(sums: [S::Vector; 8]) -> [f32; 8] {
            S::sum8(sums)
        }
    }

    #[inline(always)]
    unsafe fn only(v: S::Vector, _i: usize) -> S::Vector {
        v
    }
}

#[cfg(target_arch = "x86_64")]
impl Source for Bf16Pairs {
    type Element = bf16;
    type Factor = bf16;
    const BESIDE: usize = 0;

    #[inline(always)]
    unsafe fn scale(_row: *const bf16, _width: usize) -> f32 {
        1.0
    }

    unsafe fn dispatch<K: ProductKernel<Self>>(_isa: Isa, kernel: K) -> K::Output {
        // SAFETY: by this function's contract it is the one that has them.
        unsafe { x86::with_avx512_pairs(kernel) }
    }
}

impl Source for QuantisedRows {
    type Element = i8;
    type Factor = i16;
    const BESIDE: usize = size_of::<f32>();

    #[inline(always)]
    unsafe fn scale(row: *const i8, width: usize) -> f32 {
        // SAFETY: the caller's promise.
        f32::from_le_bytes(unsafe { row.add(width).cast::<[u8; 4]>().read_unaligned() })
    }

    unsafe fn dispatch<K: ProductKernel<Self>>(isa: Isa, kernel: K) -> K::Output {
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: by this function's contract the machine has it.
            Isa::Avx2 => unsafe { x86::with_avx2_words(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512f => unsafe { x86::with_avx512f_words(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe { x86::with_avx512_words(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::Neon => unsafe { neon::with_neon_words(kernel) },
            _ => kernel.run::<scalar::ScalarWords>(),
        }
    }
}

#[cfg(test)]
mod tests;
