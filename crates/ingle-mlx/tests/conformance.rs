// SPDX-License-Identifier: EUPL-1.2
//! The device conformance suite.
#![cfg(feature = "mlx")]

use std::sync::Arc;

use ingle_mlx::MlxDevice;
use ingle_tensor::{DeviceHandle, Error, conformance};

#[test]
fn the_device_conforms_good() -> Result<(), Error> {
    let device: DeviceHandle = Arc::new(MlxDevice::new()?);
    let reports = conformance::run(std::slice::from_ref(&device));
    assert_eq!(reports.len(), 1);
    for report in reports {
        println!("{}\n{report}", device.description());
        report.assert_passed();
    }
    Ok(())
}
