// SPDX-License-Identifier: EUPL-1.2
//! The one loop, end to end, on a tiny model.

mod answers;
mod interleavings;
mod refusals;
mod text;
mod tiny;
mod worker;
