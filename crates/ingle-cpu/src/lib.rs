// SPDX-License-Identifier: EUPL-1.2
//! The CPU device of Ingle: SIMD kernels, thread pool, buffer pool.
