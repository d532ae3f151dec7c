// SPDX-License-Identifier: EUPL-1.2
//! Which rows of a batch go through which adapter.

use ingle_tensor::{DeviceHandle, Tensor};

use crate::{Draw, Result};

/// Names an adapter among those that a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub u32);

/// The adapters that the rows of a batch go through; a row of no route goes through the base alone.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// No row is in two.
    pub routes: Vec<Route>,
    /// What drops out, in training.
    pub draw: Option<Draw>,
}

/// Rows that go through one adapter.
#[derive(Clone, Debug)]
pub struct Route {
    /// The adapter.
    pub adapter: AdapterId,
    /// The rows.
    pub rows: Rows,
}

/// Some rows of a batch.
#[derive(Clone, Debug)]
pub enum Rows {
    /// All of them.
    All,
    /// Those with these numbers, `i32[R]`, each once.
    Some(Tensor),
}

impl Routes {
    /// Row `t` goes through the adapter `adapters[t]`, if there is one.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn new(device: &DeviceHandle, adapters: &[Option<AdapterId>]) -> Result<Self> {
        let mut used: Vec<AdapterId> = adapters.iter().copied().flatten().collect();
        used.sort_unstable();
        used.dedup();
        let route = |adapter: AdapterId| {
            let numbered = adapters.iter().enumerate().filter(|(_, id)| **id == Some(adapter));
            let rows: Vec<i32> = numbered.map(|(row, _)| row as i32).collect();
            let rows = match rows.len() == adapters.len() {
                true => Rows::All,
                false => Rows::Some(Tensor::from_slice(device, &rows, [rows.len()])?),
            };
            Ok(Route { adapter, rows })
        };
        Ok(Routes { routes: used.into_iter().map(route).collect::<Result<_>>()?, draw: None })
    }

    /// All rows go through one adapter.
    pub fn all(adapter: AdapterId) -> Self {
        Routes { routes: vec![Route { adapter, rows: Rows::All }], draw: None }
    }
}
