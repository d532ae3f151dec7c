// SPDX-License-Identifier: EUPL-1.2
//! Records as tokens, as the model will see them when it is used.

use ingle_engine::text::{ChatTemplate, GenerationPrompt, Message, Special, Tokenizer};
use serde_json::{Map, Value};

use super::record::{Joint, Record};
use super::{Example, Part};
use crate::Result;

/// What becomes of the tokens of prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptLoss {
    /// They are read.
    #[default]
    Masked,
    /// They are learnt like the rest.
    Learnt,
}

/// Turns records into [`Example`]s with a model's own tokeniser and chat template.
///
/// A text and an answer end with the end-of-sequence token. An answer's tokens are those that the prompt alone does not
/// share with both together, which is how `classify` scores labels; a chat's are those that its template writes
/// between the opening of the assistant's message and the end of it.
#[derive(Clone, Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    prompt_loss: PromptLoss,
    template: String,
    label: String,
}

impl Encoder {
    /// An encoder with a model's own words.
    pub fn new(tokenizer: Tokenizer, chat: ChatTemplate, prompt_loss: PromptLoss) -> Self {
        Encoder { tokenizer, chat, prompt_loss, template: TEXT.into(), label: LABEL.into() }
    }

    /// The same, with something around each text that has a label: `{text}` in `template` stands for the text.
    #[must_use]
    pub fn with_template(self, template: impl Into<String>) -> Self {
        Encoder { template: template.into(), ..self }
    }

    /// The same, with labels in the field `name` rather than `label`.
    #[must_use]
    pub fn with_label_field(self, name: impl Into<String>) -> Self {
        Encoder { label: name.into(), ..self }
    }

    /// The field that has a text's label.
    pub(super) fn label_field(&self) -> &str {
        &self.label
    }

    /// The tokeniser.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    pub(super) fn encode(&self, record: &Record) -> Result<Example> {
        match record {
            Record::Text(text) => {
                let tokens = self.tokenizer.encode(text, Special::Add)?;
                Ok(Example::learnt(self.ended(tokens)))
            }
            Record::Answer { prompt, completion, joint } => self.answer(prompt, completion, *joint),
            Record::Chat { messages, variables } => self.chat(messages, variables),
        }
    }

    fn answer(&self, prompt: &str, completion: &str, joint: Joint) -> Result<Example> {
        let (prompt, between) = match joint {
            Joint::Nothing => (prompt.to_owned(), ""),
            Joint::Space => {
                let prompt = self.template.replace(TEXT, prompt);
                let spaced = prompt.is_empty() || prompt.ends_with(char::is_whitespace);
                (prompt, if spaced { "" } else { " " })
            }
        };
        let alone = self.tokenizer.encode(&prompt, Special::Add)?;
        let tokens = self.tokenizer.encode(&format!("{prompt}{between}{completion}"), Special::Add)?;
        let read = common_prefix(&alone, &tokens);
        let tokens = self.ended(tokens);
        let learnt = tokens.len() - read;
        Ok(self.example(tokens, vec![Part::Read(read), Part::Learnt(learnt)]))
    }

    fn chat(&self, messages: &[Message], variables: &Map<String, Value>) -> Result<Example> {
        let text = |messages: &[Message], prompt| self.chat.render(messages, prompt, variables);
        let encode = |text: &str| self.tokenizer.encode(text, Special::Omit);
        let whole = text(messages, GenerationPrompt::Omit)?;
        let tokens = encode(&whole)?;
        let mut parts = Vec::new();
        let mut done = 0;
        for (index, _) in messages.iter().enumerate().filter(|(_, message)| message.role == "assistant") {
            let before = text(&messages[..index], GenerationPrompt::Add)?;
            let after = text(&messages[..=index], GenerationPrompt::Omit)?;
            let start = common_prefix(&encode(&before)?, &tokens).max(done);
            // A template that writes the last message otherwise than one between ends it somewhere before that.
            let end = match index + 1 == messages.len() {
                true => tokens.len(),
                false => common_prefix(&encode(&after)?, &tokens).max(start),
            };
            parts.extend([Part::Read(start - done), Part::Learnt(end - start)]);
            done = end;
        }
        parts.push(Part::Read(tokens.len() - done));
        Ok(self.example(tokens, parts))
    }

    fn example(&self, tokens: Vec<u32>, parts: Vec<Part>) -> Example {
        match self.prompt_loss {
            PromptLoss::Learnt => Example::learnt(tokens),
            PromptLoss::Masked => Example { tokens, parts },
        }
    }

    /// With the end-of-sequence token at the end, if there is one.
    fn ended(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        if let Some(eos) = self.tokenizer.eos_tokens().first()
            && tokens.last() != Some(eos)
        {
            tokens.push(*eos);
        }
        tokens
    }
}

/// Where labels usually are.
const LABEL: &str = "label";

/// What stands for a text in a template.
const TEXT: &str = "{text}";

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
