// SPDX-License-Identifier: EUPL-1.2
//! Why a pull was refused or failed.

use std::io;
use std::path::{Path, PathBuf};

/// Why a pull was refused or failed; each shows as one line, and none holds the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository's name is not one.
    #[error("{found:?}: expected owner/name or owner/name@revision, such as Qwen/Qwen3-0.6B")]
    Repository {
        /// What was given.
        found: String,
    },
    /// The revision's name is not one.
    #[error("revision {found:?}: expected the name of a branch or a tag, or a commit")]
    Revision {
        /// What was given.
        found: String,
    },
    /// The Hub's address is not one. It is not shown, for an address may hold a password.
    #[error("HF_ENDPOINT: expected http://host or https://host, with no user or password in it")]
    Endpoint,
    /// The token cannot be sent. It is not shown.
    #[error("HF_TOKEN: expected visible ASCII characters only; copy the token again")]
    Token,
    /// There is no folder to put the files in.
    #[error("no home folder to keep models in: set HF_HOME to a folder")]
    NoCacheFolder,
    /// There is no such repository, revision or file.
    #[error("{what}: not found at {endpoint}; check the spelling (names there are case-sensitive)")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The Hub's address.
        endpoint: String,
    },
    /// The repository is gated, private, or absent: the Hub does not tell these apart for strangers.
    #[error(
        "{repo}: access refused (HTTP {status}, {token}): if the name is right it is gated or private; accept its \
         terms at {page} and set HF_TOKEN to a token of that account"
    )]
    Denied {
        /// The repository.
        repo: String,
        /// The HTTP status, 401 or 403.
        status: u16,
        /// Whether a token was sent, in words.
        token: &'static str,
        /// Where its terms are.
        page: String,
    },
    /// The server cannot be reached.
    #[error("{endpoint}: no connection: {message}; check the network, HF_ENDPOINT and the proxy")]
    Unreachable {
        /// The Hub's address.
        endpoint: String,
        /// The system's words.
        message: String,
    },
    /// The server answered with another status than a file or a listing has.
    #[error("{url}: the server answered HTTP {status}; try again later")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server's answer is not what the Hub's protocol says.
    #[error("{url}: expected {expected}, found {found}; check HF_ENDPOINT")]
    Answer {
        /// What was asked for.
        url: String,
        /// What the protocol says.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// The repository holds no model that can be loaded.
    #[error("{repo}: has no {missing} ({found}); look for a repository of that model with safetensors weights")]
    NotAModel {
        /// The repository.
        repo: String,
        /// What a model needs.
        missing: &'static str,
        /// What weights are there instead.
        found: String,
    },
    /// The repository lists a file that would be written outside its folder, or that no folder can hold.
    #[error("{repo}: lists a file named {name:?}, which is no safe file name; nothing of it was fetched")]
    FileName {
        /// The repository.
        repo: String,
        /// The file's name.
        name: String,
    },
    /// The connection was lost while a file came.
    #[error("{file}: interrupted after {bytes} of {total} bytes: {message}; pull again to go on from there")]
    Interrupted {
        /// The file.
        file: String,
        /// Bytes kept.
        bytes: u64,
        /// Bytes of the whole file.
        total: u64,
        /// The system's words.
        message: String,
    },
    /// The file does not have the size it is listed with.
    #[error("{file}: expected {expected} bytes, found {found}; it was not kept: pull again")]
    Size {
        /// The file.
        file: String,
        /// Bytes, as listed.
        expected: u64,
        /// Bytes, as sent.
        found: u64,
    },
    /// The file's content is not what the listing says.
    #[error("{file}: expected SHA-256 {expected}, found {found}; it was not kept: pull again")]
    Checksum {
        /// The file.
        file: String,
        /// The digest as listed, in hexadecimal.
        expected: String,
        /// The digest of what came, in hexadecimal.
        found: String,
    },
    /// Another process is fetching the same file.
    #[error("{}: another pull is writing this file; wait for it to end", path.display())]
    Busy {
        /// The partial file.
        path: PathBuf,
    },
    /// The disk is full.
    #[error("{}: the disk is full; make room, or set HF_HOME to a folder on another disk, and pull again", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("{}: {message}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
}

impl Error {
    /// What the system said about a file of the cache.
    pub(super) fn io(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path: path.into() },
            _ => Error::Io { path: path.into(), message: one_line(error) },
        }
    }

    /// What the HTTP client said instead of an answer.
    pub(super) fn http(endpoint: &str, url: &str, error: &ureq::Error) -> Self {
        match error {
            ureq::Error::Protocol(_)
            | ureq::Error::LargeResponseHeader(..)
            | ureq::Error::TooManyRedirects
            | ureq::Error::BadUri(_)
            | ureq::Error::Http(_) => {
                Error::Answer { url: url.into(), expected: "an HTTP answer", found: one_line(error) }
            }
            _ => Error::Unreachable { endpoint: endpoint.into(), message: one_line(error) },
        }
    }
}

/// Words from elsewhere, with nothing in them that could move a terminal's cursor.
pub(super) fn one_line(words: impl ToString) -> String {
    words.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_told_from_other_failures_bad() {
        let path = Path::new("blobs/a.part");
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert_eq!(Error::io(path, &kind.into()), Error::DiskFull { path: path.into() });
        }
        let error = Error::io(path, &io::ErrorKind::PermissionDenied.into());
        assert_eq!(error.to_string(), "blobs/a.part: permission denied");
    }

    #[test]
    fn words_of_a_server_stay_on_one_line_ugly() {
        assert_eq!(one_line("a\r\n\u{1b}[2Jb"), "a   [2Jb");
    }
}
