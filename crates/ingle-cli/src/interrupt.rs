// SPDX-License-Identifier: EUPL-1.2
//! Ctrl-C: ends the answer under way cleanly; a second one ends the program.

use std::sync::{Mutex, OnceLock, PoisonError};

use ingle::CancelToken;

use crate::Failure;

static CURRENT: OnceLock<Mutex<CancelToken>> = OnceLock::new();

/// What an interrupted program exits with: 128 + SIGINT, as shells expect.
const INTERRUPTED: i32 = 130;

/// A new token that Ctrl-C cancels from now on, in place of the one before.
pub fn token() -> Result<CancelToken, Failure> {
    let token = CancelToken::new();
    match CURRENT.get() {
        Some(current) => *current.lock().unwrap_or_else(PoisonError::into_inner) = token.clone(),
        None => {
            let _ = CURRENT.set(Mutex::new(token.clone()));
            ctrlc::set_handler(cancel_current)?;
        }
    }
    Ok(token)
}

fn cancel_current() {
    let Some(current) = CURRENT.get() else { return };
    let token = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if token.is_cancelled() {
        std::process::exit(INTERRUPTED);
    }
    token.cancel();
}
