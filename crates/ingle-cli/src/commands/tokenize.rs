// SPDX-License-Identifier: EUPL-1.2
//! `ingle tokenize`: a text as the model's tokens.

use ingle::Special;
use serde_json::json;

use crate::{Failure, input, output};

/// Print a text as the model's tokens: ids and pieces, as JSON
///
/// Example:
///   ingle tokenize --text "Good morrow" --no-special
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The text; standard input, exactly as given, if not given
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,

    /// Add no start or end token
    #[arg(long)]
    no_special: bool,

    /// JSON is the only form there is; accepted so that scripts may say it
    #[arg(long)]
    json: bool,

    /// A model directory, a .gguf file, the name of a pulled model (owner/name), or `demo`; only its tokeniser is read
    #[arg(long, short, default_value = "demo", env = "INGLE_MODEL", value_name = "MODEL")]
    model: String,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let text = match self.text {
            Some(text) => text,
            None => input::stdin_text()?,
        };
        let tokenizer = ingle::load_tokenizer(&self.model)?;
        let special = if self.no_special { Special::Omit } else { Special::Add };
        let ids = tokenizer.encode(&text, special)?;
        let pieces: Vec<_> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
        output::json(&json!({ "ids": ids, "pieces": pieces }))
    }
}
