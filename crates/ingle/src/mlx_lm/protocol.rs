// SPDX-License-Identifier: EUPL-1.2
//! What is said between this process and its child: JSON, one object a line.
//!
//! Every command bears a number, and so does every event that answers it. An event without a number is about the
//! child as a whole. JSON has no infinities: where a number may be −∞, `null` stands for it.

use std::time::Duration;

use ingle_engine::text::Message;
use ingle_engine::{Logprobs, Sampling};
use ingle_tensor::Memory;
use serde::{Deserialize, Serialize};

/// A line to the child.
#[derive(Debug, Serialize)]
pub struct Command<'a> {
    pub id: u64,
    #[serde(flatten)]
    pub task: &'a Task,
}

/// What the child is asked to do.
#[derive(Debug, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Task {
    /// Load a model: the first command, and there is no second. Answered by `loading` and `ready`.
    Load { path: String, dtype: Option<&'static str>, memory_limit: Option<usize> },
    /// Turn texts into token ids. Answered by `encoded`.
    Encode { texts: Vec<String>, special: &'static str },
    /// Turn a conversation into token ids with the model's chat template. Answered by `encoded`.
    Render { messages: Vec<Message> },
    /// The vocabulary's piece for a token. Answered by `piece`.
    Piece { token: u32 },
    /// Continue a prompt. Answered by `token`s, the last of which says why it is.
    Generate(Generate),
    /// Logits from a position on. Answered by `logits` for each, then `done`.
    Logits { tokens: Vec<u32>, from: usize },
    /// The log-probability of each sequence from index `from` on. Answered by `scores`.
    Score { sequences: Vec<Vec<u32>>, from: usize },
    /// The likeliest next tokens. Answered by `top`.
    Top { tokens: Vec<u32>, count: usize },
    /// Forget the request of this command's number. Not answered.
    Cancel,
    /// Refuse work beyond so many bytes. Not answered.
    SetMemoryLimit { bytes: Option<usize> },
    /// Keep at most so many freed bytes. Not answered.
    SetCacheLimit { bytes: Option<usize> },
    /// Give freed memory back. Answered by `done`.
    ClearCache,
}

/// How to continue a prompt.
#[derive(Debug, Serialize)]
pub struct Generate {
    pub prompt: Vec<u32>,
    pub max_tokens: usize,
    pub end: End,
    pub sampling: WireSampling,
    pub top_logprobs: Option<usize>,
}

/// Which tokens end an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// None does.
    None,
    /// Those that end a text.
    Sequence,
    /// Those that end a text or a turn of a conversation.
    Turn,
}

/// [`Sampling`] as JSON has it.
#[derive(Debug, Serialize)]
pub struct WireSampling {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, Option<f32>)>,
    seed: u64,
}

impl From<Sampling> for WireSampling {
    fn from(sampling: Sampling) -> Self {
        let finite = |(id, bias): (u32, f32)| (id, bias.is_finite().then_some(bias));
        WireSampling {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            logit_bias: sampling.logit_bias.into_iter().map(finite).collect(),
            seed: sampling.seed,
        }
    }
}

/// A line from the child.
#[derive(Debug, Deserialize)]
pub struct Event {
    pub id: Option<u64>,
    #[serde(flatten)]
    pub report: Report,
}

/// What the child says.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Report {
    Loading {
        loaded_bytes: usize,
        total_bytes: usize,
    },
    Ready(Box<Ready>),
    /// Part of a prompt is computed: a sign of life.
    Progress,
    Token(WireToken),
    Encoded {
        tokens: Vec<Vec<u32>>,
    },
    Piece {
        piece: Option<String>,
    },
    Logits {
        row: Vec<Option<f32>>,
    },
    Scores {
        logprobs: Vec<Option<f64>>,
    },
    /// Ids, pieces and log-probabilities, likeliest first.
    Top {
        tokens: Vec<(u32, String, Option<f64>)>,
    },
    Done,
    Error {
        message: String,
    },
    Metrics(WireMetrics),
}

impl Report {
    /// Whether nothing follows for this number.
    pub fn is_last(&self) -> bool {
        match self {
            Report::Loading { .. } | Report::Progress | Report::Logits { .. } | Report::Metrics(_) => false,
            Report::Token(token) => token.finish.is_some(),
            Report::Ready(_)
            | Report::Encoded { .. }
            | Report::Piece { .. }
            | Report::Scores { .. }
            | Report::Top { .. }
            | Report::Done
            | Report::Error { .. } => true,
        }
    }
}

/// What the child has loaded.
#[derive(Debug, Deserialize)]
pub struct Ready {
    pub python: String,
    pub mlx_lm: String,
    pub mlx: String,
    pub architecture: String,
    pub vocab_size: usize,
    pub layers: usize,
    pub hidden_size: usize,
    pub parameters: usize,
    pub weight_bytes: usize,
    pub dtype: String,
    pub kv_dtype: String,
    pub kv_token_bytes: usize,
    pub quantisation: Option<String>,
    /// `None` where the configuration does not say: then there may be no bound.
    pub context_length: Option<usize>,
    pub chat_template: bool,
}

/// A token of an answer.
#[derive(Debug, Deserialize)]
pub struct WireToken {
    pub token: u32,
    pub text: String,
    pub logprobs: Option<WireLogprobs>,
    pub finish: Option<WireFinish>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WireFinish {
    Stop,
    Length,
}

/// [`Logprobs`] as JSON has it.
#[derive(Debug, Deserialize)]
pub struct WireLogprobs {
    chosen: Option<f32>,
    top: Vec<(u32, Option<f32>)>,
}

impl From<WireLogprobs> for Logprobs {
    fn from(wire: WireLogprobs) -> Self {
        let infinite = |logprob: Option<f32>| logprob.unwrap_or(f32::NEG_INFINITY);
        let top = wire.top.into_iter().map(|(id, logprob)| (id, infinite(logprob))).collect();
        Logprobs { chosen: infinite(wire.chosen), top }
    }
}

/// What the child has done so far, and the memory it takes.
#[derive(Debug, Deserialize)]
pub struct WireMetrics {
    prompt_tokens: usize,
    generated_tokens: usize,
    prefilled_tokens: usize,
    decoded_tokens: usize,
    steps: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
    running: usize,
    waiting: usize,
    active: usize,
    peak: usize,
    cached: usize,
}

impl WireMetrics {
    /// Takes over what the child counts; times to first tokens are counted on this side.
    pub fn store(&self, metrics: &mut crate::Metrics) {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        metrics.engine = ingle_engine::Metrics {
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.generated_tokens,
            prefilled_tokens: self.prefilled_tokens,
            decoded_tokens: self.decoded_tokens,
            steps: self.steps,
            prefill_time: seconds(self.prefill_seconds),
            decode_time: seconds(self.decode_seconds),
            running: self.running,
            waiting: self.waiting,
            ..metrics.engine
        };
        metrics.memory = Memory { active: self.active, peak: self.peak, cached: self.cached };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(line: &str) -> Result<Event, serde_json::Error> {
        serde_json::from_str(line)
    }

    #[test]
    fn a_command_is_one_object_good() {
        let task = Task::Top { tokens: vec![2, 5], count: 1 };
        let line = serde_json::to_string(&Command { id: 7, task: &task }).unwrap();
        assert_eq!(line, r#"{"id":7,"do":"top","tokens":[2,5],"count":1}"#);
        let line = serde_json::to_string(&Command { id: 8, task: &Task::Cancel }).unwrap();
        assert_eq!(line, r#"{"id":8,"do":"cancel"}"#);
    }

    #[test]
    fn the_last_token_is_the_last_event_good() {
        let token = event(r#"{"event": "token", "id": 3, "token": 9, "text": "a"}"#).unwrap();
        assert!(!token.report.is_last() && token.id == Some(3));
        let last = event(r#"{"event": "token", "id": 3, "token": 9, "text": "a", "finish": "length"}"#).unwrap();
        assert!(last.report.is_last());
    }

    #[test]
    fn what_is_no_event_is_refused_bad() {
        for line in ["", "hello", "[]", r#"{"event": "song"}"#, r#"{"event": "token", "id": -1}"#, r#"{"id": 1}"#] {
            assert!(event(line).is_err(), "{line}");
        }
    }

    #[test]
    fn infinity_is_null_both_ways_ugly() {
        let sampling = Sampling { logit_bias: vec![(4, f32::NEG_INFINITY), (5, 0.5)], ..Sampling::default() };
        let line = serde_json::to_string(&WireSampling::from(sampling)).unwrap();
        assert!(line.contains(r#""logit_bias":[[4,null],[5,0.5]]"#), "{line}");
        let wire: WireLogprobs = serde_json::from_str(r#"{"chosen": null, "top": [[1, -0.5]]}"#).unwrap();
        assert_eq!(Logprobs::from(wire), Logprobs { chosen: f32::NEG_INFINITY, top: vec![(1, -0.5)] });
    }
}
