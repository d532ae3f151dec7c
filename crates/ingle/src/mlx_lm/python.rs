// SPDX-License-Identifier: EUPL-1.2
//! Which Python, and what it has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use super::process::{Listener, Process};

/// The environment variable that names the interpreter.
const VARIABLE: &str = "INGLE_PYTHON";

/// How long an interpreter may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the script whose length in bytes is the first argument, from standard input; commands follow it there. So it is
/// neither a file to clean up nor an argument for all to see in the list of processes.
const BOOTSTRAP: &str =
    "import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv[1])), 'ingle mlx_lm child', 'exec'))";

/// Asks for versions without importing anything: mlx-lm takes seconds to import.
const VERSIONS: &str = "from importlib.metadata import version; print(version('mlx-lm'), version('mlx'))";

/// The interpreter: the one that is asked for, else `INGLE_PYTHON`, else `python3`.
pub fn interpreter(asked: Option<&Path>) -> PathBuf {
    let named = || std::env::var_os(VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    asked.map(Path::to_owned).or_else(named).unwrap_or_else(|| "python3".into())
}

/// The command that runs a script of so many bytes, once it is sent them.
pub fn child(python: &Path, script: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-c").arg(BOOTSTRAP).arg(script.len().to_string());
    command
}

/// What an interpreter has of mlx-lm, for people; or what it lacks. Starts it, for a moment.
pub fn versions(python: &Path) -> Result<String, String> {
    const REMEDY: &str = "install mlx-lm, or name another Python with INGLE_PYTHON";
    let shown = python.display();
    let mut command = Command::new(python);
    command.arg("-c").arg(VERSIONS);
    let (ended, end) = mpsc::channel();
    let lines = Arc::new(Lines { lines: Mutex::default(), ended });
    let process = Process::start(command, lines.clone()).map_err(|error| format!("`{shown}`: {error}; {REMEDY}"))?;
    let why = end.recv_timeout(PATIENCE).unwrap_or_else(|_| format!("it said nothing for {PATIENCE:?}"));
    drop(process);
    let lines = lines.lines.lock().unwrap_or_else(PoisonError::into_inner);
    match lines.last().and_then(|line| line.split_once(' ')) {
        Some((mlx_lm, mlx)) => Ok(format!("mlx-lm {mlx_lm} on MLX {mlx}, in a process of `{shown}`")),
        None => Err(format!("`{shown}`: {why}; {REMEDY}")),
    }
}

/// Keeps what a process prints.
struct Lines {
    lines: Mutex<Vec<String>>,
    ended: mpsc::Sender<String>,
}

impl Listener for Lines {
    fn line(&self, line: &[u8]) -> Result<(), String> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(String::from_utf8_lossy(line).trim().to_owned());
        Ok(())
    }

    fn ended(&self, why: String) {
        // Nobody may be waiting any more.
        let _ = self.ended.send(why);
    }
}
