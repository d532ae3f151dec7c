// SPDX-License-Identifier: EUPL-1.2
//! Where MLX is: what `MLX_ROOT` names, else the Python package, else Homebrew's.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest MLX whose API the bridge uses, as `MLX_VERSION_NUMERIC` writes it: 0.32.0.
const OLDEST: u64 = 32_000;

/// An installation of MLX.
pub struct Mlx {
    /// Holds `mlx/mlx.h`.
    pub include: PathBuf,
    /// Holds the library.
    pub lib: PathBuf,
}

const INSTALL: &str = "install it (`pip install mlx` on a Mac, `pip install 'mlx[cpu]'` or `'mlx[cuda13]'` on \
                       Linux), and name its Python in INGLE_PYTHON or its folder in MLX_ROOT";

/// MLX, or one line on what to do.
pub fn mlx() -> Result<Mlx, String> {
    for variable in ["MLX_ROOT", "INGLE_PYTHON", "VIRTUAL_ENV", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Some(root) = std::env::var_os("MLX_ROOT") {
        return at(Path::new(&root)).ok_or_else(|| {
            format!("MLX_ROOT={} holds no include/mlx/mlx.h and lib/libmlx: {INSTALL}", root.to_string_lossy())
        });
    }
    let found = python_packages().into_iter().chain(homebrew()).find_map(|root| at(&root));
    let mlx = found.ok_or_else(|| format!("MLX was not found: {INSTALL}"))?;
    match version(&mlx) {
        Some(version) if version < OLDEST => {
            let (minor, patch) = (version / 1000, version % 1000);
            Err(format!("MLX 0.{minor}.{patch} at {} is too old, 0.32 is needed: {INSTALL}", mlx.lib.display()))
        }
        _ => Ok(mlx),
    }
}

fn at(root: &Path) -> Option<Mlx> {
    let (include, lib) = (root.join("include"), root.join("lib"));
    let library = ["libmlx.so", "libmlx.dylib"].iter().any(|name| lib.join(name).is_file());
    (include.join("mlx/mlx.h").is_file() && library).then_some(Mlx { include, lib })
}

/// The library's folder, by way of a link in the build's own; none where links cannot be made.
pub fn linked(mlx: &Mlx) -> Option<PathBuf> {
    let link = PathBuf::from(std::env::var_os("OUT_DIR")?).join("mlx");
    let root = mlx.lib.parent()?;
    let _ = std::fs::remove_file(&link);
    #[cfg(unix)]
    std::os::unix::fs::symlink(root, &link).ok()?;
    Some(link.join("lib")).filter(|lib| lib.is_dir())
}

/// Where the chosen interpreter has the package.
fn python_packages() -> Vec<PathBuf> {
    let python = match (std::env::var_os("INGLE_PYTHON"), std::env::var_os("VIRTUAL_ENV")) {
        (Some(python), _) => PathBuf::from(python),
        (None, Some(environment)) => Path::new(&environment).join("bin/python"),
        (None, None) => PathBuf::from("python3"),
    };
    // A namespace package: it has folders, not a file. Importing it would load nothing of it either.
    let ask = "import mlx; print('\\n'.join(mlx.__path__))";
    let Ok(output) = Command::new(python).args(["-c", ask]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

fn homebrew() -> Vec<PathBuf> {
    ["/opt/homebrew/opt/mlx", "/usr/local/opt/mlx"].map(PathBuf::from).into()
}

/// The version that its header states.
fn version(mlx: &Mlx) -> Option<u64> {
    let header = std::fs::read_to_string(mlx.include.join("mlx/version.h")).ok()?;
    let part = |name: &str| -> Option<u64> {
        let line = header.lines().find(|line| line.contains(&format!("define MLX_VERSION_{name} ")))?;
        line.split_whitespace().last()?.parse().ok()
    };
    Some(part("MAJOR")? * 100_000 + part("MINOR")? * 1000 + part("PATCH")?)
}
