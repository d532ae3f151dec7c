// SPDX-License-Identifier: EUPL-1.2
//! The shapes that a line of training data may have.

use ingle_engine::text::Message;
use serde_json::{Map, Value};

/// What a line holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Record {
    /// `{"text": …}`: all of it is learnt.
    Text(String),
    /// `{"prompt": …, "completion": …}`, or `{"text": …, "label": …}`: the second is learnt as what follows the first.
    Answer { prompt: String, completion: String, joint: Joint },
    /// `{"messages": [{"role": …, "content": …}, …]}`: what the assistant says is learnt.
    Chat { messages: Vec<Message>, variables: Map<String, Value> },
}

/// What stands between a prompt and its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// Nothing.
    Nothing,
    /// A space, unless the prompt ends with white space: as labels follow a text in classification.
    Space,
}

const SHAPES: &str =
    "an object with `text`, with `text` and `label`, with `prompt` and `completion`, or with `messages`";

/// What was expected of a line, and what was found in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub expected: String,
    pub found: String,
}

impl Record {
    /// Reads a line; `label` is the field that has a text's label.
    pub(super) fn read(line: &[u8], label: &str) -> Result<Record, Unfit> {
        let unfit = |found: String| Unfit { expected: SHAPES.into(), found };
        let text = std::str::from_utf8(line)
            .map_err(|error| Unfit { expected: "UTF-8 text".into(), found: format!("other bytes ({error})") })?;
        let mut object = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(other) => return Err(unfit(kind(&other).into())),
            Err(error) => return Err(unfit(format!("no JSON ({})", without_line(&error)))),
        };
        let has = |object: &Map<String, Value>, name: &str| object.get(name).is_some_and(|value| !value.is_null());
        if has(&object, "messages") {
            let messages = object.remove("messages").unwrap_or_default();
            let messages = chat(messages)?;
            let variables = object.remove_entry("tools").into_iter().collect();
            return Ok(Record::Chat { messages, variables });
        }
        if has(&object, "prompt") || has(&object, "completion") {
            let (prompt, completion) = (string(&object, "prompt")?, string(&object, "completion")?);
            return Ok(Record::Answer { prompt, completion, joint: Joint::Nothing });
        }
        if has(&object, "text") {
            let text = string(&object, "text")?;
            return match has(&object, label) {
                true => Ok(Record::Answer { prompt: text, completion: string(&object, label)?, joint: Joint::Space }),
                false => Ok(Record::Text(text)),
            };
        }
        let names: Vec<&str> = object.keys().map(|name| name.as_str()).take(10).collect();
        Err(unfit(if names.is_empty() { "no fields".into() } else { format!("the fields {}", names.join(", ")) }))
    }
}

fn string(object: &Map<String, Value>, name: &str) -> Result<String, Unfit> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        other => {
            let found = other.map_or("none", kind).into();
            Err(Unfit { expected: format!("a text `{name}`"), found })
        }
    }
}

fn chat(messages: Value) -> Result<Vec<Message>, Unfit> {
    let expected = || "`messages` with a list of objects, each with a text `role` and a text `content`".to_owned();
    let messages: Vec<Message> = serde_json::from_value(messages)
        .map_err(|error| Unfit { expected: expected(), found: without_line(&error) })?;
    if messages.iter().any(|message| message.role == "assistant") {
        return Ok(messages);
    }
    let found = "none with the role `assistant`".into();
    Err(Unfit { expected: "`messages` to learn from".into(), found })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// What serde says, without the line number: it counts from the line's own beginning.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) if error.column() > 0 => format!("{what} at column {}", error.column()),
        Some((what, _)) => what.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_shape_good() {
        let read = |line: &str| Record::read(line.as_bytes(), "label").unwrap();
        assert_eq!(read(r#"{"text": "a", "id": 7}"#), Record::Text("a".into()));
        let answer = |joint| Record::Answer { prompt: "a".into(), completion: "b".into(), joint };
        assert_eq!(read(r#"{"prompt": "a", "completion": "b"}"#), answer(Joint::Nothing));
        assert_eq!(read(r#"{"text": "a", "label": "b"}"#), answer(Joint::Space));
        let domain = Record::read(br#"{"text": "a", "label": "c", "domain": "b"}"#, "domain");
        assert_eq!(domain, Ok(answer(Joint::Space)));
        assert_eq!(read(r#"{"text": "a", "label": null}"#), Record::Text("a".into()));
        let chat = read(r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#);
        let messages = vec![Message::new("user", "a"), Message::new("assistant", "b")];
        assert_eq!(chat, Record::Chat { messages, variables: Map::new() });
    }

    #[test]
    fn what_is_wrong_is_said_bad() {
        let said = |line: &[u8]| {
            let Unfit { expected, found } = Record::read(line, "label").unwrap_err();
            format!("{expected}; {found}")
        };
        assert_eq!(said(b"[1]"), format!("{SHAPES}; a list"));
        assert_eq!(said(b"{\"body\": \"a\"}"), format!("{SHAPES}; the fields body"));
        assert!(said(b"{\"text\": ").starts_with(&format!("{SHAPES}; no JSON (EOF while parsing")), "{}", said(b"{"));
        assert_eq!(said(b"{\"text\": 5}"), "a text `text`; a number");
        assert_eq!(said(b"{\"prompt\": \"a\"}"), "a text `completion`; none");
        assert!(said(b"{\"text\": \"\xff\"}").starts_with("UTF-8 text; other bytes"));
        let user = br#"{"messages": [{"role": "user", "content": "a"}]}"#;
        assert_eq!(said(user), "`messages` to learn from; none with the role `assistant`");
        assert!(said(br#"{"messages": [{"role": "user"}]}"#).contains("missing field `content`"));
    }

    #[test]
    fn a_deep_line_is_no_crash_ugly() {
        let deep = "[".repeat(100_000);
        assert!(Record::read(deep.as_bytes(), "label").is_err());
    }

    proptest! {
        #[test]
        fn any_text_comes_back_good(text in ".*", label in ".*") {
            let line = serde_json::json!({ "text": text, "label": label }).to_string();
            let wanted = Record::Answer { prompt: text, completion: label, joint: Joint::Space };
            prop_assert_eq!(Record::read(line.as_bytes(), "label"), Ok(wanted));
        }

        #[test]
        fn any_line_is_read_or_refused_ugly(line in r#"[{}\[\]:,"a-z0-9\\ ]{0,60}|\{"messages": .{0,40}|.*"#) {
            if let Err(unfit) = Record::read(line.as_bytes(), "label") {
                prop_assert!(!unfit.expected.is_empty() && !unfit.found.is_empty());
            }
        }
    }
}
