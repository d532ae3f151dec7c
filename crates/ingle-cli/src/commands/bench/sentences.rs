// SPDX-License-Identifier: EUPL-1.2
//! Texts of a given number of tokens, whatever the tokeniser.

use ingle::{Special, TextModel};

use crate::Failure;

const WORDS: [&str; 16] = [
    "the", "fire", "burns", "low", "at", "home", "and", "we", "read", "by", "its", "light", "until", "it", "is", "late",
];

/// A text of `tokens` tokens that differs from those of other indices from the first word on.
pub fn make(model: &dyn TextModel, index: usize, tokens: usize) -> Result<String, Failure> {
    let length = |text: &str| -> Result<usize, Failure> { Ok(model.tokenize(text, Special::Add)?.len()) };
    let mut text = String::new();
    // A word may be several tokens: the last ones are put letter by letter.
    let words = [index.to_string()].into_iter().chain((0..tokens).map(|at| word(index, at)));
    let letters = (0..4 * tokens).map(|at| word(index, at)[..2].to_owned());
    for addition in words.chain(letters) {
        let longer = format!("{text}{addition}");
        match length(&longer)? {
            found if found == tokens => return Ok(longer),
            found if found < tokens => text = longer,
            _ => {}
        }
    }
    Err(format!("the tokeniser makes no text of exactly {tokens} tokens of `{text}`; try another number").into())
}

/// A word of a sentence, with the space before it.
fn word(sentence: usize, at: usize) -> String {
    format!(" {}", WORDS[(sentence + at) % WORDS.len()])
}
