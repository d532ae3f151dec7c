// SPDX-License-Identifier: EUPL-1.2
//! Merging neighbours, the best pair first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

/// A piece of a word on its way to being a token: so many bytes from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::text) struct Symbol {
    pub start: usize,
    pub len: usize,
}

impl Symbol {
    pub fn range(self) -> Range<usize> {
        self.start..self.start + self.len
    }
}

/// The characters of a word.
pub(in crate::text) fn characters(word: &str) -> impl Iterator<Item = Symbol> {
    word.char_indices().map(|(start, character)| Symbol { start, len: character.len_utf8() })
}

/// A pair in the queue: by priority, then from the left.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: Reverse<usize>,
    right: usize,
    /// Bytes of both when they were queued: if either has grown since, the pair is no more.
    len: usize,
}

/// Merges neighbours until `priority` has none for any pair (Sennrich et al. 2016): the pair with the highest goes
/// first, and of equal ones the leftmost.
///
/// The symbols follow one another without a gap, and none is empty. This takes n log n steps for n symbols.
pub(in crate::text) fn merge(symbols: &mut Vec<Symbol>, priority: impl Fn(Symbol, Symbol) -> Option<u32>) {
    let last = symbols.len();
    // Who stands beside whom; `last` is nobody.
    let mut next: Vec<usize> = (1..=last).collect();
    let mut previous: Vec<usize> = (0..last).map(|i| i.checked_sub(1).unwrap_or(last)).collect();
    let candidate = |symbols: &[Symbol], left: usize, right: usize| {
        let (a, b) = (*symbols.get(left)?, *symbols.get(right)?);
        Some(Candidate { priority: priority(a, b)?, left: Reverse(left), right, len: a.len + b.len })
    };
    let mut queue: BinaryHeap<Candidate> = (1..last).filter_map(|i| candidate(symbols, i - 1, i)).collect();
    while let Some(Candidate { left: Reverse(left), right, len, .. }) = queue.pop() {
        let (a, b) = (symbols[left], symbols[right]);
        if a.len == 0 || b.len == 0 || a.len + b.len != len {
            continue;
        }
        symbols[left].len = len;
        symbols[right].len = 0;
        next[left] = next[right];
        if let Some(back) = previous.get_mut(next[left]) {
            *back = left;
        }
        queue.extend(candidate(symbols, previous[left], left));
        queue.extend(candidate(symbols, left, next[left]));
    }
    symbols.retain(|symbol| symbol.len > 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Symbols of single letters; `pairs` join, the first one first.
    fn merged(word: &str, pairs: &[&str]) -> Vec<String> {
        let mut symbols: Vec<Symbol> = characters(word).collect();
        merge(&mut symbols, |a, b| {
            let rank = pairs.iter().position(|pair| *pair == &word[a.start..b.start + b.len])?;
            Some(u32::MAX - rank as u32)
        });
        symbols.iter().map(|symbol| word[symbol.range()].to_owned()).collect()
    }

    #[test]
    fn best_pair_first_then_leftmost_good() {
        assert_eq!(merged("abab", &["ab", "abab"]), ["abab"]);
        assert_eq!(merged("abc", &["bc", "ab"]), ["a", "bc"]);
        assert_eq!(merged("aaaaa", &["aa"]), ["aa", "aa", "a"]);
        assert_eq!(merged("xyz", &[]), ["x", "y", "z"]);
    }

    #[test]
    fn long_words_take_no_quadratic_time_ugly() {
        let word = "a".repeat(1 << 18);
        assert_eq!(merged(&word, &["aa", "aaaa"]).len(), 1 << 16);
    }

    #[test]
    fn nothing_and_one_letter_ugly() {
        assert!(merged("", &["aa"]).is_empty());
        assert_eq!(merged("a", &["aa"]), ["a"]);
    }
}
