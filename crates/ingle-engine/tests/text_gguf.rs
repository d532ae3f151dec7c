// SPDX-License-Identifier: EUPL-1.2
//! Tokenisers and chat templates of GGUF files, against what llama.cpp makes of the same texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ingle_engine::Error;
use ingle_engine::text::{ChatTemplate, Detokenizer, GenerationPrompt, Message, Special, SpecialText, Tokenizer};
use ingle_nn::ModelFiles;
use ingle_nn::gguf::Gguf;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, json};

const NAMES: [&str; 7] = ["llama-bpe", "qwen2", "gpt-2", "gemma", "llama", "llama-eos", "across-words"];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf-vocab").join(file)
}

fn content(name: &str) -> Vec<u8> {
    let path = path(&format!("{name}.gguf"));
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read_json<T: for<'de> Deserialize<'de>>(file: &str) -> T {
    let text = fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_files(&ModelFiles::open(path(&format!("{name}.gguf"))).unwrap()).unwrap()
}

fn of_content(content: Vec<u8>) -> Result<Tokenizer, Error> {
    Tokenizer::from_gguf(&Gguf::read("m.gguf".into(), content.into())?)
}

/// A text, and what llama.cpp makes of it.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    ids_no_special: Vec<u32>,
    ids_literal: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

/// Each vocabulary with its cases.
fn fixtures() -> impl Iterator<Item = (&'static str, Tokenizer, Vec<Case>)> {
    NAMES.into_iter().map(|name| {
        let cases: Vec<Case> = read_json(&format!("{name}.json"));
        assert!(cases.len() > 15, "{name}: only {} cases", cases.len());
        (name, tokenizer(name), cases)
    })
}

#[test]
fn ids_are_those_of_llama_cpp_good() {
    for (name, tokenizer, cases) in fixtures() {
        for case in cases {
            let encode = |special| tokenizer.encode(&case.text, special).unwrap();
            assert_eq!(encode(Special::Omit), case.ids_no_special, "{name}: {:?}", case.text);
            assert_eq!(encode(Special::Literal), case.ids_literal, "{name}: {:?}", case.text);
            // llama.cpp doubles a beginning-of-sequence token that the text has already, and warns.
            let doubled = case.ids.len() > 1 && case.ids[0] == case.ids[1] && Some(case.ids[0]) == tokenizer.bos();
            assert_eq!(encode(Special::Add), case.ids[usize::from(doubled)..], "{name}: {:?}", case.text);
        }
    }
}

#[test]
fn a_batch_has_the_ids_of_its_texts_good() {
    for (name, tokenizer, cases) in fixtures() {
        // More than one thread takes.
        let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).cycle().take(200).collect();
        for special in [Special::Add, Special::Omit, Special::Literal] {
            let one_by_one: Vec<_> = texts.iter().map(|text| tokenizer.encode(text, special).unwrap()).collect();
            assert_eq!(tokenizer.encode_batch(&texts, special).unwrap(), one_by_one, "{name}");
        }
        assert!(tokenizer.encode_batch::<&str>(&[], Special::Add).unwrap().is_empty());
    }
}

#[test]
fn text_is_that_of_llama_cpp_good() {
    for (name, tokenizer, cases) in fixtures() {
        for case in cases {
            let decode = |special| tokenizer.decode(&case.ids_no_special, special).unwrap();
            assert_eq!(decode(SpecialText::Keep), case.decoded, "{name}: {:?}", case.text);
            assert_eq!(decode(SpecialText::Skip), case.decoded_skip_special, "{name}: {:?}", case.text);
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text_good() {
    for (name, tokenizer, cases) in fixtures() {
        for case in cases {
            let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[]);
            let pieces = case.ids_no_special.iter().map(|id| detokenizer.push(*id).unwrap());
            let text = pieces.collect::<String>() + &detokenizer.finish();
            assert_eq!(text, case.decoded_skip_special, "{name}: {:?}", case.text);
        }
    }
}

/// The file with another text as the value of a key.
fn with_text(mut content: Vec<u8>, key: &str, text: &str) -> Vec<u8> {
    let at = content.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 4;
    let length = u64::from_le_bytes(content[at..at + 8].try_into().unwrap()) as usize;
    let value = [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    content.splice(at..at + 8 + length, value);
    content
}

#[test]
fn each_pre_tokeniser_splits_as_in_llama_cpp_good() {
    #[derive(Deserialize)]
    struct Splits {
        texts: Vec<String>,
        ids: BTreeMap<String, Vec<Vec<u32>>>,
    }
    let splits: Splits = read_json("splits.json");
    assert!(splits.ids.len() > 20 && splits.texts.len() > 50);
    for (pre, expected) in splits.ids {
        let tokenizer = of_content(with_text(content("across-words"), "tokenizer.ggml.pre", &pre)).unwrap();
        for (text, expected) in splits.texts.iter().zip(expected) {
            assert_eq!(tokenizer.encode(text, Special::Omit).unwrap(), expected, "{pre}: {text:?}");
        }
    }
}

#[test]
fn special_tokens_of_the_file_good() {
    let llama = tokenizer("llama-bpe");
    let id = |piece| llama.id(piece).unwrap();
    assert_eq!((llama.bos(), llama.eos_tokens()), (Some(id("<|begin_of_text|>")), &[id("<|eot_id|>")][..]));
    assert!(llama.is_special(id("<|eot_id|>")) && !llama.is_special(100) && !llama.is_special(1_000_000));
    assert_eq!((llama.piece(1_000_000), llama.vocab_size()), (None, 505));

    let qwen = tokenizer("qwen2");
    assert_eq!((qwen.bos(), qwen.eos_tokens()), (None, &[qwen.id("<|im_end|>").unwrap()][..]));
    assert!(!qwen.is_special(qwen.id("<think>").unwrap()), "text that is one token");

    let gemma = tokenizer("gemma");
    let end_of_turn = gemma.id("<end_of_turn>").unwrap();
    assert_eq!(
        (gemma.bos(), gemma.eos_tokens(), gemma.end_of_turn_tokens()),
        (Some(2), &[1][..], &[1, end_of_turn][..])
    );
}

#[test]
fn chat_templates_of_the_file_good() {
    let template = |name: &str| {
        let files = ModelFiles::open(path(&format!("{name}.gguf"))).unwrap();
        ChatTemplate::from_files(&files, &Tokenizer::from_files(&files).unwrap()).unwrap()
    };
    let render = |template: &ChatTemplate, variables: serde_json::Value| {
        let variables = variables.as_object().unwrap();
        template.render(&[Message::new("user", "hi")], GenerationPrompt::Omit, variables).unwrap()
    };
    assert_eq!(render(&template("llama-bpe"), json!({})), "user: hi<|eot_id|>");
    let qwen = template("qwen2");
    assert!(qwen.origin().ends_with("qwen2.gguf: tokenizer.chat_template"), "{}", qwen.origin());
    assert_eq!(render(&qwen, json!({"tools": [1, 2]})), "tools 2");
    assert_eq!(template("gemma").origin(), "built-in Gemma");
    assert_eq!(template("llama").origin(), "built-in Llama 3", "told by general.architecture");
}

#[test]
fn what_is_missing_or_unknown_is_named_bad() {
    let error = |content| of_content(content).unwrap_err().to_string();
    let unknown = error(with_text(content("qwen2"), "tokenizer.ggml.pre", "qwen9"));
    assert!(unknown.starts_with("m.gguf: metadata `tokenizer.ggml.pre`: expected one of default, llama-bpe, "));
    assert!(unknown.ends_with("; found `qwen9`"), "{unknown}");

    let bert = error(with_text(content("qwen2"), "tokenizer.ggml.model", "bert"));
    let expected = "m.gguf: metadata `tokenizer.ggml.model`: expected `gpt2` (byte-level BPE) or `llama` (SentencePiece), \
                    found text `bert`";
    assert_eq!(bert, expected);

    let renamed = |key: &str| {
        let mut content = content("qwen2");
        let at = content.windows(key.len()).position(|window| window == key.as_bytes()).unwrap();
        content[at] = b'X';
        error(content)
    };
    let missing = renamed("tokenizer.ggml.tokens");
    assert_eq!(
        missing,
        "m.gguf: metadata `tokenizer.ggml.tokens` is missing, expected an array; convert the model again"
    );
    let missing = renamed("tokenizer.ggml.merges");
    assert!(missing.contains("`tokenizer.ggml.merges` is missing, expected an array"), "{missing}");
    assert!(of_content(b"GGUF".to_vec()).is_err());
}

#[test]
fn a_token_that_is_there_twice_is_an_error_bad() {
    let mut content = content("qwen2");
    // The letters `!` and `"` come first, each after its length.
    let first = [&1u64.to_le_bytes()[..], b"!", &1u64.to_le_bytes(), b"\""].concat();
    let at = content.windows(first.len()).position(|window| window == first).unwrap();
    content[at + first.len() - 1] = b'!';
    let error = of_content(content).unwrap_err().to_string();
    assert_eq!(error, "m.gguf: metadata `tokenizer.ggml.tokens`: tokens 0 and 1 are the same");
}

#[test]
fn ids_beyond_the_vocabulary_have_no_text_ugly() {
    for name in NAMES {
        let tokenizer = tokenizer(name);
        assert_eq!(tokenizer.decode(&[u32::MAX, 999_999], SpecialText::Keep).unwrap(), "");
    }
}

#[test]
fn bytes_that_are_no_text_become_replacement_characters_ugly() {
    for (name, piece) in [("llama-bpe", "ð"), ("llama", "<0xF0>")] {
        let tokenizer = tokenizer(name);
        let ids = vec![tokenizer.id(piece).unwrap(); 5000];
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[]);
        let text: String = ids.iter().map(|id| detokenizer.push(*id).unwrap()).collect();
        assert_eq!(text + &detokenizer.finish(), "\u{FFFD}".repeat(ids.len()), "{name}");
        assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), "\u{FFFD}".repeat(ids.len()), "{name}");
    }
}

#[test]
fn long_runs_take_no_quadratic_time_ugly() {
    for name in NAMES {
        let tokenizer = tokenizer(name);
        for text in [" ", "\n", "a", "<", "🔥"].map(|part| part.repeat(100_000)) {
            let ids = tokenizer.encode(&text, Special::Omit).unwrap();
            assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), text, "{name}");
        }
    }
}

#[test]
fn a_template_with_a_mistake_is_an_error_only_to_those_who_chat_ugly() {
    let content = with_text(content("llama-bpe"), "tokenizer.chat_template", "{% for %}");
    let gguf = Gguf::read("m.gguf".into(), content.into()).unwrap();
    let template = ChatTemplate::from_gguf(&gguf, &Tokenizer::from_gguf(&gguf).unwrap()).unwrap();
    let error = template.render(&[], GenerationPrompt::Omit, &Map::new()).unwrap_err().to_string();
    assert!(error.starts_with("chat template (m.gguf: tokenizer.chat_template): line 1"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_text_comes_back_good(text in "\\PC{0,60}", name in prop::sample::select(&["gemma", "llama", "across-words"][..])) {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode(&text, Special::Literal).unwrap();
        prop_assume!(name == "across-words" || !text.contains('▁'));
        prop_assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), text);
    }

    /// A damaged file gives an error or a tokeniser that runs, and neither panics.
    #[test]
    fn any_damage_ugly(
        name in prop::sample::select(&["qwen2", "gemma"][..]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u32..8), 1..30),
    ) {
        let mut content = content(name);
        for (at, bit) in flips {
            let at = at.index(content.len());
            content[at] ^= 1 << bit;
        }
        if let Ok(tokenizer) = of_content(content) {
            for text in ["Who lit the fire? 🔥 <|im_start|>\n", "<start_of_turn>炉火"] {
                if let Ok(ids) = tokenizer.encode(text, Special::Add) {
                    let _ = tokenizer.decode(&ids, SpecialText::Keep);
                }
            }
        }
    }
}
