// SPDX-License-Identifier: EUPL-1.2
//! A fork-join thread pool that wakes in microseconds.
//!
//! One job at a time: a function called once for each chunk number. Each thread, the calling one and the workers,
//! takes the chunks of its own part first, one after another, then those that the others have left: it reads memory
//! in long runs, and no core waits for a slower one. Workers spin for a moment between jobs, since a forward pass is
//! a rapid sequence of small jobs, then sleep. A caller never waits for a worker that has not begun: it closes the
//! job when the chunks run out, and waits only for those that are inside one. A thread that waits or spins reads
//! ahead ([`crate::ahead`]).

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::ahead::{Ahead, Coming, Stretch, part};

/// How often an idle worker looks for a job before it sleeps: some tens of microseconds.
const SPINS: usize = 2_000;

/// How often a caller looks for its last workers before it lets others run meanwhile.
const JOIN_SPINS: usize = 10_000;

/// The number of the calling thread.
const CALLER: usize = 0;

/// Set in [`Shared::door`] while workers may enter the job; the bits below it count those inside.
const OPEN: usize = 1 << (usize::BITS - 1);

/// A chunk panicked; holds what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Panicked(pub(crate) String);

/// The threads of one device.
#[derive(Debug)]
pub(crate) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Held by the caller whose job runs; how far callers have read ahead.
    caller: Mutex<Ahead>,
    door: Apart<AtomicUsize>,
    job: Apart<UnsafeCell<Option<Job>>>,
    /// How many chunks of each thread's part are taken.
    taken: Box<[Apart<AtomicUsize>]>,
    coming: Apart<Coming>,
    panicked: Mutex<Option<String>>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    stop: AtomicBool,
    spins: usize,
}

/// Lies in a cache line of its own: what one thread writes takes nothing from another that looks at something else.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What runs, without its lifetime: the caller outwaits every use.
#[derive(Clone, Copy, Debug)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    chunks: usize,
}

// SAFETY: `job` is written only by the holder of `caller` while the door is closed and nobody is inside, and
// read only by workers inside; entering (acquire) follows opening (release). `run` points to a `Sync` function.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is used only while its caller waits.
unsafe impl Send for Shared {}

impl ThreadPool {
    /// A pool of `threads` threads, the calling one included. Threads that the system will not start are done
    /// without.
    pub(crate) fn new(threads: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            caller: Mutex::new(Ahead::default()),
            door: Apart(AtomicUsize::new(0)),
            job: Apart(UnsafeCell::new(None)),
            taken: (0..threads.max(1)).map(|_| Apart(AtomicUsize::new(0))).collect(),
            coming: Apart(Coming::default()),
            panicked: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
            stop: AtomicBool::new(false),
            // Spinning on a core that another thread needs delays everybody.
            spins: if threads <= cores { SPINS } else { 0 },
        });
        let workers = (1..threads)
            .map_while(|number| {
                let shared = shared.clone();
                let name = format!("ingle-cpu-{number}");
                std::thread::Builder::new().name(name).spawn(move || shared.work(number)).ok()
            })
            .collect();
        ThreadPool { shared, workers }
    }

    /// How many threads compute, the calling one included.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `run` once for every number below `chunks`, on several threads, and returns when all are done.
    /// While another thread's job runs, or from inside a job, this thread does all of it alone.
    pub(crate) fn run(&self, chunks: usize, run: &(dyn Fn(usize) + Sync)) -> Result<(), Panicked> {
        if chunks > 1
            && !self.workers.is_empty()
            && let Ok(mut ahead) = self.shared.caller.try_lock()
        {
            return self.shared.fork_join(chunks, run, &mut ahead);
        }
        catch_unwind(AssertUnwindSafe(|| (0..chunks).for_each(run))).map_err(|what| Panicked(said(&*what)))
    }

    /// Lets threads that wait, in the next job or after it, read the beginning of `weight`, which is likely to be read
    /// soon: each its own part.
    pub(crate) fn read_ahead(&self, weight: Stretch) {
        self.shared.coming.announce(weight);
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches its jobs' panics; one that failed all the same is gone, which is what is wanted.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The caller's side; `caller` is held.
    fn fork_join(&self, chunks: usize, run: &(dyn Fn(usize) + Sync), ahead: &mut Ahead) -> Result<(), Panicked> {
        // SAFETY: only the lifetime is erased. This function returns after the door is closed and everybody is
        // out, and nobody uses the job outside.
        let run: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(run) };
        let job = Job { run, chunks };
        for taken in &self.taken {
            taken.store(0, Ordering::Relaxed);
        }
        // SAFETY: the door is closed and nobody is inside: the previous caller waited for that.
        unsafe { *self.job.get() = Some(job) };
        self.door.store(OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            self.wake();
        }

        self.take_chunks(job, CALLER);

        self.door.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while self.door.load(Ordering::Acquire) != 0 {
            if self.reads_ahead(ahead, CALLER) {
                continue;
            }
            looks += 1;
            if looks < JOIN_SPINS && self.spins > 0 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        match self.panicked.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(message) => Err(Panicked(message)),
            None => Ok(()),
        }
    }

    /// Reads a little ahead, if something comes and cores are not short.
    fn reads_ahead(&self, ahead: &mut Ahead, thread: usize) -> bool {
        self.spins > 0 && ahead.step(&self.coming, thread, self.taken.len())
    }

    /// Runs chunks until none is left: those of this thread's part, then those of the others'.
    fn take_chunks(&self, job: Job, thread: usize) {
        let threads = self.taken.len();
        for owner in (thread..threads).chain(0..thread) {
            let [start, end] = [owner, owner + 1].map(|owner| part(job.chunks, owner, threads));
            let taken = &self.taken[owner];
            // A look first, since what is written travels between the cores.
            while taken.load(Ordering::Relaxed) < end - start {
                let chunk = start + taken.fetch_add(1, Ordering::Relaxed);
                if chunk >= end {
                    break;
                }
                // SAFETY: the caller of this job waits until everybody inside has left, so the function lives.
                let run = unsafe { &*job.run };
                if let Err(what) = catch_unwind(AssertUnwindSafe(|| run(chunk))) {
                    for taken in &self.taken {
                        taken.store(job.chunks, Ordering::Relaxed);
                    }
                    *self.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(said(&*what));
                }
            }
        }
    }

    /// A worker's life.
    fn work(&self, thread: usize) {
        let mut ahead = Ahead::default();
        let mut looks = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let door = self.door.load(Ordering::Relaxed);
            let chunks_left = door & OPEN != 0 && self.enter();
            if chunks_left {
                // SAFETY: this thread is inside, so the job is set and stays.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.take_chunks(job, thread);
                }
                self.leave();
                looks = 0;
            } else if self.reads_ahead(&mut ahead, thread) {
                // The limit of what is read ahead is that of how long.
            } else if looks < self.spins {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                looks = 0;
            }
        }
    }

    /// Steps inside, if the door is open.
    fn enter(&self) -> bool {
        let step = |door: usize| (door & OPEN != 0).then(|| door + 1);
        self.door.fetch_update(Ordering::AcqRel, Ordering::Relaxed, step).is_ok()
    }

    /// Steps out and shuts the door behind: a worker leaves when no chunk is left to take.
    fn leave(&self) {
        self.door.fetch_and(!OPEN, Ordering::AcqRel);
        self.door.fetch_sub(1, Ordering::AcqRel);
    }

    /// Sleeps until a job or the end comes.
    fn sleep(&self) {
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.door.load(Ordering::SeqCst) & OPEN == 0 && !self.stop.load(Ordering::SeqCst) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.bell.notify_all();
    }
}

/// A panic's message.
fn said(what: &(dyn Any + Send)) -> String {
    let text = what.downcast_ref::<&str>().copied().or_else(|| what.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(counter: &AtomicUsize) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn every_chunk_runs_once_good() {
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            for round in 0..500 {
                let chunks = round % 17;
                let seen: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                assert_eq!(pool.run(chunks, &|i| count(&seen[i])), Ok(()));
                assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn one_thread_spawns_none_good() {
        let pool = ThreadPool::new(1);
        assert_eq!((pool.threads(), pool.workers.len()), (1, 0));
        assert_eq!(ThreadPool::new(0).threads(), 1);
    }

    #[test]
    fn sleeping_workers_wake_good() {
        let pool = ThreadPool::new(2);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            let done = AtomicUsize::new(0);
            assert_eq!(pool.run(64, &|_| count(&done)), Ok(()));
            assert_eq!(done.into_inner(), 64);
        }
    }

    #[test]
    fn a_panic_becomes_an_error_bad() {
        for threads in [1, 3] {
            let pool = ThreadPool::new(threads);
            let failed = pool.run(100, &|i| assert!(i != 50, "chunk {i} fails"));
            assert_eq!(failed, Err(Panicked("chunk 50 fails".into())));
            assert_eq!(pool.run(100, &|_| ()), Ok(()), "the pool lives on");
        }
    }

    #[test]
    fn a_panic_ends_the_parts_of_all_threads_bad() {
        let pool = ThreadPool::new(8);
        for chunks in [2, 3, 1000] {
            let failed = pool.run(chunks, &|i| assert!(i + 1 < chunks, "the last chunk fails"));
            assert_eq!(failed, Err(Panicked("the last chunk fails".into())));
        }
    }

    #[test]
    fn a_slow_threads_part_is_done_by_the_others_ugly() {
        let pool = ThreadPool::new(2);
        pool.read_ahead(Stretch { address: 8, panel_bytes: 1 << 16, panels: 64 });
        let done = AtomicUsize::new(0);
        let begun = std::time::Instant::now();
        let result = pool.run(100, &|chunk| {
            // Whoever has the first chunk waits for all of the others.
            while chunk == 0 && done.load(Ordering::Relaxed) < 99 && begun.elapsed().as_secs() < 60 {
                std::thread::yield_now();
            }
            assert!(chunk > 0 || done.load(Ordering::Relaxed) == 99, "chunks were left to a slow thread");
            count(&done);
        });
        assert_eq!((result, done.into_inner()), (Ok(()), 100));
    }

    #[test]
    fn callers_do_not_wait_for_each_other_ugly() {
        let pool = ThreadPool::new(2);
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(pool.run(10, &|_| count(&total)), Ok(()));
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 4 * 200 * 10);
    }

    #[test]
    fn a_job_inside_a_job_runs_alone_ugly() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        let outer = pool.run(8, &|_| {
            assert_eq!(pool.run(8, &|_| count(&total)), Ok(()));
        });
        assert_eq!((outer, total.into_inner()), (Ok(()), 64));
    }
}
