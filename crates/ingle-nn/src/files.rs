// SPDX-License-Identifier: EUPL-1.2
//! Where a model's files are: a directory, a GGUF file, or the program itself.

use std::io::Read;
use std::path::{Path, PathBuf};

use ingle_tensor::Bytes;
use serde::de::DeserializeOwned;

use crate::gguf::Gguf;
use crate::mapping::Content;
use crate::{Error, Result};

/// A model's files by name: those of a directory, one GGUF file that has no others, or ones built into the program.
#[derive(Clone, Debug)]
pub enum ModelFiles {
    /// A directory on disk; large files are memory-mapped.
    Directory(PathBuf),
    /// A GGUF file, or the first part of one that was split. It holds everything: no other file is looked for.
    Gguf(PathBuf),
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

    /// The files of the model at `path`: a `.gguf` file, a directory, or a directory that holds no `config.json` but
    /// one `.gguf` file (or all parts of one). Files named `mmproj*`, projectors of images, are passed over.
    ///
    /// # Errors
    /// [`Error::MissingDirectory`] if there is neither; [`Error::Malformed`] for a file that is not named so, and for a
    /// directory with several `.gguf` models.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.extension().is_some_and(|extension| extension == "gguf") && path.is_file() {
            return Ok(ModelFiles::Gguf(path.into()));
        }
        if path.is_file() {
            return Err(no_model(path));
        }
        let directory = ModelFiles::directory(path)?;
        if path.join("config.json").is_file() {
            return Ok(directory);
        }
        let mut models = directory.names()?;
        models.retain(|name| is_gguf_model(name));
        match models.as_slice() {
            [] => Ok(directory),
            [model] => Ok(ModelFiles::Gguf(path.join(model))),
            _ => {
                let message = format!("holds several models; give the path of one: {}", models.join(", "));
                Err(Error::Malformed { file: path.display().to_string(), message })
            }
        }
    }

    /// Whether a file of this name is a model in GGUF, or the first part of one: not a later part, nor a projector of
    /// images.
    pub fn is_gguf(path: &Path) -> bool {
        path.file_name().and_then(|name| name.to_str()).is_some_and(is_gguf_model)
    }

    /// The GGUF file that this stands for, opened and checked; `None` if it stands for other files.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn gguf(&self) -> Result<Option<Gguf>> {
        match self {
            ModelFiles::Gguf(path) => Gguf::open(path).map(Some),
            ModelFiles::Directory(_) | ModelFiles::Embedded { .. } => Ok(None),
        }
    }

    /// The model's name: its folder's or file's path, or the embedded model's name.
    pub fn name(&self) -> String {
        match self {
            ModelFiles::Directory(path) | ModelFiles::Gguf(path) => path.display().to_string(),
            ModelFiles::Embedded { name, .. } => (*name).to_owned(),
        }
    }

    /// The file's name with its folder, for messages.
    pub fn locate(&self, name: &str) -> String {
        match self {
            ModelFiles::Directory(path) | ModelFiles::Gguf(path) => path.join(name).display().to_string(),
            ModelFiles::Embedded { name: model, .. } => format!("{model}/{name}"),
        }
    }

    /// The file's content, or `None` if there is no such file. A file on disk is memory-mapped: it must be
    /// neither changed nor shortened while the bytes are in use.
    ///
    /// # Errors
    /// [`Error::Io`] if it is there but cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.find_content(name)?.map(|content| content.bytes()))
    }

    /// As [`ModelFiles::find`], in a form of which parts can be let go of.
    pub(crate) fn find_content(&self, name: &str) -> Result<Option<Content>> {
        match self {
            ModelFiles::Directory(path) => Content::open(&path.join(name)),
            ModelFiles::Gguf(_) => Ok(None),
            ModelFiles::Embedded { files, .. } => {
                let content = files.iter().find(|(file, _)| *file == name).map(|(_, content)| content);
                Ok(content.map(|content| Content::Memory(Bytes::from_static(content))))
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

    /// The names of all files, sorted; folders are left out. A GGUF file has none beside it.
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
            ModelFiles::Gguf(_) => Vec::new(),
            ModelFiles::Embedded { files, .. } => files.iter().map(|(name, _)| (*name).to_owned()).collect(),
        };
        names.sort();
        Ok(names)
    }
}

/// That a file is no model by its name, and what would be.
fn no_model(path: &Path) -> Error {
    let beside = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let message = match beside.filter(|folder| folder.join("config.json").is_file()) {
        _ if begins_as_gguf(path) => {
            "expected a name that ends in .gguf, as this file begins as one; rename it, or link to it by such a name"
                .into()
        }
        Some(folder) => format!("expected a model, found one file of one; give its directory, {}", folder.display()),
        None => "expected a model, found a file of another kind; give a directory that holds config.json and \
                 *.safetensors, or a .gguf file"
            .into(),
    };
    Error::Malformed { file: path.display().to_string(), message }
}

fn begins_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && magic == *b"GGUF"
}

fn is_gguf_model(name: &str) -> bool {
    name.ends_with(".gguf") && !name.starts_with("mmproj") && !is_later_part(name)
}

/// Whether a GGUF file's name is that of a part, and not the first: `model-00002-of-00003.gguf`.
fn is_later_part(name: &str) -> bool {
    let Some((rest, count)) = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-of-")) else {
        return false;
    };
    let number = rest.rsplit_once('-').map_or("", |(_, number)| number);
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number(count) && is_number(number) && number != "00001"
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

    #[test]
    fn gguf_is_told_from_a_directory_good() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let opened = || ModelFiles::open(folder.path()).unwrap();
        assert!(matches!(opened(), ModelFiles::Directory(_)));
        for name in ["mmproj-F16.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] {
            std::fs::write(path(name), b"").unwrap();
        }
        assert!(matches!(opened(), ModelFiles::Gguf(found) if found == path("m-00001-of-00002.gguf")));
        let named = ModelFiles::open(path("m-00002-of-00002.gguf")).unwrap();
        assert!(matches!(&named, ModelFiles::Gguf(found) if *found == path("m-00002-of-00002.gguf")));
        assert!(named.find("config.json").unwrap().is_none() && named.names().unwrap().is_empty());
        assert!(named.gguf().is_err(), "an empty file is no GGUF");
        std::fs::write(path("config.json"), b"{}").unwrap();
        assert!(matches!(opened(), ModelFiles::Directory(_)) && opened().gguf().unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_no_model_says_what_would_be_bad() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, content: &[u8]| {
            std::fs::write(folder.path().join(name), content).unwrap();
            ModelFiles::open(folder.path().join(name)).unwrap_err().to_string()
        };
        let error = refused("some.txt", b"once upon a time");
        assert!(
            error.contains("some.txt: expected a model, found a file of another kind; give a directory"),
            "{error}"
        );
        let error = refused("blob", b"GGUF\x03\0\0\0");
        assert!(error.contains("blob: expected a name that ends in .gguf"), "{error}");
        std::fs::write(folder.path().join("config.json"), b"{}").unwrap();
        let error = refused("model.safetensors", b"");
        assert!(error.ends_with(&format!("give its directory, {}", folder.path().display())), "{error}");
    }

    #[test]
    fn several_gguf_models_are_named_bad() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a-Q4_0.gguf", "a-Q8_0.gguf"] {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let error = ModelFiles::open(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("holds several models; give the path of one: a-Q4_0.gguf, a-Q8_0.gguf"), "{error}");
        assert!(ModelFiles::open("/nowhere/at/all.gguf").is_err());
    }
}
