// SPDX-License-Identifier: EUPL-1.2
//! The tests that any device must pass.
//!
//! [`run`] tries a device on every operation of [`crate::Op`], in several shapes (scalars, empty, odd, large),
//! dtypes, and layouts in memory, and compares each result with [`Reference`], which computes in f64. The
//! tolerance is not chosen: the reference carries, beside each value, how far a sound f32 computation may
//! stray from it. What copies, compares or counts must be exact. Fused operations are compared with the
//! device's own run of their decomposition too.
//!
//! Beyond single operations it asks that:
//!
//! - views of views read back right;
//! - a donated tensor is written in place and nothing else ever is: no clone, no tensor it is a view of, no
//!   host bytes;
//! - a row has the same bits whatever is computed beside it, and a token whatever its batch, its prompt's
//!   chunks, and the blocks of its cache (where the device promises it: [`Device::invariance`](crate::Device));
//! - what cannot be computed is refused, without harm to what comes after;
//! - memory is counted, limited and given back.
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
//! // Everything: `conformance::run(&[device])` gives a report. One operation, while working on its kernel:
//! for case in conformance::cases_of(&Op::Softmax) {
//!     conformance::check(&device, &case)?;
//! }
//! # Ok::<(), conformance::Failure>(())
//! ```

mod array;
mod case;
mod cases;
mod check;
mod donation;
mod errors;
mod invariance;
mod memory;
mod primitives;
mod reference;
mod report;
mod tolerance;
mod values;
mod views;

pub use case::{Case, Input};
pub use cases::{cases, cases_of};
pub use check::{Failure, Outcome, check};
pub use reference::Reference;
pub use report::{Report, Row};
pub use values::Values;

use crate::DeviceHandle;

/// What holds of more than one operation.
const PROPERTIES: [fn(&DeviceHandle, &mut Report); 5] =
    [views::run, donation::run, invariance::run, errors::run, memory::run];

/// Tries devices on everything, and gives the report of each. It takes some seconds, most of them the reference's,
/// which computes a case once for all of them. Give it devices of its own: the memory tests count what is in use.
pub fn run(devices: &[DeviceHandle]) -> Vec<Report> {
    let begin = |device: &DeviceHandle| (device.clone(), device.memory(), Report::new(device.name().into()));
    let mut runs: Vec<_> = devices.iter().map(begin).collect();
    for case in cases() {
        let wanted = check::wanted(&case);
        for (device, _, report) in &mut runs {
            let outcome = wanted.as_ref().map_err(Clone::clone);
            report.outcome(case.op.name(), outcome.and_then(|wanted| check::check_against(wanted, device, &case)));
        }
    }
    for (device, before, report) in &mut runs {
        for property in PROPERTIES {
            property(device, report);
        }
        memory::settled(device, *before, report);
    }
    runs.into_iter().map(|(_, _, report)| report).collect()
}

/// Compares two devices on every case: their results must agree in every bit. For one device in two settings,
/// such as one thread and several, which must not change an answer.
pub fn identical(one: &DeviceHandle, other: &DeviceHandle) -> Report {
    let mut report = Report::new(format!("{} and {}", one.name(), other.name()));
    for case in cases() {
        report.property(case.op.name(), &case, check::identical(one, other, &case));
    }
    report
}

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;
