// SPDX-License-Identifier: EUPL-1.2
//! `ingle bench`: how fast a model runs here.

use std::time::Instant;

use ingle::{CancelToken, EndTokens, GenerateOptions, Prompt, Sampling, TextModel};
use serde_json::{Value, json};

use crate::args::{ModelArgs, positive};
use crate::{Failure, interrupt, output};

/// Measure prompt processing and generation in tokens per second
///
/// Each row is a test as llama-bench names them: pp512 processes a prompt of 512
/// tokens, tg128 generates 128 tokens after an empty context; both for each batch
/// size. A row shows the median of several runs after a warm-up, and their
/// spread.
///
/// Example:
///   ingle bench --prompt-lengths 128,512 --generate 64 --batch 1,8 --runs 5
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Prompt lengths to test; 0 for none
    #[arg(long, short, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512])]
    prompt_lengths: Vec<usize>,

    /// Numbers of tokens to generate; 0 for none
    #[arg(long = "generate", short = 'n', value_name = "TOKENS", value_delimiter = ',', default_values_t = [128])]
    generate_lengths: Vec<usize>,

    /// How many sequences at once
    #[arg(long, short, value_name = "N", value_delimiter = ',', value_parser = positive, default_values_t = [1])]
    batch: Vec<usize>,

    /// Runs that count, after one that does not
    #[arg(long, short, value_name = "N", value_parser = positive, default_value_t = 5)]
    runs: usize,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

/// One thing to measure.
#[derive(Clone, Copy)]
enum Test {
    Prompt(usize),
    Generate(usize),
}

impl Test {
    fn name(self) -> String {
        match self {
            Test::Prompt(tokens) => format!("pp{tokens}"),
            Test::Generate(tokens) => format!("tg{tokens}"),
        }
    }

    fn tokens(self) -> usize {
        match self {
            Test::Prompt(tokens) | Test::Generate(tokens) => tokens,
        }
    }

    /// Tokens per second of `batch` sequences; an error if it was interrupted.
    fn run(self, model: &dyn TextModel, batch: usize, cancel: &CancelToken) -> Result<f64, Failure> {
        model.clear_cache()?;
        let (prompt, answer) = match self {
            Test::Prompt(tokens) => (tokens, 1),
            Test::Generate(tokens) => (1, tokens),
        };
        let vocab = model.info().summary.vocab_size;
        let prompts = (0..batch).map(|sequence| Prompt::Tokens(made_up(sequence, prompt, vocab))).collect();
        let options = GenerateOptions {
            max_tokens: Some(answer),
            sampling: Some(Sampling::default()),
            end_tokens: EndTokens::Ignore,
            cancel: Some(cancel.clone()),
            ..GenerateOptions::default()
        };
        let started = Instant::now();
        for completion in model.batch_generate(prompts, &options)? {
            completion?;
        }
        if cancel.is_cancelled() {
            return Err("interrupted".into());
        }
        Ok((batch * self.tokens()) as f64 / started.elapsed().as_secs_f64())
    }
}

/// Token ids that differ from sequence to sequence, so that no prefix is shared.
fn made_up(sequence: usize, len: usize, vocab: usize) -> Vec<u32> {
    let id = |index: usize| (sequence * 7919 + index * 104_729 + 17) % vocab.max(1);
    (0..len).map(|index| u32::try_from(id(index)).unwrap_or(0)).collect()
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let model = self.model.load()?;
        let cancel = interrupt::token()?;
        let info = model.info();
        let tests: Vec<Test> = (self.prompt_lengths.iter().map(|&n| Test::Prompt(n)))
            .chain(self.generate_lengths.iter().map(|&n| Test::Generate(n)))
            .filter(|test| test.tokens() > 0)
            .collect();
        if !self.json {
            let summary = &info.summary;
            let size = output::bytes(summary.weight_bytes);
            output::text(&format!(
                "{} ({}, {size}, {}) on {}\n",
                info.name, summary.architecture, summary.dtype, info.backend
            ))?;
            output::text(&format!("{:>8} {:>6} {:>12} {:>22}\n", "test", "batch", "tokens/s", "spread"))?;
        }
        let mut rows: Vec<Value> = Vec::new();
        for &batch in &self.batch {
            for &test in &tests {
                let mut rates = Vec::with_capacity(self.runs);
                for run in 0..=self.runs {
                    let rate = test.run(model.as_ref(), batch, &cancel)?;
                    if run > 0 {
                        rates.push(rate);
                    }
                }
                rates.sort_by(f64::total_cmp);
                let (least, median, most) = (rates[0], median(&rates), rates[rates.len() - 1]);
                if self.json {
                    rows.push(json!({
                        "test": test.name(), "batch": batch, "median": median,
                        "min": least, "max": most, "runs": rates,
                    }));
                } else {
                    let spread = format!("{least:.1} to {most:.1}");
                    output::text(&format!("{:>8} {batch:>6} {median:>12.1} {spread:>22}\n", test.name()))?;
                }
            }
        }
        if self.json {
            output::json(&json!({
                "model": info.name,
                "backend": info.backend,
                "dtype": info.summary.dtype.name(),
                "threads": self.model.threads,
                "weight_bytes": info.summary.weight_bytes,
                "tests": rows,
            }))?;
        }
        Ok(())
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_good() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
    }

    #[test]
    fn made_up_prompts_differ_ugly() {
        assert_ne!(made_up(0, 8, 100), made_up(1, 8, 100));
        assert!(made_up(3, 8, 1).iter().all(|&id| id == 0));
    }
}
