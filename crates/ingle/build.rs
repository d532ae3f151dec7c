// SPDX-License-Identifier: EUPL-1.2
//! Whether the backend on MLX is there, and where tests find its library.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(mlx)");
    println!("cargo::rerun-if-changed=build.rs");
    // `ingle-mlx` says this if it was built with MLX.
    if let Ok(lib) = std::env::var("DEP_MLX_LIB") {
        println!("cargo::rustc-cfg=mlx");
        println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    }
}
