// SPDX-License-Identifier: EUPL-1.2
//! Classification by the engine: what is asked of it for each text, and what the answers mean.

use ingle_engine::text::Special;
use ingle_engine::{Event, EventStream, Next, Request, Task};

use super::EngineModel;
use crate::classify::{self, Labelled};
use crate::stream::stopped;
use crate::{ClassifyOptions, NextToken, Outcome, Result};

/// Texts for which a thread to tokenise them is worth its start.
const TEXTS_PER_THREAD: usize = 32;

/// A text whose classification is under way.
pub(super) struct Pending {
    kind: Kind,
    streams: Vec<EventStream>,
}

/// How a text is classified.
#[derive(Clone, Copy)]
enum Kind {
    /// What comes next is scored.
    Next,
    /// Each label is.
    Scores,
}

impl EngineModel {
    /// Submits what is needed to classify texts.
    pub(super) fn begin_all(&self, texts: Vec<String>, options: &ClassifyOptions) -> Vec<Result<Pending>> {
        let (jobs, kinds): (Vec<_>, Vec<_>) = self.planned(&texts, options).into_iter().unzip();
        let begun = |(streams, kind): (Result<Vec<EventStream>>, Kind)| Ok(Pending { kind, streams: streams? });
        self.submit_all(jobs).into_iter().zip(kinds).map(begun).collect()
    }

    /// What is asked of the engine for each text, and what it means.
    fn planned(&self, texts: &[String], options: &ClassifyOptions) -> Vec<(Result<Vec<Request>>, Kind)> {
        let plan = |text: &String| match self.plan(text, options) {
            Ok((requests, kind)) => (Ok(requests), kind),
            Err(error) => (Err(error), Kind::Next),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(texts.len() / TEXTS_PER_THREAD);
        if threads < 2 {
            return texts.iter().map(plan).collect();
        }
        std::thread::scope(|scope| {
            let parts = texts.chunks(texts.len().div_ceil(threads));
            let running: Vec<_> =
                parts.map(|part| (part, scope.spawn(move || part.iter().map(plan).collect::<Vec<_>>()))).collect();
            let whole = |(part, thread): (&[String], std::thread::ScopedJoinHandle<'_, Vec<_>>)| {
                // One that panicked is asked again here, where it is seen.
                thread.join().unwrap_or_else(|_| part.iter().map(plan).collect())
            };
            running.into_iter().flat_map(whole).collect()
        })
    }

    fn plan(&self, text: &str, options: &ClassifyOptions) -> Result<(Vec<Request>, Kind)> {
        let request = |prompt, task| Request { prompt, task, adapter: self.adapter, deadline: None };
        let labels = match options {
            ClassifyOptions::Top(count) => {
                let prompt = self.tokenizer.encode(text, Special::Add)?;
                return Ok((vec![request(prompt, Task::Next(Next::Likeliest(*count)))], Kind::Next));
            }
            ClassifyOptions::Labels(labels) => labels,
        };
        let encode = |texts: Vec<String>| {
            texts.iter().map(|text| Ok(self.tokenizer.encode(text, Special::Add)?)).collect::<Result<_>>()
        };
        let labelled = Labelled::new(encode, text, labels)?;
        let from = labelled.shared;
        match labelled.single_tokens() {
            // One pass scores every label.
            Some(tokens) if from > 0 => {
                let prompt = labelled.sequences[0][..from].to_vec();
                Ok((vec![request(prompt, Task::Next(Next::Tokens(tokens)))], Kind::Next))
            }
            _ => {
                let score = |sequence| request(sequence, Task::Score { from });
                Ok((labelled.sequences.into_iter().map(score).collect(), Kind::Scores))
            }
        }
    }

    /// What the engine found about one text.
    pub(super) fn conclude(&self, pending: Pending, options: &ClassifyOptions) -> Result<Outcome> {
        let Pending { kind, streams } = pending;
        match (kind, options) {
            (Kind::Next, ClassifyOptions::Top(_)) => {
                let named = |(id, logprob): (u32, f32)| NextToken {
                    id,
                    piece: self.tokenizer.piece(id).unwrap_or_default(),
                    probability: logprob.exp(),
                };
                Ok(Outcome::Next(next(streams)?.into_iter().map(named).collect()))
            }
            (Kind::Next, ClassifyOptions::Labels(labels)) => {
                let logprobs = next(streams)?.into_iter().map(|(_, logprob)| f64::from(logprob));
                Ok(Outcome::Labels(classify::from_logprobs(logprobs.collect(), labels)))
            }
            (Kind::Scores, options) => {
                let labels: &[String] = match options {
                    ClassifyOptions::Labels(labels) => labels,
                    ClassifyOptions::Top(_) => &[],
                };
                let sums = streams.into_iter().map(sum_of_scores).collect::<Result<_>>()?;
                Ok(Outcome::Labels(classify::from_logprobs(sums, labels)))
            }
        }
    }
}

fn next(streams: Vec<EventStream>) -> Result<Vec<(u32, f32)>> {
    for event in streams.into_iter().flatten() {
        match event {
            Event::Next { logprobs, .. } => return Ok(logprobs),
            Event::Failed { error, .. } => return Err(error.into()),
            Event::Token { .. } | Event::Logits { .. } | Event::Scores { .. } | Event::Finished { .. } => {}
        }
    }
    Err(stopped())
}

fn sum_of_scores(stream: EventStream) -> Result<f64> {
    for event in stream {
        match event {
            Event::Scores { logprobs, .. } => return Ok(logprobs.into_iter().map(f64::from).sum()),
            Event::Failed { error, .. } => return Err(error.into()),
            Event::Token { .. } | Event::Logits { .. } | Event::Next { .. } | Event::Finished { .. } => {}
        }
    }
    Err(stopped())
}
