// SPDX-License-Identifier: EUPL-1.2
//! The tests of a benchmark, and how each is run.

use std::fmt;
use std::time::{Duration, Instant};

use ingle::{CancelToken, ClassifyOptions, EndTokens, GenerateOptions, Prompt, Sampling, TextModel, TokenStream};

use super::sentences;
use crate::Failure;
use crate::interrupt::Interrupted;

/// Tokens of the prompt whose first token is timed from the start of the program.
pub const FIRST_PROMPT: usize = 10;

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Prompts of so many tokens, so many at once.
    Prompt { tokens: usize, batch: usize },
    /// So many tokens of each of so many answers, after so many tokens that are cached already.
    Generate { tokens: usize, depth: usize, batch: usize },
    /// So many sentences of so many tokens.
    Classify { sentences: usize, tokens: usize },
}

impl Test {
    pub fn tokens(self) -> usize {
        match self {
            Test::Prompt { tokens, .. } | Test::Generate { tokens, .. } | Test::Classify { tokens, .. } => tokens,
        }
    }

    /// Sequences computed at once.
    pub fn batch(self) -> usize {
        match self {
            Test::Prompt { batch, .. } | Test::Generate { batch, .. } => batch,
            Test::Classify { sentences, .. } => sentences,
        }
    }

    /// Tokens cached before.
    pub fn depth(self) -> usize {
        match self {
            Test::Generate { depth, .. } => depth,
            Test::Prompt { .. } | Test::Classify { .. } => 0,
        }
    }

    /// What is counted by the second.
    pub fn unit(self) -> &'static str {
        match self {
            Test::Prompt { .. } | Test::Generate { .. } => "tokens/s",
            Test::Classify { .. } => "sentences/s",
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batch = match *self {
            Test::Prompt { tokens, batch } => {
                write!(f, "pp{tokens}")?;
                batch
            }
            Test::Generate { tokens, depth, batch } => {
                write!(f, "tg{tokens}")?;
                if depth > 0 {
                    write!(f, "@d{depth}")?;
                }
                batch
            }
            Test::Classify { sentences, tokens } => return write!(f, "classify{sentences}x{tokens}"),
        };
        if batch > 1 { write!(f, "x{batch}") } else { Ok(()) }
    }
}

/// What one repetition gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Tokens, or sentences, per second.
    pub rate: f64,
    /// Bytes of weights and cache that the middle step of generation reads, every layer seeing all of the cache.
    pub step_bytes: Option<usize>,
}

/// Runs tests on a model.
pub struct Runner<'a> {
    model: &'a dyn TextModel,
    cancel: CancelToken,
}

impl<'a> Runner<'a> {
    pub fn new(model: &'a dyn TextModel, cancel: CancelToken) -> Self {
        Runner { model, cancel }
    }

    /// Computes a short prompt and its first token.
    pub fn first_token(&self) -> Result<(), Failure> {
        let tokens = FIRST_PROMPT.min(self.model.info().context_length);
        self.round(&mut self.start(1, tokens, Some(1))?)
    }

    /// The samples of a test, after one that does not count.
    pub fn run(&self, test: Test, repetitions: usize) -> Result<Vec<Sample>, Failure> {
        self.model.forget_prompts()?;
        let texts = match test {
            Test::Classify { sentences, tokens } => self.sentences(sentences, tokens)?,
            Test::Prompt { .. } | Test::Generate { .. } => Vec::new(),
        };
        let sample = |_| match test {
            Test::Prompt { tokens, batch } => self.prompt(tokens, batch),
            Test::Generate { tokens, depth, batch } => self.generate(tokens, depth, batch),
            Test::Classify { .. } => self.classify(&texts),
        };
        let samples: Vec<Sample> = (0..=repetitions).map(sample).collect::<Result<_, _>>()?;
        Ok(samples[1..].to_vec())
    }

    fn prompt(&self, tokens: usize, batch: usize) -> Result<Sample, Failure> {
        self.model.forget_prompts()?;
        let begin = Instant::now();
        self.round(&mut self.start(batch, tokens, Some(1))?)?;
        Ok(Sample { rate: per_second(batch * tokens, begin.elapsed()), step_bytes: None })
    }

    /// Counts from when every answer has its first token. Answers go on until the slowest has enough, so that
    /// no step computes fewer of them. A prompt of `depth` tokens is computed the first time and found in the
    /// cache from then on; it does not count. Without one the last sample's answers are forgotten, for else the cache would
    /// grow while the next is measured.
    fn generate(&self, tokens: usize, depth: usize, batch: usize) -> Result<Sample, Failure> {
        if depth == 0 {
            self.model.forget_prompts()?;
        }
        let mut streams = self.start(batch, depth.max(1), Some(usize::MAX))?;
        self.round(&mut streams)?;
        let begin = Instant::now();
        for _ in 0..tokens {
            self.round(&mut streams)?;
        }
        let elapsed = begin.elapsed();
        // Counted, not asked for: the engine goes on beyond what was waited for.
        let info = self.model.info();
        let cached = batch * (depth.max(1) + tokens.div_ceil(2));
        let step_bytes = Some(info.summary.weight_bytes + cached * info.kv_token_bytes);
        Ok(Sample { rate: per_second(batch * tokens, elapsed), step_bytes })
    }

    fn classify(&self, texts: &[String]) -> Result<Sample, Failure> {
        self.model.forget_prompts()?;
        let begin = Instant::now();
        for outcome in self.model.classify(texts.to_vec(), &ClassifyOptions::Top(1))? {
            outcome?;
            self.go_on()?;
        }
        Ok(Sample { rate: per_second(texts.len(), begin.elapsed()), step_bytes: None })
    }

    fn sentences(&self, count: usize, tokens: usize) -> Result<Vec<String>, Failure> {
        let make = |index| {
            self.go_on()?;
            sentences::make(self.model, index, tokens)
        };
        (0..count).map(make).collect()
    }

    /// Starts answers to prompts that share no prefix.
    fn start(&self, batch: usize, tokens: usize, max_tokens: Option<usize>) -> Result<Vec<TokenStream>, Failure> {
        let vocab = self.model.info().summary.vocab_size;
        let options = GenerateOptions {
            max_tokens,
            sampling: Some(Sampling::default()),
            end_tokens: EndTokens::Ignore,
            cancel: Some(self.cancel.clone()),
            ..GenerateOptions::default()
        };
        let start = |sequence| self.model.generate(Prompt::Tokens(made_up(sequence, tokens, vocab)), &options);
        Ok((0..batch).map(start).collect::<ingle::Result<_>>()?)
    }

    /// Waits for one more token of each answer.
    fn round(&self, streams: &mut [TokenStream]) -> Result<(), Failure> {
        for stream in streams {
            let token = stream.next().transpose()?;
            self.go_on()?;
            token.ok_or("an answer ended before it was as long as it was asked to be")?;
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() { Err(Interrupted::told("interrupted")) } else { Ok(()) }
    }
}

fn per_second(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// Token ids that differ from sequence to sequence, so that no prefix is shared.
fn made_up(sequence: usize, len: usize, vocab: usize) -> Vec<u32> {
    let id = |index: usize| (sequence * 7919 + index * 104_729 + 17) % vocab.max(1);
    (0..len).map(|index| u32::try_from(id(index)).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_as_llama_bench_names_them_good() {
        let name = |test: Test| test.to_string();
        assert_eq!(name(Test::Prompt { tokens: 512, batch: 1 }), "pp512");
        assert_eq!(name(Test::Prompt { tokens: 128, batch: 8 }), "pp128x8");
        assert_eq!(name(Test::Generate { tokens: 32, depth: 0, batch: 1 }), "tg32");
        assert_eq!(name(Test::Generate { tokens: 32, depth: 4096, batch: 8 }), "tg32@d4096x8");
        assert_eq!(name(Test::Classify { sentences: 256, tokens: 16 }), "classify256x16");
    }

    #[test]
    fn made_up_prompts_differ_ugly() {
        assert_ne!(made_up(0, 8, 100), made_up(1, 8, 100));
        assert!(made_up(3, 8, 1).iter().all(|&id| id == 0));
    }
}
