// SPDX-License-Identifier: EUPL-1.2
//! What is written is read back, and gives the same ids.

use std::path::Path;

use super::*;
use crate::text::{GenerationPrompt, Message};

fn files(name: &str) -> ModelFiles {
    ModelFiles::directory(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)).unwrap()
}

fn written(files: &ModelFiles, rows: usize) -> Gguf {
    let mut header = GgufHeader::default();
    GgufVocabulary::from_files(files, rows).unwrap().write(&mut header);
    Gguf::read("m.gguf".into(), header.bytes().into()).unwrap()
}

#[test]
fn tokenisers_come_back_good() {
    for (name, model, pre) in [
        ("byte-level", "gpt2", "llama-bpe"),
        ("byte-level-qwen", "gpt2", "qwen2"),
        ("sentencepiece-llama", "llama", "default"),
    ] {
        let files = files(&format!("tokenizers/{name}"));
        let own = Tokenizer::from_files(&files).unwrap();
        let rows = own.vocab_size() + 7;
        let gguf = written(&files, rows);
        assert_eq!(gguf.metadata().read::<&str>(MODEL).unwrap(), model);
        assert_eq!(gguf.metadata().read::<&str>(PRE).unwrap(), pre);
        let back = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!((back.vocab_size(), back.bos()), (rows, own.bos()), "{name}");
        assert_eq!(back.eos_tokens(), own.eos_tokens(), "{name}");
        let last = u32::try_from(rows).unwrap() - 1;
        assert_eq!(back.piece(last), Some(format!("[PAD{last}]")), "{name}");
        for text in ["", "Hello there", "  two  spaces\n", "It's 2024, isn't it? naïve", "def f(x):\n\treturn x  # 7"]
        {
            for special in [Special::Add, Special::Omit] {
                let (expected, found) = (own.encode(text, special).unwrap(), back.encode(text, special).unwrap());
                assert_eq!(found, expected, "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn chat_template_comes_along_good() {
    let files = files("end-to-end/byte-level");
    let own = Tokenizer::from_files(&files).unwrap();
    let gguf = written(&files, own.vocab_size());
    let back = Tokenizer::from_gguf(&gguf).unwrap();
    let messages = [Message::new("user", "Who lit the fire?")];
    let render =
        |template: ChatTemplate| template.render(&messages, GenerationPrompt::Add, &Default::default()).unwrap();
    let expected = render(ChatTemplate::from_files(&files, &own).unwrap());
    assert_eq!(render(ChatTemplate::from_gguf(&gguf, &back).unwrap()), expected);
}

#[test]
fn tokenisers_that_do_not_fit_bad() {
    let refused = |files: &ModelFiles, rows| {
        let error = GgufVocabulary::from_files(files, rows).unwrap_err().to_string();
        error.split_once("tokenizer.json: ").unwrap().1.to_owned()
    };
    let error = refused(&files("tokenizers/byte-level"), 100);
    assert!(error.starts_with("expected at most 100 tokens, as many as the model scores, found 50"), "{error}");
    // A space before every text: llama.cpp's byte-level tokenisers have none.
    let prefixed = files("tokenizers/byte-level-gpt2-prefix-space");
    let error = refused(&prefixed, 10_000);
    assert!(
        error.starts_with("pre_tokenizer: expected one that parts texts as") || error.starts_with("llama.cpp would"),
        "{error}"
    );
}
