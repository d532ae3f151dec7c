// SPDX-License-Identifier: EUPL-1.2
//! Conversations as the text a model was trained on.

use std::sync::Arc;

use ingle_nn::ModelFiles;
use ingle_nn::gguf::Gguf;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::jinja::Template;
use super::tokenizer::Tokenizer;
use crate::{Error, Result};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What they say.
    pub content: String,
    /// Further fields that the template may read, such as `tool_calls`.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message without further fields.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// Whether the rendered text ends with the opening of the assistant's next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// It does: the model is to answer.
    Add,
    /// It ends with the last message.
    Omit,
}

/// Turns a conversation into text with a model's own template.
///
/// The template runs as in transformers: Jinja with `trim_blocks` and `lstrip_blocks`, Python's methods on strings,
/// lists and dicts, `raise_exception`, `strftime_now`, `tojson`, `{% generation %}`, `{% break %}`. It writes the
/// special tokens itself: encode what it renders with [`Special::Omit`](super::Special::Omit). A template that does
/// not end, or writes without end, is stopped; one that doubles a variable again and again can still use up the
/// memory.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ingle_engine::text::{ChatTemplate, GenerationPrompt, Message};
/// use serde_json::Map;
///
/// let source = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}\
///               {% if add_generation_prompt %}assistant:{% endif %}";
/// let template = ChatTemplate::new("an example", source, &[("eos_token", "</s>")]);
/// let text = template.render(&[Message::new("user", " Who lit the fire? ")], GenerationPrompt::Add, &Map::new())?;
/// assert_eq!(text, "user: Who lit the fire?\nassistant:");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    origin: String,
    /// The named special tokens, variables of the template.
    tokens: Map<String, Value>,
    /// A template that does not compile is an error only to those who chat.
    template: Compiled,
    /// The one for conversations with tools, if it is another.
    tool_use: Option<Compiled>,
}

type Compiled = std::result::Result<Template, String>;

impl ChatTemplate {
    /// A template from its source. `origin` names it in messages, `tokens` are special tokens by the names that
    /// templates know: `bos_token`, `eos_token`.
    pub fn new(origin: &str, source: &str, tokens: &[(&str, &str)]) -> Self {
        let tokens = tokens.iter().map(|(name, token)| ((*name).to_owned(), (*token).into())).collect();
        ChatTemplate::compile(Source::single(origin.to_owned(), source.to_owned()), tokens)
    }

    /// The model's template: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json` or in
    /// `chat_template.json`; else the built-in template of its family (Gemma, ChatML, Llama 3), told by the
    /// special tokens, or by `model_type` in `config.json`; else ChatML. Of a GGUF file, as
    /// [`ChatTemplate::from_gguf`].
    ///
    /// A template with a mistake in it is no error before [`ChatTemplate::render`]: the model can still be used
    /// without.
    ///
    /// # Errors
    /// [`Error::Model`] if one of those files is not JSON; [`Error::Template`] if it has no template where it
    /// promises one.
    pub fn from_files(files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Self> {
        if let Some(gguf) = files.gguf()? {
            return ChatTemplate::from_gguf(&gguf, tokenizer);
        }
        let source = match Source::of_model(files)? {
            Some(source) => source,
            None => {
                let config: Option<Map<String, Value>> = files.find_json("config.json")?;
                let model_type = config.as_ref().and_then(|config| config.get("model_type")).and_then(Value::as_str);
                Source::built_in(model_type, tokenizer)
            }
        };
        Ok(ChatTemplate::of(source, tokenizer))
    }

    /// The template within a GGUF file: `tokenizer.chat_template`, and `tokenizer.chat_template.tool_use` for
    /// conversations with tools; else the built-in template of its family, told by the special tokens, or by
    /// `general.architecture`; else ChatML.
    ///
    /// # Errors
    /// [`Error::Model`] if one of those is no text.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Self> {
        const KEY: &str = "tokenizer.chat_template";
        let metadata = gguf.metadata();
        let tool_use = metadata.find::<&str>("tokenizer.chat_template.tool_use")?.map(str::to_owned);
        let source = match metadata.find::<&str>(KEY)? {
            Some(template) => {
                Source { origin: format!("{}: {KEY}", gguf.located()), template: template.to_owned(), tool_use }
            }
            None => Source::built_in(metadata.find("general.architecture")?, tokenizer),
        };
        Ok(ChatTemplate::of(source, tokenizer))
    }

    /// The text of the model's own template, if it has one.
    pub(super) fn source_of(files: &ModelFiles) -> Result<Option<String>> {
        Ok(Source::of_model(files)?.map(|source| source.template))
    }

    fn of(source: Source, tokenizer: &Tokenizer) -> Self {
        let tokens = tokenizer.named_tokens().iter().map(|(name, token)| (name.clone(), token.clone().into()));
        ChatTemplate::compile(source, tokens.collect())
    }

    fn compile(source: Source, tokens: Map<String, Value>) -> Self {
        let tool_use = source.tool_use.as_deref().map(Template::new);
        let inner = Inner { origin: source.origin, tokens, template: Template::new(&source.template), tool_use };
        ChatTemplate { inner: Arc::new(inner) }
    }

    /// Where the template comes from: a file, or `built-in` and the family's name.
    pub fn origin(&self) -> &str {
        &self.inner.origin
    }

    /// The conversation as text. `variables` are further variables of the template: `tools`, `date_string`,
    /// `enable_thinking`… With `tools`, a model that has a template named `tool_use` is given that one.
    ///
    /// # Errors
    /// [`Error::Template`] with what the template raised, or why it failed.
    pub fn render(
        &self,
        messages: &[Message],
        generation_prompt: GenerationPrompt,
        variables: &Map<String, Value>,
    ) -> Result<String> {
        let fail = |message: String| Error::Template { origin: self.inner.origin.clone(), message };
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let template = match &self.inner.tool_use {
            Some(tool_use) if has_tools => tool_use,
            _ => &self.inner.template,
        };
        let template = template.as_ref().map_err(|message| fail(message.clone()))?;

        let mut all = self.inner.tokens.clone();
        // Templates ask whether these are none, not only whether they are defined.
        all.insert("tools".into(), Value::Null);
        all.insert("documents".into(), Value::Null);
        all.extend(variables.clone());
        let messages = serde_json::to_value(messages).map_err(|error| fail(error.to_string()))?;
        all.insert("messages".into(), messages);
        all.insert("add_generation_prompt".into(), (generation_prompt == GenerationPrompt::Add).into());
        template.render(minijinja::Value::from(minijinja::value::Serde(all))).map_err(fail)
    }
}

/// The text of a model's templates.
#[derive(Debug)]
struct Source {
    origin: String,
    template: String,
    tool_use: Option<String>,
}

const GEMMA: (&str, &str) = ("built-in Gemma", include_str!("../templates/gemma.jinja"));
const CHATML: (&str, &str) = ("built-in ChatML", include_str!("../templates/chatml.jinja"));
const LLAMA_3: (&str, &str) = ("built-in Llama 3", include_str!("../templates/llama3.jinja"));

impl Source {
    fn single(origin: String, template: String) -> Self {
        Source { origin, template, tool_use: None }
    }

    fn of_model(files: &ModelFiles) -> Result<Option<Self>> {
        const JINJA: &str = "chat_template.jinja";
        if let Some(bytes) = files.find(JINJA)? {
            let origin = files.locate(JINJA);
            return match std::str::from_utf8(&bytes) {
                Ok(template) => Ok(Some(Source::single(origin, template.to_owned()))),
                Err(error) => Err(Error::Template { origin, message: format!("expected UTF-8: {error}") }),
            };
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let content: Option<Map<String, Value>> = files.find_json(name)?;
            match content.as_ref().and_then(|content| content.get("chat_template")) {
                None | Some(Value::Null) => {}
                Some(Value::String(template)) => {
                    return Ok(Some(Source::single(files.locate(name), template.clone())));
                }
                Some(templates) => return Source::named(files.locate(name), templates).map(Some),
            }
        }
        Ok(None)
    }

    /// A list of templates with names, of which `default` and `tool_use` have a meaning.
    fn named(origin: String, templates: &Value) -> Result<Self> {
        #[derive(Deserialize)]
        struct Named {
            name: String,
            template: String,
        }
        let templates: Vec<Named> = match Deserialize::deserialize(templates) {
            Ok(templates) => templates,
            Err(error) => {
                let message = format!("chat_template: expected a text, or a list of names and templates: {error}");
                return Err(Error::Template { origin, message });
            }
        };
        let find = |name| templates.iter().find(|named| named.name == name).map(|named| named.template.clone());
        match (find("default"), find("tool_use")) {
            (Some(template), tool_use) => Ok(Source { origin, template, tool_use }),
            (None, _) => {
                let found: Vec<&str> = templates.iter().map(|named| named.name.as_str()).collect();
                let message = format!("chat_template: expected one named \"default\", found {found:?}");
                Err(Error::Template { origin, message })
            }
        }
    }

    fn built_in(model_type: Option<&str>, tokenizer: &Tokenizer) -> Self {
        let marks = [("<start_of_turn>", GEMMA), ("<|im_start|>", CHATML), ("<|start_header_id|>", LLAMA_3)];
        let by_mark = marks.into_iter().find(|(mark, _)| tokenizer.id(mark).is_some());
        let families = [("gemma", GEMMA), ("llama", LLAMA_3)];
        let by_type = families.into_iter().find(|(name, _)| model_type.is_some_and(|found| found.starts_with(name)));
        let (_, (origin, template)) = by_mark.or(by_type).unwrap_or(("", CHATML));
        Source::single(origin.to_owned(), template.to_owned())
    }
}
