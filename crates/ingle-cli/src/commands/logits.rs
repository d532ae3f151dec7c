// SPDX-License-Identifier: EUPL-1.2
//! `ingle logits`: the numbers themselves, for comparing with other engines.

use serde_json::json;

use crate::args::{ModelArgs, positive};
use crate::{Failure, output};

/// Print the logits after each token, for comparing with other engines
///
/// JSON: the tokens, and for each position the full row of logits over the
/// vocabulary.
///
/// Example:
///   ingle logits --tokens 1,2,3 --last 1 --dtype f32
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Token ids, separated by commas, taken as they are
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,

    /// Only the last so many positions
    #[arg(long, value_name = "N", value_parser = positive)]
    last: Option<usize>,

    /// JSON is the only form there is; accepted so that scripts may say it
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let model = self.model.load()?;
        let from = self.tokens.len().saturating_sub(self.last.unwrap_or(usize::MAX));
        let rows = model.logits(self.tokens.clone(), from)?;
        let rows: Vec<_> = rows
            .into_iter()
            .enumerate()
            .map(|(row, logits)| json!({"position": from + row, "logits": logits}))
            .collect();
        output::json(&json!({
            "model": model.info().name,
            "tokens": self.tokens,
            "vocab_size": model.info().summary.vocab_size,
            "rows": rows,
        }))
    }
}
