// SPDX-License-Identifier: EUPL-1.2
//! Finds MLX and compiles the bridge to it. See `build/find.rs` for where it looks.

#[cfg(feature = "mlx")]
#[path = "build/find.rs"]
mod find;

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
        .files(["src/bridge.cc", "src/exact.cc"])
        .include(&mlx.include)
        .std("c++20")
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-deprecated-copy")
        .compile("ingle-mlx-bridge");
    for file in ["src/bridge.rs", "src/bridge.h", "src/bridge.cc", "src/exact.h", "src/exact.cc", "build/find.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let lib = mlx.lib.display();
    println!("cargo::rustc-link-search=native={lib}");
    println!("cargo::rustc-link-lib=dylib=mlx");
    // This crate's own tests find the library by this; the binaries of others by what their build scripts make of
    // `DEP_MLX_LIB`.
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    println!("cargo::metadata=lib={lib}");
}
