// SPDX-License-Identifier: EUPL-1.2
//! The device conformance suite, on every instruction set that the machine has.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions, Isa};
use ingle_tensor::{DeviceHandle, Error, conformance};

#[test]
fn every_case_on_every_instruction_set_good() -> Result<(), Error> {
    let mut failures = Vec::new();
    for isa in Isa::available() {
        for threads in [1, 3] {
            let options = CpuOptions { threads: Some(threads), isa: Some(isa) };
            let device: DeviceHandle = Arc::new(CpuDevice::new(options)?);
            for case in conformance::cases() {
                if let Err(failure) = conformance::check(&device, &case) {
                    failures.push(format!("{isa}, {threads} threads: {failure}"));
                }
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures, such as\n{}",
        failures.len(),
        failures[..failures.len().min(20)].join("\n")
    );
    Ok(())
}
