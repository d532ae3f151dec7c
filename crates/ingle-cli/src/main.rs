// SPDX-License-Identifier: EUPL-1.2
//! The ingle command.

fn main() {}
