// SPDX-License-Identifier: EUPL-1.2
//! Reading prompts: text as it is, or a file of them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Failure;
use crate::interrupt::Interrupted;

/// All of standard input, exactly as given.
///
/// # Errors
/// If it is not UTF-8, saying where.
pub fn stdin_text() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("standard input: expected UTF-8 text, found an invalid byte at offset {at}").into()
    })
}

/// One entry of a file of prompts.
#[derive(Debug, PartialEq)]
pub enum Entry {
    /// A plain line.
    Text(String),
    /// An object of a JSONL file.
    Object(Map<String, Value>),
}

/// Reads a file (or standard input if `-` or `None`) of one entry a line: JSONL if its name ends in
/// `.jsonl`, or if its first line is a JSON object; plain text otherwise. Empty lines are passed over.
///
/// # Errors
/// A file that cannot be read, a line that is not UTF-8 or not a JSON object, with its number.
pub fn entries(path: Option<&Path>) -> Result<Vec<Entry>, Failure> {
    let path = path.filter(|path| *path != Path::new("-"));
    match path {
        Some(path) => {
            let name = path.display().to_string();
            let file = File::open(path).map_err(|error| unread(&name, &error))?;
            let jsonl = path.extension().is_some_and(|extension| extension == "jsonl");
            read(BufReader::new(file), &name, jsonl)
        }
        None => read(io::stdin().lock(), "standard input", false),
    }
}

fn unread(name: &str, error: &io::Error) -> Failure {
    format!("{name}: {error}; name a file with an entry a line, or - for standard input").into()
}

fn read(mut reader: impl BufRead, name: &str, mut jsonl: bool) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|error| unread(name, &error))?;
        if read == 0 {
            break;
        }
        let text = std::str::from_utf8(&line)
            .map_err(|error| format!("{name}, line {number}: expected UTF-8 text: {error}"))?
            .trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            continue;
        }
        if entries.is_empty() && !jsonl {
            jsonl = text.starts_with('{') && serde_json::from_str::<Map<String, Value>>(text).is_ok();
        }
        entries.push(if jsonl {
            let object = serde_json::from_str(text)
                .map_err(|error| format!("{name}, line {number}: expected a JSON object: {error}"))?;
            Entry::Object(object)
        } else {
            Entry::Text(text.to_owned())
        });
    }
    Ok(entries)
}

/// The text of an entry: the line itself, or the first of `fields` that the object has.
///
/// # Errors
/// An object without any of them, or with one that is not a string.
pub fn text_of(entry: &Entry, fields: &[&str]) -> Result<String, Failure> {
    let object = match entry {
        Entry::Text(text) => return Ok(text.clone()),
        Entry::Object(object) => object,
    };
    let found = fields.iter().find_map(|field| object.get(*field));
    match found {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(format!("expected a string in `{}`, found {other}", fields.join("` or `")).into()),
        None => {
            let has = object.keys().cloned().collect::<Vec<_>>().join(", ");
            Err(format!("expected a field `{}`, found: {has}", fields.join("` or `")).into())
        }
    }
}

/// Where results go: a file, written beside its target and renamed when whole, or standard output. One that is dropped
/// before there is a result leaves nothing behind.
pub enum Sink {
    /// Standard output.
    Stdout,
    /// A file that is not yet in place.
    File { temporary: File, part: PathBuf, target: PathBuf },
    /// A pipe or a device, which results are written into as they come: nothing may take its place.
    Stream { file: File, target: PathBuf },
}

impl Sink {
    /// Opens the sink.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn open(target: Option<&Path>) -> Result<Self, Failure> {
        let Some(target) = target else { return Ok(Sink::Stdout) };
        // A link stays, and what it points at is written.
        let followed = std::fs::canonicalize(target);
        let target = followed.as_deref().unwrap_or(target);
        if std::fs::metadata(target).is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(target).map_err(|error| unwritten(target, &error))?;
            return Ok(Sink::Stream { file, target: target.into() });
        }
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let temporary = File::create(&part).map_err(|error| unwritten(&part, &error))?;
        Ok(Sink::File { temporary, part, target: target.into() })
    }

    /// Writes one line of JSON.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, value: &impl serde::Serialize) -> Result<(), Failure> {
        match self {
            Sink::Stdout => crate::output::json(value),
            Sink::File { temporary: file, part: path, .. } | Sink::Stream { file, target: path } => {
                let mut line = serde_json::to_vec(value)?;
                line.push(b'\n');
                Ok(io::Write::write_all(file, &line).map_err(|error| unwritten(path, &error))?)
            }
        }
    }

    /// The error for work that was interrupted after `done` of `total` results: says where those are.
    pub fn interrupted(&self, done: usize, total: usize) -> Failure {
        Interrupted::told(match self {
            Sink::File { part, .. } if done > 0 => {
                format!("interrupted after {done} of {total}; what was done is in {}", part.display())
            }
            _ => format!("interrupted after {done} of {total}"),
        })
    }

    /// Puts the file in place.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn finish(self) -> Result<(), Failure> {
        match &self {
            Sink::Stdout | Sink::Stream { .. } => Ok(()),
            Sink::File { temporary, part, target } => {
                temporary.sync_all().map_err(|error| unwritten(part, &error))?;
                Ok(std::fs::rename(part, target).map_err(|error| unwritten(target, &error))?)
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Sink::File { part, .. } = self
            && std::fs::metadata(&*part).is_ok_and(|file| file.len() == 0)
        {
            // An empty file that cannot be removed does no harm.
            let _ = std::fs::remove_file(part);
        }
    }
}

fn unwritten(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}; name a file that can be written", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_objects_good() {
        let lines = read("one\r\n\n two \n".as_bytes(), "f", false).unwrap();
        assert_eq!(lines, [Entry::Text("one".into()), Entry::Text(" two ".into())]);
        let objects = read("{\"text\": \"a\"}\n{\"prompt\": \"b\"}\n".as_bytes(), "f", false).unwrap();
        assert_eq!(text_of(&objects[0], &["prompt", "text"]).unwrap(), "a");
        assert_eq!(text_of(&objects[1], &["prompt", "text"]).unwrap(), "b");
    }

    #[test]
    fn a_broken_line_is_named_bad() {
        let error = read("{\"text\": \"a\"}\n{\"text\": \n".as_bytes(), "f.jsonl", true).unwrap_err();
        assert!(error.to_string().starts_with("f.jsonl, line 2: expected a JSON object"), "{error}");
        let error = read(&b"good\n\xff\xfe\n"[..], "f", false).unwrap_err();
        assert!(error.to_string().starts_with("f, line 2: expected UTF-8"), "{error}");
        let objects = read("{\"a\": 1, \"b\": 2}\n".as_bytes(), "f", true).unwrap();
        assert_eq!(text_of(&objects[0], &["text"]).unwrap_err().to_string(), "expected a field `text`, found: a, b");
    }

    #[test]
    #[cfg(unix)]
    fn links_and_devices_stay_what_they_are_ugly() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut sink = Sink::open(Some(&link)).unwrap();
        sink.write(&1).unwrap();
        sink.finish().unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1\n");
        // A device, by way of a link, so that a failure of this test replaces no more than the link.
        let device = folder.path().join("device");
        std::os::unix::fs::symlink("/dev/null", &device).unwrap();
        let mut sink = Sink::open(Some(&device)).unwrap();
        assert!(matches!(sink, Sink::Stream { .. }));
        sink.write(&1).unwrap();
        sink.finish().unwrap();
        assert!(std::fs::metadata(&device).unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_folder_is_no_place_for_results_bad() {
        let folder = tempfile::tempdir().unwrap();
        let error = Sink::open(Some(folder.path())).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("name a file that can be written"), "{error}");
    }

    #[test]
    fn an_interruption_names_only_what_is_there_good() {
        let folder = tempfile::tempdir().unwrap();
        let sink = Sink::open(Some(&folder.path().join("file"))).unwrap();
        assert_eq!(sink.interrupted(0, 3).to_string(), "interrupted after 0 of 3");
        assert!(sink.interrupted(1, 3).to_string().ends_with("file.part"));
    }

    #[test]
    fn a_sentence_that_starts_with_a_brace_is_text_ugly() {
        let lines = read("{not json\n{\"text\": \"a\"}\n".as_bytes(), "f", false).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], Entry::Text("{not json".into()));
    }
}
