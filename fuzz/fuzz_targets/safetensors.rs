// SPDX-License-Identifier: EUPL-1.2
//! A weight file, alone in its folder.

#![no_main]

use std::sync::LazyLock;

use ingle_fuzz::Folder;
use ingle_nn::{Checkpoint, ModelFiles};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

fuzz_target!(|data: &[u8]| {
    FOLDER.write("model.safetensors", data, 0);
    let files = ModelFiles::Directory(FOLDER.path().into());
    if let Ok(checkpoint) = Checkpoint::open(&files) {
        ingle_fuzz::walk(&checkpoint);
    }
});
