// SPDX-License-Identifier: EUPL-1.2
//! How well labels were found: accuracy, and what was taken for what.

use std::collections::BTreeMap;
use std::fmt;

/// Counts, for texts whose labels are known, which labels were found instead. Shows as a table.
///
/// ```
/// let mut confusion = ingle::Confusion::default();
/// confusion.add("banking", "banking");
/// confusion.add("banking", "travel");
/// confusion.add("travel", "travel");
/// assert_eq!((confusion.right(), confusion.total()), (2, 3));
/// assert_eq!(confusion.count("banking", "travel"), 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    /// By the true label, then by the one that was found.
    counts: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Confusion {
    /// Counts a text of the label `expected` for which `found` was found.
    pub fn add(&mut self, expected: &str, found: &str) {
        *self.counts.entry(expected.into()).or_default().entry(found.into()).or_default() += 1;
    }

    /// How many texts of the label `expected` were taken for `found`.
    pub fn count(&self, expected: &str, found: &str) -> usize {
        self.counts.get(expected).and_then(|row| row.get(found)).copied().unwrap_or(0)
    }

    /// How many texts got their own label.
    pub fn right(&self) -> usize {
        self.counts.keys().map(|label| self.count(label, label)).sum()
    }

    /// How many texts there were.
    pub fn total(&self) -> usize {
        self.counts.values().flat_map(BTreeMap::values).sum()
    }

    /// The share of texts that got their own label; none of none.
    pub fn accuracy(&self) -> f64 {
        self.right() as f64 / self.total().max(1) as f64
    }
}

/// Labels that a row of the table names beside its own.
const NAMED: usize = 3;

impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.counts.keys().map(|label| label.chars().count()).max().unwrap_or(0).max("label".len());
        writeln!(f, "{:>width$}  {:>6}  {:>6}  most often taken for", "label", "right", "of")?;
        for (label, row) in &self.counts {
            let of: usize = row.values().sum();
            let mut others: Vec<(&String, &usize)> = row.iter().filter(|(found, _)| *found != label).collect();
            others.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let others: Vec<String> = others.iter().take(NAMED).map(|(found, n)| format!("{found} {n}")).collect();
            let line = format!("{label:>width$}  {:>6}  {of:>6}  {}", self.count(label, label), others.join(", "));
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(f, "accuracy {:.2} %: {} of {}", 100.0 * self.accuracy(), self.right(), self.total())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_good() {
        let mut confusion = Confusion::default();
        for (expected, found, times) in [("a", "a", 7), ("a", "long", 1), ("a", "b", 2), ("long", "long", 3)] {
            (0..times).for_each(|_| confusion.add(expected, found));
        }
        let table = [
            "label   right      of  most often taken for",
            "    a       7      10  b 2, long 1",
            " long       3       3",
            "accuracy 76.92 %: 10 of 13",
        ];
        assert_eq!(confusion.to_string(), table.join("\n"));
    }

    #[test]
    fn no_texts_ugly() {
        let none = Confusion::default();
        assert_eq!((none.accuracy(), none.count("a", "a"), none.total()), (0.0, 0, 0));
        assert!(none.to_string().ends_with("accuracy 0.00 %: 0 of 0"));
    }
}
