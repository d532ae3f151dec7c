// SPDX-License-Identifier: EUPL-1.2
//! From files to tokens, and from a training to its records.

use std::ops::ControlFlow;
use std::path::Path;

use ingle_engine::text::{ChatTemplate, Special, SpecialText, Tokenizer};
use ingle_nn::ModelFiles;
use ingle_tensor::DType;
use ingle_train::data::{Encoder, Example, Examples, JsonLines, Part, PromptLoss};
use ingle_train::record::{JsonLog, LossCurve, TensorBoard};
use ingle_train::{Event, Observer, TokenizerOptions, TrainOptions, train_tokenizer};
use serde_json::Value;

use crate::common::{fixtures, options, trainer};

fn encoder(name: &str, prompt_loss: PromptLoss) -> Encoder {
    let files = ModelFiles::directory(fixtures("end-to-end").join(name)).unwrap();
    let tokenizer = Tokenizer::from_files(&files).unwrap();
    let chat = ChatTemplate::from_files(&files, &tokenizer).unwrap();
    Encoder::new(tokenizer, chat, prompt_loss)
}

fn examples(name: &str, prompt_loss: PromptLoss, lines: &str) -> Vec<Example> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    std::fs::write(&path, lines).unwrap();
    let lines = JsonLines::open(&path, encoder(name, prompt_loss)).unwrap();
    (0..lines.count(0)).map(|index| lines.example(0, index).unwrap()).collect()
}

/// The texts of the parts that are learnt.
fn learnt(tokenizer: &Tokenizer, example: &Example) -> Vec<String> {
    let mut at = 0;
    let mut texts = Vec::new();
    for part in &example.parts {
        let (Part::Read(count) | Part::Learnt(count)) = *part;
        if matches!(part, Part::Learnt(_)) {
            texts.push(tokenizer.decode(&example.tokens[at..at + count], SpecialText::Keep).unwrap());
        }
        at += count;
    }
    assert_eq!(at, example.tokens.len());
    texts
}

const LINES: &str = r#"{"text": "Good morrow, cousin."}
{"prompt": "Who lit the fire?", "completion": " The cook."}

{"text": "what is my balance", "label": "banking"}
{"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."},
"#;

#[test]
fn every_shape_is_learnt_where_it_should_be_good() {
    for name in ["byte-level", "sentencepiece-gemma", "sentencepiece-llama"] {
        let lines: Vec<&str> = LINES.lines().take(4).collect();
        let chat = r#"{"messages": [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."},
            {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Farewell."}]}"#;
        let all = [lines.join("\n"), chat.replace('\n', " ")].join("\n");
        let tokenizer = encoder(name, PromptLoss::Masked).tokenizer().clone();
        let examples = examples(name, PromptLoss::Masked, &all);
        let eos = tokenizer.decode(&tokenizer.eos_tokens()[..1], SpecialText::Keep).unwrap();
        let trimmed = |example: &Example| -> Vec<String> {
            learnt(&tokenizer, example).into_iter().map(|text| text.trim().to_owned()).collect()
        };
        assert_eq!(examples[0].parts, [Part::Learnt(examples[0].tokens.len())]);
        assert_eq!(trimmed(&examples[1]), [format!("The cook.{eos}")], "{name}");
        assert_eq!(trimmed(&examples[2]), [format!("banking{eos}")], "{name}");
        // The tokens are those that the model sees when it is asked.
        let Part::Read(read) = examples[2].parts[0] else { panic!("the text is read") };
        assert_eq!(examples[2].tokens[..read], tokenizer.encode("what is my balance", Special::Add).unwrap());
        let answers = trimmed(&examples[3]);
        assert_eq!(answers.len(), 2, "{name}: {answers:?}");
        assert!(answers[0].starts_with("Good day.") && answers[1].starts_with("Farewell."), "{name}: {answers:?}");
        assert!(
            answers.iter().all(|answer| !answer.contains("now") && !answer.contains("user")),
            "{name}: {answers:?}"
        );
    }
}

#[test]
fn prompts_are_learnt_when_asked_good() {
    let line = r#"{"prompt": "a b", "completion": " c"}"#;
    let example = &examples("byte-level", PromptLoss::Learnt, line)[0];
    assert_eq!(example.parts, [Part::Learnt(example.tokens.len())]);
}

#[test]
fn a_malformed_line_is_named_bad() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.jsonl");
    let refused = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let error = JsonLines::open(&path, encoder("byte-level", PromptLoss::Masked)).unwrap_err().to_string();
        error.replace(&path.display().to_string(), "data.jsonl")
    };
    let error = refused(LINES.as_bytes());
    assert!(error.starts_with("data.jsonl, line 5: expected an object with `text`, with"), "{error}");
    assert!(error.contains("found no JSON (EOF while parsing"), "{error}");
    assert_eq!(refused(b"\n{\"text\": 1}"), "data.jsonl, line 2: expected a text `text`, found a number");
    assert_eq!(refused(b" \n\n"), "data.jsonl: holds no examples; give a file of JSON objects, one a line");
    let missing = JsonLines::open(folder.path().join("none"), encoder("byte-level", PromptLoss::Masked));
    assert!(missing.unwrap_err().to_string().contains("No such file"));
}

/// All observers of a folder.
struct All<'a>(Vec<Box<dyn Observer + 'a>>);

impl Observer for All<'_> {
    fn observe(&mut self, event: &Event) -> ingle_train::Result<ControlFlow<()>> {
        for observer in &mut self.0 {
            assert!(observer.observe(event)?.is_continue());
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn observers(folder: &Path) -> All<'_> {
    let log = folder.join("log.jsonl");
    All(vec![Box::new(JsonLog::new(&log)), Box::new(TensorBoard::new(folder)), Box::new(LossCurve::new(folder, &log))])
}

#[test]
fn records_go_on_with_the_training_good() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = folder.path().join("checkpoints");
    let options = TrainOptions { checkpoint_every: Some(2), ..options(6) };
    let begin = || trainer("llama-v5", DType::F32, options.clone()).with_checkpoints(&checkpoints);
    // Stopped by an error after step 3: what the log says of it will be said again.
    let mut records = observers(folder.path());
    let mut steps = 0;
    let stopped = begin().run(&mut |event: &Event| {
        let flow = records.observe(event)?;
        steps += usize::from(matches!(event, Event::Step(_)));
        if steps == 3 { Err(ingle_train::Error::File { path: "x".into(), message: "y".into() }) } else { Ok(flow) }
    });
    assert!(stopped.is_err());
    let mut rest = begin();
    assert_eq!(rest.resume().unwrap(), Some(2));
    rest.run(&mut observers(folder.path())).unwrap();

    let log = std::fs::read_to_string(folder.path().join("log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert!(lines.iter().all(|line| line["event"] == "step" && line["tokens"] == 53));
    let svg = std::fs::read_to_string(folder.path().join("loss.svg")).unwrap();
    let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(points.split(' ').count(), 6);
    assert!(std::fs::read(folder.path().join("loss.png")).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn a_tokenizer_of_ones_own_good() {
    let text = "The fire is lit. The fire at home is an ingle. ".repeat(50);
    let options = TokenizerOptions { vocab_size: 300, ..TokenizerOptions::default() };
    let files = train_tokenizer(text.lines(), &options).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let tokenizer = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    assert!(tokenizer.vocab_size() <= 300);
    let ids = tokenizer.encode("The fire is é", Special::Add).unwrap();
    assert_eq!(ids.first().copied(), tokenizer.bos());
    assert!(ids.len() < 10, "{ids:?}");
    assert_eq!(tokenizer.decode(&ids, SpecialText::Skip).unwrap(), "The fire is é");
    assert_eq!(tokenizer.eos_tokens().len(), 1);
    let refused = train_tokenizer(text.lines(), &TokenizerOptions { vocab_size: 200, ..options }).unwrap_err();
    let words = "vocab_size: expected at least 258: the bytes and the special tokens, found 200";
    assert_eq!(refused.to_string(), words);
    let without = TokenizerOptions { special_tokens: vec!["<eos>".into()], ..TokenizerOptions::default() };
    let refused = train_tokenizer(text.lines(), &without).unwrap_err();
    assert_eq!(refused.to_string(), "special_tokens: expected <bos> and <eos> among them, found <eos>");
    let odd = TokenizerOptions { words: Some("(".into()), ..TokenizerOptions::default() };
    let refused = train_tokenizer(text.lines(), &odd).unwrap_err().to_string();
    assert!(refused.starts_with("words: expected a regular expression, found"), "{refused}");
}

#[test]
fn words_and_special_tokens_of_ones_own_good() {
    let text = "o'er the fire, 'tis night. ".repeat(50);
    let options = TokenizerOptions {
        vocab_size: 300,
        special_tokens: ["<pad>", "<eos>", "<bos>", "<end_of_turn>"].map(str::to_owned).to_vec(),
        words: Some(r" ?'?\p{L}+|\s+|[^\s\p{L}]".into()),
        chat_template: Some("{{ bos_token }}".into()),
        ..TokenizerOptions::default()
    };
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in train_tokenizer(std::iter::once(text.as_str()), &options).unwrap() {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let tokenizer = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos_tokens()), (Some(2), &[1][..]));
    assert_eq!(tokenizer.end_of_turn_tokens(), [1, 3]);
    let ids = tokenizer.encode(" fire, 'tis<end_of_turn>", Special::Add).unwrap();
    let pieces: Vec<String> = ids.iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
    assert_eq!(pieces.join("|"), "<bos>|Ġfire|,|Ġ'tis|<end_of_turn>");
}
