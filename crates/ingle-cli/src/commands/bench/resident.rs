// SPDX-License-Identifier: EUPL-1.2
//! Memory that the process has had resident.

/// The most bytes that this process has had resident; `None` where the system does not say.
pub fn peak() -> Option<usize> {
    // `VmHWM` begins anew with the program, unlike `getrusage`, which counts what its parent had.
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse(&status)
}

fn parse(status: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_read_good() {
        assert_eq!(parse("Name:\tingle\nVmHWM:\t   12 kB\nVmRSS:\t 8 kB\n"), Some(12 << 10));
    }

    #[test]
    fn status_without_a_peak_ugly() {
        for status in ["", "VmHWM:", "VmHWM: many kB", "VmHWM: 12 pages", "VmHWM: 99999999999999999999 kB"] {
            assert_eq!(parse(status), None, "{status}");
        }
    }
}
