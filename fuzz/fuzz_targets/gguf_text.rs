// SPDX-License-Identifier: EUPL-1.2
//! The tokeniser and chat template within a GGUF file.

#![no_main]

use ingle_engine::text::{ChatTemplate, GenerationPrompt, Message, Special, SpecialText, Tokenizer};
use ingle_nn::gguf::Gguf;
use ingle_tensor::Bytes;
use libfuzzer_sys::fuzz_target;

const TEXTS: [&str; 4] =
    ["", "The fire, it's 1234 degrees!\n\n  \tGrüße 🔥", "<|im_start|>user <s></s>\u{0}", "aaaaaaaaaaaaaaaaab"];

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::read("fuzz.gguf".into(), Bytes::copy_from_slice(data)) else { return };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return };
    for text in TEXTS {
        for special in [Special::Add, Special::Literal] {
            let Ok(ids) = tokenizer.encode(text, special) else { continue };
            assert!(ids.iter().all(|id| tokenizer.piece(*id).is_some()), "ids are of the vocabulary");
            for special in [SpecialText::Keep, SpecialText::Skip] {
                std::hint::black_box(tokenizer.decode(&ids, special).is_ok());
            }
        }
    }
    std::hint::black_box(tokenizer.decode(&[0, 1, 2, 255, u32::MAX], SpecialText::Keep).is_ok());
    let Ok(template) = ChatTemplate::from_gguf(&gguf, &tokenizer) else { return };
    let messages = [Message::new("user", "Who lit the fire?")];
    std::hint::black_box(template.render(&messages, GenerationPrompt::Add, &serde_json::Map::new()).is_ok());
});
