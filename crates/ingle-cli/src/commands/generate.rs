// SPDX-License-Identifier: EUPL-1.2
//! `ingle generate`: continue a prompt.

use ingle::{Finish, FinishReason, Logprobs, TextModel, Token, Usage};
use serde_json::{Value, json};

use crate::args::{ModelArgs, SamplingArgs};
use crate::interrupt::Interrupted;
use crate::{Failure, input, interrupt, output};

/// Continue a prompt, token by token
///
/// The prompt is continued as it stands, without a chat template; to converse,
/// see `ingle chat`. Ctrl-C ends the answer, which stays; the exit code is then 130.
///
/// Examples:
///   ingle generate --prompt "ROMEO:" --max-tokens 200
///   echo "Once upon a time" | ingle generate --model Qwen/Qwen3-0.6B --temperature 0
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// The text to continue; standard input, exactly as given, if not given
    #[arg(long, short, value_name = "TEXT")]
    prompt: Option<String>,

    /// Print one JSON object at the end: text, token ids, why it ended, tokens and times
    #[arg(long)]
    json: bool,

    /// After the answer, say on standard error how many tokens it took and how fast they came
    #[arg(long)]
    stats: bool,

    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let prompt = match self.prompt {
            Some(prompt) => prompt,
            None => input::stdin_text()?,
        };
        let model = self.model.load()?;
        let mut options = self.sampling.options(model.as_ref());
        options.cancel = Some(interrupt::token()?);
        let mut stream = model.generate(prompt.into(), &options)?;

        if self.json {
            let completion = stream.collect_all()?;
            output::json(&completion_json(&completion, options.sampling.map(|s| s.seed)))?;
            return ended(Some(&completion.finish));
        }
        let (mut ends_line, mut tokens) = (true, Vec::new());
        for token in &mut stream {
            let token = token?;
            if !token.text.is_empty() {
                output::text(&token.text)?;
                ends_line = token.text.ends_with('\n');
            }
            tokens.push(token);
        }
        if !ends_line {
            output::text("\n")?;
        }
        note_logprobs(&tokens, model.as_ref());
        let finish = stream.finish();
        if let (true, Some(finish)) = (self.stats, finish) {
            output::note(&speeds(&finish.usage));
        }
        ended(finish.as_ref())
    }
}

/// What an answer that was shown comes to: Ctrl-C alone cancels one.
fn ended(finish: Option<&Finish>) -> Result<(), Failure> {
    match finish {
        Some(Finish { reason: FinishReason::Cancelled, .. }) => Err(Interrupted::silent()),
        _ => Ok(()),
    }
}

/// Shows the log-probabilities of tokens that have them, a line for each token.
pub fn note_logprobs(tokens: &[Token], model: &dyn TextModel) {
    let piece = |id: u32| format!("{:?}", model.piece(id).unwrap_or_else(|| id.to_string()));
    for token in tokens {
        let Some(Logprobs { chosen, top }) = &token.logprobs else { continue };
        let likeliest: Vec<String> = top.iter().map(|(id, logprob)| format!("{} {logprob:.4}", piece(*id))).collect();
        let line = format!("{chosen:>9.4}  {:<16}  {}", piece(token.id), likeliest.join("  "));
        output::note(line.trim_end());
    }
}

/// A completion as JSON.
pub fn completion_json(completion: &ingle::Completion, seed: Option<u64>) -> Value {
    let mut value = json!({
        "text": completion.text,
        "tokens": completion.tokens.iter().map(|token| token.id).collect::<Vec<_>>(),
        "finish_reason": reason(completion.finish.reason),
        "usage": usage_json(&completion.finish.usage),
    });
    if let Some(seed) = seed {
        value["seed"] = seed.into();
    }
    if completion.tokens.iter().any(|token| token.logprobs.is_some()) {
        let rows = completion.tokens.iter().map(|token| {
            token.logprobs.as_ref().map(|logprobs| {
                let top: Vec<Value> =
                    logprobs.top.iter().map(|(id, logprob)| json!({"id": id, "logprob": logprob})).collect();
                json!({"id": token.id, "logprob": logprobs.chosen, "top": top})
            })
        });
        value["logprobs"] = rows.collect();
    }
    value
}

/// The word for why an answer ended.
pub fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
        FinishReason::Deadline => "deadline",
    }
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "generated_tokens": usage.generated_tokens,
        "time_to_first_token_s": usage.time_to_first_token.as_secs_f64(),
        "total_s": usage.total_time.as_secs_f64(),
    })
}

/// Tokens and speeds in one line for people.
pub fn speeds(usage: &Usage) -> String {
    let first = usage.time_to_first_token.as_secs_f64();
    let rest = (usage.total_time - usage.time_to_first_token.min(usage.total_time)).as_secs_f64();
    let later = usage.generated_tokens.saturating_sub(1);
    let rate = if rest > 0.0 { later as f64 / rest } else { 0.0 };
    format!(
        "{} prompt tokens ({} cached), {} generated; first token after {:.0} ms, then {rate:.1} tokens/s",
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.generated_tokens,
        first * 1e3,
    )
}
