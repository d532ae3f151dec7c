// SPDX-License-Identifier: EUPL-1.2
//! `ingle bench`: how fast a model runs here.

mod report;
mod resident;
mod sentences;
mod test;

use std::time::Instant;

use ingle::MAX_SEQUENCES;

use crate::args::{ModelArgs, positive, up_to};
use crate::{Failure, interrupt};
use report::{Report, Row};
use test::{Runner, Test};

/// Measure prompt processing and generation in tokens per second
///
/// Each row is a test, named as llama-bench names it: pp512 processes a prompt of
/// 512 tokens; tg32 generates 32 tokens, tg32@d4096 after 4,096 others, tg32x8 for
/// 8 sequences at once. A row shows the mean of the repetitions, after one that does
/// not count, and their standard deviation; beside generation, how fast weights and
/// cache were read for it: every weight once for each step.
///
/// Examples:
///   ingle bench --model owner/name
///   ingle bench -p 128,512 -g 64 -b 1,8 -d 0,4096 --json
///   ingle bench -p 0 -g 0 --classify 256x16
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Prompt lengths to measure; 0 for none
    #[arg(long, short, value_name = "TOKENS", value_delimiter = ',', default_values_t = [512])]
    prompt_tokens: Vec<usize>,

    /// Numbers of tokens to generate; 0 for none
    #[arg(long, short, value_name = "TOKENS", value_delimiter = ',', default_values_t = [128])]
    gen_tokens: Vec<usize>,

    // Of more than an engine computes at once, some would wait for others to end.
    #[arg(
        long,
        short,
        value_name = "N",
        value_delimiter = ',',
        default_values_t = [1],
        value_parser = |s: &str| up_to(s, MAX_SEQUENCES),
        help = format!("How many sequences at once, {MAX_SEQUENCES} at most")
    )]
    batch: Vec<usize>,

    /// Tokens in the cache before generation begins
    #[arg(long, short, value_name = "TOKENS", value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,

    /// Classify so many sentences of so many tokens, for example 256x16; comes in sentences per second
    #[arg(long, value_name = "NxTOKENS", value_delimiter = ',', value_parser = sentences_by_tokens)]
    classify: Vec<Test>,

    /// Times that each test is measured, after one that does not count
    #[arg(long, short, value_name = "N", value_parser = positive, default_value_t = 5)]
    repetitions: usize,

    /// Print JSON, with every sample
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

fn sentences_by_tokens(text: &str) -> Result<Test, String> {
    let numbers = text.split_once('x').and_then(|(n, tokens)| Some((positive(n).ok()?, positive(tokens).ok()?)));
    let (sentences, tokens) = numbers.ok_or("expected SENTENCESxTOKENS, for example 256x16")?;
    Ok(Test::Classify { sentences, tokens })
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let tests = self.tests();
        if tests.is_empty() {
            return Err("nothing to measure; give numbers other than 0 to -p or -g, or sentences to --classify".into());
        }
        let begin = Instant::now();
        let model = self.model.load()?;
        let load = begin.elapsed();
        let runner = Runner::new(model.as_ref(), interrupt::token()?);
        let mut report = Report::new(&model.info(), self.model.threads, load);
        let measured = self.measure(tests, &runner, begin, &mut report);
        // What was measured before Ctrl-C is shown all the same.
        if measured.as_ref().err().is_none_or(|failure| interrupt::reason(failure.as_ref()).is_some()) {
            if self.json { report.print_json() } else { report.print_foot() }?;
        }
        measured
    }

    fn measure(
        &self,
        tests: Vec<Test>,
        runner: &Runner<'_>,
        begin: Instant,
        report: &mut Report,
    ) -> Result<(), Failure> {
        runner.first_token()?;
        report.start_to_first_token = Some(begin.elapsed());
        if !self.json {
            report.print_head()?;
        }
        for test in tests {
            let row = Row { test, samples: runner.run(test, self.repetitions)? };
            if !self.json {
                report.print_row(&row)?;
            }
            report.rows.push(row);
        }
        Ok(())
    }

    fn tests(&self) -> Vec<Test> {
        let mut tests = Vec::new();
        for &batch in &self.batch {
            tests.extend(self.prompt_tokens.iter().map(|&tokens| Test::Prompt { tokens, batch }));
            for &depth in &self.depth {
                tests.extend(self.gen_tokens.iter().map(|&tokens| Test::Generate { tokens, depth, batch }));
            }
        }
        tests.retain(|test| test.tokens() > 0);
        tests.extend(&self.classify);
        tests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_by_tokens_good() {
        assert_eq!(sentences_by_tokens("256x16"), Ok(Test::Classify { sentences: 256, tokens: 16 }));
    }

    #[test]
    fn sentences_by_tokens_bad() {
        for wrong in ["256", "x16", "0x16", "256x", "axb", ""] {
            assert!(sentences_by_tokens(wrong).is_err(), "{wrong}");
        }
    }
}
