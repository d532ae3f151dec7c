// SPDX-License-Identifier: EUPL-1.2
//! The tests that any device must pass.
//!
//! [`run`] tries a device on every operation of [`crate::Op`], in several shapes (scalars, empty, odd, large),
//! dtypes, and layouts in memory, and compares each result with [`Reference`], which computes in f64. The
//! tolerance is not chosen: the reference carries, beside each value, how far a sound f32 computation may
//! stray from it. Fused operations are compared with the device's own run of their decomposition too.
//!
//! A device's test:
//!
//! ```
//! use std::sync::Arc;
//!
//! use ingle_tensor::conformance::{self, Reference};
//! use ingle_tensor::{DeviceHandle, Op};
//!
//! let device: DeviceHandle = Arc::new(Reference::new()); // the device under test
//! // Everything: `conformance::run(&device).assert_passed()`. One operation, while working on its kernel:
//! for case in conformance::cases_of(&Op::Softmax) {
//!     conformance::check(&device, &case)?;
//! }
//! # Ok::<(), conformance::Failure>(())
//! ```

mod array;
mod case;
mod cases;
mod check;
mod primitives;
mod reference;
mod report;
mod tolerance;
mod values;

pub use case::{Case, Input};
pub use cases::{cases, cases_of};
pub use check::{Failure, Outcome, check};
pub use reference::Reference;
pub use report::{Report, Row};
pub use values::Values;

use crate::DeviceHandle;

/// Tries a device on everything. It takes some seconds. Give it a device of its own: the memory tests count
/// what is in use.
pub fn run(device: &DeviceHandle) -> Report {
    let mut report = Report::new(device.name().into());
    for case in cases() {
        report.outcome(case.op.name(), check(device, &case));
    }
    report
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn reference_passes_good() {
        let device: DeviceHandle = Arc::new(Reference::new());
        let report = run(&device);
        println!("{report}");
        report.assert_passed();
    }
}
