// SPDX-License-Identifier: EUPL-1.2
//! The engine on its own thread.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use ingle_engine::{Engine, EngineOptions, Event, EventStream, FinishReason, Metrics, Worker};
use ingle_models::{Model, Summary};
use ingle_nn::{Batch, CacheLayer, KvCache, Parameters, Visitor};
use ingle_tensor::{DeviceHandle, Tensor};

use crate::tiny::*;

fn worker(trouble: Trouble) -> Worker {
    let engine = Engine::new(Box::new(Tiny::new(trouble)), None, EngineOptions::default()).expect("an engine");
    Worker::new(engine).expect("a thread")
}

fn outcome(stream: EventStream) -> Outcome {
    let mut outcome = Outcome::default();
    stream.for_each(|event| outcome.take(event));
    outcome
}

/// Waits until something holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn many_threads_get_what_each_would_get_alone_good() {
    let worker = worker(Trouble::Never);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let worker = &worker;
            scope.spawn(move || {
                let stream = worker.submit(generate(prompt(seed, 30), 40, seed)).expect("valid");
                assert_eq!(outcome(stream).tokens, alone(generate(prompt(seed, 30), 40, seed)).tokens);
            });
        }
    });
    let metrics = worker.metrics();
    assert_eq!((metrics.generated_tokens, metrics.running), (320, 0));
    worker.reset_metrics().expect("it runs");
    assert_eq!(worker.metrics().generated_tokens, 0);
    assert!(worker.metrics().blocks_cached > 0);
    worker.forget_prefixes().expect("it runs");
    assert_eq!(worker.metrics().blocks_cached, 0);
    worker.clear_prefix_cache().expect("it runs");
    assert_eq!(worker.metrics().kv_bytes, 0);
}

#[test]
fn a_dropped_stream_cancels_its_request_good() {
    let worker = worker(Trouble::Never);
    let mut stream = worker.submit(generate(prompt(1, 10), 1_000_000, 1)).expect("valid");
    assert!(matches!(stream.recv(), Some(Event::Token { .. })));
    drop(stream);
    eventually("the request goes on", || worker.metrics().running == 0);
}

#[test]
fn what_a_dropped_stream_held_is_forgotten_ugly() {
    let worker = worker(Trouble::Never);
    // The engine is always inside a step, or about to begin one.
    let begun = |seed| {
        let mut stream = worker.submit(generate(prompt(seed, 40), 1_000_000, seed)).expect("valid");
        assert!(matches!(stream.recv(), Some(Event::Token { .. })));
        stream
    };
    for seed in 0..20 {
        drop(begun(seed));
        worker.forget_prefixes().expect("it runs");
        let Metrics { running, blocks_used, blocks_cached, .. } = worker.metrics();
        assert_eq!((running, blocks_used, blocks_cached), (0, 0, 0), "round {seed}");
        drop(begun(seed));
        worker.clear_prefix_cache().expect("it runs");
        assert_eq!(worker.metrics().kv_bytes, 0, "round {seed}");
    }
}

#[test]
fn a_canceller_ends_a_stream_from_elsewhere_good() {
    let worker = worker(Trouble::Never);
    let stream = worker.submit(generate(prompt(1, 10), 1_000_000, 1)).expect("valid");
    let canceller = stream.canceller();
    let cancelling = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        canceller.cancel();
    });
    assert_eq!(outcome(stream).reason(), Some(FinishReason::Cancelled));
    cancelling.join().expect("no panic");
}

#[test]
fn what_is_wrong_with_a_request_is_said_at_once_bad() {
    let worker = worker(Trouble::Never);
    assert!(worker.submit(generate(vec![], 1, 1)).expect_err("empty").to_string().contains("empty"));
    assert_eq!(worker.limits().context_length, CONTEXT);
}

#[test]
fn a_panic_becomes_an_error_for_everybody_ugly() {
    let worker = worker(Trouble::Panic(3));
    let streams: Vec<EventStream> =
        (0..3).map(|seed| worker.submit(generate(prompt(seed, 10), 1000, seed)).expect("valid")).collect();
    for stream in streams {
        let failed = outcome(stream).failed.expect("no model is left");
        assert!(failed.contains("it panicked: at the disco"), "{failed}");
    }
    eventually("requests are taken on", || worker.submit(generate(prompt(1, 10), 1, 1)).is_err());
    let error = worker.clear_prefix_cache().expect_err("no engine is left").to_string();
    assert!(error.contains("at the disco") && !error.contains('\n'), "{error}");
}

/// Says when it is gone.
struct Watched(Tiny, Arc<AtomicBool>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

impl Parameters for Watched {
    fn visit(&mut self, visitor: &mut Visitor<'_>) {
        self.0.visit(visitor);
    }
}

impl Model for Watched {
    fn summary(&self) -> &Summary {
        self.0.summary()
    }

    fn cache_layers(&self) -> Vec<CacheLayer> {
        self.0.cache_layers()
    }

    fn forward(&self, batch: &Batch, cache: &mut KvCache) -> ingle_nn::Result<Tensor> {
        self.0.forward(batch, cache)
    }

    fn device(&self) -> &DeviceHandle {
        self.0.device()
    }
}

#[test]
fn dropping_the_worker_frees_the_model_and_ends_the_streams_good() {
    let gone = Arc::new(AtomicBool::new(false));
    let model = Box::new(Watched(Tiny::new(Trouble::Never), gone.clone()));
    let worker = Worker::new(Engine::new(model, None, EngineOptions::default()).expect("an engine")).expect("a thread");
    let device = Tiny::new(Trouble::Never);
    assert_eq!(device.device().name(), "cpu");
    let mut stream = worker.submit(generate(prompt(1, 10), 1_000_000, 1)).expect("valid");
    assert!(matches!(stream.recv(), Some(Event::Token { .. })));
    drop(worker);
    assert!(gone.load(Ordering::SeqCst));
    assert_eq!(outcome(stream).reason(), Some(FinishReason::Cancelled));
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_task_is_woken_for_each_event_good() {
    let worker = worker(Trouble::Never);
    let mut stream = worker.submit(generate(prompt(1, 10), 10, 1)).expect("valid");
    let mut outcome = Outcome::default();
    loop {
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        match Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Ready(Some(event)) => outcome.take(event),
            Poll::Ready(None) => break,
            Poll::Pending => eventually("nobody wakes the task", || flag.0.load(Ordering::SeqCst)),
        }
    }
    assert_eq!(outcome.tokens, alone(generate(prompt(1, 10), 10, 1)).tokens);
    assert!(stream.recv().is_none());
}
