// SPDX-License-Identifier: EUPL-1.2
//! Products of small matrices of factors, summed in f32.

use super::Floats;
use crate::simd::{Factor, ProductKernel, Products};

/// Rows of a product come in multiples of this.
pub(super) const ROWS: usize = 4;

/// Columns come in multiples of this: whole vectors on every instruction set.
pub(super) const COLUMNS: usize = 16;

/// `sums [rows, columns] = left [rows, lanes] · right [lanes, columns]`, where a lane is as many factors as a product
/// sums at once. Each sum takes its lanes in order, whatever stands beside it.
pub(super) struct Product<'a, F: Floats> {
    pub(super) rows: usize,
    pub(super) lanes: usize,
    pub(super) columns: usize,
    pub(super) left: Left<'a, F::Factor>,
    pub(super) right: Right<'a, F::Factor>,
    pub(super) sums: Sums<'a>,
}

/// The factors of a lane stand together; from row to row, from lane to lane, and from [`COLUMNS`] rows to the next it is
/// so many factors.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, T> {
    pub(super) factors: &'a [T],
    pub(super) row: usize,
    pub(super) lane: usize,
    pub(super) panel: usize,
}

/// The factors of a lane and column stand together, [`COLUMNS`] columns one after the other.
#[derive(Clone, Copy)]
pub(super) struct Right<'a, T> {
    pub(super) factors: &'a [T],
    /// Factors from lane to lane.
    pub(super) lane: usize,
    /// Factors from [`COLUMNS`] columns to the next.
    pub(super) panel: usize,
}

impl<'a, T: Factor> Left<'a, T> {
    /// Rows of `width` factors, one after the other.
    pub(super) fn rows(factors: &'a [T], width: usize) -> Self {
        Left { factors, row: width, lane: T::DEPTH, panel: COLUMNS * width }
    }

    /// In panels of [`COLUMNS`] rows, each lane by lane.
    pub(super) fn panels(factors: &'a [T], lanes: usize) -> Self {
        Left { factors, row: T::DEPTH, lane: COLUMNS * T::DEPTH, panel: lanes * COLUMNS * T::DEPTH }
    }

    pub(super) fn at(&self, row: usize, lane: usize) -> usize {
        row / COLUMNS * self.panel + row % COLUMNS * self.row + lane * self.lane
    }
}

impl<'a, T: Factor> Right<'a, T> {
    /// Lanes of `columns`, one after the other.
    pub(super) fn lanes(factors: &'a [T], columns: usize) -> Self {
        Right { factors, lane: columns * T::DEPTH, panel: COLUMNS * T::DEPTH }
    }

    /// In panels of [`COLUMNS`] columns, each lane by lane.
    pub(super) fn panels(factors: &'a [T], lanes: usize) -> Self {
        Right { factors, lane: COLUMNS * T::DEPTH, panel: lanes * COLUMNS * T::DEPTH }
    }

    pub(super) fn at(&self, column: usize, lane: usize) -> usize {
        column / COLUMNS * self.panel + column % COLUMNS * T::DEPTH + lane * self.lane
    }
}

/// Where the sums go, `row` from row to row.
pub(super) struct Sums<'a> {
    pub(super) to: &'a mut [f32],
    pub(super) row: usize,
    pub(super) from: Start,
}

/// What the sums begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Zero,
    /// What is there.
    There,
}

impl<F: Floats> ProductKernel<F> for Product<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<P: Products<F>>(mut self) {
        let Product { rows, columns, .. } = self;
        if rows == 0 || columns == 0 {
            return;
        }
        self.check();
        let mut column = 0;
        while column < columns {
            let vectors = (columns - column) / P::LANES;
            // SAFETY: below `dispatch`; tiles lie inside the matrices, whose bounds were checked.
            unsafe {
                if P::TILES > 1 && vectors >= 4 {
                    (0..rows).step_by(ROWS).for_each(|row| self.tile::<P, ROWS, 4>(row, column));
                    column += 4 * P::LANES;
                } else if vectors >= 2 {
                    self.tall::<P, 2>(column);
                    column += 2 * P::LANES;
                } else {
                    self.tall::<P, 1>(column);
                    column += P::LANES;
                }
            }
        }
    }
}

impl<F: Floats> Product<'_, F> {
    /// The bounds that the kernels rely on, where there are rows and columns.
    pub(super) fn check(&self) {
        let Product { rows, lanes, columns, .. } = *self;
        let depth = F::Factor::DEPTH;
        assert!(rows.is_multiple_of(ROWS) && columns.is_multiple_of(COLUMNS));
        assert!(self.sums.to.len() >= (rows - 1) * self.sums.row + columns);
        assert!(
            lanes == 0
                || self.left.factors.len() >= self.left.at(rows - 1, lanes - 1) + depth
                    && self.right.factors.len() >= self.right.at(columns - 1, lanes - 1) + depth
        );
    }

    /// All rows of few columns, twice [`ROWS`] at a time where the registers hold them.
    ///
    /// # Safety
    ///
    /// As of [`Product::tile`].
    #[inline(always)]
    unsafe fn tall<P: Products<F>, const V: usize>(&mut self, column: usize) {
        let mut row = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while P::TILES > 1 && row + 2 * ROWS <= self.rows {
                self.tile::<P, { 2 * ROWS }, V>(row, column);
                row += 2 * ROWS;
            }
            while row < self.rows {
                self.tile::<P, ROWS, V>(row, column);
                row += ROWS;
            }
        }
    }

    /// `R` rows of `V` vectors.
    ///
    /// # Safety
    ///
    /// Below `dispatch`; the rows and columns are among those of the product.
    #[inline(always)]
    unsafe fn tile<P: Products<F>, const R: usize, const V: usize>(&mut self, row: usize, column: usize) {
        let (left, right) = (self.left, self.right);
        // SAFETY: the caller's promise.
        unsafe {
            let place = self.sums.to.as_mut_ptr().add(row * self.sums.row + column);
            let mut sums = [[P::zero(); V]; R];
            if self.sums.from == Start::There {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = P::load_sums(place.add(r * self.sums.row + v * P::LANES));
                    }
                }
            }
            // The rows of a tile are of one panel.
            let rows = left.factors.as_ptr().add(left.at(row, 0));
            let columns: [_; V] =
                std::array::from_fn(|v| right.factors.as_ptr().add(right.at(column + v * P::LANES, 0)));
            for lane in 0..self.lanes {
                let vectors = columns.map(|column| P::load(column.add(lane * right.lane)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = P::splat(rows.add(r * left.row + lane * left.lane));
                    for (sum, vector) in sums.iter_mut().zip(vectors) {
                        *sum = P::mul_add(factor, vector, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    P::store_sums(place.add(r * self.sums.row + v * P::LANES), sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    use super::super::tiled::Tiled;
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::simd::Bf16Pairs;
    use crate::simd::{Isa, Multiplier, Widened};

    /// Whole numbers, whose sums are exact: the product is what it is, whatever the order.
    fn agrees<F: Floats>(run: impl Fn(Product<'_, F>), factor: impl Fn(i32) -> F::Factor) {
        let depth = F::Factor::DEPTH;
        let sizes = [(4, 1, 16), (12, 3, 48), (8, 20, 64), (4, 7, 112), (20, 2, 32), (32, 40, 80)];
        for (rows, lanes, columns) in sizes {
            let left = |row: usize, k: usize| ((row * 7 + k * 3) % 11) as i32 - 5;
            let right = |k: usize, column: usize| ((k * 5 + column) % 13) as i32 - 6;
            // The factors of a lane together: lane by lane, and in each row by row.
            let pitch = rows + 3;
            let mut lefts = vec![F::Factor::default(); lanes * pitch * depth];
            let mut rights = vec![F::Factor::default(); lanes * columns * depth];
            for k in 0..lanes * depth {
                let (lane, within) = (k / depth, k % depth);
                (0..rows).for_each(|row| lefts[(lane * pitch + row) * depth + within] = factor(left(row, k)));
                (0..columns).for_each(|c| rights[(lane * columns + c) * depth + within] = factor(right(k, c)));
            }
            for from in [Start::Zero, Start::There] {
                let mut sums = vec![1.0; rows * (columns + 5)];
                run(Product::<F> {
                    rows,
                    lanes,
                    columns,
                    left: Left { factors: &lefts, row: depth, lane: pitch * depth, panel: COLUMNS * depth },
                    right: Right::lanes(&rights, columns),
                    sums: Sums { to: &mut sums, row: columns + 5, from },
                });
                for (row, sums) in sums.chunks(columns + 5).enumerate() {
                    let start = i32::from(from == Start::There);
                    let sum = |c| start + (0..lanes * depth).map(|k| left(row, k) * right(k, c)).sum::<i32>();
                    assert_eq!(sums[..columns], (0..columns).map(|c| sum(c) as f32).collect::<Vec<_>>());
                    assert_eq!(sums[columns..], [1.0; 5], "beside the columns nothing is written");
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_the_definition_good() {
        for isa in Isa::available() {
            let multiplier = Multiplier::<Widened<f32>>::widened(isa);
            agrees(|product| multiplier.dispatch(product), |x| x as f32);
            #[cfg(target_arch = "x86_64")]
            if let Some(multiplier) = Multiplier::pairs(isa) {
                agrees(|product| multiplier.dispatch(product), |x| half::bf16::from_f32(x as f32));
            }
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Amx {
                let run = |product: Product<'_, Bf16Pairs>| isa.dispatch(Tiled(product));
                agrees(run, |x| half::bf16::from_f32(x as f32));
            }
        }
    }
}
