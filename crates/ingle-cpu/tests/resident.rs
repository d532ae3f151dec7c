// SPDX-License-Identifier: EUPL-1.2
//! What memory the process takes of the system, which is not what tensors are counted as. One test alone: it weighs the
//! whole process.
#![cfg(target_os = "linux")]

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Tensor};

/// Bytes of the process that are in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn zeros_take_memory_once_they_are_touched_and_give_it_back_good() {
    const COUNT: usize = 256;
    const BYTES: usize = 512 << 10;
    let device: DeviceHandle =
        Arc::new(CpuDevice::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).unwrap());
    let begin = resident();
    let grown = || resident().saturating_sub(begin);

    // As many as a model has layers of keys and values, each as large as a few blocks of them.
    let zeros = || Tensor::full(&device, [BYTES / 4], DType::F32, 0.0).unwrap();
    let cache: Vec<Tensor> = (0..COUNT).map(|_| zeros()).collect();
    assert!(device.memory().active >= COUNT * BYTES);
    assert!(grown() < COUNT * BYTES / 8, "{} bytes of {} are resident before any is touched", grown(), COUNT * BYTES);

    let cache: Vec<Tensor> = cache.into_iter().map(|zeros| zeros.scale(1.0).unwrap()).collect();
    assert!(grown() > COUNT * BYTES / 2, "{} bytes of {} are resident after all were written", grown(), COUNT * BYTES);

    drop(cache);
    device.clear_cache();
    assert!(grown() < COUNT * BYTES / 8, "{} bytes of {} are resident after all were dropped", grown(), COUNT * BYTES);
}
