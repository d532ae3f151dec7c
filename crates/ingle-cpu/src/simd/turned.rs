// SPDX-License-Identifier: EUPL-1.2
//! Matrices of 32-bit words, turned on their diagonal: what lies row by row is wanted column by column wherever a
//! product sums along the other axis.

use super::Simd;

/// A matrix of words in memory.
#[derive(Clone, Copy)]
pub(crate) struct Words<P> {
    pub(crate) at: P,
    /// Words from one row to the next.
    pub(crate) apart: usize,
}

/// Copies `rows` rows of `columns` words to columns of `to`: `to[c, r] = from[r, c]`. Whole squares at a time, and word
/// by word what is left over.
///
/// # Safety
///
/// Below `dispatch`; the rows are there, and as many columns of `to`, which nobody else looks at.
#[inline(always)]
pub(crate) unsafe fn turn<S: Simd>([rows, columns]: [usize; 2], from: Words<*const u32>, to: Words<*mut u32>) {
    let [square_rows, square_columns] = [rows, columns].map(|count| count / S::LANES * S::LANES);
    for column in (0..square_columns).step_by(S::LANES) {
        for row in (0..square_rows).step_by(S::LANES) {
            // SAFETY: the caller's promise.
            unsafe {
                S::turn(
                    from.at.add(row * from.apart + column),
                    from.apart,
                    to.at.add(column * to.apart + row),
                    to.apart,
                )
            }
        }
    }
    for row in 0..rows {
        let left = if row < square_rows { square_columns } else { 0 };
        for column in left..columns {
            // SAFETY: as above.
            unsafe { *to.at.add(column * to.apart + row) = *from.at.add(row * from.apart + column) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel};

    struct Turn<'a> {
        sizes: [usize; 2],
        from: &'a [u32],
        to: &'a mut [u32],
        apart: [usize; 2],
    }

    impl Kernel for Turn<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self) {
            let from = Words { at: self.from.as_ptr(), apart: self.apart[0] };
            let to = Words { at: self.to.as_mut_ptr(), apart: self.apart[1] };
            // SAFETY: below `dispatch`; the tests make room for the matrices.
            unsafe { turn::<S>(self.sizes, from, to) }
        }
    }

    #[test]
    fn rows_become_columns_and_nothing_else_is_touched_ugly() {
        for isa in Isa::available() {
            for sizes in [[16, 16], [32, 64], [64, 32], [17, 15], [3, 40], [40, 3], [1, 1], [0, 5], [5, 0]] {
                let [rows, columns] = sizes;
                let apart = [columns + 3, rows + 2];
                let from: Vec<u32> = (0..rows * apart[0]).map(|word| word as u32).collect();
                let mut to = vec![u32::MAX; columns * apart[1]];
                isa.dispatch(Turn { sizes, from: &from, to: &mut to, apart });
                for (place, word) in to.into_iter().enumerate() {
                    let (column, row) = (place / apart[1], place % apart[1]);
                    let expected = if row < rows { (row * apart[0] + column) as u32 } else { u32::MAX };
                    assert_eq!(word, expected, "{isa}, {rows} rows of {columns}: [{row}, {column}]");
                }
            }
        }
    }
}
