// SPDX-License-Identifier: EUPL-1.2
//! `ingle classify`: which label fits a text, or what comes next, without generating.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use ingle::{ClassifyOptions, Confusion, LabelScore, Outcome};
use serde_json::{Map, Value, json};

use crate::adapters::ByAdapter;
use crate::args::{ModelArgs, positive};
use crate::input::{Entry, Sink, entries, text_of};
use crate::output::Progress;
use crate::{Failure, interrupt, output};

/// Say which label fits each text, or what comes next, in one pass and without
/// generating
///
/// With --labels, each label is scored as the continuation of the text (after a
/// space, unless the text ends with white space), exactly also where a label is
/// several tokens; the probabilities are relative to the labels given. With
/// --top, the likeliest next tokens. With --label-field, the file says which label is
/// the right one, and how many were found is said at the end. The file has one text a line, or is JSONL
/// with `text` and, if wanted, the name of an `adapter` that was loaded (null for
/// none); results are JSONL, in the order of the texts.
///
/// Examples:
///   ingle classify reviews.txt --labels good,bad --template "Review: {text}\nThe review is"
///   ingle classify test.jsonl --label-field label --model out/model -o results.jsonl
///   echo "Good morrow," | ingle classify --top 5
#[derive(clap::Args)]
#[command(verbatim_doc_comment, group(clap::ArgGroup::new("what").required(true).multiple(true)))]
pub struct Args {
    /// The texts; standard input if not given or `-`
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,

    /// Labels to choose from, separated by commas
    #[arg(long, value_name = "A,B,C", value_delimiter = ',', group = "what")]
    labels: Vec<String>,

    /// Show so many of the likeliest next tokens
    #[arg(
        long,
        value_name = "N",
        value_parser = positive,
        group = "what",
        conflicts_with_all = ["labels", "label_field"]
    )]
    top: Option<usize>,

    /// The field with each text's own label: show how often it was found; without --labels, those there are the labels
    #[arg(long, value_name = "NAME", group = "what")]
    label_field: Option<String>,

    /// What the model reads: {text} stands for each text, \n for a new line
    #[arg(long, value_name = "TEMPLATE", default_value = "{text}")]
    template: String,

    /// Where the results go; standard output if not given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let template = self.template.replace("\\n", "\n");
        if !template.contains("{text}") {
            return Err(format!("--template: expected {{text}} in it, found `{}`", self.template).into());
        }
        let entries = entries(self.file.as_deref())?;
        let mut texts = Vec::with_capacity(entries.len());
        for (index, entry) in entries.iter().enumerate() {
            let text = text_of(entry, &["text", "prompt"]).map_err(|error| format!("text {}: {error}", index + 1))?;
            texts.push(text);
        }
        let own = match &self.label_field {
            Some(field) => Some(own_labels(&entries, field)?),
            None => None,
        };
        let mut sink = Sink::open(self.output.as_deref())?;
        let model = self.model.load()?;
        let options = match self.top {
            Some(top) => ClassifyOptions::Top(top),
            None => ClassifyOptions::Labels(match &own {
                Some(own) if self.labels.is_empty() => {
                    own.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
                }
                _ => self.labels,
            }),
        };
        let mut confusion = Confusion::default();
        let cancel = interrupt::token()?;
        let prompts = texts.iter().map(|text| template.replace("{text}", text)).collect();
        let (started, progress, total) = (Instant::now(), Progress::count("sentences"), texts.len());
        let model = ByAdapter::new(model, &entries)?;
        let outcomes = model.run(prompts, |model, prompts| model.classify(prompts, &options))?;
        for (index, outcome) in outcomes.enumerate() {
            if cancel.is_cancelled() {
                progress.done();
                return Err(sink.interrupted(index, total));
            }
            let mut line = line(index, &texts[index], outcome);
            if let Some(own) = &own {
                confusion.add(&own[index], line["label"].as_str().unwrap_or("none"));
                line["expected"] = own[index].clone().into();
            }
            sink.write(&line)?;
            progress.set(index as u64 + 1, total as u64);
        }
        progress.done();
        sink.finish()?;
        let seconds = started.elapsed().as_secs_f64();
        if own.is_some() {
            output::note(&confusion.to_string());
        }
        output::note(&format!("{total} sentences in {seconds:.2} s: {:.1} sentences/s", total as f64 / seconds));
        Ok(())
    }
}

/// Each text's own label.
fn own_labels(entries: &[Entry], field: &str) -> Result<Vec<String>, Failure> {
    let label = |(index, entry): (usize, &Entry)| -> Result<String, Failure> {
        let found = match entry {
            Entry::Text(_) => "a plain text".into(),
            Entry::Object(object) => match object.get(field) {
                Some(Value::String(label)) => return Ok(label.clone()),
                Some(other) => other.to_string(),
                None => object.keys().cloned().collect::<Vec<_>>().join(", "),
            },
        };
        Err(format!("text {}: expected a string in `{field}`, found {found}", index + 1).into())
    };
    entries.iter().enumerate().map(label).collect()
}

fn line(index: usize, text: &str, outcome: ingle::Result<Outcome>) -> Value {
    let mut line = json!({ "index": index, "text": text });
    match outcome {
        Ok(Outcome::Labels(labels)) => {
            if let Some(best) = labels.iter().max_by(|a, b| a.probability.total_cmp(&b.probability)) {
                line["label"] = best.label.clone().into();
                line["probability"] = best.probability.into();
            }
            let each = |value: fn(&LabelScore) -> f32| -> Map<String, Value> {
                labels.iter().map(|label| (label.label.clone(), value(label).into())).collect()
            };
            line["probabilities"] = each(|label| label.probability).into();
            line["logprobs"] = each(|label| label.logprob).into();
        }
        Ok(Outcome::Next(tokens)) => {
            let top: Vec<Value> = tokens
                .into_iter()
                .map(|token| json!({"id": token.id, "piece": token.piece, "probability": token.probability}))
                .collect();
            line["top"] = top.into();
        }
        Err(error) => line["error"] = error.to_string().into(),
    }
    line
}
