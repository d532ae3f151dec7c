// SPDX-License-Identifier: EUPL-1.2
//! What is made of a step's index tensors once and used by every layer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cxx::UniquePtr;
use ingle_tensor::Result;

use crate::array::Array;
use crate::bridge;

/// Values made of arrays, for as long as those arrays live.
pub(crate) struct Derived<K, V>(Mutex<Vec<Entry<K, V>>>);

struct Entry<K, V> {
    /// Weak: an address stays an array's own as long as somebody may ask for it.
    arrays: Vec<Weak<UniquePtr<bridge::Array>>>,
    key: K,
    value: V,
}

/// Steps whose values are kept: those of every group of layers, and some to spare.
const KEPT: usize = 16;

impl<K: PartialEq, V: Clone> Derived<K, V> {
    pub(crate) fn new() -> Self {
        Derived(Mutex::new(Vec::new()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry<K, V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value made of these arrays and this key; made now, if it is asked for the first time.
    pub(crate) fn get(&self, arrays: &[&Array], key: K, make: impl FnOnce() -> Result<V>) -> Result<V> {
        let same = |entry: &Entry<K, V>| {
            let own = |(weak, array): (&Weak<_>, &&Array)| weak.as_ptr() == Arc::as_ptr(&array.0);
            entry.key == key && entry.arrays.len() == arrays.len() && entry.arrays.iter().zip(arrays).all(own)
        };
        if let Some(entry) = self.lock().iter().find(|entry| same(entry)) {
            return Ok(entry.value.clone());
        }
        let value = make()?;
        let arrays = arrays.iter().map(|array| Arc::downgrade(&array.0)).collect();
        self.forget_dead();
        let mut entries = self.lock();
        if entries.len() >= KEPT {
            entries.remove(0);
        }
        entries.push(Entry { arrays, key, value: value.clone() });
        Ok(value)
    }

    /// Drops what was made of arrays that are no more.
    pub(crate) fn forget_dead(&self) {
        let alive = |entry: &Entry<K, V>| entry.arrays.iter().all(|array| array.strong_count() > 0);
        self.lock().retain(alive);
    }
}
