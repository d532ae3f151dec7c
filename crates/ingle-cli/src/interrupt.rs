// SPDX-License-Identifier: EUPL-1.2
//! Ctrl-C: ends the work under way cleanly; a second one ends the program.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use ingle::CancelToken;

use crate::Failure;

static CURRENT: OnceLock<Mutex<CancelToken>> = OnceLock::new();

/// What an interrupted program exits with: 128 + SIGINT, as shells expect.
pub const EXIT_CODE: u8 = 130;

/// Ctrl-C ended a command, which has kept and shown what it had.
#[derive(Debug)]
pub struct Interrupted {
    /// What there is to say of it; nothing where the result itself says it.
    told: Option<String>,
}

impl Interrupted {
    /// One whose result says it itself: an answer that ends early.
    pub fn silent() -> Failure {
        Box::new(Interrupted { told: None })
    }

    /// One that is told of in a line.
    pub fn told(message: impl Into<String>) -> Failure {
        Box::new(Interrupted { told: Some(message.into()) })
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.told.as_deref().unwrap_or("interrupted"))
    }
}

impl Error for Interrupted {}

/// Whether Ctrl-C is why a command failed, and if so, what is to be said of it.
pub fn reason(failure: &(dyn Error + 'static)) -> Option<Option<String>> {
    if let Some(interrupted) = failure.downcast_ref::<Interrupted>() {
        return Some(interrupted.told.clone());
    }
    let cancelled = failure.downcast_ref::<ingle::Error>().filter(|error| matches!(error, ingle::Error::Cancelled));
    cancelled.map(|error| Some(error.to_string()))
}

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

/// Nothing is under way: Ctrl-C ends the program.
pub fn idle() {
    if let Some(current) = CURRENT.get() {
        current.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }
}

fn cancel_current() {
    let Some(current) = CURRENT.get() else { return };
    let token = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if token.is_cancelled() {
        std::process::exit(EXIT_CODE.into());
    }
    token.cancel();
}
