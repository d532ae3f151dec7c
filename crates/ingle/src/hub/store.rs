// SPDX-License-Identifier: EUPL-1.2
//! The cache on disk: content in `blobs`, named by its `ETag`, and in `snapshots` a folder of links for each commit.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};
use ring::digest::{Context, SHA256};
use serde::Deserialize;

use super::repository::{ListedFile, Repository, is_index, is_weights};
use super::transfer::DescribedFile;
use super::{Error, PullOptions};

/// A repository's place in the cache.
pub(super) struct Store {
    cache: Cache,
    repo: Repo,
}

impl Store {
    /// The repository's place in the cache; nothing is made yet.
    pub(super) fn open(repository: &Repository, options: &PullOptions) -> Result<Self, Error> {
        let folder = options.cache_dir.clone().ok_or(Error::NoCacheFolder)?;
        let repo = Repo::with_revision(repository.id.clone(), RepoType::Model, repository.revision.clone());
        Ok(Store { cache: Cache::new(folder), repo })
    }

    /// The file's bytes if this commit of it is here whole. One that has another size than listed is taken away.
    pub(super) fn held(&self, commit: &str, file: &ListedFile) -> Result<Option<u64>, Error> {
        let path = self.snapshot(commit).join(&file.name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && file.size.is_none_or(|size| size == metadata.len()) => {
                Ok(Some(metadata.len()))
            }
            Ok(_) => remove(&path).map(|()| None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(&path, &error)),
        }
    }

    /// Makes ready for the file's bytes, taking up the partial file of an earlier pull if there is one; `None` if
    /// the content is here.
    pub(super) fn begin(&self, file: &DescribedFile) -> Result<Option<Part>, Error> {
        let blob = self.cache.repo(self.repo.clone()).blob_path(&file.etag);
        if let Some(folder) = blob.parent() {
            fs::create_dir_all(folder).map_err(|error| Error::io(folder, &error))?;
        }
        if is_whole(&blob, file.size)? {
            return Ok(None);
        }
        let part = Part::open(blob, file)?;
        // Another pull may have ended while this one took the lock.
        if is_whole(&part.blob, file.size)? { Ok(None) } else { Ok(Some(part)) }
    }

    /// Puts a file whose content is here into the commit's snapshot.
    pub(super) fn link(&self, commit: &str, file: &DescribedFile) -> Result<(), Error> {
        let snapshot = self.snapshot(commit);
        fs::create_dir_all(&snapshot).map_err(|error| Error::io(&snapshot, &error))?;
        let path = snapshot.join(&file.name);
        remove(&path)?;
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(Path::new("../../blobs").join(&file.etag), &path);
        // Elsewhere a symbolic link needs rights that users rarely have.
        #[cfg(not(unix))]
        let linked = fs::hard_link(self.cache.repo(self.repo.clone()).blob_path(&file.etag), &path);
        linked.map_err(|error| Error::io(&path, &error))
    }

    /// Notes that the revision is this commit, now that its files are here, and returns their folder.
    pub(super) fn finish(&self, commit: &str) -> Result<PathBuf, Error> {
        let snapshot = self.snapshot(commit);
        if self.repo.revision() != commit {
            self.cache.repo(self.repo.clone()).create_ref(commit).map_err(|error| Error::io(&snapshot, &error))?;
        }
        Ok(snapshot)
    }

    /// The revision's folder if a model can be loaded from it.
    pub(super) fn complete_snapshot(&self) -> Option<PathBuf> {
        let by_commit = self.snapshot(self.repo.revision());
        let snapshot = if by_commit.join("config.json").is_file() {
            by_commit
        } else {
            self.cache.repo(self.repo.clone()).get("config.json")?.parent()?.to_owned()
        };
        let names = names(&snapshot).ok()?;
        // A link stands before its content where another tool was interrupted.
        let is_here = |name: &String| snapshot.join(name).is_file();
        let mut weights = names.iter().filter(|name| is_weights(name));
        let complete = match names.iter().find(|name| is_index(name)) {
            Some(index) => shards(&snapshot.join(index))?.iter().all(is_here),
            None => weights.clone().next().is_some() && weights.all(|name| !is_shard(name) && is_here(name)),
        };
        complete.then_some(snapshot)
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit)
    }
}

/// The repositories of the cache, each with every revision that has a name there.
pub(super) fn repositories(options: &PullOptions) -> Result<Vec<Repository>, Error> {
    let Some(cache) = &options.cache_dir else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for folder in names(cache)? {
        let Some(id) = folder.strip_prefix("models--").map(|id| id.replacen("--", "/", 1)) else { continue };
        let refs = cache.join(&folder).join("refs");
        // A revision may have folders in its name, as `refs/pr/5` has.
        let mut open = names(&refs)?;
        while let Some(revision) = open.pop() {
            let path = refs.join(&revision);
            if path.is_dir() && !path.is_symlink() {
                open.extend(names(&path)?.into_iter().map(|name| format!("{revision}/{name}")));
            } else {
                // Other tools may keep names there that are none of the Hub's.
                found.extend(Repository::parse(&id, Some(&revision)));
            }
        }
    }
    Ok(found)
}

/// The names in a folder; none if it is not there, or is a file.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let io = |error: io::Error| Error::io(folder, &error);
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(io)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.map_err(io)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// The weight files that an index names.
fn shards(index: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: serde_json::Map<String, serde_json::Value>,
    }
    let index: Index = serde_json::from_slice(&fs::read(index).ok()?).ok()?;
    let mut files: Vec<String> =
        index.weight_map.into_iter().map(|(_, file)| file.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    files.sort_unstable();
    files.dedup();
    (!files.is_empty()).then_some(files)
}

/// Whether the name is of one weight file of several, `model-00001-of-00002.safetensors`.
fn is_shard(name: &str) -> bool {
    name.trim_end_matches(".safetensors")
        .rsplit_once("-of-")
        .is_some_and(|(_, count)| !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether content of this many bytes is at the path; content of another size is taken away.
fn is_whole(blob: &Path, size: u64) -> Result<bool, Error> {
    match fs::metadata(blob) {
        Ok(metadata) if metadata.len() == size => Ok(true),
        Ok(_) => remove(blob).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(blob, &error)),
    }
}

/// Takes a file or a link away, if it is there.
fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path, &error)),
        _ => Ok(()),
    }
}

/// A file that is being fetched. It is locked, so that two pulls never write into one.
pub(super) struct Part {
    path: PathBuf,
    blob: PathBuf,
    file: File,
    bytes: u64,
    digest: Option<Context>,
}

impl Part {
    fn open(blob: PathBuf, described: &DescribedFile) -> Result<Self, Error> {
        let mut name = blob.clone().into_os_string();
        name.push(".part");
        let path = PathBuf::from(name);
        let io = |error: io::Error| Error::io(&path, &error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(io)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::Busy { path });
        }
        let mut bytes = file.metadata().map_err(io)?.len();
        if bytes > described.size {
            file.set_len(0).map_err(io)?;
            bytes = 0;
        }
        let mut digest = described.sha256.as_ref().map(|_| Context::new(&SHA256));
        if let Some(digest) = digest.as_mut().filter(|_| bytes > 0) {
            let mut buffer = vec![0; 1 << 18];
            loop {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => digest.update(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(io(error)),
                }
            }
        }
        Ok(Part { path, blob, file, bytes, digest })
    }

    /// Bytes that are here.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds bytes at the end.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|error| Error::io(&self.path, &error))?;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what is here: it comes again from the start, or it is wrong.
    pub(super) fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0).map_err(|error| Error::io(&self.path, &error))?;
        self.bytes = 0;
        self.digest = self.digest.as_ref().map(|_| Context::new(&SHA256));
        Ok(())
    }

    /// Puts the file in its place, if it is what was listed.
    pub(super) fn finish(mut self, described: &DescribedFile) -> Result<(), Error> {
        if let (Some(digest), Some(expected)) = (self.digest.take(), &described.sha256) {
            let found: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            if !found.eq_ignore_ascii_case(expected) {
                self.restart()?;
                return Err(Error::Checksum { file: described.name.clone(), expected: expected.clone(), found });
            }
        }
        // A name must never stand for content that a power cut took.
        self.file.sync_all().map_err(|error| Error::io(&self.path, &error))?;
        fs::rename(&self.path, &self.blob).map_err(|error| Error::io(&self.blob, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &Path, revision: &str) -> Store {
        let options = PullOptions { cache_dir: Some(folder.into()), ..PullOptions::default() };
        Store::open(&Repository::parse("o/n", Some(revision)).unwrap(), &options).unwrap()
    }

    fn described(size: u64) -> DescribedFile {
        DescribedFile { name: "config.json".into(), url: String::new(), etag: "e1".into(), size, sha256: None }
    }

    fn write(folder: &Path, names: &[&str]) {
        let snapshot = folder.join("models--o--n/snapshots/c0ffee");
        fs::create_dir_all(&snapshot).unwrap();
        for name in names {
            fs::write(snapshot.join(name), r#"{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#).unwrap();
        }
    }

    #[test]
    fn complete_snapshots_are_found_by_branch_and_by_commit_good() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["config.json", "model.safetensors"]);
        assert_eq!(store(folder.path(), "main").complete_snapshot(), None);
        store(folder.path(), "main").finish("c0ffee").unwrap();
        let expected = folder.path().join("models--o--n/snapshots/c0ffee");
        assert_eq!(store(folder.path(), "main").complete_snapshot(), Some(expected.clone()));
        assert_eq!(store(folder.path(), "c0ffee").complete_snapshot(), Some(expected));
    }

    #[test]
    fn incomplete_snapshots_are_none_bad() {
        for names in [
            &["config.json"][..],
            &["config.json", "model-00001-of-00002.safetensors"],
            &["config.json", "model.safetensors.index.json", "a.safetensors"],
            &["model.safetensors"],
        ] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), names);
            assert_eq!(store(folder.path(), "c0ffee").complete_snapshot(), None, "{names:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["config.json", "model.safetensors.index.json", "a.safetensors", "b.safetensors"]);
        assert!(store(folder.path(), "c0ffee").complete_snapshot().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_without_its_content_is_not_complete_ugly() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["config.json"]);
        let link = folder.path().join("models--o--n/snapshots/c0ffee/model.safetensors");
        std::os::unix::fs::symlink("../../blobs/missing", link).unwrap();
        assert_eq!(store(folder.path(), "c0ffee").complete_snapshot(), None);
    }

    #[test]
    fn two_pulls_never_write_one_file_bad() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), "main");
        let _held = store.begin(&described(4)).unwrap().unwrap();
        assert!(matches!(store.begin(&described(4)), Err(Error::Busy { .. })));
    }

    #[test]
    fn longer_partial_files_start_again_ugly() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), "main");
        fs::create_dir_all(folder.path().join("models--o--n/blobs")).unwrap();
        fs::write(folder.path().join("models--o--n/blobs/e1.part"), "12345").unwrap();
        let part = store.begin(&described(4)).unwrap().unwrap();
        assert_eq!(part.bytes(), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_is_told_bad() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("models--o--n/blobs");
        fs::create_dir_all(&blobs).unwrap();
        std::os::unix::fs::symlink("/dev/full", blobs.join("e1.part")).unwrap();
        let mut part = store(folder.path(), "main").begin(&described(4)).unwrap().unwrap();
        let error = part.write(b"1234").unwrap_err();
        assert_eq!(error, Error::DiskFull { path: blobs.join("e1.part") });
    }
}
