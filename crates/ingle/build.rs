// SPDX-License-Identifier: EUPL-1.2
//! Whether the backend on MLX is there.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(mlx)");
    println!("cargo::rerun-if-changed=build.rs");
    // `ingle-mlx` says this if it was built with MLX.
    if std::env::var_os("DEP_MLX_LIB").is_some() {
        println!("cargo::rustc-cfg=mlx");
    }
}
