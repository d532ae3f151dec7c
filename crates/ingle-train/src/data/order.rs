// SPDX-License-Identifier: EUPL-1.2
//! The order of a pass over the data.

use ingle_nn::random::{stream, uniform};

/// `0..count` in an order that depends on seed and pass alone (Fisher & Yates).
pub(super) fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    // A stream for each pass: its number may not meet the draws of another.
    let seed = seed ^ stream(&format!("order of pass {epoch}"));
    for i in (1..count).rev() {
        let j = (uniform(seed, i as u64) * (i + 1) as f64) as usize;
        order.swap(i, j.min(i));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_of_its_own_for_each_pass_good() {
        let order = |seed, epoch| shuffled(1000, seed, epoch);
        assert_eq!(order(1, 2), order(1, 2));
        assert!(order(1, 2) != order(1, 3) && order(1, 2) != order(2, 2));
        let mut sorted = order(5, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_ne!(order(5, 0), sorted);
    }

    #[test]
    fn nothing_to_shuffle_ugly() {
        assert!(shuffled(0, 1, 1).is_empty());
        assert_eq!(shuffled(1, 1, 1), [0]);
    }
}
