// SPDX-License-Identifier: EUPL-1.2
//! `ingle batch`: continue many prompts together.

use std::path::PathBuf;
use std::time::Instant;

use ingle::{Message, Prompt};
use serde_json::{Value, json};

use super::generate::completion_json;
use crate::adapters::ByAdapter;
use crate::args::{ModelArgs, SamplingArgs};
use crate::input::{Entry, Sink, entries, text_of};
use crate::output::Progress;
use crate::{Failure, interrupt, output};

/// Continue many prompts together, from a file to JSONL
///
/// The file has one prompt a line, or is JSONL whose objects have `prompt` (or
/// `text`), or `messages` for a conversation, and may have an `id` that is passed
/// on, and an `adapter`: the name of one that was loaded, or null for none. All
/// are computed together. Each line of the result holds what `ingle generate --json` prints, in the
/// order of the prompts; a prompt that fails has an `error` instead of a `text`.
///
/// Examples:
///   ingle batch prompts.txt --max-tokens 50 --output answers.jsonl
///   ingle batch --chat questions.txt --model Qwen/Qwen3-0.6B
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The prompts; standard input if not given or `-`
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Where the results go; standard output if not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Take each prompt as the user's message of a conversation
    #[arg(long)]
    chat: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let entries = entries(self.file.as_deref())?;
        let mut sink = Sink::open(self.output.as_deref())?;
        let model = self.model.load()?;
        let mut options = self.sampling.options(model.as_ref());
        let cancel = interrupt::token()?;
        options.cancel = Some(cancel.clone());
        let prompts = entries
            .iter()
            .enumerate()
            .map(|(index, entry)| self.prompt(entry).map_err(|error| format!("prompt {}: {error}", index + 1)))
            .collect::<Result<Vec<Prompt>, String>>()?;

        let (started, progress) = (Instant::now(), Progress::count("prompts"));
        let (mut generated, total) = (0, entries.len());
        let model = ByAdapter::new(model, &entries)?;
        let completions = model.run(prompts, |model, prompts| model.batch_generate(prompts, &options))?;
        for (index, completion) in completions.enumerate() {
            if cancel.is_cancelled() {
                progress.done();
                return Err(sink.interrupted(index, total));
            }
            let mut line = json!({ "index": index });
            if let Entry::Object(object) = &entries[index]
                && let Some(id) = object.get("id")
            {
                line["id"] = id.clone();
            }
            let rest = match completion {
                Ok(completion) => {
                    generated += completion.finish.usage.generated_tokens;
                    completion_json(&completion, None)
                }
                Err(error) => json!({ "error": error.to_string() }),
            };
            merge(&mut line, rest);
            sink.write(&line)?;
            progress.set(index as u64 + 1, total as u64);
        }
        progress.done();
        sink.finish()?;
        let seconds = started.elapsed().as_secs_f64();
        output::note(&format!(
            "{total} prompts, {generated} tokens in {seconds:.2} s: {:.1} tokens/s",
            generated as f64 / seconds
        ));
        Ok(())
    }

    fn prompt(&self, entry: &Entry) -> Result<Prompt, Failure> {
        let conversation = match entry {
            Entry::Object(object) if object.contains_key("messages") => {
                let messages = object["messages"].clone();
                serde_json::from_value::<Vec<Message>>(messages)
                    .map_err(|error| format!("expected messages with role and content: {error}"))?
            }
            _ => {
                let text = text_of(entry, &["prompt", "text"])?;
                if !self.chat {
                    return Ok(Prompt::Text(text));
                }
                vec![Message::new("user", text)]
            }
        };
        Ok(Prompt::Chat(conversation))
    }
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
