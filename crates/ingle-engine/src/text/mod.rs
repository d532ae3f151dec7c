// SPDX-License-Identifier: EUPL-1.2
//! Text in, token ids out, and back again: the tokeniser, the streaming detokeniser, stop strings and chat
//! templates.
//!
//! A chat message goes [`ChatTemplate::render`] → [`Tokenizer::encode`] with [`Special::Omit`] (the template has
//! written the special tokens itself) → the model; its answer comes back [`Detokenizer::push`] →
//! [`StopStrings::push`] → the reader.

mod bpe;
mod chat;
mod codec;
mod detokenizer;
mod gguf;
mod jinja;
mod json;
mod python_json;
mod special_tokens;
mod stop;
mod tokenizer;

pub use chat::{ChatTemplate, GenerationPrompt, Message};
pub use detokenizer::Detokenizer;
pub use gguf::GgufVocabulary;
pub use stop::{StopMatch, StopStrings};
pub use tokenizer::{Special, SpecialText, Tokenizer};
