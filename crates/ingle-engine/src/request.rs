// SPDX-License-Identifier: EUPL-1.2
//! What the engine is asked to do, and what it answers.

use std::time::{Duration, Instant};

use ingle_nn::AdapterId;

use crate::Error;
use crate::sampler::Sampling;

/// Names a request within one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One sequence's work.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids, special tokens included; not empty.
    pub prompt: Vec<u32>,
    /// What is wanted of them.
    pub task: Task,
    /// The model's adapter that it goes through; the model as it is if `None`.
    pub adapter: Option<AdapterId>,
    /// When the answer is of no more use: the request then ends with [`FinishReason::Deadline`].
    pub deadline: Option<Instant>,
}

/// What is wanted of a prompt.
#[derive(Clone, Debug)]
pub enum Task {
    /// Continue it.
    Generate(Generate),
    /// The logits after each prompt token from index `from` on, one [`Event::Logits`] a position.
    Logits {
        /// The first position whose logits are wanted.
        from: usize,
    },
    /// What may come after the prompt, in one [`Event::Next`].
    Next(Next),
    /// The natural-log probability of each prompt token from index `from` on given those before it, in one
    /// [`Event::Scores`]. `from` is at least 1.
    Score {
        /// The first token that is scored.
        from: usize,
    },
}

/// Of which tokens the natural-log probability is wanted, as the one that comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Of so many of the likeliest.
    Likeliest(usize),
    /// Of these; at least one.
    Tokens(Vec<u32>),
}

/// How to continue a prompt.
#[derive(Clone, Debug, Default)]
pub struct Generate {
    /// Stop after so many tokens; when the context is full if `None`. An answer that is asked to be longer than
    /// the context goes on: each token then sees the last so many.
    pub max_tokens: Option<usize>,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Tokens that end the answer: the one that comes is the last token, without text of its own.
    pub stop_tokens: Vec<u32>,
    /// Texts that end the answer; neither they nor what follows is part of its text.
    pub stop_strings: Vec<String>,
    /// With each token, the log-probabilities of this many likeliest tokens; `None` for no log-probabilities.
    pub top_logprobs: Option<usize>,
}

/// What happened in a step.
#[derive(Debug)]
pub enum Event {
    /// A token of the answer.
    Token {
        /// Whose answer.
        id: RequestId,
        /// The token.
        token: Token,
    },
    /// A row of logits that [`Task::Logits`] asked for.
    Logits {
        /// Whose.
        id: RequestId,
        /// Index of the prompt token after which they hold.
        position: usize,
        /// One number for each token of the vocabulary.
        row: Vec<f32>,
    },
    /// What [`Task::Next`] asked for.
    Next {
        /// Whose.
        id: RequestId,
        /// Tokens with the natural logarithm of their probability: as they were given, or likeliest first.
        logprobs: Vec<(u32, f32)>,
    },
    /// What [`Task::Score`] asked for.
    Scores {
        /// Whose.
        id: RequestId,
        /// One number for each scored token.
        logprobs: Vec<f32>,
    },
    /// The last event of a request that ended as it should.
    Finished {
        /// Which.
        id: RequestId,
        /// Why it ended.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// The last event of a request that could not be carried out.
    Failed {
        /// Which.
        id: RequestId,
        /// Why.
        error: Error,
    },
}

impl Event {
    /// Whose event it is.
    pub fn id(&self) -> RequestId {
        match self {
            Event::Token { id, .. }
            | Event::Logits { id, .. }
            | Event::Next { id, .. }
            | Event::Scores { id, .. }
            | Event::Finished { id, .. }
            | Event::Failed { id, .. } => *id,
        }
    }

    /// Whether it is the request's last.
    pub fn is_last(&self) -> bool {
        matches!(self, Event::Finished { .. } | Event::Failed { .. })
    }
}

/// A generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that it completes: whole characters only, empty while a character is incomplete or the text
    /// might yet become a stop string. The last token brings what was held back.
    pub text: String,
    /// Its log-probability and its rivals', if they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// Log-probabilities at one position: of the unmodified distribution at temperature 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token or a stop string; for logits and scores, all were given.
    Stop,
    /// As many tokens as asked for, or, where no number was, as the context holds.
    Length,
    /// It was cancelled.
    Cancelled,
    /// Its deadline passed.
    Deadline,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were already cached.
    pub cached_tokens: usize,
    /// Tokens generated, a stop token included.
    pub generated_tokens: usize,
    /// From submission to the first token, or to the end if there was none.
    pub time_to_first_token: Duration,
    /// From submission to the end.
    pub total_time: Duration,
}
