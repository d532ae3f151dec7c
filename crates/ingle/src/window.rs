// SPDX-License-Identifier: EUPL-1.2
//! Many jobs through one engine, results in the order of the jobs.

use std::collections::VecDeque;

/// Starts jobs ahead of the one that is waited for, many together, so that the engine always has a full batch, and
/// no more than `width` at once, so that a million of them do not take memory all at once.
pub struct Window<I, S, F, J> {
    inputs: I,
    start: S,
    finish: F,
    running: VecDeque<J>,
    width: usize,
}

impl<I, S, F, J, T> Window<I, S, F, J>
where
    I: Iterator,
    S: FnMut(Vec<I::Item>) -> Vec<J>,
    F: FnMut(J) -> T,
{
    /// `start` begins jobs, one for each input, and returns at once; `finish` waits for the result of one. The first
    /// jobs begin now, beside those of other windows.
    pub fn new(inputs: I, width: usize, start: S, finish: F) -> Self {
        let mut window = Window { inputs, start, finish, running: VecDeque::new(), width };
        window.fill();
        window
    }

    fn fill(&mut self) {
        // As soon as half of them are done, the other half keeps the engine busy meanwhile.
        if self.running.len() <= self.width / 2 {
            let room = self.width.max(1) - self.running.len();
            let inputs: Vec<I::Item> = self.inputs.by_ref().take(room).collect();
            if !inputs.is_empty() {
                self.running.extend((self.start)(inputs));
            }
        }
    }
}

impl<I, S, F, J, T> Iterator for Window<I, S, F, J>
where
    I: Iterator,
    S: FnMut(Vec<I::Item>) -> Vec<J>,
    F: FnMut(J) -> T,
{
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.fill();
        self.running.pop_front().map(&mut self.finish)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn order_is_kept_and_width_respected_good() {
        let started = RefCell::new(0);
        let start = |numbers: Vec<u32>| {
            *started.borrow_mut() += numbers.len();
            numbers
        };
        let finished = RefCell::new(0);
        let finish = |n: u32| {
            assert!(*started.borrow() - *finished.borrow() <= 3);
            *finished.borrow_mut() += 1;
            n * 10
        };
        let results: Vec<u32> = Window::new(0..7, 3, start, finish).collect();
        assert_eq!(results, [0, 10, 20, 30, 40, 50, 60]);
    }

    #[test]
    fn a_width_of_nothing_still_goes_on_ugly() {
        assert_eq!(Window::new(0..3, 0, |jobs| jobs, |n| n).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
