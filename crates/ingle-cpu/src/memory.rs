// SPDX-License-Identifier: EUPL-1.2
//! Memory: aligned buffers that return to a pool when dropped, counted and limited.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ingle_tensor::{Error, Memory, Result};
use memmap2::MmapMut;

/// Buffers start on a cache line, which is also the widest vector.
pub(crate) const ALIGNMENT: usize = 64;

/// Freed buffers kept for reuse unless the user says otherwise.
const DEFAULT_CACHE_LIMIT: usize = 256 << 20;

/// From this size on zeros are always taken fresh from the system, which gives pages that cost nothing until they are
/// touched: of so large a cache little may be. Below, clearing what was used before costs less than touching new pages.
const LAZY_ZEROS: usize = 64 << 20;

/// What a buffer's first contents must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Whatever an earlier user left; the taker writes every element.
    Anything,
    /// Zeros.
    Zeros,
}

/// The device's memory.
#[derive(Debug)]
pub(crate) struct MemoryPool {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Freed allocations by capacity.
    free: BTreeMap<usize, Vec<Allocation>>,
    memory: Memory,
    limit: Option<usize>,
    cache_limit: usize,
    /// Where the next lasting buffers go.
    slab: Option<Slab>,
}

impl MemoryPool {
    pub(crate) fn new() -> Arc<Self> {
        let state = State {
            slab: None,
            free: BTreeMap::new(),
            memory: Memory::default(),
            limit: None,
            cache_limit: DEFAULT_CACHE_LIMIT,
        };
        Arc::new(MemoryPool { state: Mutex::new(state) })
    }

    /// A buffer of at least `len` bytes.
    pub(crate) fn take(self: &Arc<Self>, len: usize, contents: Contents) -> Result<Buffer> {
        let capacity = size_class(len);
        let fresh = contents == Contents::Zeros && capacity >= LAZY_ZEROS;
        let mut state = self.lock();
        state.reserve(capacity)?;
        let reused = if fresh { None } else { state.reuse(capacity) };
        if reused.is_none() {
            state.make_room();
        } else {
            state.reached();
        }
        drop(state);

        let dirty = reused.is_some();
        let Some(allocation) = reused.or_else(|| Allocation::zeroed(capacity)) else {
            self.lock().memory.active -= capacity;
            let message = format!("the system has no {capacity} bytes to give; use a smaller context or batch");
            return Err(Error::Device { op: "allocate", device: "cpu", message });
        };
        if !dirty {
            self.lock().reached();
        }
        let mut buffer = Buffer::new(Source::Pooled { allocation, pool: self.clone() }, len);
        if dirty
            && contents == Contents::Zeros
            && let Some(bytes) = buffer.bytes_mut()
        {
            bytes.fill(0);
        }
        Ok(buffer)
    }

    /// A buffer for what lasts, such as weights. Such buffers lie side by side on large pages, and are not
    /// kept for reuse; unless more is kept than usual, as in a training, whose weights are packed anew at every step.
    pub(crate) fn take_lasting(self: &Arc<Self>, len: usize, contents: Contents) -> Result<Buffer> {
        let capacity = len.next_multiple_of(ALIGNMENT);
        let mut state = self.lock();
        if state.cache_limit > DEFAULT_CACHE_LIMIT {
            drop(state);
            return self.take(len, contents);
        }
        state.reserve(capacity)?;
        let fits = state.slab.as_ref().is_some_and(|slab| slab.left() >= capacity);
        if !fits {
            state.slab = Slab::new(capacity.max(SLAB));
        }
        let Some(allocation) = state.slab.as_mut().and_then(|slab| slab.take(capacity)) else {
            state.memory.active -= capacity;
            let message = format!("the system has no {capacity} bytes to give; use a smaller model");
            return Err(Error::Device { op: "allocate", device: "cpu", message });
        };
        state.reached();
        Ok(Buffer::new(Source::Pooled { allocation, pool: self.clone() }, len))
    }

    /// A buffer over the host's bytes, kept alive and counted until it drops.
    pub(crate) fn share(self: &Arc<Self>, bytes: Bytes) -> Result<Buffer> {
        let mut state = self.lock();
        state.reserve(bytes.len())?;
        state.reached();
        drop(state);
        let len = bytes.len();
        Ok(Buffer::new(Source::Shared { bytes, pool: self.clone() }, len))
    }

    pub(crate) fn memory(&self) -> Memory {
        self.lock().memory
    }

    pub(crate) fn reset_peak(&self) {
        let mut state = self.lock();
        state.memory.peak = state.memory.active;
    }

    pub(crate) fn set_limit(&self, bytes: Option<usize>) {
        self.lock().limit = bytes;
    }

    pub(crate) fn set_cache_limit(&self, bytes: Option<usize>) {
        let mut state = self.lock();
        state.cache_limit = bytes.unwrap_or(DEFAULT_CACHE_LIMIT);
        let limit = state.cache_limit;
        state.shrink_cache(limit);
    }

    pub(crate) fn clear_cache(&self) {
        self.lock().shrink_cache(0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The counters are consistent at every point where a panic could leave the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts `bytes` as in use, if the limit allows it; once they are there, call [`State::reached`].
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        let active = self.memory.active;
        let limit = self.limit.unwrap_or(usize::MAX);
        match active.checked_add(bytes) {
            Some(total) if total <= limit => {
                self.memory.active = total;
                Ok(())
            }
            _ => Err(Error::Memory { device: "cpu", requested: bytes, active, limit }),
        }
    }

    /// What was reserved is there.
    fn reached(&mut self) {
        self.memory.peak = self.memory.peak.max(self.memory.active);
    }

    /// The smallest free buffer that has `capacity`, which is counted already. Of those that the system would have to
    /// clear pages for anew, one may be half as large again.
    fn reuse(&mut self, capacity: usize) -> Option<Allocation> {
        let most = capacity.saturating_add(if capacity >= MAPPED { capacity / 2 } else { 0 });
        let (&found, _) = self.free.range(capacity..=most).find(|(_, buffers)| !buffers.is_empty())?;
        let total = self.memory.active + (found - capacity);
        if self.limit.is_some_and(|limit| total > limit) && found > capacity {
            return None;
        }
        let allocation = self.free.get_mut(&found)?.pop()?;
        self.memory.cached -= found;
        self.memory.active = total;
        self.memory.peak = self.memory.peak.max(total);
        Some(allocation)
    }

    /// What may be cached: without being asked little; with a limit beyond that, what makes no more with live memory
    /// than was live once and a thirty-second part, for buffers of one size do not serve those of another.
    fn room(&self) -> usize {
        let Memory { active, peak, .. } = self.memory;
        let once_live = (peak + peak / 32).saturating_sub(active);
        self.cache_limit.min(once_live.max(DEFAULT_CACHE_LIMIT))
    }

    /// Live and cached memory together stay below the limit, if there is one, and below what was live once where
    /// dropping the cache can do that.
    fn make_room(&mut self) {
        let room = self.room();
        self.shrink_cache(room);
        if let Some(limit) = self.limit {
            self.shrink_cache(limit.saturating_sub(self.memory.active));
        }
    }

    /// Frees buffers until at most `limit` bytes are cached: one that is just large enough, else the largest first.
    fn shrink_cache(&mut self, limit: usize) {
        if self.memory.cached <= limit {
            return;
        }
        self.free.retain(|_, buffers| !buffers.is_empty());
        while self.memory.cached > limit {
            let surplus = self.memory.cached - limit;
            let enough = self.free.range(surplus..).next().or_else(|| self.free.last_key_value());
            let Some(capacity) = enough.map(|(&capacity, _)| capacity) else { return };
            if let Some(buffers) = self.free.get_mut(&capacity) {
                buffers.pop();
                self.memory.cached -= capacity;
                if buffers.is_empty() {
                    self.free.remove(&capacity);
                }
            }
        }
    }

    fn give_back(&mut self, allocation: Allocation) {
        let capacity = allocation.capacity;
        self.memory.active -= capacity;
        let kept = allocation.reuse == Reuse::Kept;
        let room = self.room();
        if kept && capacity > 0 && capacity <= room {
            self.shrink_cache(room - capacity);
            self.memory.cached += capacity;
            self.free.entry(capacity).or_default().push(allocation);
        }
    }
}

/// Rounds a size up so that buffers of about the same size serve each other: powers of two with seven
/// steps between, so at most an eighth is wasted.
fn size_class(len: usize) -> usize {
    if len <= ALIGNMENT {
        return if len == 0 { 0 } else { ALIGNMENT };
    }
    let step = (len.checked_next_power_of_two().unwrap_or(len) / 16).max(ALIGNMENT);
    len.checked_next_multiple_of(step).unwrap_or(len)
}

/// From this size on a block is mapped from the system by itself: its first zeros take no memory until they are touched, and
/// all of it goes back when the pool drops it, where an allocator may keep it. Large ones are on large pages where the system has
/// them: a processor finds its way among fewer of them, and their zeros cost less.
const MAPPED: usize = 128 << 10;

/// What a large page's address is a multiple of.
const LARGE_PAGE: usize = 2 << 20;

/// A block of memory, zeroed when it was taken and so always initialised.
#[derive(Debug)]
struct Allocation {
    start: NonNull<u8>,
    capacity: usize,
    /// The mapping that the block lies in; the system allocator's if there is none.
    mapping: Option<Arc<MmapMut>>,
    reuse: Reuse,
}

/// What becomes of a block that nobody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reuse {
    /// It is kept for the next who needs one like it.
    Kept,
    /// It lives as long as the slab that it is part of.
    Slab,
}

/// Bytes of a slab. What is not used of it is never touched, and so takes no memory.
const SLAB: usize = 64 << 20;

/// Memory on large pages that is given away piece by piece, each byte once.
#[derive(Debug)]
struct Slab {
    mapping: Arc<MmapMut>,
    next: NonNull<u8>,
    left: usize,
}

// SAFETY: the memory from `next` on belongs to the slab alone until it is given away.
unsafe impl Send for Slab {}

impl Slab {
    /// `None` where the system has no such memory.
    fn new(capacity: usize) -> Option<Self> {
        let (mapping, next) = map_aligned(capacity)?;
        Some(Slab { mapping: Arc::new(mapping), next, left: capacity })
    }

    fn left(&self) -> usize {
        self.left
    }

    fn take(&mut self, capacity: usize) -> Option<Allocation> {
        self.left = self.left.checked_sub(capacity)?;
        let start = self.next;
        // SAFETY: so many bytes were left in the mapping.
        self.next = unsafe { start.add(capacity) };
        Some(Allocation { start, capacity, mapping: Some(self.mapping.clone()), reuse: Reuse::Slab })
    }
}

/// So much zeroed memory, from a large page's start on if it has any, with the mapping it is in.
fn map_aligned(capacity: usize) -> Option<(MmapMut, NonNull<u8>)> {
    let large = on_large_pages(capacity)?;
    if large == 0 {
        let mut mapping = MmapMut::map_anon(capacity).ok()?;
        let start = NonNull::new(mapping.as_mut_ptr())?;
        return Some((mapping, start));
    }
    let mut mapping = MmapMut::map_anon(capacity.max(large).checked_add(LARGE_PAGE)?).ok()?;
    let skipped = mapping.as_ptr().align_offset(LARGE_PAGE);
    // Where there are no large pages, small ones will do.
    #[cfg(target_os = "linux")]
    let _ = mapping.advise_range(memmap2::Advice::HugePage, skipped, large);
    let start = NonNull::new(mapping.get_mut(skipped..)?.as_mut_ptr())?;
    Some((mapping, start))
}

/// Bytes of a block that go on large pages, perhaps more than it has: a page that would be mostly empty would be memory
/// lost, and there are as many as there are weights. `None` beyond all memory.
fn on_large_pages(capacity: usize) -> Option<usize> {
    Some(capacity.checked_add(LARGE_PAGE / 4)? / LARGE_PAGE * LARGE_PAGE)
}

// SAFETY: an allocation is plain memory with one owner; nothing in it is tied to a thread.
unsafe impl Send for Allocation {}
// SAFETY: shared references give only reads of initialised bytes.
unsafe impl Sync for Allocation {}

impl Allocation {
    /// `None` where the system has no such memory.
    fn zeroed(capacity: usize) -> Option<Self> {
        if capacity == 0 {
            return Some(Allocation::none());
        }
        if capacity >= MAPPED
            && let Some(mapped) = Self::mapped(capacity)
        {
            return Some(mapped);
        }
        let layout = Layout::from_size_align(capacity, ALIGNMENT).ok()?;
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Allocation { start, capacity, mapping: None, reuse: Reuse::Kept })
    }

    /// A block that is mapped. What is mapped before and after it is never touched, and so takes no memory.
    fn mapped(capacity: usize) -> Option<Self> {
        let (mapping, start) = map_aligned(capacity)?;
        Some(Allocation { start, capacity, mapping: Some(Arc::new(mapping)), reuse: Reuse::Kept })
    }

    fn none() -> Self {
        Allocation { start: NonNull::<Aligned>::dangling().cast(), capacity: 0, mapping: None, reuse: Reuse::Kept }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.capacity > 0 && self.mapping.is_none() {
            // SAFETY: `start` came from `alloc_zeroed` with this very layout, which was valid then.
            unsafe { dealloc(self.start.as_ptr(), Layout::from_size_align_unchecked(self.capacity, ALIGNMENT)) }
        }
    }
}

/// Gives a dangling pointer its alignment.
#[repr(align(64))]
struct Aligned;

/// Bytes that tensors lie in: the pool's own, or the host's.
#[derive(Debug)]
pub(crate) struct Buffer {
    source: Source,
    len: usize,
    /// The same numbers in fewer bits, once somebody wanted them, for the next who does.
    rounded: Mutex<Option<Arc<Buffer>>>,
}

#[derive(Debug)]
enum Source {
    Pooled { allocation: Allocation, pool: Arc<MemoryPool> },
    Shared { bytes: Bytes, pool: Arc<MemoryPool> },
}

impl Buffer {
    fn new(source: Source, len: usize) -> Self {
        Buffer { source, len, rounded: Mutex::new(None) }
    }

    /// What `make` makes of these bytes, which is made once and kept as long as they stay what they are.
    pub(crate) fn rounded(&self, make: impl FnOnce() -> Result<Arc<Buffer>>) -> Result<Arc<Buffer>> {
        let mut rounded = self.rounded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*rounded {
            return Ok(known.clone());
        }
        Ok(rounded.insert(make()?).clone())
    }

    /// What [`Buffer::rounded`] has made.
    pub(crate) fn known_rounded(&self) -> Option<Arc<Buffer>> {
        self.rounded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.source {
            // SAFETY: the allocation holds at least `len` initialised bytes and lives as long as `self`;
            // writes need `&mut self`.
            Source::Pooled { allocation, .. } => unsafe {
                std::slice::from_raw_parts(allocation.start.as_ptr(), self.len)
            },
            Source::Shared { bytes, .. } => bytes,
        }
    }

    /// The bytes to write to; `None` if they are the host's.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        *self.rounded.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
        match &mut self.source {
            Source::Pooled { allocation, .. } => {
                // SAFETY: as in `bytes`, and `&mut self` is the only access.
                Some(unsafe { std::slice::from_raw_parts_mut(allocation.start.as_ptr(), self.len) })
            }
            Source::Shared { .. } => None,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        match &mut self.source {
            Source::Pooled { allocation, pool } => {
                let allocation = std::mem::replace(allocation, Allocation::none());
                pool.lock().give_back(allocation);
            }
            Source::Shared { bytes, pool } => pool.lock().memory.active -= bytes.len(),
        }
    }
}

#[cfg(test)]
mod tests;
