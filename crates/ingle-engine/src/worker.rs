// SPDX-License-Identifier: EUPL-1.2
//! An engine on a thread of its own, for many callers.

use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use crate::{Engine, Error, Event, Limits, Metrics, Request, RequestId, Result};

/// An [`Engine`] on a thread of its own. Many threads may submit requests: they are computed together.
///
/// Dropping it ends the requests that are still running, with [`FinishReason::Cancelled`], and returns when
/// the engine and its model are gone.
///
/// [`FinishReason::Cancelled`]: crate::FinishReason::Cancelled
#[derive(Debug)]
pub struct Worker {
    /// Taken when it drops: a closed channel tells the thread to end.
    commands: Option<mpsc::Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    limits: Limits,
    next_id: AtomicU64,
}

/// What a request gives, as it comes: an iterator for threads, a [`Stream`](futures_core::Stream) for tasks.
///
/// It ends after [`Event::Finished`] or [`Event::Failed`], one of which always comes. Dropping it cancels the
/// request.
#[derive(Debug)]
pub struct EventStream {
    id: RequestId,
    events: Pin<Box<async_channel::Receiver<Event>>>,
    cancel: Canceller,
    shared: Arc<Shared>,
    ended: bool,
}

/// Cancels a request from anywhere; its stream then ends with
/// [`FinishReason::Cancelled`](crate::FinishReason::Cancelled).
#[derive(Clone, Debug, Default)]
pub struct Canceller(Arc<AtomicBool>);

#[derive(Debug)]
enum Command {
    Submit(Vec<Submission>),
    ResetMetrics { done: mpsc::Sender<Result<()>> },
    ForgetPrefixes { done: mpsc::Sender<Result<()>> },
    ClearPrefixCache { done: mpsc::Sender<Result<()>> },
}

/// A request on its way to the engine.
#[derive(Debug)]
struct Submission {
    id: RequestId,
    request: Request,
    client: Client,
}

/// The engine's end of a stream.
#[derive(Debug)]
struct Client {
    events: async_channel::Sender<Event>,
    cancel: Canceller,
}

#[derive(Debug, Default)]
struct Shared {
    metrics: Mutex<Metrics>,
    /// Why the thread has ended, if it has.
    stopped: Mutex<Option<Error>>,
}

impl Worker {
    /// Moves an engine to a new thread.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the system gives no thread.
    pub fn new(engine: Engine) -> Result<Self> {
        let limits = engine.limits();
        let shared = Arc::new(Shared::default());
        let (commands, inbox) = mpsc::channel();
        let seen = shared.clone();
        let thread = std::thread::Builder::new()
            .name("ingle-engine".into())
            .spawn(move || run(engine, &inbox, &seen))
            .map_err(|error| Error::Stopped { message: format!("the system gives it no thread: {error}") })?;
        Ok(Worker { commands: Some(commands), thread: Some(thread), shared, limits, next_id: AtomicU64::new(0) })
    }

    /// Takes a request on.
    ///
    /// # Errors
    /// Those of [`Limits::check`]; [`Error::Stopped`] after the engine has failed.
    pub fn submit(&self, request: Request) -> Result<EventStream> {
        self.submit_all(vec![request]).pop().unwrap_or_else(|| Err(self.shared.why_stopped()))
    }

    /// Takes requests on together, so that the engine's next step sees them all.
    ///
    /// # Errors
    /// For each request, those of [`Worker::submit`].
    pub fn submit_all(&self, requests: Vec<Request>) -> Vec<Result<EventStream>> {
        let mut submissions = Vec::with_capacity(requests.len());
        let mut begin = |request: Request| {
            self.limits.check(&request)?;
            let (events, receiver) = async_channel::unbounded();
            let cancel = Canceller::default();
            let client = Client { events, cancel: cancel.clone() };
            let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
            submissions.push(Submission { id, request, client });
            Ok(EventStream { id, events: Box::pin(receiver), cancel, shared: self.shared.clone(), ended: false })
        };
        let streams: Vec<Result<EventStream>> = requests.into_iter().map(&mut begin).collect();
        match self.send(Command::Submit(submissions)) {
            Ok(()) => streams,
            Err(error) => streams.into_iter().map(|stream| stream.and(Err(error.clone()))).collect(),
        }
    }

    /// What a request must keep to.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the engine has done so far, as of its last step.
    pub fn metrics(&self) -> Metrics {
        *lock(&self.shared.metrics)
    }

    /// Starts counts and times again from zero; returns when it is done.
    ///
    /// # Errors
    /// [`Error::Stopped`] after the engine has failed.
    pub fn reset_metrics(&self) -> Result<()> {
        self.ask(|done| Command::ResetMetrics { done })
    }

    /// Forgets the prompts kept for reuse, as [`Engine::forget_prefixes`]; returns when it is done.
    ///
    /// # Errors
    /// [`Error::Stopped`] after the engine has failed.
    pub fn forget_prefixes(&self) -> Result<()> {
        self.ask(|done| Command::ForgetPrefixes { done })
    }

    /// Forgets the prompts kept for reuse and gives their memory back, as [`Engine::clear_prefix_cache`]; returns when
    /// it is done.
    ///
    /// # Errors
    /// [`Error::Stopped`] after the engine has failed; those of [`Engine::clear_prefix_cache`].
    pub fn clear_prefix_cache(&self) -> Result<()> {
        self.ask(|done| Command::ClearPrefixCache { done })
    }

    fn send(&self, command: Command) -> Result<()> {
        let sent = self.commands.as_ref().is_some_and(|commands| commands.send(command).is_ok());
        if sent { Ok(()) } else { Err(self.shared.why_stopped()) }
    }

    fn ask(&self, command: impl FnOnce(mpsc::Sender<Result<()>>) -> Command) -> Result<()> {
        let (done, answer) = mpsc::channel();
        self.send(command(done))?;
        answer.recv().unwrap_or_else(|_| Err(self.shared.why_stopped()))
    }
}

impl Shared {
    /// Lets callers see the engine's metrics as they are now.
    fn show(&self, engine: &Engine) {
        *lock(&self.metrics) = engine.metrics();
    }

    fn why_stopped(&self) -> Error {
        let error = lock(&self.stopped).clone();
        error.unwrap_or_else(|| Error::Stopped { message: "it has ended".into() })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // The thread catches its panics; were one to escape, there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl EventStream {
    /// Waits for the next event; `None` after the last.
    pub fn recv(&mut self) -> Option<Event> {
        let event = self.events.recv_blocking().ok();
        self.noting_the_last(event)
    }

    /// The request's name in its events.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Cancels the request, from anywhere.
    pub fn canceller(&self) -> Canceller {
        self.cancel.clone()
    }

    /// A channel that closes before the last event was left by an engine that failed.
    fn noting_the_last(&mut self, event: Option<Event>) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = event.unwrap_or_else(|| Event::Failed { id: self.id, error: self.shared.why_stopped() });
        self.ended = event.is_last();
        Some(event)
    }
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

impl futures_core::Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.as_mut().poll_next(context).map(|event| self.noting_the_last(event))
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Canceller {
    /// Cancels the request. One that has ended is past it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The thread: works until the worker drops or the engine fails. Streams that are still open close with it.
fn run(engine: Engine, inbox: &mpsc::Receiver<Command>, shared: &Shared) {
    // Kept out of the engine's way: streams must not close before it is known why.
    let mut clients = Clients::new();
    let worked = catch_unwind(AssertUnwindSafe(|| work(engine, inbox, shared, &mut clients)));
    *lock(&shared.stopped) = match worked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(panic) => Some(Error::Stopped { message: format!("it panicked: {}", said(panic.as_ref())) }),
    };
}

type Clients = HashMap<RequestId, Client>;

fn work(mut engine: Engine, inbox: &mpsc::Receiver<Command>, shared: &Shared, clients: &mut Clients) -> Result<()> {
    let mut events = Vec::new();
    loop {
        // Asleep while there is nothing to do; between steps, only a look.
        if engine.is_idle() {
            match inbox.recv() {
                Ok(command) => obey(command, &mut engine, clients, shared),
                Err(mpsc::RecvError) => return Ok(()),
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => obey(command, &mut engine, clients, shared),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => {
                    clients.values().for_each(|client| client.cancel.cancel());
                    break;
                }
            }
        }
        cancel_given_up(&mut engine, clients);

        engine.step(&mut events)?;
        shared.show(&engine);
        for event in events.drain(..) {
            let (id, last) = (event.id(), event.is_last());
            if let Some(client) = clients.get(&id) {
                client.deliver(event);
            }
            if last {
                clients.remove(&id);
            }
        }
    }
}

/// Ends the requests that nobody listens to any more.
fn cancel_given_up(engine: &mut Engine, clients: &Clients) {
    clients.iter().filter(|(_, client)| client.cancel.is_cancelled()).for_each(|(&id, _)| engine.cancel(id));
}

fn obey(command: Command, engine: &mut Engine, clients: &mut Clients, shared: &Shared) {
    match command {
        Command::Submit(submissions) => {
            for Submission { id, request, client } in submissions {
                match engine.submit_as(id, request) {
                    Ok(()) => drop(clients.insert(id, client)),
                    Err(error) => client.deliver(Event::Failed { id, error }),
                }
            }
        }
        Command::ResetMetrics { done } => {
            engine.reset_metrics();
            shared.show(engine);
            reply(&done, Ok(()));
        }
        // What a request holds that was given up before is forgotten, too.
        Command::ForgetPrefixes { done } => {
            cancel_given_up(engine, clients);
            engine.forget_prefixes();
            shared.show(engine);
            reply(&done, Ok(()));
        }
        Command::ClearPrefixCache { done } => {
            cancel_given_up(engine, clients);
            let cleared = engine.clear_prefix_cache();
            shared.show(engine);
            reply(&done, cleared);
        }
    }
}

impl Client {
    fn deliver(&self, event: Event) {
        // The channel has no bound. If it is closed nobody listens, and the request is cancelled already.
        let _ = self.events.try_send(event);
    }
}

fn reply(done: &mpsc::Sender<Result<()>>, result: Result<()>) {
    // Nobody listening is nobody to tell.
    let _ = done.send(result);
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What it holds is replaced whole: a panic elsewhere leaves it good.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
