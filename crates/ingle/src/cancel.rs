// SPDX-License-Identifier: EUPL-1.2
//! Ending an answer from elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends the answers it was given to when [`CancelToken::cancel`] is called, from any thread. Clones are the
/// same token. A cancelled token stays so: an answer begun with it ends at once.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    next_key: u64,
    callbacks: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
}

/// Forgets a callback when it drops, so that a token that outlives its answers does not collect them.
pub(crate) struct Registration {
    token: CancelToken,
    key: u64,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the answers this token was given to.
    pub fn cancel(&self) {
        let callbacks = {
            let mut state = self.state();
            state.cancelled = true;
            std::mem::take(&mut state.callbacks)
        };
        callbacks.into_values().for_each(|callback| callback());
    }

    /// Whether [`CancelToken::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Calls `callback` when the token is cancelled; at once if it is already.
    pub(crate) fn on_cancel(&self, callback: impl FnOnce() + Send + 'static) -> Registration {
        let mut state = self.state();
        let key = state.next_key;
        state.next_key += 1;
        if state.cancelled {
            drop(state);
            callback();
        } else {
            state.callbacks.insert(key, Box::new(callback));
        }
        Registration { token: self.clone(), key }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.token.state().callbacks.remove(&self.key);
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A callback that counts its calls.
    fn counting(count: &Arc<AtomicUsize>) -> impl FnOnce() + Send + 'static {
        let count = count.clone();
        move || {
            count.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn callbacks_run_once_good() {
        let (token, count) = (CancelToken::new(), Arc::new(AtomicUsize::new(0)));
        let _kept = token.on_cancel(counting(&count));
        token.cancel();
        token.clone().cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        assert!(token.is_cancelled());
    }

    #[test]
    fn late_and_forgotten_callbacks_ugly() {
        let (token, count) = (CancelToken::new(), Arc::new(AtomicUsize::new(0)));
        drop(token.on_cancel(counting(&count)));
        token.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 0);
        let _kept = token.on_cancel(counting(&count));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
