// SPDX-License-Identifier: EUPL-1.2
//! Models from the Hugging Face Hub, or from a mirror that speaks its protocol.
//!
//! [`pull`] fetches the files that a model needs into the cache that the Hub's own tools use, so a model fetched
//! by one is found by the other; [`cached`] finds it again with no connection.
//!
//! ```no_run
//! use ingle::hub::{self, PullOptions};
//!
//! let folder = hub::pull("Qwen/Qwen3-0.6B", &PullOptions::default(), &mut |progress| {
//!     eprint!("\r{} {}/{} bytes", progress.file, progress.bytes, progress.total);
//! })?;
//! println!("{}", folder.display());
//! # Ok::<(), hub::Error>(())
//! ```
//!
//! Addresses, the listing request and the cache's layout come from the crate `hf-hub`. The transfer of a file is
//! written here, because that of `hf-hub` 0.5 renames whatever arrived without looking at its size, appends the
//! whole file to a partial one where a server ignores `Range`, can never finish a partial file that has all its
//! bytes, uses an `ETag` as a path unseen, and waits for ever on a silent server.

mod error;
mod options;
mod repository;
mod store;
mod transfer;

use std::path::PathBuf;

pub use error::Error;
pub use options::PullOptions;
use repository::{MAIN, Repository};
use store::Store;
use transfer::Remote;

/// How far a [`pull`] is, told as each file starts, as its bytes arrive, and as it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name in the repository.
    pub file: &'a str,
    /// Which file it is, from 0.
    pub file_index: usize,
    /// How many files the model needs.
    pub files: usize,
    /// Bytes of this file that are here; those of an earlier, interrupted pull count.
    pub bytes: u64,
    /// Bytes of this file.
    pub total: u64,
}

/// Fetches a model's files and returns the folder they are in, ready for `ingle::load`.
///
/// `repo` is `owner/name`, or `owner/name@revision` where the revision is a branch, a tag or a commit; such a
/// revision goes before [`PullOptions::revision`]. Only what a model needs is fetched: configuration, tokeniser,
/// chat template and safetensors weights. Files that are already here are not fetched again, and a file that was
/// interrupted goes on where it stopped. A file takes its place only when it has the size, and where the Hub
/// gives one the SHA-256, that the Hub lists.
///
/// # Errors
/// One line that says what to do: see [`Error`].
pub fn pull(repo: &str, options: &PullOptions, progress: &mut dyn FnMut(Progress<'_>)) -> Result<PathBuf, Error> {
    let repository = Repository::parse(repo, options.revision.as_deref())?;
    let store = Store::open(&repository, options)?;
    let remote = Remote::new(&repository, options)?;
    let listing = remote.list()?;
    let wanted = listing.wanted(&repository)?;

    for (file_index, file) in wanted.iter().enumerate() {
        let mut report = |bytes, total| {
            progress(Progress { file: &file.name, file_index, files: wanted.len(), bytes, total });
        };
        if let Some(size) = store.held(&listing.commit, file)? {
            report(size, size);
            continue;
        }
        let described = remote.describe(&listing.commit, file)?;
        match store.begin(&described)? {
            None => report(described.size, described.size),
            Some(mut part) => {
                remote.fetch(&described, &mut part, &mut report)?;
                part.finish(&described)?;
            }
        }
        store.link(&listing.commit, &described)?;
    }
    store.finish(&listing.commit)
}

/// The folder of a model that [`pull`] or another of the Hub's tools has fetched whole, or `None`; asks nobody.
///
/// `repo` is as for [`pull`]. Of the options only the revision and the cache folder matter.
pub fn cached(repo: &str, options: &PullOptions) -> Option<PathBuf> {
    let repository = Repository::parse(repo, options.revision.as_deref()).ok()?;
    Store::open(&repository, options).ok()?.complete_snapshot()
}

/// All models that [`cached`] finds, by the name it finds them by (`owner/name`, with `@revision` where that is not
/// `main`), sorted, with their folders. No cache folder is no models.
///
/// # Errors
/// [`Error::Io`] if the cache folder cannot be listed.
pub fn all_cached(options: &PullOptions) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found = Vec::new();
    for repository in store::repositories(options)? {
        if let Some(folder) = Store::open(&repository, options)?.complete_snapshot() {
            let name = match repository.revision.as_str() {
                MAIN => repository.id,
                revision => format!("{}@{revision}", repository.id),
            };
            found.push((name, folder));
        }
    }
    found.sort();
    Ok(found)
}
