// SPDX-License-Identifier: EUPL-1.2
//! Where a model's files are: a directory, or the program itself.

use std::fs::File;
use std::path::{Path, PathBuf};

use ingle_tensor::Bytes;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// A model's files by name: those of a directory, or ones built into the program.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A directory on disk; large files are memory-mapped.
    Directory(PathBuf),
    /// Files compiled into the program.
    Embedded {
        /// The model's name, shown in place of a folder.
        name: &'static str,
        /// File names and contents.
        files: &'static [(&'static str, &'static [u8])],
    },
}

impl ModelFiles {
    /// The files of a model directory.
    ///
    /// # Errors
    /// [`Error::MissingDirectory`] if there is no such directory.
    pub fn directory(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !path.is_dir() {
            return Err(Error::MissingDirectory { path: path.into() });
        }
        Ok(ModelFiles::Directory(path.into()))
    }

    /// The model's name: its folder's path, or the embedded model's name.
    pub fn name(&self) -> String {
        match self {
            ModelFiles::Directory(path) => path.display().to_string(),
            ModelFiles::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// The file's name with its folder, for messages.
    pub fn locate(&self, name: &str) -> String {
        match self {
            ModelFiles::Directory(path) => path.join(name).display().to_string(),
            ModelFiles::Embedded { name: model, .. } => format!("{model}/{name}"),
        }
    }

    /// The file's content, or `None` if there is no such file. A file on disk is memory-mapped: it must not
    /// be shortened while the bytes are in use.
    ///
    /// # Errors
    /// [`Error::Io`] if it is there but cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Bytes>> {
        match self {
            ModelFiles::Directory(path) => {
                let io = |source| Error::Io { file: self.locate(name), source };
                let file = match File::open(path.join(name)) {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(io(error)),
                };
                if file.metadata().map_err(io)?.len() == 0 {
                    return Ok(Some(Bytes::new()));
                }
                // SAFETY: the mapping is read-only and private to this process; that nobody shortens a model
                // file while it is loaded is documented above as the caller's duty.
                let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
                Ok(Some(Bytes::from_owner(map)))
            }
            ModelFiles::Embedded { files, .. } => {
                Ok(files.iter().find(|(file, _)| *file == name).map(|(_, content)| Bytes::from_static(content)))
            }
        }
    }

    /// The file's content.
    ///
    /// # Errors
    /// [`Error::MissingFile`], with `hint`, if it is not there; [`Error::Io`] if it cannot be read.
    pub fn read(&self, name: &str, hint: &str) -> Result<Bytes> {
        self.find(name)?.ok_or_else(|| Error::MissingFile { file: self.locate(name), hint: hint.into() })
    }

    /// A JSON file's content as a `T`, or `None` if there is no such file.
    ///
    /// # Errors
    /// [`Error::Malformed`] with line and column if it is not JSON or not a `T`.
    pub fn find_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.find(name)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::Malformed { file: self.locate(name), message: error.to_string() })
    }

    /// A JSON file's content as a `T`.
    ///
    /// # Errors
    /// As [`ModelFiles::read`] and [`ModelFiles::find_json`].
    pub fn read_json<T: DeserializeOwned>(&self, name: &str, hint: &str) -> Result<T> {
        self.find_json(name)?.ok_or_else(|| Error::MissingFile { file: self.locate(name), hint: hint.into() })
    }

    /// The names of all files, sorted; folders are left out.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            ModelFiles::Directory(path) => {
                let io = |source| Error::Io { file: path.display().to_string(), source };
                let mut names = Vec::new();
                for entry in std::fs::read_dir(path).map_err(io)? {
                    let entry = entry.map_err(io)?;
                    if entry.path().is_file() {
                        names.push(entry.file_name().to_string_lossy().into_owned());
                    }
                }
                names
            }
            ModelFiles::Embedded { files, .. } => files.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: ModelFiles = ModelFiles::Embedded { name: "tiny", files: &[("config.json", b"{\"a\": 1}")] };

    #[test]
    fn embedded_and_directory_read_alike_good() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), b"{\"a\": 1}").unwrap();
        let directory = ModelFiles::directory(folder.path()).unwrap();
        for files in [&FILES, &directory] {
            assert_eq!(&files.read("config.json", "").unwrap()[..], b"{\"a\": 1}");
            assert_eq!(files.names().unwrap(), ["config.json"]);
            assert!(files.find("other.json").unwrap().is_none());
        }
    }

    #[test]
    fn missing_file_says_where_and_what_to_do_bad() {
        let error = FILES.read("tokenizer.json", "copy it from the model's repository").unwrap_err();
        assert_eq!(error.to_string(), "tiny/tokenizer.json: file not found; copy it from the model's repository");
        assert!(ModelFiles::directory("/nowhere/at/all").is_err());
    }

    #[test]
    fn malformed_json_names_line_and_column_bad() {
        let error = FILES.read_json::<Vec<u8>>("config.json", "").unwrap_err();
        assert!(error.to_string().contains("line 1 column"), "{error}");
    }

    #[test]
    fn empty_file_is_empty_bytes_ugly() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        let files = ModelFiles::directory(folder.path()).unwrap();
        assert_eq!(files.find("empty").unwrap(), Some(Bytes::new()));
    }
}
