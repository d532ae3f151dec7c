// SPDX-License-Identifier: EUPL-1.2
//! Vectors of f32, one implementation per instruction set, and the choice among them at run time.
//!
//! A kernel is written once, generic over [`Simd`], as a type that implements [`Kernel`]. [`Isa::dispatch`]
//! compiles it once for every instruction set and calls the one chosen. Everything on the way is
//! `#[inline(always)]`, so that the kernel's whole body is compiled with the instruction set enabled.

/// Writes methods of a vector type, whose bodies the trait's contract vouches for.
macro_rules! vouched {
    ($($(#[$doc:meta])* $vis:vis unsafe fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? { $($body:tt)* })*) => {
        $($(#[$doc])*
        #[inline(always)]
        $vis unsafe fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: by the trait's contract the instruction set is there, and the caller vouches for the
            // memory behind the pointers.
            unsafe { $($body)* }
        })*
    };
}

#[cfg(target_arch = "aarch64")]
mod neon;
mod products;
mod quads;
mod scalar;
#[cfg(target_arch = "x86_64")]
pub(crate) mod tiles;
pub(crate) mod turned;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
pub(crate) use self::products::Bf16Pairs;
pub(crate) use self::products::{Factor, Lane, Multiplier, ProductKernel, Products, Source, Widened};
pub(crate) use self::quads::{QuadKernel, Quads};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: whatever the build's target has.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512f,
    /// As [`Isa::Avx512f`], with the dot products of BF16 and of 8-bit integers (VNNI).
    Avx512,
    /// As [`Isa::Avx512`], with AMX: products of whole tiles of bf16 and of 8-bit integers. Only on Linux.
    Amx,
    /// AArch64 with NEON, and the 8-bit dot product where the machine has it.
    Neon,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 6] = [Isa::Scalar, Isa::Avx2, Isa::Avx512f, Isa::Avx512, Isa::Amx, Isa::Neon];

    /// The name by which `INGLE_CPU` chooses it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512f => "avx512f",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512f => x86::has_avx512f(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                x86::has_avx512f()
                    && std::arch::is_x86_feature_detected!("avx512bf16")
                    && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_available() && tiles::are_available(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }

    /// The instruction sets that this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest instruction set that this machine has.
    pub fn best() -> Isa {
        Isa::ALL.into_iter().rfind(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// Runs a kernel compiled for this instruction set.
    ///
    /// Devices are made only with an instruction set that the machine has, which makes this sound.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        debug_assert!(self.is_available());
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Avx2 => unsafe { x86::with_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Avx512f | Isa::Avx512 | Isa::Amx => unsafe { x86::with_avx512f(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Neon => unsafe { neon::with_neon(kernel) },
            _ => kernel.run::<scalar::Scalar>(),
        }
    }

    /// Runs a kernel made of dot products of 8-bit quads.
    #[inline]
    pub(crate) fn dispatch_quads<K: QuadKernel>(self, kernel: K) -> K::Output {
        debug_assert!(self.is_available());
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Avx2 => unsafe { x86::with_avx2_quads(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Avx512f => unsafe { x86::with_avx512f_quads(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Avx512 | Isa::Amx => unsafe { x86::with_avx512vnni(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: asked on the spot.
            Isa::Neon if neon::has_dotprod() => unsafe { neon::with_neon_dotprod(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the device checked that the machine has it.
            Isa::Neon => unsafe { neon::with_neon_quads(kernel) },
            _ => kernel.run::<scalar::Scalar>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Isa {
    /// Whether it has dot products of bf16 pairs.
    pub(crate) fn has_pairs(self) -> bool {
        matches!(self, Isa::Avx512 | Isa::Amx)
    }

    /// Runs a kernel made of dot products of bf16 pairs.
    ///
    /// # Safety
    ///
    /// The instruction set [has them](Isa::has_pairs).
    #[inline]
    pub(crate) unsafe fn dispatch_pairs<K: PairKernel>(self, kernel: K) -> K::Output {
        debug_assert!(self.has_pairs() && self.is_available());
        // SAFETY: the device checked that the machine has it, and the caller that it is the one.
        unsafe { x86::with_avx512bf16(kernel) }
    }

    /// Runs a kernel that uses the tiles of AMX, and vectors as they are there beside them.
    ///
    /// # Safety
    ///
    /// The instruction set is [`Isa::Amx`].
    #[inline]
    pub(crate) unsafe fn dispatch_tiles<K: Kernel>(self, kernel: K) -> K::Output {
        debug_assert!(self == Isa::Amx && self.is_available());
        // SAFETY: the device checked that the machine has it, and the caller that it is the one.
        unsafe { x86::with_avx512f(kernel) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Work to be compiled for every instruction set. Implementations of `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self) -> Self::Output;
}

/// Work made of dot products of bf16 pairs, which so far only AVX-512 has here. Implementations of `run` must be
/// `#[inline(always)]`.
#[cfg(target_arch = "x86_64")]
pub(crate) trait PairKernel {
    type Output;
    fn run<P: Pairs>(self) -> Self::Output;
}

/// Dot products of bf16 pairs: twice as many elements to a vector as [`Pairs::Sums`] has lanes.
///
/// # Safety
///
/// As of [`Simd`], below [`Isa::dispatch_pairs`].
#[cfg(target_arch = "x86_64")]
#[allow(clippy::missing_safety_doc)] // said above
pub(crate) trait Pairs: Copy + 'static {
    /// What the products are summed in.
    type Sums: Simd;
    type Vector: Copy;

    unsafe fn load(from: *const bf16) -> Self::Vector;
    /// The first `n` elements, at least 1; the others zero.
    unsafe fn load_part(from: *const bf16, n: usize) -> Self::Vector;
    /// To lane `i` the products of elements `2i` and `2i + 1`.
    unsafe fn mul_add(
        a: Self::Vector,
        b: Self::Vector,
        sums: <Self::Sums as Simd>::Vector,
    ) -> <Self::Sums as Simd>::Vector;
}

/// A vector of [`Simd::LANES`] f32 and what kernels do with it.
///
/// # Safety
///
/// The methods use instructions that the machine may lack: they must be called only below
/// [`Isa::dispatch`]. Loads and stores read and write where the pointer points, aligned to the element:
/// `LANES` elements, or `n < LANES` for the `_part` forms, whose other lanes are zero.
#[allow(clippy::missing_safety_doc)] // said once, above
pub(crate) trait Simd: Copy + 'static {
    type Vector: Copy;
    /// Elements in a vector.
    const LANES: usize;
    /// Rows and columns of the product tile that fills the registers.
    const TILE_ROWS: usize;

    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn load_part(from: *const f32, n: usize) -> Self::Vector;
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector;
    unsafe fn load_bf16_part(from: *const bf16, n: usize) -> Self::Vector;
    unsafe fn load_f16(from: *const f16) -> Self::Vector;
    unsafe fn load_f16_part(from: *const f16, n: usize) -> Self::Vector;
    /// Integers, to the nearest floats.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_integers(from: *const i32) -> Self::Vector {
        let mut floats = [0.0; 16];
        for (lane, float) in floats.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller vouches for the integers; no vector is longer than 16.
            *float = unsafe { *from.add(lane) } as f32;
        }
        // SAFETY: as above.
        unsafe { Self::load(floats.as_ptr()) }
    }
    unsafe fn store(to: *mut f32, value: Self::Vector);
    unsafe fn store_part(to: *mut f32, n: usize, value: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, rounded once where the instruction set has it.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The sum over the lanes: lane `i` with lane `i + LANES / 2`, then halves of that, down to one.
    unsafe fn sum(v: Self::Vector) -> f32;
    /// [`Simd::sum`] of four vectors, to the bit.
    unsafe fn sum4(v: [Self::Vector; 4]) -> [f32; 4];
    /// [`Simd::sum`] of eight vectors, to the bit.
    #[inline(always)]
    unsafe fn sum8(v: [Self::Vector; 8]) -> [f32; 8] {
        let [a, b, c, d, e, f, g, h] = v;
        // SAFETY: the caller's promise, passed on.
        let ([a, b, c, d], [e, f, g, h]) = unsafe { (Self::sum4([a, b, c, d]), Self::sum4([e, f, g, h])) };
        [a, b, c, d, e, f, g, h]
    }

    /// The larger of each lane; `b`'s where `a`'s is NaN.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;

    /// Cuts 64 bytes into numbers of `WIDTH` bits: those at place `p` of each byte go to the 64 bytes from
    /// `to + p · apart` on, as their bits from `SHIFT` on. With a `SHIFT`, the bits below stay as they are.
    #[inline(always)]
    unsafe fn spread<const WIDTH: usize, const SHIFT: usize>(from: *const u8, to: *mut u8, apart: usize) {
        let mask = ((1u16 << WIDTH) - 1) as u8;
        for place in 0..8 / WIDTH {
            for i in 0..64 {
                // SAFETY: the caller vouches for 64 bytes there, and at each place.
                unsafe {
                    let own = ((*from.add(i) >> (place * WIDTH)) & mask) << SHIFT;
                    let to = to.add(place * apart + i);
                    *to = if SHIFT == 0 { own } else { *to | own };
                }
            }
        }
    }

    /// Turns a square of words: [`Simd::LANES`] rows of them, `stride` apart, become columns of `to`, whose rows are
    /// `apart`.
    #[inline(always)]
    unsafe fn turn(from: *const u32, stride: usize, to: *mut u32, apart: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // SAFETY: the caller vouches for the square on either side.
                unsafe { *to.add(column * apart + row) = *from.add(row * stride + column) }
            }
        }
    }

    /// Replaces each number below 16 by what the table has for it.
    #[inline(always)]
    unsafe fn look_up(table: &[u8; 16], numbers: &mut [u8]) {
        for number in numbers {
            *number = table[usize::from(*number & 15)];
        }
    }

    /// Asks for the cache line at an address, which need not be valid.
    fn prefetch(address: *const u8);

    /// As [`Simd::prefetch`], but only into the second cache.
    #[inline(always)]
    fn prefetch_far(address: *const u8) {
        Self::prefetch(address);
    }

    /// `a · b + c` of single elements, rounded as [`Simd::mul_add`] rounds.
    fn mul_add1(a: f32, b: f32, c: f32) -> f32;
}
