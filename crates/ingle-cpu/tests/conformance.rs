// SPDX-License-Identifier: EUPL-1.2
//! The device conformance suite, on every instruction set that the machine has.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions, Isa};
use ingle_tensor::{DeviceHandle, Error, conformance};

fn device(isa: Isa, threads: usize) -> Result<DeviceHandle, Error> {
    Ok(Arc::new(CpuDevice::new(CpuOptions { threads: Some(threads), isa: Some(isa) })?))
}

#[test]
fn every_instruction_set_conforms_good() -> Result<(), Error> {
    let sets = Isa::available();
    let devices = sets.iter().map(|isa| device(*isa, 2)).collect::<Result<Vec<_>, Error>>()?;
    let reports = conformance::run(&devices);
    assert_eq!(reports.len(), sets.len());
    for (isa, report) in sets.iter().zip(&reports) {
        println!("{isa}");
        report.assert_passed();
    }
    Ok(())
}

#[test]
fn threads_change_no_bit_good() -> Result<(), Error> {
    let isa = Isa::best();
    conformance::identical(&device(isa, 1)?, &device(isa, 3)?).assert_passed();
    Ok(())
}
