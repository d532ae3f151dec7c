// SPDX-License-Identifier: EUPL-1.2
//! A model in GGUF: its metadata as a configuration, its tensors as weights.

#![no_main]

use std::sync::LazyLock;

use ingle_fuzz::Folder;
use ingle_nn::ModelFiles;
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);

/// Weights for the header that is the input: it is the header that is to be fuzzed.
const ZEROS: u64 = 400 << 10;

fuzz_target!(|header: &[u8]| {
    FOLDER.write("model.gguf", header, ZEROS);
    ingle_fuzz::load(&ModelFiles::Gguf(FOLDER.path().join("model.gguf")));
});
