// SPDX-License-Identifier: EUPL-1.2
//! How fast this machine reads memory: the floor of everything that is bound by it.
//!
//! `cargo run --release -p ingle-cpu --example plain_read [BYTES [THREADS [PASSES]]]` reads so many bytes (1 GB) with so
//! many threads (one for each core), each its own part from start to end, and prints JSON: the bytes per second
//! of each pass (10) after the first.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use memmap2::MmapMut;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|word| word.parse()).collect::<Result<_, _>>()?;
    let cores = std::thread::available_parallelism()?.get();
    let argument = |at: usize, default: usize| arguments.get(at).copied().unwrap_or(default).max(1);
    let (bytes, threads, passes) = (argument(0, 1_000_000_000), argument(1, cores), argument(2, 10));

    let mut memory = MmapMut::map_anon(bytes.next_multiple_of(64 * threads))?;
    // Large pages where the system has them: a walk through page tables is no read of memory.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    memory.fill(1);
    let together = &Barrier::new(threads);
    // A thread that only watched would have to wait for a core, and look at the clock too late.
    let passes_of_thread: Vec<Vec<Pass>> = std::thread::scope(|scope| {
        let start = |part| scope.spawn(move || (0..=passes).map(|_| Pass::run(part, together)).collect());
        let running: Vec<_> = memory.chunks(memory.len() / threads).map(start).collect();
        running.into_iter().map(|thread| thread.join()).collect::<Result<_, _>>()
    })
    .map_err(|_| "a reading thread failed")?;
    let rate = |pass: usize| {
        let begin = passes_of_thread.iter().map(|passes| passes[pass].begin).min()?;
        let end = passes_of_thread.iter().map(|passes| passes[pass].end).max()?;
        Some(memory.len() as f64 / (end - begin).as_secs_f64())
    };
    let samples: Vec<String> = (1..=passes).filter_map(rate).map(|rate| format!("{rate:.0}")).collect();
    println!(r#"{{"bytes": {bytes}, "threads": {threads}, "bytes_per_second": [{}]}}"#, samples.join(", "));
    Ok(())
}

/// When a thread read its part.
struct Pass {
    begin: Instant,
    end: Instant,
}

impl Pass {
    fn run(part: &[u8], together: &Barrier) -> Self {
        together.wait();
        let begin = Instant::now();
        black_box(sum(black_box(part)));
        Pass { begin, end: Instant::now() }
    }
}

/// Adds up the bytes as words, in lanes enough that the additions never wait.
fn sum(bytes: &[u8]) -> u64 {
    const LANES: usize = 16;
    let (lines, _) = bytes.as_chunks::<{ 8 * LANES }>();
    let mut lanes = [0u64; LANES];
    for line in lines {
        let (words, _) = line.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = lane.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}
