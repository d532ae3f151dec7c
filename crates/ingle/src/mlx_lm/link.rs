// SPDX-License-Identifier: EUPL-1.2
//! Many requests over one child: each has a number, and an end that always comes.
//!
//! A request ends with the child's answer, with its own deadline, when it is cancelled, when the child ends, or when the
//! child, owing answers, has said nothing about any of them for too long: then it is killed.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use ingle_engine::FinishReason;

use super::answer::{Answer, Ended, Source};
use super::process::{Listener, Process, excerpt};
use super::protocol::{self, Event, Report, Task};
use super::{NAME, failed};
use crate::stream::stopped;
use crate::{Error, Metrics, Result};

/// The child and its requests. Dropping it ends both.
pub struct Link {
    shared: Arc<Shared>,
}

/// What requests, the child's reader and the clock share.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    process: OnceLock<Process>,
    /// The longest silence of a child that owes an answer.
    deadline: Duration,
}

struct State {
    next_id: u64,
    pending: HashMap<u64, Pending>,
    /// When the child last said something about a request, or began to owe one.
    heard: Instant,
    /// Why no more requests are taken.
    ended: Option<Error>,
    metrics: Metrics,
}

struct Pending {
    reply: Reply,
    deadline: Option<Instant>,
}

enum Reply {
    Answer(Answer),
    Call(mpsc::Sender<Result<Report>>),
}

impl Link {
    /// Starts the child, whose first input is `preamble`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: Command, preamble: &str, deadline: Duration) -> Result<Self> {
        let state = State {
            next_id: 1,
            pending: HashMap::new(),
            heard: Instant::now(),
            ended: None,
            metrics: Metrics::default(),
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), process: OnceLock::new(), deadline });
        let program = command.get_program().to_string_lossy().into_owned();
        let unavailable = |error: std::io::Error| Error::BackendUnavailable {
            name: NAME.into(),
            reason: format!(
                "`{program}` cannot be started: {error}; name a Python that has mlx-lm with --python or INGLE_PYTHON"
            ),
        };
        let listener = Arc::new(Ears(Arc::downgrade(&shared)));
        let process = Process::start(command, listener).map_err(unavailable)?;
        process.send(preamble.as_bytes().to_vec());
        let _ = shared.process.set(process);
        let watched = Arc::downgrade(&shared);
        std::thread::Builder::new()
            .name("ingle-child-clock".into())
            .spawn(move || watch(&watched))
            .map_err(unavailable)?;
        Ok(Link { shared })
    }

    /// Asks for something and gives the events as they come; the last is [`Report::is_last`].
    ///
    /// # Errors
    /// Why the child answers no more.
    pub fn ask(&self, task: &Task) -> Result<Reports> {
        let (sender, reports) = mpsc::channel();
        let id = self.shared.submit(task, Reply::Call(sender), None)?;
        Ok(Reports { id, reports, shared: self.shared.clone() })
    }

    /// Asks for something that one event answers.
    ///
    /// # Errors
    /// The child's refusal, or why it answers no more.
    pub fn call(&self, task: &Task) -> Result<Report> {
        self.ask(task)?.last()
    }

    /// Asks for an answer, which ends at `deadline` at the latest.
    ///
    /// # Errors
    /// Why the child answers no more.
    pub fn generate(
        &self,
        generate: protocol::Generate,
        stop: ingle_engine::text::StopStrings,
        deadline: Option<Instant>,
    ) -> Result<Source> {
        let (answer, updates) = Answer::new(generate.prompt.len(), stop);
        let id = self.shared.submit(&Task::Generate(generate), Reply::Answer(answer), deadline)?;
        Ok(Source { id, updates: Box::pin(updates), shared: self.shared.clone() })
    }

    /// Tells the child something that it does not answer.
    pub fn tell(&self, task: &Task) {
        let mut state = self.shared.lock();
        let id = state.take_id();
        self.shared.send(id, task);
    }

    /// What the child has last said of itself.
    pub fn metrics(&self) -> Metrics {
        self.shared.lock().metrics
    }
}

/// The events that answer one request; dropping it cancels the rest.
pub struct Reports {
    id: u64,
    reports: mpsc::Receiver<Result<Report>>,
    shared: Arc<Shared>,
}

impl Iterator for Reports {
    type Item = Result<Report>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reports.recv().ok()
    }
}

impl Reports {
    /// Waits for the last event.
    ///
    /// # Errors
    /// The child's refusal, or why it answers no more.
    pub fn last(mut self) -> Result<Report> {
        self.find(|report| report.as_ref().map_or(true, Report::is_last)).unwrap_or_else(|| Err(stopped()))
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        self.shared.end(self.id, FinishReason::Cancelled);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // What still runs ends as if it were cancelled: nothing has failed.
        for pending in self.shared.close(stopped()) {
            match pending.reply {
                Reply::Answer(answer) => answer.finish(FinishReason::Cancelled),
                Reply::Call(sender) => drop(sender.send(Err(stopped()))),
            }
        }
        if let Some(process) = self.shared.process.get() {
            process.bury();
        }
    }
}

impl State {
    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a command. Called with the state locked, so that commands go out in the order of their numbers.
    fn send(&self, id: u64, task: &Task) {
        let line = serde_json::to_vec(&protocol::Command { id, task });
        if let (Ok(mut line), Some(process)) = (line, self.process.get()) {
            line.push(b'\n');
            process.send(line);
        }
    }

    fn submit(&self, task: &Task, reply: Reply, deadline: Option<Instant>) -> Result<u64> {
        let mut state = self.lock();
        if let Some(error) = &state.ended {
            return Err(error.clone());
        }
        let id = state.take_id();
        if state.pending.is_empty() {
            state.heard = Instant::now();
        }
        state.pending.insert(id, Pending { reply, deadline });
        self.send(id, task);
        drop(state);
        self.changed.notify_all();
        Ok(id)
    }

    /// Ends an answer that is still running, and tells the child.
    pub fn end(&self, id: u64, reason: FinishReason) {
        let mut state = self.lock();
        if let Some(pending) = state.pending.remove(&id) {
            if let Reply::Answer(answer) = pending.reply {
                answer.finish(reason);
            }
            self.send(id, &Task::Cancel);
        }
    }

    /// Takes no more requests; those that were pending.
    fn close(&self, error: Error) -> Vec<Pending> {
        let mut state = self.lock();
        state.ended.get_or_insert(error);
        let pending = state.pending.drain().map(|(_, pending)| pending).collect();
        drop(state);
        self.changed.notify_all();
        pending
    }

    /// The child is of no more use: so say all that wait for it.
    fn fail(&self, why: &str) {
        let error = failed(why);
        for pending in self.close(error.clone()) {
            match pending.reply {
                Reply::Answer(answer) => answer.fail(error.clone()),
                Reply::Call(sender) => drop(sender.send(Err(error.clone()))),
            }
        }
    }

    fn take(&self, event: Event) {
        let mut state = self.lock();
        if let Report::Metrics(metrics) = &event.report {
            metrics.store(&mut state.metrics);
        }
        let Some(id) = event.id else { return };
        // What is said about requests that have ended was on its way.
        let Some(pending) = state.pending.get_mut(&id) else { return };
        let mut is_over = event.report.is_last();
        let mut first_after = None;
        match (&mut pending.reply, event.report) {
            (Reply::Answer(answer), Report::Token(token)) => {
                let taken = answer.take(token);
                first_after = taken.first_after;
                is_over = taken.ended != Ended::No;
                if taken.ended == Ended::Here {
                    self.send(id, &Task::Cancel);
                }
            }
            (Reply::Answer(answer), Report::Error { message }) => answer.fail(failed(&message)),
            (Reply::Call(sender), Report::Error { message }) => drop(sender.send(Err(failed(&message)))),
            (Reply::Answer(_), _) => {}
            (Reply::Call(sender), report) => drop(sender.send(Ok(report))),
        }
        if is_over {
            state.pending.remove(&id);
        }
        state.heard = Instant::now();
        if let Some(elapsed) = first_after {
            count_first_token(&mut state.metrics.engine, elapsed);
        }
    }
}

fn count_first_token(metrics: &mut ingle_engine::Metrics, elapsed: Duration) {
    let total = metrics.mean_time_to_first_token.as_secs_f64() * metrics.first_tokens as f64 + elapsed.as_secs_f64();
    metrics.first_tokens += 1;
    metrics.mean_time_to_first_token = Duration::from_secs_f64(total / metrics.first_tokens as f64);
    metrics.last_time_to_first_token = elapsed;
}

/// Hears the child, as long as somebody is there to be told.
struct Ears(Weak<Shared>);

impl Listener for Ears {
    fn line(&self, line: &[u8]) -> Result<(), String> {
        let Some(shared) = self.0.upgrade() else { return Ok(()) };
        let event = serde_json::from_slice(line).map_err(|error| {
            format!("expected one event in JSON on each line of its output, found `{}` ({error})", excerpt(line))
        })?;
        shared.take(event);
        Ok(())
    }

    fn ended(&self, why: String) {
        if let Some(shared) = self.0.upgrade() {
            shared.fail(&why);
        }
    }
}

/// Ends requests whose time is up, and a child that has fallen silent.
fn watch(watched: &Weak<Shared>) {
    // While nothing is pending, the clock looks up now and then only to see whether anybody is left.
    const IDLE: Duration = Duration::from_secs(1);
    while let Some(shared) = watched.upgrade() {
        let state = shared.lock();
        if state.ended.is_some() {
            return;
        }
        let now = Instant::now();
        let late: Vec<u64> =
            state.pending.iter().filter(|(_, p)| p.deadline.is_some_and(|at| at <= now)).map(|(&id, _)| id).collect();
        if !late.is_empty() {
            drop(state);
            late.into_iter().for_each(|id| shared.end(id, FinishReason::Deadline));
            continue;
        }
        let silence = state.heard.checked_add(shared.deadline).filter(|_| !state.pending.is_empty());
        if silence.is_some_and(|at| at <= now) {
            drop(state);
            shared.fail(&format!("nothing was heard of the process for {:?}, so it was ended", shared.deadline));
            if let Some(process) = shared.process.get() {
                process.kill();
            }
            return;
        }
        let soonest = state.pending.values().filter_map(|pending| pending.deadline).chain(silence).min();
        let pause = soonest.map_or(IDLE, |at| at.saturating_duration_since(now)).min(IDLE);
        drop(shared.changed.wait_timeout(state, pause));
    }
}
