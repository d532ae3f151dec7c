// SPDX-License-Identifier: EUPL-1.2
//! What this machine's multiply-add instructions reach: the floor of everything that is bound by arithmetic.
//!
//! `cargo run --release -p ingle-cpu --example peak [THREADS]` keeps as many threads (one for each core) busy with nothing
//! but one instruction on registers, and prints JSON: the operations per second of all of them together, two to a
//! product that is added. `null` stands where the processor lacks the instruction, or where this program does not
//! know it.

use std::sync::Barrier;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let threads = match std::env::args().nth(1) {
        Some(threads) => threads.parse()?,
        None => std::thread::available_parallelism()?.get(),
    };
    let figures: Vec<String> = instructions::ALL
        .iter()
        .map(|instruction| {
            let rate = instruction.run.map_or("null".into(), |run| format!("{:.0}", rate(run, threads)));
            format!(r#""{}": {rate}"#, instruction.name)
        })
        .collect();
    println!(r#"{{"threads": {threads}, "operations_per_second": {{{}}}}}"#, figures.join(", "));
    Ok(())
}

/// One multiply-add.
struct Instruction {
    name: &'static str,
    /// Executes it [`TIMES`] times, and says how many operations each of those was. `None` if it cannot be.
    run: Option<fn() -> usize>,
}

/// Long enough for a processor to reach the speed that it keeps.
const TIMES: usize = 240_000_000;

/// The best of some passes of all threads.
fn rate(run: fn() -> usize, threads: usize) -> f64 {
    let together = &Barrier::new(threads);
    let pass = || -> (usize, Duration) {
        together.wait();
        let begin = Instant::now();
        (run(), begin.elapsed())
    };
    let passes = || {
        (0..5)
            .map(|_| pass())
            .fold(0.0, |best: f64, (operations, time)| best.max((TIMES * operations) as f64 / time.as_secs_f64()))
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(passes)).collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).sum()
    })
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::sync::LazyLock;

    use ingle_cpu::Isa;

    use super::{Instruction, TIMES};

    /// Sums that are under way at once: more than the instructions between one's beginning and end.
    const SUMS: usize = 12;

    /// A function that repeats one instruction on registers.
    macro_rules! repeat {
        ($name:ident, $features:literal, $operations:expr, $vector:expr, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            fn $name() -> usize {
                let ($a, $b) = (black_box($vector), black_box($vector));
                let mut sums = [$vector; SUMS];
                for _ in 0..TIMES / SUMS {
                    for $sum in &mut sums {
                        *$sum = $step;
                    }
                }
                black_box(sums);
                $operations
            }
        };
    }

    repeat!(f32_avx2, "avx2,fma", 16, _mm256_set1_ps(1e-9), |sum, a, b| _mm256_fmadd_ps(a, b, *sum));
    repeat!(f32_avx512, "avx512f", 32, _mm512_set1_ps(1e-9), |sum, a, b| _mm512_fmadd_ps(a, b, *sum));
    repeat!(i8_avx512, "avx512f,avx512vnni", 128, _mm512_set1_epi8(1), |sum, a, b| _mm512_dpbusd_epi32(*sum, a, b));

    /// Pairs of ones; no lane's sum is ever large enough to matter.
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_avx512() -> usize {
        let ones = black_box(_mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-9), _mm512_set1_ps(1e-9)));
        let mut sums = [_mm512_set1_ps(0.0); SUMS];
        for _ in 0..TIMES / SUMS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, ones, ones);
            }
        }
        black_box(sums);
        64
    }

    /// Products of whole tiles; each repetition's four have sums of their own, for which others need not wait.
    macro_rules! tiles {
        ($name:ident, $product:literal, $operations:expr) => {
            fn $name() -> usize {
                let mut config = [0u8; 64];
                config[0] = 1;
                for tile in 0..8 {
                    // Bytes of a row, and rows.
                    config[16 + 2 * tile] = 64;
                    config[48 + tile] = 16;
                }
                for _ in 0..TIMES / TILES_FEWER / 240 {
                    // SAFETY: the machine has tiles and the process may use them, which was asked before.
                    unsafe {
                        std::arch::asm!(
                            "ldtilecfg [{config}]",
                            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4",
                            "tilezero tmm5",
                            "2:",
                            concat!($product, " tmm0, tmm4, tmm5"),
                            concat!($product, " tmm1, tmm4, tmm5"),
                            concat!($product, " tmm2, tmm4, tmm5"),
                            concat!($product, " tmm3, tmm4, tmm5"),
                            "dec {repetitions}",
                            "jnz 2b",
                            "tilerelease",
                            config = in(reg) &config,
                            repetitions = inout(reg) 60usize => _,
                            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _,
                            out("tmm5") _,
                            options(nostack),
                        );
                    }
                }
                $operations / TILES_FEWER
            }
        };
    }

    /// Products of tiles take so many times as long as others, and are repeated so many times less often.
    const TILES_FEWER: usize = 16;

    tiles!(bf16_amx, "tdpbf16ps", 2 * 16 * 16 * 32);
    tiles!(i8_amx, "tdpbusd", 2 * 16 * 16 * 64);

    /// An instruction's name and function, if the machine has its features.
    macro_rules! known {
        ($name:literal, $run:ident, $($feature:tt),+) => {
            Instruction {
                name: $name,
                run: ($(is_x86_feature_detected!($feature))&&+).then_some(|| {
                    // SAFETY: the machine has the features.
                    unsafe { $run() }
                }),
            }
        };
    }

    pub(super) static ALL: LazyLock<[Instruction; 6]> = LazyLock::new(|| {
        // To ask is to be allowed to use them.
        let has_amx = Isa::Amx.is_available();
        [
            known!("f32, AVX2", f32_avx2, "avx2", "fma"),
            known!("f32, AVX-512", f32_avx512, "avx512f"),
            known!("bf16, AVX-512 BF16", bf16_avx512, "avx512f", "avx512bf16"),
            known!("8 bits, AVX-512 VNNI", i8_avx512, "avx512f", "avx512vnni"),
            Instruction { name: "bf16, AMX", run: has_amx.then_some(bf16_amx) },
            Instruction { name: "8 bits, AMX", run: has_amx.then_some(i8_amx) },
        ]
    });
}

#[cfg(not(target_arch = "x86_64"))]
mod instructions {
    use super::Instruction;

    /// None is known for this processor.
    pub(super) static ALL: [Instruction; 1] = [Instruction { name: "multiply-add", run: None }];
}
