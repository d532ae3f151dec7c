// SPDX-License-Identifier: EUPL-1.2
//! From PEFT's files to mlx-lm's, or back.
//!
//!     cargo run -p ingle-models --example convert_adapter -- ADAPTER OUT peft|mlx BASE

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_nn::{Adapter, AdapterFormat};
use ingle_tensor::DeviceHandle;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [adapter, out, format, base] = arguments.as_slice() else {
        return Err("expected ADAPTER OUT peft|mlx BASE".into());
    };
    let format = match format.as_str() {
        "peft" => AdapterFormat::Peft,
        "mlx" => AdapterFormat::Mlx,
        other => return Err(format!("expected peft or mlx, found {other}").into()),
    };
    let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
    Adapter::open(adapter, &device)?.save(Path::new(out), format, base)?;
    Ok(())
}
