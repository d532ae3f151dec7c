// SPDX-License-Identifier: EUPL-1.2
//! Finds MLX and compiles the bridge to it. See `build/find.rs` for where it looks.

#[cfg(feature = "mlx")]
#[path = "build/find.rs"]
mod find;

#[cfg(feature = "mlx")]
const SOURCES: [&str; 8] = [
    "src/bridge/state.cc",
    "src/bridge/arrays.cc",
    "src/bridge/math.cc",
    "src/bridge/norm.cc",
    "src/bridge/steps.cc",
    "src/bridge/cuda.cc",
    "src/bridge/attention.cc",
    "src/exact.cc",
];

#[cfg(feature = "mlx")]
const OTHERS: [&str; 7] = [
    "src/bridge.rs",
    "src/bridge.h",
    "src/bridge/state.h",
    "src/bridge/steps.h",
    "src/bridge/cuda.h",
    "src/exact.h",
    "build/find.rs",
];

#[cfg(not(feature = "mlx"))]
fn main() {}

#[cfg(feature = "mlx")]
fn main() {
    let mlx = match find::mlx() {
        Ok(mlx) => mlx,
        Err(message) => {
            // `cargo::error` shows this line and nothing else.
            println!("cargo::error={message}");
            std::process::exit(1);
        }
    };
    cxx_build::bridge("src/bridge.rs")
        .files(SOURCES)
        .include(&mlx.include)
        .std("c++20")
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-deprecated-copy")
        .compile("ingle-mlx-bridge");
    for file in SOURCES.iter().chain(&OTHERS) {
        println!("cargo::rerun-if-changed={file}");
    }
    // What is run by Cargo finds the library by this: Cargo adds to the loader's path what lies in the target folder.
    // (A link to MLX's whole folder, so that what the library looks for beside itself is there.)
    let linked = find::linked(&mlx).unwrap_or(mlx.lib.clone());
    println!("cargo::rustc-link-search=native={}", linked.display());
    println!("cargo::rustc-link-lib=dylib=mlx");
    // An installed binary finds it by what its package's build script makes of `DEP_MLX_LIB`.
    println!("cargo::metadata=lib={}", mlx.lib.display());
}
