// SPDX-License-Identifier: EUPL-1.2

use super::*;

/// The lanes of what each method gives, as f32.
struct Each<'a, F: Source> {
    elements: &'a [F::Element],
    factors: &'a [F::Factor],
}

/// Of [`Each`].
struct Found {
    step: usize,
    depth: usize,
    /// Of eight vectors of elements times as many of factors.
    sums: [f32; 8],
    /// The same, of factors that were stored and loaded.
    again: f32,
    /// Of the elements of one and of two rows beside each other, times a splat of the first factors.
    beside: [f32; 2],
    /// Of the first vector with only the `i`-th factor of each lane, times the same splat.
    only: Vec<f32>,
}

impl<F: Source> ProductKernel<F> for Each<'_, F> {
    type Output = Found;

    #[inline(always)]
    fn run<P: Products<F>>(self) -> Found {
        let (a, b) = (self.elements.as_ptr(), self.factors.as_ptr());
        // SAFETY: below `dispatch`; there are more elements and factors than eight vectors hold.
        unsafe {
            let sum = |v: P::Vector| {
                let mut lanes = vec![Lane::<F>::default(); P::LANES];
                P::store_sums(lanes.as_mut_ptr(), P::mul_add(v, P::splat(b), P::zero()));
                let none = P::zero();
                P::sum8([P::load_sums(lanes.as_ptr()), none, none, none, none, none, none, none])[0]
            };
            let product = |i| P::mul_add(P::read(a.add(i * P::STEP)), P::load(b.add(i * P::STEP)), P::zero());
            let mut stored = vec![F::Factor::default(); P::STEP];
            P::store(stored.as_mut_ptr(), P::read(a));
            let beside = P::read_beside([a, a.add(P::STEP)]);
            Found {
                step: P::STEP,
                depth: F::Factor::DEPTH,
                sums: P::sum8(std::array::from_fn(product)),
                again: sum(P::load(stored.as_ptr())),
                beside: beside.map(sum),
                only: (0..F::Factor::DEPTH).map(|i| sum(P::only(P::read(a), i))).collect(),
            }
        }
    }
}

/// Compares with small whole numbers, whose sums are exact.
fn check<F: Source>(
    multiplier: impl Fn(Isa) -> Option<Multiplier<F>>,
    element: impl Fn(i32) -> F::Element,
    factor: impl Fn(i32) -> F::Factor,
) {
    let numbers = |times: i32| -> Vec<i32> { (0..8 * 32).map(|i| (i * times) % 23 - 11).collect() };
    let (a, b) = (numbers(5), numbers(7));
    let elements: Vec<_> = a.iter().map(|&i| element(i)).collect();
    let factors: Vec<_> = b.iter().map(|&i| factor(i)).collect();
    for isa in Isa::available() {
        let Some(multiplier) = multiplier(isa) else { continue };
        let found = multiplier.dispatch(Each { elements: &elements, factors: &factors });
        let Found { step, depth, .. } = found;
        let exact = |i: usize| -> i32 { (i * step..(i + 1) * step).map(|j| a[j] * b[j]).sum() };
        assert_eq!(found.sums, std::array::from_fn(|i| exact(i) as f32), "{isa}");
        let by_splat = |list: &mut dyn Iterator<Item = (usize, i32)>| -> f32 {
            list.map(|(i, a)| a * b[i % depth]).sum::<i32>() as f32
        };
        assert_eq!(found.again, by_splat(&mut a[..step].iter().copied().enumerate()), "{isa}");
        for (i, found) in found.only.into_iter().enumerate() {
            let mut some = (i..step).step_by(depth).map(|j| (i, a[j]));
            assert_eq!(found, by_splat(&mut some), "{isa}");
        }
        for (i, found) in found.beside.into_iter().enumerate().take(depth) {
            let places = i * step / depth..(i + 1) * step / depth;
            let mut beside = places.flat_map(|j| (0..depth).map(move |row| (row, row * step + j)));
            let mut beside = std::iter::from_fn(|| beside.next().map(|(row, j)| (row, a[j])));
            assert_eq!(found, by_splat(&mut beside), "{isa}");
        }
    }
}

#[test]
fn products_are_summed_lane_by_lane_good() {
    check(|isa| Some(Multiplier::<Widened<f32>>::widened(isa)), |i| i as f32, |i| i as f32);
    check(|isa| Some(Multiplier::<Widened<bf16>>::widened(isa)), |i| bf16::from_f32(i as f32), |i| i as f32);
    check(|isa| Some(Multiplier::quantised(isa)), |i| i as i8, |i| i as i16);
    #[cfg(target_arch = "x86_64")]
    check(Multiplier::pairs, |i| bf16::from_f32(i as f32), |i| bf16::from_f32(i as f32));
}
