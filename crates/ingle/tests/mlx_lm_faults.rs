// SPDX-License-Identifier: EUPL-1.2
//! The backend `mlx_lm` with a child that goes wrong: every fault is an error in time, and no process stays behind.
//!
//! The child is `mlx_lm_faults/python.sh`. What each fault prints: `cargo test -p ingle --test mlx_lm_faults --
//! --nocapture`.
#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ingle::{
    CancelToken, Error, FinishReason, GenerateOptions, LoadOptions, MlxLmOptions, Prompt, Result, Sampling, Special,
    TextModel,
};
use rustix::process::Pid;

/// A caller that waits longer than this is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// The silence that the tests put up with.
const DEADLINE: Duration = Duration::from_secs(8);

/// A child with a fault, and the folder that knows its process.
struct Fault {
    name: &'static str,
    folder: tempfile::TempDir,
}

impl Fault {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mlx_lm_faults/python.sh");
        symlink(script, folder.path().join(name)).unwrap();
        Fault { name, folder }
    }

    fn python(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    fn load(&self) -> Result<Box<dyn TextModel>> {
        let mlx_lm = MlxLmOptions { python: Some(self.python()), deadline: Some(DEADLINE) };
        let options = LoadOptions { device: Some("mlx_lm".into()), mlx_lm, ..LoadOptions::default() };
        let model = in_time(move || ingle::load("demo", &options));
        if let Err(error) = &model {
            println!("{}: {error}", self.name);
        }
        model
    }

    /// What starting fails with.
    #[track_caller]
    fn refusal(&self) -> String {
        let error = self.load().err().expect("the child is of no use").to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        self.assert_gone();
        error
    }

    /// What an answer fails with after its first token.
    #[track_caller]
    fn failure(&self) -> String {
        let model = self.load().unwrap();
        let mut stream = model.generate(Prompt::Tokens(vec![1]), &greedy()).unwrap();
        let (first, second, third) = in_time(move || (stream.next(), stream.next(), stream.next()));
        assert_eq!(first.unwrap().unwrap().text, "Aye");
        let error = second.unwrap().unwrap_err();
        assert!(third.is_none());
        println!("{}: {error}", self.name);
        assert!(matches!(error, Error::Subprocess { backend: "mlx_lm", .. }), "{error:?}");
        assert_eq!(error.to_string().lines().count(), 1);
        // Those who come later hear the same, at once.
        let later = model.generate(Prompt::Tokens(vec![1]), &greedy()).err().unwrap();
        assert_eq!(later.to_string(), error.to_string());
        assert_eq!(model.tokenize("x", Special::Add).unwrap_err().to_string(), error.to_string());
        in_time(move || drop(model));
        self.assert_gone();
        error.to_string()
    }

    /// The process whose number the child left in a file of this extension.
    fn process(&self, extension: &str) -> Pid {
        let number = std::fs::read_to_string(self.python().with_extension(extension)).unwrap();
        Pid::from_raw(number.trim().parse().unwrap()).unwrap()
    }

    /// The process was ended and reaped.
    #[track_caller]
    fn assert_gone(&self) {
        let process = self.process("pid");
        let alive = || rustix::process::test_kill_process(process).is_ok();
        let patience = Instant::now() + STUCK;
        while alive() && Instant::now() < patience {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!alive(), "process {process:?} of {} is still there", self.name);
    }
}

/// Does something in another thread, and fails if it takes for ever.
#[track_caller]
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(STUCK).expect("a stuck caller")
}

fn greedy() -> GenerateOptions {
    GenerateOptions { max_tokens: Some(50), sampling: Some(Sampling::default()), ..GenerateOptions::default() }
}

#[test]
fn no_such_interpreter_bad() {
    let mlx_lm = MlxLmOptions { python: Some("/no/such/python".into()), ..MlxLmOptions::default() };
    let options = LoadOptions { device: Some("mlx_lm".into()), mlx_lm, ..LoadOptions::default() };
    let error = ingle::load("demo", &options).err().unwrap();
    println!("{error}");
    assert!(matches!(error, Error::BackendUnavailable { .. }));
    let error = error.to_string();
    assert!(error.contains("/no/such/python") && error.contains("INGLE_PYTHON"), "{error}");
}

#[test]
fn what_it_cannot_do_is_refused_bad() {
    let refusal = |model: &str, options: LoadOptions| {
        let options = LoadOptions { device: Some("mlx_lm".into()), ..options };
        let error = ingle::load(model, &options).err().unwrap().to_string();
        println!("{error}");
        error
    };
    assert!(refusal("demo", LoadOptions { threads: Some(2), ..LoadOptions::default() }).contains("threads"));
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf-vocab/gpt-2.gguf");
    assert!(refusal(gguf.to_str().unwrap(), LoadOptions::default()).contains("GGUF"));
}

#[test]
fn faults_at_start_give_the_childs_words_bad() {
    let faults = [
        ("hangs-at-start", "nothing was heard of the process for 8s"),
        ("dies-at-start", "(exit status: 3): ImportError: libmlx.so: cannot open shared object file"),
        ("dies-at-start-without-a-word", "(exit status: 0) and said nothing"),
        ("refuses-at-start", "ValueError: Model type abacus not supported."),
        ("prints-rubbish-at-start", "found `Welcome to Python!`"),
        ("prints-half-a-line-at-start", "found `{\"event\": \"rea`"),
        ("prints-a-huge-line-at-start", "a line of over 67108864 bytes, beginning `abcdef"),
        ("prints-bytes-that-are-no-text-at-start", "expected one event in JSON"),
        ("closes-its-output-at-start", "the process closed its output and lived on"),
    ];
    thread::scope(|scope| {
        for (fault, words) in faults {
            scope.spawn(move || {
                let error = Fault::new(fault).refusal();
                assert!(error.starts_with("backend `mlx_lm`: ") && error.contains(words), "{fault}: {error}");
            });
        }
    });
}

#[test]
fn faults_in_an_answer_end_it_in_time_bad() {
    let faults = [
        ("hangs", "nothing was heard of the process for 8s"),
        ("hangs-and-ignores-signals", "nothing was heard"),
        ("tells-only-metrics", "nothing was heard"),
        ("dies", "(exit status: 1): RuntimeError: [metal] out of memory"),
        ("is-killed", "(signal: 9 (SIGKILL)) and said nothing"),
        ("prints-rubbish", "found `Loading shards: 100%`"),
        ("prints-a-number-for-an-event", "found `42`"),
        ("closes-its-output", "the process closed its output and lived on"),
    ];
    thread::scope(|scope| {
        for (fault, words) in faults {
            scope.spawn(move || {
                let error = Fault::new(fault).failure();
                assert!(error.contains(words), "{fault}: {error}");
            });
        }
    });
}

/// A wrapper that starts the interpreter, and stays, must not leave it behind.
#[cfg(target_os = "linux")]
#[test]
fn what_the_child_has_started_goes_with_it_ugly() {
    let fault = Fault::new("hangs-with-a-child");
    fault.failure();
    let grandchild = fault.process("grandchild");
    // Whoever adopts it may be slow to reap it.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", grandchild.as_raw_nonzero())).unwrap_or_default();
    let alive = || !state().is_empty() && !state().contains(") Z ");
    let patience = Instant::now() + STUCK;
    while alive() && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
    assert!(!alive(), "{}", state());
}

#[test]
fn a_child_that_never_reads_blocks_nobody_ugly() {
    let fault = Fault::new("never-reads");
    let model = fault.load().unwrap();
    // More than any pipe holds.
    let long = Prompt::Tokens(vec![42; 1_000_000]);
    let stream = model.generate(long, &greedy()).unwrap();
    let error = in_time(move || stream.collect_all()).unwrap_err();
    println!("{}: {error}", fault.name);
    assert!(error.to_string().contains("nothing was heard"), "{error}");
    drop(model);
    fault.assert_gone();
}

#[test]
fn events_about_nobody_are_passed_over_ugly() {
    let fault = Fault::new("answers-others");
    let model = fault.load().unwrap();
    let stream = model.generate(Prompt::Tokens(vec![1]), &greedy()).unwrap();
    let completion = in_time(move || stream.collect_all()).unwrap();
    assert_eq!((completion.text.as_str(), completion.finish.reason), ("Aye, sir", FinishReason::Length));
    assert_eq!(completion.finish.usage.generated_tokens, 2);
    drop(model);
    fault.assert_gone();
}

#[test]
fn an_answer_of_the_wrong_kind_is_an_error_bad() {
    let fault = Fault::new("answers-the-wrong-thing");
    let model = fault.load().unwrap();
    let error = in_time(move || model.tokenize("x", Special::Add)).unwrap_err();
    println!("{}: {error}", fault.name);
    assert!(error.to_string().contains("not asked for"), "{error}");
    fault.assert_gone();
}

#[test]
fn cancelling_waits_for_no_child_ugly() {
    let fault = Fault::new("hangs");
    let model = fault.load().unwrap();
    let cancel = CancelToken::new();
    let options = GenerateOptions { cancel: Some(cancel.clone()), ..greedy() };
    let mut stream = model.generate(Prompt::Tokens(vec![1]), &options).unwrap();
    assert!(stream.next().unwrap().is_ok());
    cancel.cancel();
    assert!(stream.next().is_none());
    assert_eq!(stream.finish().unwrap().reason, FinishReason::Cancelled);

    let options = GenerateOptions { timeout: Some(Duration::from_millis(50)), ..greedy() };
    let completion = model.generate(Prompt::Tokens(vec![1]), &options).unwrap().collect_all().unwrap();
    assert_eq!(completion.finish.reason, FinishReason::Deadline);
    // Nothing is owed any more, so the silence is none.
    thread::sleep(DEADLINE + Duration::from_millis(500));
    assert!(model.generate(Prompt::Tokens(vec![1]), &greedy()).is_ok());
    drop(model);
    fault.assert_gone();
}

#[test]
fn a_stream_outlives_its_model_with_an_end_ugly() {
    let fault = Fault::new("hangs-and-ignores-signals");
    let model = fault.load().unwrap();
    let mut stream = model.generate(Prompt::Tokens(vec![1]), &greedy()).unwrap();
    assert!(stream.next().unwrap().is_ok());
    in_time(move || drop(model));
    assert!(stream.next().is_none());
    assert_eq!(stream.finish().unwrap().reason, FinishReason::Cancelled);
    fault.assert_gone();
}
