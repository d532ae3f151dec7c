// SPDX-License-Identifier: EUPL-1.2
//! The portable path: arrays that the compiler turns into whatever the build's target has.

use half::{bf16, f16};

use super::{Quads, Simd};
use crate::math::ROUND;

#[derive(Clone, Copy)]
pub(crate) struct Scalar;

const LANES: usize = 8;

#[inline(always)]
fn part<T: Copy>(from: *const T, n: usize, widen: impl Fn(T) -> f32) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for (i, lane) in lanes.iter_mut().enumerate().take(n) {
        // SAFETY: the caller vouches for `n` elements.
        *lane = widen(unsafe { *from.add(i) });
    }
    lanes
}

#[inline(always)]
fn zip(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Quads for Scalar {
    type Floats = Scalar;
    type Sums = [i32; LANES];
    type Weights = [u8; 4 * LANES];
    const SHIFT: i32 = 0;

    #[inline(always)]
    unsafe fn splat(value: i32) -> Self::Sums {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Self::Weights {
        // SAFETY: the caller vouches for four weights in each lane.
        unsafe { from.cast::<Self::Weights>().read() }
    }

    #[inline(always)]
    unsafe fn bits<const WIDTH: usize>(weights: Self::Weights, place: usize) -> Self::Weights {
        let mask = ((1u16 << WIDTH) - 1) as u8;
        weights.map(|weight| (weight >> (place * WIDTH)) & mask)
    }

    #[inline(always)]
    unsafe fn table(numbers: &[u8; 16]) -> Self::Weights {
        std::array::from_fn(|at| numbers[at % 16])
    }

    #[inline(always)]
    unsafe fn look_up(table: Self::Weights, places: Self::Weights) -> Self::Weights {
        places.map(|place| table[usize::from(place & 15)])
    }

    #[inline(always)]
    unsafe fn join<const PLACES: u32>(low: Self::Weights, high: Self::Weights) -> Self::Weights {
        std::array::from_fn(|i| low[i] | high[i] << PLACES)
    }

    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, weights: Self::Weights, x: i32) -> Self::Sums {
        let x = x.to_le_bytes().map(|x| i32::from(x as i8));
        std::array::from_fn(|lane| {
            let products = x.iter().enumerate().map(|(i, x)| x * i32::from(weights[4 * lane + i]));
            sums[lane] + products.sum::<i32>()
        })
    }

    #[inline(always)]
    unsafe fn add_shifted<const PLACES: u32>(sums: Self::Sums, more: Self::Sums) -> Self::Sums {
        std::array::from_fn(|lane| sums[lane] + (more[lane] << PLACES))
    }

    #[inline(always)]
    unsafe fn to_floats(sums: Self::Sums) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_sums(from: *const i32) -> Self::Sums {
        // SAFETY: the caller vouches for every lane.
        unsafe { from.cast::<Self::Sums>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const i8) -> Self::Sums {
        // SAFETY: the caller vouches for a byte of each lane.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> Self::Sums {
        // SAFETY: the caller vouches for two bytes of each lane.
        let pairs = unsafe { from.cast::<[[u8; 2]; LANES]>().read_unaligned() };
        pairs.map(|[low, high]| i32::from(low) | i32::from(high) << 16)
    }

    #[inline(always)]
    unsafe fn dot_pairs(sums: Self::Sums, pairs: Self::Sums, x: i32) -> Self::Sums {
        let halves = |pair: i32| [i32::from(pair as i16), pair >> 16];
        let x = halves(x);
        std::array::from_fn(|lane| {
            let pair = halves(pairs[lane]);
            sums[lane] + pair[0] * x[0] + pair[1] * x[1]
        })
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Sums, b: Self::Sums) -> Self::Sums {
        std::array::from_fn(|lane| a[lane].wrapping_mul(b[lane]))
    }

    #[inline(always)]
    unsafe fn add(a: Self::Sums, b: Self::Sums) -> Self::Sums {
        std::array::from_fn(|lane| a[lane].wrapping_add(b[lane]))
    }

    #[inline(always)]
    unsafe fn total(sums: Self::Sums) -> i32 {
        sums.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn larger(largest: Self::Sums, x: [f32; LANES]) -> Self::Sums {
        std::array::from_fn(|lane| largest[lane].max(x[lane].abs().to_bits() as i32))
    }

    #[inline(always)]
    unsafe fn largest(lanes: Self::Sums) -> i32 {
        lanes.into_iter().fold(0, i32::max)
    }

    #[inline(always)]
    unsafe fn round(x: [f32; LANES]) -> Self::Sums {
        x.map(|x| ((x + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32))
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, numbers: Self::Sums) {
        // SAFETY: the caller vouches for a byte of each lane.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(numbers.map(|number| number as i8)) }
    }
}

impl Simd for Scalar {
    type Vector = [f32; LANES];
    const LANES: usize = LANES;
    const TILE_ROWS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        part(from, LANES, |x| x)
    }

    #[inline(always)]
    unsafe fn load_part(from: *const f32, n: usize) -> Self::Vector {
        part(from, n, |x| x)
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector {
        part(from, LANES, bf16_to_f32)
    }

    #[inline(always)]
    unsafe fn load_bf16_part(from: *const bf16, n: usize) -> Self::Vector {
        part(from, n, bf16_to_f32)
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::Vector {
        part(from, LANES, f16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_f16_part(from: *const f16, n: usize) -> Self::Vector {
        part(from, n, f16::to_f32)
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::Vector) {
        // SAFETY: the caller vouches for `LANES` elements.
        unsafe { to.cast::<Self::Vector>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn store_part(to: *mut f32, n: usize, value: Self::Vector) {
        for (i, &lane) in value.iter().enumerate().take(n) {
            // SAFETY: the caller vouches for `n` elements.
            unsafe { *to.add(i) = lane }
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn sum(v: Self::Vector) -> f32 {
        let quarter: [f32; 4] = std::array::from_fn(|i| v[i] + v[i + 4]);
        (quarter[0] + quarter[2]) + (quarter[1] + quarter[3])
    }

    #[inline(always)]
    unsafe fn sum4(v: [Self::Vector; 4]) -> [f32; 4] {
        // SAFETY: no more is asked for than here.
        v.map(|v| unsafe { Self::sum(v) })
    }

    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn prefetch(_address: *const u8) {}

    #[inline(always)]
    fn mul_add1(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

#[inline(always)]
fn bf16_to_f32(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}
