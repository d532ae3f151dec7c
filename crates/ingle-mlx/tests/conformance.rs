// SPDX-License-Identifier: EUPL-1.2
//! The device conformance suite.
#![cfg(feature = "mlx")]

use std::sync::Arc;

use ingle_mlx::MlxDevice;
use ingle_tensor::{DeviceHandle, Error, conformance};

#[test]
fn the_device_conforms_good() -> Result<(), Error> {
    let device: DeviceHandle = Arc::new(MlxDevice::new()?);
    for report in conformance::run(std::slice::from_ref(&device)) {
        println!("{}\n{report}", device.description());
        report.assert_passed();
    }
    Ok(())
}
