// SPDX-License-Identifier: EUPL-1.2
//! `ingle pull`: fetch a model from the Hugging Face hub.

use ingle::hub::{self, PullOptions};
use serde_json::json;

use crate::output::Progress;
use crate::{Failure, output};

/// Fetch a model from the Hugging Face hub
///
/// Only the files a model needs are fetched; an interrupted download goes on
/// where it stopped. HF_ENDPOINT, HF_TOKEN and HF_HOME are honoured. Afterwards
/// the model goes by its name:
///
///   ingle pull Qwen/Qwen3-0.6B
///   ingle chat --model Qwen/Qwen3-0.6B
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The model's name on the hub: owner/name, or owner/name@revision
    #[arg(value_name = "REPO")]
    repo: String,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let progress = Progress::bytes("fetching");
        let folder = hub::pull(&self.repo, &PullOptions::default(), &mut |p| {
            progress.rename(&format!("[{}/{}] {}", p.file_index + 1, p.files, p.file));
            progress.set(p.bytes, p.total);
        });
        progress.done();
        let folder = folder?;
        if self.json {
            return output::json(&json!({ "repo": self.repo, "path": folder }));
        }
        output::text(&format!("{}\n", folder.display()))?;
        output::note(&format!("use it with --model {}", self.repo));
        Ok(())
    }
}
