// SPDX-License-Identifier: EUPL-1.2
//! What the fuzz targets share: a folder for the files that they make up, and loading what they stand for.
//!
//! ```
//! let folder = ingle_fuzz::Folder::new();
//! folder.write("config.json", b"{}", 0);
//! assert!(ingle_models::read_summary(&ingle_nn::ModelFiles::Directory(folder.path().into())).is_err());
//! ```

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_models::LoadOptions;
use ingle_nn::{Checkpoint, ModelFiles};
use ingle_tensor::DeviceHandle;

/// One thread: what is found must be found again.
static DEVICE: LazyLock<DeviceHandle> = LazyLock::new(|| {
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    Arc::new(CpuDevice::new(options).expect("the CPU is a device"))
});

/// A folder of a process's own, in memory where the system has such a place.
#[derive(Debug)]
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// An empty one.
    ///
    /// # Panics
    /// If there is nowhere to put it: nothing can be tested then.
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
        Folder(tempfile::Builder::new().prefix("ingle-fuzz").tempdir_in(parent).expect("a folder to write in"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file that has so many zeros after `content`.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: &[u8], zeros: u64) {
        let mut file = File::create(self.path().join(name)).expect("the folder is there");
        file.write_all(content).expect("room for a small file");
        file.set_len(content.len() as u64 + zeros).expect("room for nothing");
    }
}

/// Says what a model is and loads it: either may refuse, neither may fail otherwise.
///
/// # Panics
/// If what was loaded is not what was announced.
pub fn load(files: &ModelFiles) {
    let Ok(summary) = ingle_models::read_summary(files) else { return };
    if let Ok(model) = ingle_models::load(files, &DEVICE, &LoadOptions::default(), &mut |_| {}) {
        // What was loaded may be less than what the file holds.
        assert!(model.summary().weight_bytes <= summary.weight_bytes);
        assert_eq!(model.cache_layers().len(), summary.layers);
    }
}

/// Asks a checkpoint for everything that it has to say.
///
/// # Panics
/// If it contradicts itself.
pub fn walk(checkpoint: &Checkpoint) {
    let mut bytes = 0;
    for (name, tensor) in checkpoint.tensors() {
        bytes += tensor.bytes();
        std::hint::black_box((tensor.dtype(), tensor.block_format()));
        assert!(tensor.describe().ends_with(&tensor.shape().to_string()));
        if let Ok(original) = checkpoint.original(name) {
            assert_eq!(original.shape(), tensor.shape());
        }
    }
    assert_eq!(checkpoint.bytes(), bytes);
    std::hint::black_box((checkpoint.parameters(), checkpoint.main_dtype(), checkpoint.block_formats()));
}
