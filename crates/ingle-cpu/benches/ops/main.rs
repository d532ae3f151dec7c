// SPDX-License-Identifier: EUPL-1.2
//! How fast each operation is: `cargo bench -p ingle-cpu --bench ops [-- FILTER]`.
//!
//! What memory bounds is given in GB/s, inputs and outputs counted once; what arithmetic bounds in GFLOP/s, a
//! multiplication and an addition counted as two. Small operands stay in the caches, as they do in a model. To
//! compare with what the machine can do, run the example `plain_read`.

mod attention;
mod elementwise;
mod measure;
mod products;
mod reductions;
mod rows;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    name = benches;
    config = measure::criterion();
    targets = products::bench, elementwise::bench, reductions::bench, rows::bench, attention::bench
);
criterion_main!(benches);
