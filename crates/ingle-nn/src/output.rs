// SPDX-License-Identifier: EUPL-1.2
//! Files that are written beside their target, and put in place when they are whole.
//!
//! ```
//! use ingle_nn::output::Part;
//!
//! let folder = tempfile::tempdir()?;
//! let target = folder.path().join("model.gguf");
//! let (part, mut file) = Part::file(&target)?;
//! file.write(b"GGUF")?;
//! file.finish()?;
//! assert!(!target.exists());
//! part.finish()?;
//! assert!(target.exists());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An error about a path that is written.
pub fn refused(path: &Path, message: impl std::fmt::Display) -> Error {
    Error::Output { path: path.into(), message: message.to_string() }
}

/// The path beside `target` where it is written first.
fn part_of(target: &Path) -> PathBuf {
    let mut part = target.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// A file or folder that is not whole yet, under its target's name with `.part` after it. Dropping it removes it.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    /// A folder, made anew.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be made, or is there already.
    pub fn folder(target: &Path) -> Result<Self> {
        let path = part_of(target);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Part { path, target: target.into() }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(refused(&path, "is left from a run that was killed, or another is under way; remove it"))
            }
            Err(error) => Err(refused(&path, error)),
        }
    }

    /// A file, made anew.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be made.
    pub fn file(target: &Path) -> Result<(Self, OutputFile)> {
        let path = part_of(target);
        let file = OutputFile::create(&path)?;
        Ok((Part { path, target: target.into() }, file))
    }

    /// Where it is for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it in place.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be renamed, as where a folder is there already.
    pub fn finish(self) -> Result<()> {
        fs::rename(&self.path, &self.target).map_err(|error| refused(&self.target, error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It is gone already if it was put in place.
        let _ = if self.path.is_dir() { fs::remove_dir_all(&self.path) } else { fs::remove_file(&self.path) };
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    path: PathBuf,
    written: usize,
}

impl OutputFile {
    /// An empty file, in place of one that may be there.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).map_err(|error| refused(path, error))?;
        Ok(OutputFile { file, path: path.into(), written: 0 })
    }

    /// Appends to the file.
    ///
    /// # Errors
    /// [`Error::Output`] if it cannot be written: the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        self.file.write_all(bytes).map_err(|error| refused(&self.path, error))
    }

    /// Fills up to a multiple of `alignment`.
    ///
    /// # Errors
    /// As [`OutputFile::write`].
    pub fn align(&mut self, alignment: usize) -> Result<()> {
        self.write(&vec![0; self.written.next_multiple_of(alignment) - self.written])
    }

    /// Bytes written so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Waits until all of it is on the disk.
    ///
    /// # Errors
    /// [`Error::Output`] if it does not get there.
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(|error| refused(&self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_or_not_at_all_good() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m.gguf");
        let names = || fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let (part, mut file) = Part::file(&target).unwrap();
        file.write(b"abc").unwrap();
        file.align(8).unwrap();
        assert_eq!((file.written(), names().len()), (8, 1));
        assert!(!target.exists());
        drop((part, file));
        assert!(names().is_empty());
        let (part, mut file) = Part::file(&target).unwrap();
        file.write(b"abc").unwrap();
        file.finish().unwrap();
        part.finish().unwrap();
        assert_eq!((fs::read(&target).unwrap(), names().len()), (b"abc".to_vec(), 1));
    }

    #[test]
    fn folder_that_is_there_bad() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("m");
        let part = Part::folder(&target).unwrap();
        let error = Part::folder(&target).err().unwrap().to_string();
        assert!(error.ends_with("m.part: is left from a run that was killed, or another is under way; remove it"));
        fs::write(part.path().join("file"), b"abc").unwrap();
        drop(part);
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }
}
