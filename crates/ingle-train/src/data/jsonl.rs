// SPDX-License-Identifier: EUPL-1.2
//! A JSONL file of training data. Its lines are checked when it is opened, and read again when they are needed.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::record::{Record, Unfit};
use super::{BpeDropout, Encoder, Example, Examples};
use crate::{Error, Result};

/// The examples of a JSONL file, one a line: `text`, `text` and `label`, `prompt` and `completion`, or `messages`.
/// Empty lines are passed over.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: Mutex<File>,
    lines: Vec<Line>,
    encoder: Encoder,
    bpe_dropout: Option<BpeDropout>,
}

#[derive(Debug)]
struct Line {
    number: usize,
    bytes: Range<u64>,
}

impl JsonLines {
    /// Opens a file and looks at each of its lines.
    ///
    /// # Errors
    /// [`Error::Line`] for a line that is none of these; [`Error::File`] if the file cannot be read or holds nothing.
    pub fn open(path: impl AsRef<Path>, encoder: Encoder) -> Result<Self> {
        let path = path.as_ref();
        let refused = |error: std::io::Error| Error::unread(path, &error);
        let mut reader = BufReader::new(File::open(path).map_err(refused)?);
        let (mut lines, mut line, mut start) = (Vec::new(), Vec::new(), 0);
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(refused)? as u64;
            if read == 0 {
                break;
            }
            if !line.trim_ascii().is_empty() {
                Record::read(&line, encoder.label_field()).map_err(|unfit| unfit_line(path, number, unfit))?;
                lines.push(Line { number, bytes: start..start + read });
            }
            start += read;
        }
        if lines.is_empty() {
            return Err(Error::file(path, "holds no examples; give a file of JSON objects, one a line"));
        }
        Ok(JsonLines { path: path.into(), file: Mutex::new(reader.into_inner()), lines, encoder, bpe_dropout: None })
    }

    /// The same, of which each pass takes other tokens apart.
    #[must_use]
    pub fn varied(self, bpe_dropout: BpeDropout) -> Self {
        JsonLines { bpe_dropout: Some(bpe_dropout), ..self }
    }

    fn read(&self, bytes: &Range<u64>) -> std::io::Result<Vec<u8>> {
        let mut line = vec![0; (bytes.end - bytes.start) as usize];
        // A position that a panic left behind is set anew.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(bytes.start))?;
        file.read_exact(&mut line)?;
        Ok(line)
    }
}

fn unfit_line(path: &Path, line: usize, Unfit { expected, found }: Unfit) -> Error {
    Error::Line { file: path.display().to_string(), line, expected, found }
}

impl Examples for JsonLines {
    fn count(&self, _epoch: u64) -> usize {
        self.lines.len()
    }

    fn example(&self, epoch: u64, index: usize) -> Result<Example> {
        let Line { number, bytes } = &self.lines[index];
        let line = self.read(bytes).map_err(|error| Error::file(&self.path, error))?;
        let record =
            Record::read(&line, self.encoder.label_field()).map_err(|unfit| unfit_line(&self.path, *number, unfit))?;
        let example = self.encoder.encode(&record).map_err(|error| Error::Line {
            file: self.path.display().to_string(),
            line: *number,
            expected: "what the model's tokeniser and chat template take".into(),
            found: error.to_string(),
        })?;
        Ok(match &self.bpe_dropout {
            Some(bpe_dropout) => bpe_dropout.example(example, epoch, index),
            None => example,
        })
    }
}
