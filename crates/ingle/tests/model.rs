// SPDX-License-Identifier: EUPL-1.2
//! The public face, on the built-in model and on models made by transformers.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use futures_core::Stream;
use ingle::{
    AdapterSource, CancelToken, ClassifyOptions, DType, EndTokens, Error, FinishReason, GenerateOptions, LoadOptions,
    Message, Outcome, Prompt, Sampling, Special, TextModel, TokenStream,
};
use serde_json::Value;

fn demo() -> Box<dyn TextModel> {
    ingle::load("demo", &LoadOptions::default()).unwrap()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), sampling: Some(Sampling::default()), ..GenerateOptions::default() }
}

fn endless() -> GenerateOptions {
    GenerateOptions { end_tokens: EndTokens::Ignore, ..greedy(1_000_000) }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/end-to-end")
}

#[test]
fn text_and_chat_are_those_of_transformers_good() {
    let mut compared = 0;
    for kind in ["byte-level", "sentencepiece-gemma", "sentencepiece-llama"] {
        let folder = fixtures().join(kind);
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let options = LoadOptions { dtype: Some(DType::F32), ..LoadOptions::default() };
        let model = ingle::load(folder.to_str().unwrap(), &options).unwrap();

        let case = &expected["generate"];
        let prompt = case["prompt"].as_str().unwrap();
        assert_eq!(ids(&case["prompt_ids"]), model.tokenize(prompt, Special::Add).unwrap(), "{kind}");
        compare(case, |options| model.generate(prompt.into(), options), kind);

        let case = &expected["chat"];
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        assert_eq!(model.chat_prompt(&messages).unwrap(), Prompt::Tokens(ids(&case["prompt_ids"])), "{kind}");
        compare(case, |options| model.chat(&messages, options), kind);
        compared += 2;
    }
    assert_eq!(compared, 6);
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Compares a greedy answer with the one that transformers gave.
#[track_caller]
fn compare(case: &Value, answer: impl FnOnce(&GenerateOptions) -> ingle::Result<TokenStream>, kind: &str) {
    let expected = ids(&case["ids"]);
    let options = GenerateOptions { end_tokens: EndTokens::Ignore, ..greedy(expected.len()) };
    let completion = answer(&options).unwrap().collect_all().unwrap();
    assert_eq!(completion.tokens.iter().map(|token| token.id).collect::<Vec<_>>(), expected, "{kind}");
    assert_eq!(completion.text, case["text"].as_str().unwrap(), "{kind}");
}

#[test]
fn batch_gives_what_each_prompt_alone_gives_good() {
    let model = demo();
    let prompts = ["ROMEO:", "JULIET:\nO", "KING:\nMy lord,", "First Citizen:\nBefore we proceed"];
    let together: Vec<_> = model
        .batch_generate(prompts.iter().map(|&prompt| prompt.into()).collect(), &greedy(20))
        .unwrap()
        .map(|completion| completion.unwrap())
        .collect();
    for (prompt, completion) in prompts.iter().zip(&together) {
        let alone = model.generate((*prompt).into(), &greedy(20)).unwrap().collect_all().unwrap();
        assert_eq!(alone.tokens, completion.tokens, "{prompt}");
        assert_eq!(alone.text, completion.text);
    }
    let metrics = model.metrics();
    assert_eq!(metrics.engine.generated_tokens, 160);
    assert!(metrics.memory.peak >= metrics.memory.active && metrics.memory.active > 1 << 20);
}

#[test]
fn many_threads_share_a_model_good() {
    let model = demo();
    let expected = model.generate("ROMEO:".into(), &greedy(30)).unwrap().collect_all().unwrap().tokens;
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let found = model.generate("ROMEO:".into(), &greedy(30)).unwrap().collect_all().unwrap().tokens;
                assert_eq!(found, expected);
            });
        }
    });
}

#[test]
fn one_bad_prompt_spoils_no_other_bad() {
    let model = demo();
    let prompts =
        vec![Prompt::from("ROMEO:"), Prompt::Tokens(vec![]), Prompt::Tokens(vec![9_999_999]), "JULIET:".into()];
    let results: Vec<_> = model.batch_generate(prompts, &greedy(3)).unwrap().collect();
    assert!(results[0].is_ok() && results[3].is_ok());
    assert!(results[1].as_ref().unwrap_err().to_string().contains("empty"));
    assert!(results[2].as_ref().unwrap_err().to_string().contains("9999999"));
}

#[test]
fn cancelling_ends_the_answer_ugly() {
    let model = demo();
    let cancel = CancelToken::new();
    let options = GenerateOptions { cancel: Some(cancel.clone()), ..endless() };
    let mut stream = model.generate("ROMEO:".into(), &options).unwrap();
    assert!(stream.next().unwrap().is_ok());
    cancel.cancel();
    assert!(stream.by_ref().count() < 1_000_000);
    assert_eq!(stream.finish().unwrap().reason, FinishReason::Cancelled);

    // Dropping the stream cancels too: the engine comes to rest.
    drop(model.generate("ROMEO:".into(), &endless()).unwrap());
    let after = model.generate("ROMEO:".into(), &greedy(2)).unwrap().collect_all().unwrap();
    assert_eq!(after.tokens.len(), 2);
    while model.metrics().engine.running > 0 {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_timeout_ends_the_answer_ugly() {
    let model = demo();
    let options = GenerateOptions { timeout: Some(Duration::from_millis(50)), ..endless() };
    let completion = model.generate("ROMEO:".into(), &options).unwrap().collect_all().unwrap();
    assert_eq!(completion.finish.reason, FinishReason::Deadline);
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn the_stream_wakes_async_callers_good() {
    let model = demo();
    let mut stream = model.generate("ROMEO:".into(), &greedy(25)).unwrap();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut tokens = Vec::new();
    loop {
        match Pin::new(&mut stream).poll_next(&mut context) {
            Poll::Ready(Some(token)) => tokens.push(token.unwrap()),
            Poll::Ready(None) => break,
            Poll::Pending => thread::park(),
        }
    }
    assert_eq!(tokens, model.generate("ROMEO:".into(), &greedy(25)).unwrap().collect_all().unwrap().tokens);
}

#[test]
fn the_next_turn_of_a_chat_reuses_the_last_good() {
    let model = demo();
    let mut messages =
        vec![Message::new("user", "Speak of love, and of the moon, and of the sea that lies between them.")];
    let first = model.chat(&messages, &greedy(40)).unwrap().collect_all().unwrap();
    messages.push(Message::new("assistant", first.text));
    messages.push(Message::new("user", "And of war?"));
    let second = model.chat(&messages, &greedy(10)).unwrap().collect_all().unwrap();
    assert!(second.finish.usage.cached_tokens >= 16, "{:?}", second.finish.usage);
    model.clear_cache().unwrap();
    let again = model.chat(&messages, &greedy(10)).unwrap().collect_all().unwrap();
    assert_eq!(again.finish.usage.cached_tokens, 0);
    assert_eq!(again.tokens, second.tokens, "what was reused changes nothing");
}

#[test]
fn a_conversation_in_a_batch_ends_with_its_turn_good() {
    let model = demo();
    let messages = vec![Message::new("user", "Good morrow, sir.")];
    let chat = model.chat(&messages, &greedy(200)).unwrap().collect_all().unwrap();
    assert_eq!(chat.finish.reason, FinishReason::Stop, "{}", chat.text);
    let batch = model.batch_generate(vec![Prompt::Chat(messages)], &greedy(200)).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.tokens, chat.tokens);
    assert_eq!(batch.finish.reason, FinishReason::Stop);
}

#[test]
fn classify_in_one_row_and_by_score_agree_good() {
    let model = demo();
    let text = "KING RICHARD:\nMy".to_owned();
    let labels = |labels: &[&str]| ClassifyOptions::Labels(labels.iter().map(|&label| label.into()).collect());
    let logprob = |labels: ClassifyOptions| -> f32 {
        match model.classify(vec![text.clone()], &labels).unwrap().next().unwrap().unwrap() {
            Outcome::Labels(scores) => scores[0].logprob,
            Outcome::Next(_) => panic!("labels were asked for"),
        }
    };
    // Beside another label of one token, one row of logits scores `lord`; beside a longer one, each is scored.
    let (row, score) = (logprob(labels(&["lord", "love"])), logprob(labels(&["lord", "gracious sovereign"])));
    assert!((row - score).abs() < 1e-4, "{row} and {score}");
}

#[test]
fn unusable_requests_are_refused_bad() {
    let model = demo();
    assert!(matches!(model.classify(vec![], &ClassifyOptions::Labels(vec![])), Err(Error::Labels { .. })));
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    let options = GenerateOptions { sampling: Some(hot), ..GenerateOptions::default() };
    let refused = model.generate("x".into(), &options).err().unwrap();
    assert!(refused.to_string().contains("temperature"), "{refused}");
    assert!(model.logits(vec![], 0).is_err());
    let narrow = LoadOptions { context_length: Some(8), ..LoadOptions::default() };
    let narrow = ingle::load("demo", &narrow).unwrap();
    let long = Prompt::Tokens(vec![300; 9]);
    assert!(narrow.generate(long, &greedy(1)).err().unwrap().to_string().contains("context"));
}

#[test]
fn unloadable_models_are_refused_bad() {
    let refusal = |model: &str, options: LoadOptions| ingle::load(model, &options).err().unwrap().to_string();
    assert!(refusal("/no/such/model", LoadOptions::default()).contains("/no/such/model"));
    let device = LoadOptions { device: Some("abacus".into()), ..LoadOptions::default() };
    assert!(refusal("demo", device).contains("known are: cpu"));
    let limit = LoadOptions { memory_limit: Some(1 << 20), ..LoadOptions::default() };
    assert!(refusal("demo", limit).contains("memory limit"));
    let threads = LoadOptions { threads: Some(0), ..LoadOptions::default() };
    assert!(refusal("demo", threads).contains("threads"));
}

#[test]
fn memory_limit_holds_while_running_ugly() {
    let model = demo();
    model.set_memory_limit(Some(model.memory().active + 1000));
    let refused = model.generate("ROMEO:".into(), &greedy(5)).and_then(|stream| stream.collect_all());
    assert!(refused.is_err_and(|error| error.to_string().contains("memory")));
    model.set_memory_limit(None);
    assert_eq!(model.generate("ROMEO:".into(), &greedy(5)).unwrap().collect_all().unwrap().tokens.len(), 5);
    model.set_cache_limit(Some(0));
    model.clear_cache().unwrap();
    assert_eq!(model.memory().cached, 0);
}

#[test]
fn integers_as_keys_and_values_take_half_and_say_the_same_good() {
    let with = |kv_dtype| {
        let options = LoadOptions { kv_dtype: Some(kv_dtype), ..LoadOptions::default() };
        ingle::load("demo", &options).unwrap()
    };
    let (single, half, quantised) = (with(DType::F32), with(DType::BF16), with(DType::I8));
    let tokens = half.tokenize("ROMEO:\nBut, soft! what light through yonder window breaks?", Special::Add).unwrap();
    let logits = |model: &dyn TextModel| model.logits(tokens.clone(), 0).unwrap().concat();
    let exact = logits(single.as_ref());
    let off = |model: &dyn TextModel| {
        let squares = logits(model).into_iter().zip(&exact).map(|(a, b)| (a - b) * (a - b));
        squares.sum::<f32>().sqrt()
    };
    let (off_half, off_quantised) = (off(half.as_ref()), off(quantised.as_ref()));
    // In the mean square, an integer's step is at most √(2 · 64) times a bf16 number's in a row of 64: its largest is
    // at most √64 times its mean, and 1/127 of that is the step of all, where bf16's goes with each number.
    assert!(off_half > 0.0 && off_half < off_quantised, "{off_half}, {off_quantised}: the option does something");
    assert!(off_quantised <= 128f32.sqrt() * off_half, "{off_quantised} off, where bf16 is {off_half}");
    // Heads are 64 wide: 128 bytes in bf16, 64 and a scale of 4 as integers.
    let bytes = |model: &dyn TextModel| (model.info().kv_token_bytes, model.metrics().engine.kv_bytes);
    let ((half, half_held), (quantised, quantised_held)) = (bytes(half.as_ref()), bytes(quantised.as_ref()));
    assert_eq!((quantised * 128, quantised_held * 128), (half * 68, half_held * 68));
    let refused = LoadOptions { kv_dtype: Some(DType::I32), ..LoadOptions::default() };
    let error = ingle::load("demo", &refused).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("kv_dtype: expected f32, f16, bf16 or i8, found i32"), "{error}");
}

#[test]
fn an_inspected_model_is_the_loaded_one_good() {
    let adapter = AdapterSource { name: "odd".into(), path: fixtures().join("../adapters/peft-byte-level") };
    let narrow = LoadOptions { kv_dtype: Some(DType::I8), context_length: Some(64), ..LoadOptions::default() };
    let adapted = LoadOptions { adapters: vec![adapter], ..LoadOptions::default() };
    let end_to_end = |kind: &str| fixtures().join(kind).display().to_string();
    for (model, options) in [
        ("demo".to_owned(), LoadOptions::default()),
        ("demo".to_owned(), narrow),
        (end_to_end("byte-level"), adapted),
        (end_to_end("sentencepiece-gemma"), LoadOptions::default()),
        (end_to_end("sentencepiece-llama"), LoadOptions::default()),
    ] {
        let (found, loaded) =
            (ingle::inspect(&model, &options).unwrap(), ingle::load(&model, &options).unwrap().info());
        assert_eq!(format!("{:?}", found.info), format!("{loaded:?}"));
        assert_eq!(found.weights.iter().map(|form| form.bytes).sum::<usize>(), loaded.summary.weight_bytes);
        assert!(found.memory.is_none());
    }
}

#[test]
fn what_cannot_be_loaded_cannot_be_inspected_bad() {
    let refused = |model: &str, options: &LoadOptions| {
        let inspected = ingle::inspect(model, options).err().map(|error| error.to_string());
        assert_eq!(inspected, ingle::load(model, options).err().map(|error| error.to_string()));
        inspected.unwrap()
    };
    assert!(refused("/no/such/model", &LoadOptions::default()).contains("/no/such/model"));
    let nothing = LoadOptions { context_length: Some(0), ..LoadOptions::default() };
    assert!(refused("demo", &nothing).contains("context_length"));
    let wrong = LoadOptions { kv_dtype: Some(DType::I32), ..LoadOptions::default() };
    assert!(refused("demo", &wrong).contains("kv_dtype"));
    let vocabulary = fixtures().join("../gguf-vocab/llama.gguf").display().to_string();
    assert!(refused(&vocabulary, &LoadOptions::default()).contains("found a vocabulary of"));
}

#[test]
fn discover_lists_models_and_what_is_wrong_with_others_good() {
    let found = ingle::discover(fixtures().join("..")).unwrap();
    assert!(found.iter().filter(|model| model.summary.is_ok()).count() >= 20);
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("broken")).unwrap();
    std::fs::write(folder.path().join("broken/config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("broken/model.safetensors"), "junk").unwrap();
    let found = ingle::discover(folder.path()).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].summary.is_err());
    assert!(ingle::discover("/no/such/folder").is_err());
}
