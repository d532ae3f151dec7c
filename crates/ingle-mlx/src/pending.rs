// SPDX-License-Identifier: EUPL-1.2
//! What has been asked for and not yet been computed.
//!
//! MLX computes what it must when an array is read. What is alive then and not part of that (a cache's write
//! whose reader is still to come) is computed with it, so that no graph outlives a reading: memory does not
//! grow with the number of steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cxx::UniquePtr;
use ingle_tensor::Result;

use crate::array::{Array, arrays};
use crate::bridge;
use crate::engine::failed;

/// The arrays asked for since the last reading.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Asked>);

#[derive(Default)]
struct Asked {
    /// Weak, so that MLX may reuse the memory of what nobody holds any more.
    arrays: Vec<Weak<UniquePtr<bridge::Array>>>,
    /// Bytes that they would take if all of them lived.
    bytes: usize,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers an array that will take `bytes` when it is computed.
    pub(crate) fn add(&self, array: &Array, bytes: usize) {
        let mut asked = self.lock();
        asked.arrays.push(Arc::downgrade(&array.0));
        asked.bytes = asked.bytes.saturating_add(bytes);
    }

    /// Bytes that what is pending may take, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Takes out everything that is still alive.
    fn alive(&self) -> Vec<Array> {
        let asked = std::mem::take(&mut *self.lock());
        asked.arrays.into_iter().filter_map(|array| array.upgrade()).map(Array).collect()
    }

    /// Computes everything that is alive and waits for it.
    pub(crate) fn compute(&self, op: &'static str) -> Result<()> {
        let alive = self.alive();
        bridge::eval(&arrays(&alive)).map_err(|exception| failed(op, &exception))
    }

    /// Starts to compute everything that is alive.
    pub(crate) fn begin(&self, op: &'static str) -> Result<()> {
        let alive = self.alive();
        if alive.is_empty() {
            return Ok(());
        }
        bridge::async_eval(&arrays(&alive)).map_err(|exception| failed(op, &exception))
    }
}
