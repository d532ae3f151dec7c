// SPDX-License-Identifier: EUPL-1.2
//! The backend `mlx_lm` with a real mlx-lm, beside Ingle's own engine.
//!
//! `INGLE_PYTHON` names a Python that has it; without one these tests fail, which is why they have a feature of their
//! own: `cargo test -p ingle --features mlx-lm-tests --test mlx_lm`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use ingle::{
    CancelToken, ClassifyOptions, Completion, DType, EndTokens, FinishReason, GenerateOptions, LoadOptions, Message,
    MlxLmOptions, Outcome, Prompt, Sampling, Special, TextModel,
};
use serde_json::Value;

/// Likeliest tokens whose log-probabilities are closer than this may be told apart otherwise by another engine.
const NEAR_TIE: f32 = 1e-3;

fn load(backend: &str, model: &str) -> Box<dyn TextModel> {
    // In f32 the two engines differ by rounding alone.
    let options = LoadOptions { device: Some(backend.into()), dtype: Some(DType::F32), ..LoadOptions::default() };
    ingle::load(model, &options).unwrap_or_else(|error| panic!("{model} on {backend}: {error}"))
}

/// The built-in model on mlx-lm: Python takes seconds to start, so all tests share it.
fn demo() -> &'static dyn TextModel {
    static DEMO: OnceLock<Box<dyn TextModel>> = OnceLock::new();
    DEMO.get_or_init(|| load("mlx_lm", "demo")).as_ref()
}

fn own() -> &'static dyn TextModel {
    static OWN: OnceLock<Box<dyn TextModel>> = OnceLock::new();
    OWN.get_or_init(|| load("cpu", "demo")).as_ref()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), sampling: Some(Sampling::default()), ..GenerateOptions::default() }
}

fn sampled(sampling: Sampling) -> GenerateOptions {
    GenerateOptions { sampling: Some(sampling), ..greedy(20) }
}

fn endless() -> GenerateOptions {
    GenerateOptions { max_tokens: None, end_tokens: EndTokens::Ignore, ..greedy(0) }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn ids(completion: &Completion) -> Vec<u32> {
    completion.tokens.iter().map(|token| token.id).collect()
}

/// Compares greedy answers token by token, up to a near tie; how many tokens were compared.
#[track_caller]
fn compare(found: &Completion, expected: &Completion, what: &str) -> usize {
    let is_clear = |token: &ingle::Token| {
        let top = &token.logprobs.as_ref().expect("log-probabilities were asked for").top;
        top.len() < 2 || top[0].1 - top[1].1 > NEAR_TIE
    };
    let clear = expected.tokens.iter().take_while(|token| is_clear(token)).count();
    assert_eq!(ids(found)[..clear.min(found.tokens.len())], ids(expected)[..clear], "{what}");
    // How many U+FFFD stand for bytes that are no text is nobody's rule.
    if clear == expected.tokens.len() && !expected.text.contains('\u{FFFD}') {
        assert_eq!((&found.text, found.finish.reason), (&expected.text, expected.finish.reason), "{what}");
    }
    clear
}

/// Continues a prompt greedily on both engines, and compares.
#[track_caller]
fn agree(found: &dyn TextModel, expected: &dyn TextModel, prompt: &Prompt, options: &GenerateOptions) -> usize {
    let options = GenerateOptions { top_logprobs: Some(2), ..options.clone() };
    let run = |model: &dyn TextModel| model.generate(prompt.clone(), &options).unwrap().collect_all().unwrap();
    compare(&run(found), &run(expected), &format!("{} after {prompt:?}", expected.info().name))
}

#[test]
fn greedy_tokens_are_ingles_own_good() {
    let prompts = ["ROMEO:", "JULIET:\nO", "KING RICHARD:\nMy lord,", "First Citizen:\nBefore we proceed", "To be"];
    let compared: usize = prompts.iter().map(|&prompt| agree(demo(), own(), &prompt.into(), &greedy(60))).sum();
    println!("demo: {compared} tokens are the same");
    assert!(compared >= 200, "only {compared} tokens could be compared");
}

#[test]
fn chat_is_ingles_own_good() {
    let messages = vec![
        Message::new("user", "Good morrow, sir."),
        Message::new("assistant", "Good morrow."),
        Message::new("user", "What news of the war?"),
    ];
    assert_eq!(demo().chat_prompt(&messages).unwrap(), own().chat_prompt(&messages).unwrap());
    let options = GenerateOptions { top_logprobs: Some(2), ..greedy(120) };
    let run = |model: &dyn TextModel| model.chat(&messages, &options).unwrap().collect_all().unwrap();
    let (found, expected) = (run(demo()), run(own()));
    assert!(compare(&found, &expected, "chat") >= 10);
    assert_eq!(found.finish.reason, FinishReason::Stop, "the turn's end ends it: {}", found.text);
}

#[test]
fn a_batch_gives_what_ingle_gives_alone_good() {
    let prompts = ["ROMEO:", "JULIET:\nO", "KING:\nMy lord,", "First Citizen:\nBefore we proceed any further, hear"];
    let options = GenerateOptions { top_logprobs: Some(2), ..greedy(30) };
    let before = demo().metrics().engine.generated_tokens;
    let batch = demo().batch_generate(prompts.iter().map(|&prompt| prompt.into()).collect(), &options).unwrap();
    let mut compared = 0;
    for (prompt, found) in prompts.iter().zip(batch) {
        let expected = own().generate((*prompt).into(), &options).unwrap().collect_all().unwrap();
        compared += compare(&found.unwrap(), &expected, prompt);
    }
    assert!(compared >= 80, "only {compared} tokens could be compared");
    assert!(demo().metrics().engine.generated_tokens >= before + 120);
}

#[test]
fn penalties_and_bias_are_ingles_own_good() {
    let mut compared = 0;
    for sampling in [
        Sampling { repetition_penalty: 1.3, ..Sampling::default() },
        Sampling { presence_penalty: 1.0, ..Sampling::default() },
        Sampling { frequency_penalty: 0.7, ..Sampling::default() },
        Sampling { logit_bias: vec![(204, f32::NEG_INFINITY), (46, -3.0)], ..Sampling::default() },
        Sampling { repetition_penalty: 1.1, presence_penalty: 0.5, frequency_penalty: 0.2, ..Sampling::default() },
    ] {
        // Log-probabilities are of the unmodified distribution: they cannot tell near ties of the modified one.
        let run = |model: &dyn TextModel| {
            model
                .generate("ROMEO:\nO, she doth teach".into(), &sampled(sampling.clone()))
                .unwrap()
                .collect_all()
                .unwrap()
        };
        let (found, expected) = (run(demo()), run(own()));
        assert_eq!(ids(&found), ids(&expected), "{sampling:?}");
        compared += found.tokens.len();
    }
    assert_eq!(compared, 100);
}

#[test]
fn logprobs_are_of_the_unmodified_distribution_good() {
    let sampling = Sampling { repetition_penalty: 1.5, ..Sampling::default() };
    let options = GenerateOptions { top_logprobs: Some(3), ..sampled(sampling) };
    let run = |model: &dyn TextModel| model.generate("ROMEO:".into(), &options).unwrap().collect_all().unwrap();
    let (found, expected) = (run(demo()), run(own()));
    for (found, expected) in found.tokens.iter().zip(&expected.tokens) {
        let (found, expected) = (found.logprobs.as_ref().unwrap(), expected.logprobs.as_ref().unwrap());
        assert!((found.chosen - expected.chosen).abs() < 1e-3, "{found:?} and {expected:?}");
        for (found, expected) in found.top.iter().zip(&expected.top) {
            assert!((found.1 - expected.1).abs() < 1e-3, "{found:?} and {expected:?}");
        }
    }
}

#[test]
fn draws_depend_on_the_seed_alone_good() {
    let hot = |seed| sampled(Sampling { temperature: 0.9, top_p: 0.95, min_p: 0.01, seed, ..Sampling::default() });
    let run = |seed| ids(&demo().generate("ROMEO:".into(), &hot(seed)).unwrap().collect_all().unwrap());
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    let one = Sampling { temperature: 1.0, top_k: 1, seed: 3, ..Sampling::default() };
    let found = demo().generate("ROMEO:".into(), &sampled(one)).unwrap().collect_all().unwrap();
    let expected = demo().generate("ROMEO:".into(), &greedy(20)).unwrap().collect_all().unwrap();
    assert_eq!(ids(&found), ids(&expected));
}

#[test]
fn filters_keep_what_ingle_keeps_good() {
    // One draw each of many seeds: what comes is among what Ingle's own filters leave.
    let top = own().logits(own().tokenize("ROMEO:\nI", Special::Add).unwrap(), 3).unwrap().pop().unwrap();
    let mut order: Vec<usize> = (0..top.len()).collect();
    order.sort_by(|&a, &b| top[b].total_cmp(&top[a]));
    let kept: Vec<u32> = order[..3].iter().map(|&id| id as u32).collect();
    let mut seen = Vec::new();
    let prompt = Prompt::Tokens(own().tokenize("ROMEO:\nI", Special::Add).unwrap());
    for seed in 0..24 {
        let sampling = Sampling { temperature: 3.0, top_k: 3, seed, ..Sampling::default() };
        let options = GenerateOptions { max_tokens: Some(1), ..sampled(sampling) };
        seen.push(ids(&demo().generate(prompt.clone(), &options).unwrap().collect_all().unwrap())[0]);
    }
    assert!(seen.iter().all(|id| kept.contains(id)), "{seen:?} of {kept:?}");
    assert!(kept.iter().filter(|id| seen.contains(id)).count() >= 2, "{seen:?} of {kept:?}");
}

#[test]
fn stop_strings_end_the_answer_good() {
    let whole = demo().generate("ROMEO:".into(), &greedy(40)).unwrap().collect_all().unwrap();
    let stop: String = whole.text.chars().skip(12).take(5).collect();
    let options = GenerateOptions { stop: vec![stop.clone()], ..greedy(40) };
    let cut = demo().generate("ROMEO:".into(), &options).unwrap().collect_all().unwrap();
    assert_eq!(cut.finish.reason, FinishReason::Stop);
    assert_eq!(cut.text, whole.text[..whole.text.find(&stop).unwrap()]);
}

#[test]
fn classification_is_ingles_own_good() {
    let texts: Vec<String> =
        ["KING RICHARD:\nMy", "JULIET: My heart speaks of", "", "ends with a space "].map(String::from).into();
    let labels = |labels: &[&str]| ClassifyOptions::Labels(labels.iter().map(|&label| label.into()).collect());
    for options in [labels(&["lord", "love"]), labels(&["lord", "gracious sovereign", "o"]), ClassifyOptions::Top(5)] {
        let run = |model: &dyn TextModel| -> Vec<Outcome> {
            model.classify(texts.clone(), &options).unwrap().map(|outcome| outcome.unwrap()).collect()
        };
        for (found, expected) in run(demo()).iter().zip(run(own())) {
            match (found, &expected) {
                (Outcome::Labels(found), Outcome::Labels(expected)) => {
                    for (found, expected) in found.iter().zip(expected) {
                        assert_eq!(found.label, expected.label);
                        assert!((found.logprob - expected.logprob).abs() < 2e-3, "{found:?} and {expected:?}");
                        assert!((found.probability - expected.probability).abs() < 2e-3);
                    }
                }
                (Outcome::Next(found), Outcome::Next(expected)) => {
                    assert_eq!(found.len(), expected.len());
                    assert_eq!((found[0].id, &found[0].piece), (expected[0].id, &expected[0].piece));
                    for (found, expected) in found.iter().zip(expected) {
                        assert!((found.probability - expected.probability).abs() < 1e-3);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn logits_are_ingles_own_good() {
    // Longer than one chunk of a prompt.
    let tokens: Vec<u32> = (0..500).map(|i| 300 + (i * 37) % 1500).collect();
    let (found, expected) = (demo().logits(tokens.clone(), 490).unwrap(), own().logits(tokens, 490).unwrap());
    assert_eq!((found.len(), found[0].len()), (10, 2048));
    let differences = found.iter().flatten().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs());
    let most = differences.fold(0.0, f32::max);
    println!("demo: logits differ by at most {most}");
    assert!(most < 2e-3, "{most}");
}

#[test]
fn tokens_and_pieces_are_ingles_own_good() {
    for special in [Special::Add, Special::Omit, Special::Literal] {
        for text in ["Good morrow", "", " naïve 你好\n", "<end_of_turn> <bos>"] {
            let (found, expected) = (demo().tokenize(text, special), own().tokenize(text, special));
            assert_eq!(found.unwrap(), expected.unwrap(), "{text:?} {special:?}");
        }
    }
    for id in [0, 5, 204, 1539, 2047, 5000] {
        assert_eq!(demo().piece(id), own().piece(id), "{id}");
    }
}

#[test]
fn text_and_chat_are_those_of_transformers_good() {
    let mut compared = 0;
    for kind in ["byte-level", "sentencepiece-gemma", "sentencepiece-llama"] {
        let folder = fixtures().join("end-to-end").join(kind);
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let copy = readable(&folder);
        let model = load("mlx_lm", copy.path().to_str().unwrap());
        let numbers = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
        for what in ["generate", "chat"] {
            if what == "chat" && model.info().chat_template == "none" {
                // mlx-lm has no template of its own for a model without one.
                assert_eq!(kind, "sentencepiece-gemma");
                continue;
            }
            compared += 1;
            let case = &expected[what];
            let options = |count| GenerateOptions { end_tokens: EndTokens::Ignore, ..greedy(count) };
            let answer = options(numbers(&case["ids"]).len());
            let completion = match what {
                "generate" => model.generate(case["prompt"].as_str().unwrap().into(), &answer),
                _ => {
                    let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
                    assert_eq!(model.chat_prompt(&messages).unwrap(), Prompt::Tokens(numbers(&case["prompt_ids"])));
                    model.chat(&messages, &answer)
                }
            };
            let completion = completion.unwrap().collect_all().unwrap();
            assert_eq!(ids(&completion), numbers(&case["ids"]), "{kind} {what}");
            assert_eq!(completion.text, case["text"].as_str().unwrap(), "{kind} {what}");
        }
    }
    assert_eq!(compared, 5);
}

/// A copy of a model in which mlx-lm finds how often a layer of Gemma 3 sees everything: it looks for the name that
/// transformers 4 gave to that, and does not read `layer_types`.
fn readable(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let layers = config["layer_types"].as_array().cloned().unwrap_or_default();
    if let (Some(global), "gemma3_text") =
        (layers.iter().position(|layer| layer == "full_attention"), config["model_type"].as_str().unwrap())
    {
        config["sliding_window_pattern"] = (global + 1).into();
        std::fs::write(&path, config.to_string()).unwrap();
    }
    copy
}

/// The fixtures have no tokeniser; any will do for token ids.
fn with_tokenizer(model: &str) -> tempfile::TempDir {
    let folder = readable(&fixtures().join(model));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join("tokenizers/byte-level").join(file), folder.path().join(file)).unwrap();
    }
    // mlx-lm reads every file of weights; this one holds what transformers made of them.
    std::fs::remove_file(folder.path().join("expected.safetensors")).unwrap();
    folder
}

#[test]
fn greedy_tokens_of_every_architecture_are_ingles_own_good() {
    // Those that mlx-lm 0.32.2 reads as transformers does.
    let mut compared = 0;
    for name in [
        "models/gemma3_text-published",
        "models/llama-published",
        "models/llama-first",
        "models/llama-bias",
        "models/qwen2-distil",
        "models/qwen3-published",
        "models/qwen3-yarn",
    ] {
        let folder = with_tokenizer(name);
        let path = folder.path().to_str().unwrap();
        let (found, expected) = (load("mlx_lm", path), load("cpu", path));
        let options = GenerateOptions { end_tokens: EndTokens::Ignore, ..greedy(24) };
        let mut tokens = 0;
        for first in [3, 50, 90] {
            let prompt: Vec<u32> = (0..9).map(|i| (first + i * 7) % 128).collect();
            tokens += agree(found.as_ref(), expected.as_ref(), &Prompt::Tokens(prompt), &options);
        }
        println!("{name}: {tokens} tokens are the same");
        assert!(tokens >= 40, "{name}: only {tokens} tokens could be compared");
        compared += tokens;
        let (found, expected) = (found.info().summary, expected.info().summary);
        assert_eq!(found.architecture, expected.architecture);
        assert_eq!(
            (found.vocab_size, found.layers, found.hidden_size),
            (expected.vocab_size, expected.layers, expected.hidden_size)
        );
    }
    assert!(compared >= 400);
}

#[test]
fn info_says_what_the_model_is_good() {
    let (found, expected) = (demo().info(), own().info());
    assert_eq!(found.backend, "mlx_lm");
    assert_eq!(found.context_length, expected.context_length);
    assert_eq!(found.summary, expected.summary);
    assert_eq!((found.kv_dtype, found.kv_token_bytes), (expected.kv_dtype, expected.kv_token_bytes));
    let quantised = with_tokenizer("mlx-models/qwen3-4bit-64");
    let options = LoadOptions { device: Some("mlx_lm".into()), ..LoadOptions::default() };
    let model = ingle::load(quantised.path().to_str().unwrap(), &options).unwrap();
    assert_eq!(model.info().summary.quantisation.as_deref(), Some("4-bit, groups of 64"));
    assert_eq!(model.generate(Prompt::Tokens(vec![1, 2]), &greedy(3)).unwrap().count(), 3);
    let backend = ingle::choose_backend(Some("mlx_lm")).unwrap().probe().unwrap();
    println!("{backend}");
    assert!(backend.starts_with("mlx-lm "), "{backend}");
}

#[test]
fn memory_is_told_and_limited_good() {
    let model = load("mlx_lm", "demo");
    let memory = model.memory();
    assert!(memory.active >= model.info().summary.weight_bytes && memory.peak >= memory.active, "{memory:?}");
    model.set_memory_limit(Some(memory.active / 2));
    let refused = model.generate("ROMEO:".into(), &greedy(5)).unwrap().collect_all().unwrap_err();
    assert!(refused.to_string().contains("the memory limit is"), "{refused}");
    model.set_memory_limit(None);
    let answer = model.generate("ROMEO:".into(), &greedy(5)).unwrap().collect_all().unwrap();
    assert_eq!(answer.tokens.len(), 5);
    let metrics = model.metrics().engine;
    assert_eq!((metrics.generated_tokens, metrics.first_tokens), (5, 1));
    assert!(metrics.last_time_to_first_token >= answer.finish.usage.time_to_first_token / 2);
    model.set_cache_limit(Some(0));
    model.clear_cache().unwrap();
    assert_eq!(model.memory().cached, 0);
    let limit = LoadOptions { device: Some("mlx_lm".into()), memory_limit: Some(1 << 20), ..LoadOptions::default() };
    let refused = ingle::load("demo", &limit).err().unwrap().to_string();
    assert!(refused.contains("the weights take") && refused.contains("the memory limit is 1048576"), "{refused}");
}

#[test]
fn cancelling_and_timeouts_end_the_answer_ugly() {
    let model = demo();
    let cancel = CancelToken::new();
    let options = GenerateOptions { cancel: Some(cancel.clone()), ..endless() };
    let mut stream = model.generate("ROMEO:".into(), &options).unwrap();
    assert!(stream.next().unwrap().is_ok());
    cancel.cancel();
    stream.by_ref().for_each(drop);
    assert_eq!(stream.finish().unwrap().reason, FinishReason::Cancelled);

    let options = GenerateOptions { timeout: Some(Duration::from_millis(1)), ..endless() };
    let late = model.generate("ROMEO:".into(), &options).unwrap().collect_all().unwrap();
    assert_eq!(late.finish.reason, FinishReason::Deadline);

    drop(model.generate("ROMEO:".into(), &endless()).unwrap());
    assert_eq!(model.generate("ROMEO:".into(), &greedy(2)).unwrap().collect_all().unwrap().tokens.len(), 2);
}

#[test]
fn many_threads_share_a_child_good() {
    let expected = ids(&demo().generate("ROMEO:".into(), &greedy(15)).unwrap().collect_all().unwrap());
    thread::scope(|scope| {
        for _ in 0..6 {
            let expected = &expected;
            scope.spawn(move || {
                let found = demo().generate("ROMEO:".into(), &greedy(15)).unwrap().collect_all().unwrap();
                assert_eq!(ids(&found), *expected);
            });
        }
    });
}

#[test]
fn unusable_requests_are_refused_bad() {
    let prompts =
        vec![Prompt::from("ROMEO:"), Prompt::Tokens(vec![]), Prompt::Tokens(vec![9_999_999]), "JULIET:".into()];
    let results: Vec<_> = demo().batch_generate(prompts, &greedy(3)).unwrap().collect();
    assert!(results[0].is_ok() && results[3].is_ok());
    assert!(results[1].as_ref().unwrap_err().to_string().contains("empty"));
    assert!(results[2].as_ref().unwrap_err().to_string().contains("9999999"));
    let too_many = demo().generate("ROMEO:".into(), &greedy(1000)).err().unwrap().to_string();
    assert!(too_many.contains("does not slide"), "{too_many}");
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(demo().generate("x".into(), &sampled(hot)).err().unwrap().to_string().contains("temperature"));
    assert!(demo().logits(vec![], 0).is_err());
    let stranger = vec![Message::new("herald", "Oyez!")];
    let refused = demo().chat(&stranger, &greedy(3)).err().unwrap().to_string();
    assert!(refused.contains("demo knows the roles"), "{refused}");
}

#[test]
fn what_cannot_be_loaded_gives_the_childs_words_bad() {
    let refusal = |folder: &Path, python: Option<PathBuf>| {
        let mlx_lm = MlxLmOptions { python, ..MlxLmOptions::default() };
        let options = LoadOptions { device: Some("mlx_lm".into()), mlx_lm, ..LoadOptions::default() };
        let error = ingle::load(folder.to_str().unwrap(), &options).err().unwrap().to_string();
        println!("{error}");
        assert_eq!(error.lines().count(), 1);
        error
    };
    let folder = with_tokenizer("models/llama-published");
    std::fs::write(folder.path().join("config.json"), r#"{"model_type": "abacus"}"#).unwrap();
    assert!(refusal(folder.path(), None).contains("Model type abacus not supported"));
    let folder = with_tokenizer("models/llama-v4");
    std::fs::write(folder.path().join("model.safetensors"), "junk").unwrap();
    assert!(refusal(folder.path(), None).contains("backend `mlx_lm`: "));
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(refusal(folder.path(), None).contains("No safetensors found"));
}
