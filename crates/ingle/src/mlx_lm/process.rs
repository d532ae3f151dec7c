// SPDX-License-Identifier: EUPL-1.2
//! A child process that is talked to in lines, and that never outlives its use.
//!
//! One thread starts the child, reads its lines and reaps it; others write to it and keep its last words. The starting
//! thread lives as long as the child, because Linux ties a child's death signal to the thread that made it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest line that is read: a row of logits of the largest vocabularies is a tenth of it.
const LONGEST_LINE: usize = 64 << 20;

/// How many bytes of the child's standard error are remembered.
const LAST_WORDS: usize = 8 << 10;

/// How long a child that has closed its output is given to say how it ended.
const GRACE: Duration = Duration::from_millis(500);

/// How long it takes at most to see the end of a child that was killed.
const BURIAL: Duration = Duration::from_secs(2);

/// Who hears the child.
pub trait Listener: Send + Sync + 'static {
    /// A line, without its end.
    ///
    /// # Errors
    /// What is wrong with it: then the child is killed, and that is why it ended.
    fn line(&self, line: &[u8]) -> Result<(), String>;

    /// The child is gone, and why. Comes once, last.
    fn ended(&self, why: String);
}

/// A running child. Dropping it kills the child.
pub struct Process {
    input: mpsc::Sender<Vec<u8>>,
    life: Arc<Life>,
}

/// The child between its start and its burial.
struct Life {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    child: Child,
    status: Option<ExitStatus>,
    buried: bool,
}

impl Process {
    /// Starts a child with its standard streams in pipes, in a process group of its own: the terminal's Ctrl-C is not
    /// for it.
    ///
    /// # Errors
    /// The system's words if it cannot be started.
    pub fn start(mut command: Command, listener: Arc<dyn Listener>) -> std::io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let (input, lines) = mpsc::channel();
        let (started, start) = mpsc::channel();
        std::thread::Builder::new().name("ingle-child".into()).spawn(move || {
            let (life, pipes) = match Life::begin(&mut command) {
                Ok(begun) => begun,
                Err(error) => {
                    // The other end waits below.
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(life.clone()));
            keep(&life, pipes, lines, listener.as_ref());
        })?;
        let life = start.recv().map_err(|_| std::io::Error::other("the thread that starts it has died"))??;
        Ok(Process { input, life })
    }

    /// Sends bytes to the child, soon; a child that is gone gets none.
    pub fn send(&self, bytes: Vec<u8>) {
        let _ = self.input.send(bytes);
    }

    /// Kills the child and all it has started.
    pub fn kill(&self) {
        self.life.end();
    }

    /// Kills the child and waits until it is gone, or for two seconds.
    pub fn bury(&self) {
        self.life.end();
        let state = self.life.lock();
        // A grandchild that left the group may hold the pipes: it is not waited for.
        let _ = self.life.changed.wait_timeout_while(state, BURIAL, |state| !state.buried);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.bury();
    }
}

/// The parent's ends of the child's streams.
struct Pipes {
    stdin: ChildStdin,
    stdout: std::process::ChildStdout,
    stderr: ChildStderr,
}

impl Life {
    fn begin(command: &mut Command) -> std::io::Result<(Arc<Self>, Pipes)> {
        let mut child = command.spawn()?;
        let pipes = match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Pipes { stdin, stdout, stderr },
            _ => return Err(std::io::Error::other("its standard streams are no pipes")),
        };
        let state = Mutex::new(State { child, status: None, buried: false });
        Ok((Arc::new(Life { state, changed: Condvar::new() }), pipes))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the child's group and reaps it; says how it ended.
    fn end(&self) -> Option<ExitStatus> {
        let mut state = self.lock();
        if state.status.is_none() {
            // Until it is reaped, its number is nobody else's, nor is its group's.
            #[cfg(unix)]
            if let Some(group) = i32::try_from(state.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = state.child.kill();
            state.status = state.child.wait().ok();
        }
        state.status
    }

    /// Waits a little for the child to end of its own accord, without reaping it; whether it did.
    fn ends_by_itself(&self) -> bool {
        #[cfg(unix)]
        {
            use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
            let Some(pid) = i32::try_from(self.lock().child.id()).ok().and_then(Pid::from_raw) else { return true };
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            let patience = Instant::now() + GRACE;
            while self.lock().status.is_none() {
                if !matches!(waitid(WaitId::Pid(pid), options), Ok(None)) {
                    return true;
                }
                if Instant::now() > patience {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        true
    }
}

/// Reads the child's lines until it ends, then buries it.
fn keep(life: &Life, pipes: Pipes, lines: mpsc::Receiver<Vec<u8>>, listener: &dyn Listener) {
    let Pipes { mut stdin, stdout, stderr } = pipes;
    // Without these two threads the child would be mute or deaf, and is taken to have failed.
    let writer = std::thread::Builder::new().name("ingle-child-in".into()).spawn(move || {
        for bytes in lines {
            if stdin.write_all(&bytes).and_then(|()| stdin.flush()).is_err() {
                return;
            }
        }
    });
    let words = Arc::new(Mutex::new(Vec::new()));
    let kept = words.clone();
    let listening = std::thread::Builder::new().name("ingle-child-err".into()).spawn(move || remember(stderr, &kept));

    let mut wrong = match (&writer, &listening) {
        (Ok(_), Ok(_)) => read_lines(BufReader::new(stdout), listener),
        _ => Some("the system gives it no threads".to_owned()),
    };
    if wrong.is_none() && !life.ends_by_itself() {
        wrong = Some("the process closed its output and lived on, so it was ended".to_owned());
    }
    let status = life.end();
    let why = wrong.unwrap_or_else(|| {
        wait_for(listening.ok());
        let words = words.lock().unwrap_or_else(PoisonError::into_inner);
        obituary(status, &last_line(&words))
    });
    listener.ended(why);
    life.lock().buried = true;
    life.changed.notify_all();
}

/// Hands on lines; what is wrong with one, or `None` at their end.
fn read_lines(mut input: impl BufRead, listener: &dyn Listener) -> Option<String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut input).take(LONGEST_LINE as u64).read_until(b'\n', &mut line) {
            Ok(0) => return None,
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
            }
            Ok(read) if read >= LONGEST_LINE => {
                return Some(format!("it printed a line of over {LONGEST_LINE} bytes, beginning `{}`", excerpt(&line)));
            }
            // The last line, cut off by the child's end.
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Some(format!("its output cannot be read: {error}")),
        }
        if let Err(wrong) = listener.line(&line) {
            return Some(wrong);
        }
    }
}

/// Keeps the end of what the child writes to standard error.
fn remember(mut stderr: ChildStderr, words: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read) = stderr.read(&mut buffer) {
        if read == 0 {
            return;
        }
        tracing::debug!(target: "ingle::mlx_lm", "{}", String::from_utf8_lossy(&buffer[..read]).trim_end());
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&buffer[..read]);
        let surplus = words.len().saturating_sub(LAST_WORDS);
        words.drain(..surplus);
    }
}

/// Waits a little for a thread to end.
fn wait_for(thread: Option<JoinHandle<()>>) {
    let patience = Instant::now() + GRACE;
    while thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How a child ended, and its last line on standard error.
fn obituary(status: Option<ExitStatus>, last: &str) -> String {
    let status = status.map_or_else(|| "nobody knows how".to_owned(), |status| status.to_string());
    match last {
        "" => format!("the process ended ({status}) and said nothing"),
        last => format!("the process ended ({status}): {last}"),
    }
}

fn last_line(words: &[u8]) -> String {
    let words = String::from_utf8_lossy(words);
    words.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// The beginning of a line, for messages.
pub fn excerpt(line: &[u8]) -> String {
    const LENGTH: usize = 80;
    let text = String::from_utf8_lossy(&line[..line.len().min(LENGTH)]).trim_end().to_owned();
    if line.len() > LENGTH { format!("{text}…") } else { text }
}
