// SPDX-License-Identifier: EUPL-1.2
//! `config.json`, beside weights that it may or may not fit.

#![no_main]

use std::sync::LazyLock;

use ingle_fuzz::Folder;
use ingle_nn::ModelFiles;
use libfuzzer_sys::fuzz_target;

/// One folder with dense weights, one with quantised ones.
static FOLDERS: LazyLock<[Folder; 2]> = LazyLock::new(|| {
    let weights: [&[u8]; 2] = [
        include_bytes!("../../fixtures/models/qwen3-v5/model.safetensors"),
        include_bytes!("../../fixtures/mlx-models/qwen3-mixed/model.safetensors"),
    ];
    weights.map(|weights| {
        let folder = Folder::new();
        folder.write("model.safetensors", weights, 0);
        folder
    })
});

fuzz_target!(|data: &[u8]| {
    for folder in FOLDERS.iter() {
        folder.write("config.json", data, 0);
        ingle_fuzz::load(&ModelFiles::Directory(folder.path().into()));
    }
});
