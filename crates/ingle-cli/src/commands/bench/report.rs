// SPDX-License-Identifier: EUPL-1.2
//! What a benchmark prints: a table as it goes, or JSON at its end.

use std::time::Duration;

use ingle::ModelInfo;
use serde_json::{Value, json};

use super::resident;
use super::test::{FIRST_PROMPT, Sample, Test};
use crate::{Failure, output};

/// All that was measured.
pub struct Report {
    model: ModelInfo,
    threads: Option<usize>,
    load: Duration,
    /// Nothing before it has come.
    pub start_to_first_token: Option<Duration>,
    pub rows: Vec<Row>,
}

/// The samples of one test.
pub struct Row {
    pub test: Test,
    pub samples: Vec<Sample>,
}

impl Row {
    fn mean(&self) -> f64 {
        self.samples.iter().map(|sample| sample.rate).sum::<f64>() / self.samples.len() as f64
    }

    /// Standard deviation of the samples; 0 for one alone.
    fn deviation(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.samples.iter().map(|sample| (sample.rate - mean).powi(2)).sum();
        (squares / (self.samples.len().max(2) - 1) as f64).sqrt()
    }

    /// Bytes read for each token generated: a step serves all sequences.
    fn bytes_per_token(&self) -> Option<f64> {
        let step_bytes = self.samples.last()?.step_bytes?;
        Some(step_bytes as f64 / self.test.batch() as f64)
    }

    fn bytes_per_second(&self) -> Option<f64> {
        Some(self.bytes_per_token()? * self.mean())
    }

    fn json(&self) -> Value {
        json!({
            "test": self.test.to_string(),
            "tokens": self.test.tokens(),
            "batch": self.test.batch(),
            "depth": self.test.depth(),
            "unit": self.test.unit(),
            "mean": self.mean(),
            "sd": self.deviation(),
            "samples": self.samples.iter().map(|sample| sample.rate).collect::<Vec<_>>(),
            "bytes_per_token": self.bytes_per_token(),
            "bytes_per_second": self.bytes_per_second(),
        })
    }
}

impl Report {
    pub fn new(model: &ModelInfo, threads: Option<usize>, load: Duration) -> Self {
        Report { model: model.clone(), threads, load, start_to_first_token: None, rows: Vec::new() }
    }

    pub fn print_head(&self) -> Result<(), Failure> {
        output::text(
            &self.line(&["model", "size", "params", "backend", "threads", "test", "t/s", "GB/s"].map(Into::into)),
        )?;
        let rule = |(at, width): (usize, usize)| match at {
            0 | 3 => "-".repeat(width),
            _ => format!("{}:", "-".repeat(width - 1)),
        };
        let rules: Vec<String> = self.widths().into_iter().enumerate().map(rule).collect();
        Ok(output::text(&format!("| {} |\n", rules.join(" | ")))?)
    }

    pub fn print_row(&self, row: &Row) -> Result<(), Failure> {
        let summary = &self.model.summary;
        let unit = match row.test {
            Test::Classify { .. } => " sentences/s",
            Test::Prompt { .. } | Test::Generate { .. } => "",
        };
        Ok(output::text(&self.line(&[
            self.title(),
            output::bytes(summary.weight_bytes),
            format!("{:.2} M", summary.parameters as f64 / 1e6),
            self.model.backend.clone(),
            self.threads.map_or("all".into(), |threads| threads.to_string()),
            row.test.to_string(),
            format!("{:.2} ± {:.2}{unit}", row.mean(), row.deviation()),
            row.bytes_per_second().map_or("-".into(), |rate| format!("{:.1}", rate / 1e9)),
        ]))?)
    }

    pub fn print_foot(&self) -> Result<(), Failure> {
        let resident =
            resident::peak().map_or(String::new(), |peak| format!("; at most {} resident", output::bytes(peak)));
        let first = self.start_to_first_token.map_or(String::new(), |first| {
            format!("; first token of a {FIRST_PROMPT}-token prompt {:.2} s after the start", first.as_secs_f64())
        });
        Ok(output::text(&format!("\nloaded in {:.2} s{first}{resident}\n", self.load.as_secs_f64()))?)
    }

    pub fn print_json(&self) -> Result<(), Failure> {
        let summary = &self.model.summary;
        output::json(&json!({
            "model": self.model.name,
            "architecture": summary.architecture,
            "backend": self.model.backend,
            "dtype": summary.dtype.name(),
            "quantisation": summary.quantisation,
            "threads": self.threads,
            "parameters": summary.parameters,
            "weight_bytes": summary.weight_bytes,
            "load_s": self.load.as_secs_f64(),
            "start_to_first_token_s": self.start_to_first_token.map(|first| first.as_secs_f64()),
            "peak_rss_bytes": resident::peak(),
            "tests": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        }))
    }

    /// The architecture and how its weights are stored: `qwen3 bf16`.
    fn title(&self) -> String {
        let summary = &self.model.summary;
        let stored = summary.quantisation.clone().unwrap_or_else(|| summary.dtype.name().into());
        format!("{} {stored}", summary.architecture)
    }

    fn widths(&self) -> [usize; 8] {
        [self.title().chars().count().max(5), 10, 10, self.model.backend.len().max(7), 7, 14, 18, 6]
    }

    /// A row of the table: words to the left, numbers to the right.
    fn line(&self, cells: &[String; 8]) -> String {
        let cell = |(at, (cell, width)): (usize, (&String, usize))| match at {
            0 | 3 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        };
        let cells: Vec<String> = cells.iter().zip(self.widths()).enumerate().map(cell).collect();
        format!("| {} |\n", cells.join(" | "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rates: &[f64], test: Test) -> Row {
        Row { test, samples: rates.iter().map(|&rate| Sample { rate, step_bytes: Some(800) }).collect() }
    }

    #[test]
    fn mean_deviation_and_bytes_good() {
        let row = row(&[1.0, 2.0, 3.0], Test::Generate { tokens: 4, depth: 0, batch: 8 });
        assert_eq!((row.mean(), row.deviation()), (2.0, 1.0));
        assert_eq!((row.bytes_per_token(), row.bytes_per_second()), (Some(100.0), Some(200.0)));
    }

    #[test]
    fn one_sample_has_no_deviation_ugly() {
        assert_eq!(row(&[7.0], Test::Prompt { tokens: 4, batch: 1 }).deviation(), 0.0);
    }
}
