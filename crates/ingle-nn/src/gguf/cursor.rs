// SPDX-License-Identifier: EUPL-1.2
//! Reading little-endian numbers and texts, never past the end.

use std::ops::Range;

use ingle_tensor::Bytes;

/// What a file holds wrong, in one line; the reader of the file adds where.
pub(super) type Refusal = String;

/// A place in a file's content, moving forwards.
pub(super) struct Cursor<'a> {
    content: &'a Bytes,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(content: &'a Bytes) -> Self {
        Cursor { content, at: 0 }
    }

    /// Bytes before this place.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let rest = &self.content[self.at..];
        let Some(bytes) = rest.get(..length) else {
            return Err(self.short(length as u64));
        };
        self.at += length;
        Ok(bytes)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn u32(&mut self) -> Result<u32, Refusal> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Refusal> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A text after its length.
    pub fn text(&mut self) -> Result<&'a str, Refusal> {
        let range = self.text_range()?;
        let start = range.start;
        std::str::from_utf8(&self.content[range]).map_err(|error| format!("byte {start}: expected UTF-8: {error}"))
    }

    /// Where a text stands after its length.
    pub fn text_range(&mut self) -> Result<Range<usize>, Refusal> {
        let length = self.u64()?;
        let Ok(length) = usize::try_from(length) else { return Err(self.short(length)) };
        self.take(length)?;
        Ok(self.at - length..self.at)
    }

    /// What was read since `start`.
    pub fn since(&self, start: usize) -> Bytes {
        self.content.slice(start..self.at)
    }

    /// That so many bytes were announced, and fewer follow.
    pub fn short(&self, length: u64) -> Refusal {
        let left = self.content.len() - self.at;
        format!("byte {}: expected {length} bytes to follow, found {left}: truncated or damaged; {AGAIN}", self.at)
    }
}

/// What to do about a damaged file.
pub(super) const AGAIN: &str = "download the file again";
