// SPDX-License-Identifier: EUPL-1.2
//! What the machine is: cores, memory, the processor's name.

use std::collections::BTreeSet;
use std::fs;

/// Cores that this process may use: physical ones where the system tells, since two threads of one core
/// share its arithmetic.
pub(crate) fn cores() -> usize {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    match physical_cores() {
        0 => usable,
        physical => usable.min(physical),
    }
}

/// Distinct cores that Linux lists; 0 where it does not.
fn physical_cores() -> usize {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else { return 0 };
    let siblings = entries.flatten().filter_map(|entry| {
        let list = entry.path().join("topology/thread_siblings_list");
        fs::read_to_string(list).ok()
    });
    siblings.collect::<BTreeSet<String>>().len()
}

/// The machine's memory in bytes, where the system tells.
pub(crate) fn memory() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().trim_end_matches("kB").trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The processor's name, or at least its architecture.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
