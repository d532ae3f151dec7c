// SPDX-License-Identifier: EUPL-1.2
//! Where the command finds MLX's library.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // `ingle-mlx` says this if it was built with MLX.
    if let Ok(lib) = std::env::var("DEP_MLX_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
