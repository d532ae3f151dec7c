// SPDX-License-Identifier: EUPL-1.2
//! Memory-mapped files, whose pages can be given back before the file is closed.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use ingle_tensor::Bytes;
use memmap2::Mmap;

use crate::{Error, Result};

/// A file's content. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A file on disk.
    Mapped(Mapping),
    /// In memory for good: part of the program, or an empty file.
    Memory(Bytes),
}

/// Bytes of a part that is copied: a norm's weights, a row of scales.
const SMALL: usize = 64 << 10;

/// A memory-mapped file.
#[derive(Clone, Debug)]
pub(crate) struct Mapping(Arc<Mmap>);

impl Content {
    /// Maps a file, or gives `None` if there is none. It must be neither changed nor shortened while it is in use.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let io = |source| Error::Io { file: path.display().to_string(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Some(Content::Memory(Bytes::new())));
        }
        // SAFETY: the mapping is read-only; that nobody changes or shortens a model file while it is loaded is documented
        // here and wherever this is called as the caller's duty.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Some(Content::Mapped(Mapping(Arc::new(map)))))
    }

    /// All of it.
    pub fn bytes(&self) -> Bytes {
        match self {
            Content::Mapped(mapping) => Bytes::from_owner(mapping.clone()),
            Content::Memory(bytes) => bytes.clone(),
        }
    }

    /// A part of it. If it is mapped, its pages are given back when the last handle to the part drops; a small part is
    /// copied, for it would keep a large page.
    pub fn part(&self, range: Range<usize>) -> Bytes {
        match self {
            Content::Mapped(mapping) if range.end <= mapping.0.len() && range.len() <= SMALL => {
                let part = Bytes::copy_from_slice(&mapping.0[range.start.min(range.end)..range.end]);
                mapping.release(&range);
                part
            }
            Content::Mapped(mapping) if range.end <= mapping.0.len() && range.start < range.end => {
                Bytes::from_owner(Part { mapping: mapping.clone(), range })
            }
            Content::Memory(bytes) if range.end <= bytes.len() && range.start < range.end => bytes.slice(range),
            _ => Bytes::new(),
        }
    }

    /// Where a slice of [`Content::bytes`] lies.
    pub fn range_of(&self, slice: &Bytes) -> Range<usize> {
        let start = (slice.as_ptr() as usize).saturating_sub(self.bytes().as_ptr() as usize);
        start..start.saturating_add(slice.len())
    }
}

impl Mapping {
    /// Gives the pages of `range` back to the system, and those around it up to large pages: the system maps so many
    /// at once where it has the file in large pages, those of a neighbour that was given back before among them. Who
    /// reads them again has them read from the file again.
    #[cfg(unix)]
    fn release(&self, range: &Range<usize>) {
        const LARGE_PAGE: usize = 2 << 20;
        let (start, end) = (range.start / LARGE_PAGE * LARGE_PAGE, range.end.next_multiple_of(LARGE_PAGE));
        let end = end.min(self.0.len());
        if start < end {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is read-only and of a file, and begins at a page. Its pages hold nothing but the file's
            // content, which does not change, so the system fills them with the same bytes when they are read again.
            let advised = unsafe { self.0.unchecked_advise_range(advice, start, end - start) };
            // Where the system will not, nothing is lost but memory.
            drop(advised);
        }
    }

    #[cfg(not(unix))]
    fn release(&self, _: &Range<usize>) {}
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A range within a mapping.
struct Part {
    mapping: Mapping,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        self.mapping.0.get(self.range.clone()).unwrap_or_default()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.mapping.release(&self.range);
    }
}

/// Pages of this process that are in memory and belong to files, for one test at a time.
#[cfg(all(test, target_os = "linux"))]
pub(crate) struct FilePages {
    _turn: std::sync::MutexGuard<'static, ()>,
}

#[cfg(all(test, target_os = "linux"))]
impl FilePages {
    pub(crate) fn new() -> Self {
        static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
        FilePages { _turn: TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner) }
    }

    pub(crate) fn count(&self) -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(2).unwrap().parse().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(content: &[u8]) -> Content {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        // The mapping outlives the folder.
        Content::open(&path).unwrap().unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pages_are_given_back_with_the_last_handle_good() {
        let pages = FilePages::new();
        let content: Vec<u8> = (0..64 << 20).map(|i: u32| (i / 4096) as u8).collect();
        let mapped = written(&content);
        let part = mapped.part(5..content.len() - 5);
        let read = |part: &Bytes| part.iter().step_by(4096).map(|byte| usize::from(*byte)).sum::<usize>();
        let sum = read(&part);
        let (clone, full) = (part.clone(), pages.count());
        drop(part);
        assert!(pages.count() + 1000 > full, "a handle is left");
        drop(clone);
        assert!(pages.count() + 15_000 < full, "{full} pages before, {} after", pages.count());
        // What is read again is the same.
        assert_eq!(read(&mapped.part(5..content.len() - 5)), sum);
        assert_eq!(mapped.bytes(), content);
    }

    #[test]
    fn small_parts_keep_no_page_good() {
        let content: Vec<u8> = (0..4 * SMALL).map(|i| (i / 7) as u8).collect();
        let mapped = written(&content);
        let file = mapped.bytes();
        for (range, own) in [(3..SMALL + 3, true), (3..SMALL + 4, false)] {
            let part = mapped.part(range.clone());
            assert_eq!(part, content[range]);
            assert_eq!(file.as_ptr_range().contains(&part.as_ptr()), !own);
        }
    }

    #[test]
    fn no_file_and_empty_file_bad() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Content::open(&folder.path().join("none")).unwrap().is_none());
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        let empty = Content::open(&folder.path().join("empty")).unwrap().unwrap();
        assert!(empty.bytes().is_empty() && empty.part(0..1).is_empty());
        assert!(Content::open(folder.path()).is_err(), "a folder");
    }

    #[test]
    fn parts_smaller_than_a_page_and_outside_ugly() {
        let mapped = written(b"fire");
        assert_eq!(mapped.part(1..3), "ir");
        assert_eq!(mapped.part(4..4), "");
        assert_eq!(mapped.part(2..9), "");
        assert_eq!(mapped.bytes(), "fire");
        assert_eq!(mapped.range_of(&mapped.bytes().slice(1..3)), 1..3);
    }
}
