// SPDX-License-Identifier: EUPL-1.2
//! Reading ahead: a thread that waits asks for the beginning of the weight that will be read next.
//!
//! Generation reads the same weights in the same order for every token, as fast as memory gives them. Whenever a
//! thread waits, be it for a slower core or for the small operations between two products that one thread does
//! alone, memory would stand still. So the device remembers which weight was read after which, and idle threads
//! bring the first part of their share of the next one into their caches.
//!
//! All of this is a hint. A weight that is gone, or is not read next, costs some memory traffic and nothing else.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes that each thread reads ahead at most: its caches keep about so many until they are used.
const LIMIT: usize = 1 << 20;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Lines asked for between two looks at the pool's door. With every fill buffer taken a line waits for an earlier one,
/// so that more would keep the next job waiting.
const LINES: usize = 2;

/// Weights whose successors are remembered.
const REMEMBERED: usize = 4096;

/// Where a packed weight lies, which threads read panel by panel. An address and not a pointer, since the weight may
/// be gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) address: usize,
    pub(crate) panel_bytes: usize,
    pub(crate) panels: usize,
}

/// Which weight was read after which.
#[derive(Debug, Default)]
pub(crate) struct Order {
    state: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    last: Option<usize>,
    /// By address.
    next: HashMap<usize, Stretch>,
}

impl Order {
    /// Notes that `weight` is read now; which weight was read next the last time.
    pub(crate) fn follow(&self, weight: Stretch) -> Option<Stretch> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Models come and go.
        if state.next.len() >= REMEMBERED {
            state.next.clear();
        }
        if let Some(last) = state.last.replace(weight.address) {
            state.next.insert(last, weight);
        }
        state.next.get(&weight.address).copied()
    }
}

/// The weight that will be read next, for all threads to see. Half of an old one beside half of a new one does no harm.
#[derive(Debug, Default)]
pub(crate) struct Coming {
    address: AtomicUsize,
    panel_bytes: AtomicUsize,
    panels: AtomicUsize,
}

impl Coming {
    pub(crate) fn announce(&self, weight: Stretch) {
        self.panel_bytes.store(weight.panel_bytes, Ordering::Relaxed);
        self.panels.store(weight.panels, Ordering::Relaxed);
        self.address.store(weight.address, Ordering::Relaxed);
    }

    /// Bytes from the start that thread `thread` of `threads` reads first: the start of its own part.
    fn share(&self, thread: usize, threads: usize) -> Range<usize> {
        let panels = self.panels.load(Ordering::Relaxed);
        let panel_bytes = self.panel_bytes.load(Ordering::Relaxed);
        let [start, end] = [thread, thread + 1].map(|thread| part(panels, thread, threads).wrapping_mul(panel_bytes));
        start..end.min(start.saturating_add(LIMIT))
    }
}

/// Where part `part` of `parts` begins, of `count` things shared out evenly.
pub(crate) fn part(count: usize, part: usize, parts: usize) -> usize {
    count / parts * part + count % parts * part / parts
}

/// How far one thread has read ahead.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    address: usize,
    left: Range<usize>,
}

impl Ahead {
    /// Asks for a few lines; whether there were any to ask for.
    pub(crate) fn step(&mut self, coming: &Coming, thread: usize, threads: usize) -> bool {
        let address = coming.address.load(Ordering::Relaxed);
        if address != self.address {
            *self = Ahead { address, left: coming.share(thread, threads) };
        }
        if self.left.is_empty() {
            return false;
        }
        let end = self.left.end.min(self.left.start + LINES * LINE);
        for offset in (self.left.start..end).step_by(LINE) {
            prefetch(address.wrapping_add(offset));
        }
        self.left.start = end;
        true
    }
}

/// Asks for a cache line. Hints for the second cache alone did less: they do not wait for a fill buffer, and some are
/// lost.
#[inline(always)]
pub(crate) fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction. It reads nothing into the program and never faults, so that the
        // address may be any.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: every AArch64 has the instruction. It reads nothing into the program and never faults, so that the
        // address may be any.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly))
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(address: usize) -> Stretch {
        Stretch { address, panel_bytes: 100, panels: 5 }
    }

    #[test]
    fn what_was_read_next_is_remembered_good() {
        let order = Order::default();
        let read = |addresses: &[usize]| addresses.iter().map(|&a| order.follow(weight(a))).collect::<Vec<_>>();
        assert_eq!(read(&[1, 2, 3]), [None, None, None]);
        assert_eq!(read(&[1, 2, 3, 1]), [weight(2), weight(3), weight(1), weight(2)].map(Some));
        // Another order.
        assert_eq!(read(&[3, 2, 1]), [weight(1), weight(3), weight(3)].map(Some));
        assert_eq!(read(&[3, 2, 1]), [weight(2), weight(1), weight(3)].map(Some));
    }

    #[test]
    fn memory_of_the_order_is_bounded_ugly() {
        let order = Order::default();
        for address in 0..3 * REMEMBERED {
            assert_eq!(order.follow(weight(address)), None);
        }
        assert!(order.state.into_inner().is_ok_and(|read| read.next.len() <= REMEMBERED));
    }

    #[test]
    fn parts_are_even_and_cover_all_ugly() {
        for (count, parts) in [(0, 1), (1, 3), (7, 2), (64, 5), (usize::MAX, 4)] {
            assert_eq!((part(count, 0, parts), part(count, parts, parts)), (0, count));
            for p in 0..parts {
                let length = part(count, p + 1, parts) - part(count, p, parts);
                assert!(length == count / parts || length == count.div_ceil(parts), "{count} in {parts}: {p}");
            }
        }
    }

    #[test]
    fn each_thread_asks_for_its_share_once_good() {
        let coming = Coming::default();
        assert!(!Ahead::default().step(&coming, 0, 2), "nothing comes");
        // The address is nobody's.
        coming.announce(Stretch { address: 8, panel_bytes: 1 << 10, panels: 5 });
        for (thread, bytes) in [(0, 2 << 10), (1, 3 << 10)] {
            let mut ahead = Ahead::default();
            let steps = (0..100).filter(|_| ahead.step(&coming, thread, 2)).count();
            assert_eq!(steps, bytes / (LINES * LINE));
        }
        // Far more than a cache holds.
        coming.announce(Stretch { address: usize::MAX, panel_bytes: usize::MAX / 4, panels: 4 });
        let mut ahead = Ahead::default();
        assert_eq!((0..LIMIT).filter(|_| ahead.step(&coming, 0, 2)).count(), LIMIT / (LINES * LINE));
    }
}
