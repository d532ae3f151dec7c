// SPDX-License-Identifier: EUPL-1.2
//! A record that TensorBoard shows.
//!
//! A file of records, each an `Event` message of TensorFlow's `event.proto` in Protocol Buffers' wire format. A record
//! is its length, a checksum of that, its bytes, and a checksum of those; checksums are CRC-32C, rotated and shifted
//! (`tensorflow/core/lib/io/record_writer.h`).

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Event, Observer, Result};

/// Writes losses, learning rates and speed as scalars into `events.out.tfevents.…` in a folder. Each run, and each
/// that goes on, has a file of its own, as TensorBoard expects.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    file: Option<(PathBuf, File)>,
}

impl TensorBoard {
    /// A record in `folder`, which is there.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        TensorBoard { folder: folder.into(), file: None }
    }

    fn begin(&mut self, step: u64) -> Result<()> {
        let (seconds, mut number) = (now() as u64, 0);
        let (path, file) = loop {
            let path = self.folder.join(format!("events.out.tfevents.{seconds}.ingle.{number}"));
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(Error::file(path, error)),
            }
        };
        self.file = Some((path, file));
        let mut version = Message::at(now(), 0);
        version.bytes(FILE_VERSION, b"brain.Event:2");
        self.write(&version)?;
        // What an earlier run has written about later steps is not shown.
        let mut start = Message::at(now(), step as i64);
        let mut log = Message::default();
        log.varint(STATUS, START);
        start.bytes(SESSION_LOG, &log.0);
        self.write(&start)
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = Message::default();
        for (tag, number) in scalars {
            let mut value = Message::default();
            value.bytes(TAG, tag.as_bytes());
            value.float(SIMPLE_VALUE, *number as f32);
            summary.bytes(VALUE, &value.0);
        }
        let mut event = Message::at(now(), step as i64);
        event.bytes(SUMMARY, &summary.0);
        self.write(&event)
    }

    fn write(&mut self, event: &Message) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.write_all(&record(&event.0)).map_err(|error| Error::file(&*path, error))
    }
}

impl Observer for TensorBoard {
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>> {
        match event {
            Event::Begun(beginning) => self.begin(beginning.step)?,
            Event::Step(step) => self.scalars(
                step.step,
                &[
                    ("loss/train", step.loss.into()),
                    ("learning_rate", step.learning_rate),
                    ("gradient_norm", step.gradient_norm.into()),
                    ("tokens_per_second", step.tokens_per_second),
                ],
            )?,
            Event::Validated(validation) => {
                self.scalars(validation.step, &[("loss/validation", validation.loss.into())])?;
            }
            Event::Saved(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

// Fields of the messages Event, SessionLog, Summary and Summary.Value.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
const SESSION_LOG: u64 = 7;
const STATUS: u64 = 1;
/// A value of SessionLog's status.
const START: u64 = 1;
const VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;

// How a field is written.
const VARINT: u64 = 0;
const WORD: u64 = 1;
const BYTES: u64 = 2;
const HALF_WORD: u64 = 5;

/// A message in Protocol Buffers' wire format.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    /// An event.
    fn at(wall_time: f64, step: i64) -> Self {
        let mut event = Message::default();
        event.key(WALL_TIME, WORD);
        event.0.extend(wall_time.to_le_bytes());
        event.varint(STEP, step as u64);
        event
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.number(field << 3 | wire);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn varint(&mut self, field: u64, number: u64) {
        self.key(field, VARINT);
        self.number(number);
    }

    fn float(&mut self, field: u64, number: f32) {
        self.key(field, HALF_WORD);
        self.0.extend(number.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, BYTES);
        self.number(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// A message as a record.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), message, &masked(message).to_le_bytes()].concat()
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli et al. 1993), bit by bit: records are short.
fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), shift))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Beginning, Validation};

    /// RFC 3720, B.4.
    #[test]
    fn checksums_are_the_standards_good() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b""), 0);
    }

    /// What `tensorboard.compat.proto.event_pb2` writes of the same event.
    #[test]
    fn a_message_is_as_protocol_buffers_write_it_good() {
        let mut value = Message::default();
        value.bytes(TAG, b"loss");
        value.float(SIMPLE_VALUE, 1.5);
        let mut summary = Message::default();
        summary.bytes(VALUE, &value.0);
        let mut event = Message::at(2.0, 300);
        event.bytes(SUMMARY, &summary.0);
        let wanted =
            b"\x09\x00\x00\x00\x00\x00\x00\x00\x40\x10\xac\x02\x2a\x0d\x0a\x0b\x0a\x04loss\x15\x00\x00\xc0\x3f";
        assert_eq!(event.0, wanted);
    }

    #[test]
    fn each_run_has_a_file_of_its_own_ugly() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut board = TensorBoard::new(folder.path());
            let beginning = Beginning { step: 3, trained: 1, parameters: 1, examples: 1 };
            assert!(board.observe(&Event::Begun(beginning)).unwrap().is_continue());
            let validation = Validation { step: 4, loss: 2.0, bits_per_character: None, targets: 5, best: true };
            assert!(board.observe(&Event::Validated(validation)).unwrap().is_continue());
        }
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 2);
        for file in files {
            let bytes = std::fs::read(file).unwrap();
            let (mut rest, mut records) = (&bytes[..], 0);
            while !rest.is_empty() {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                assert_eq!(record(&rest[12..12 + length]), rest[..16 + length]);
                rest = &rest[16 + length..];
                records += 1;
            }
            assert_eq!(records, 3);
        }
    }
}
