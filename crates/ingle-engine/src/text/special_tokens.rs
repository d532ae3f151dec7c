// SPDX-License-Identifier: EUPL-1.2
//! What a model's files say about special tokens.

use ingle_nn::ModelFiles;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::{Error, Result};

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CONFIG: &str = "config.json";

/// The special tokens that the files beside `tokenizer.json` declare.
#[derive(Debug, Default)]
pub(super) struct SpecialTokens {
    /// `bos_token`, `eos_token`… and the tokens they name.
    pub named: Vec<(String, AddedToken)>,
    /// Further special tokens.
    pub additional: Vec<AddedToken>,
    /// `added_tokens_decoder`: tokens with their ids, in the order of these.
    pub added: Vec<(u32, AddedToken)>,
    /// `add_bos_token`, if the file has an opinion.
    pub add_bos: Option<bool>,
    /// `add_eos_token`, if the file has an opinion.
    pub add_eos: Option<bool>,
    /// The beginning-of-sequence id of a model without `tokenizer_config.json`.
    pub bos_id: Option<u32>,
    /// The end-of-sequence ids of the model's configuration.
    pub eos_ids: Vec<u32>,
}

impl SpecialTokens {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `config.json`; each
    /// may be missing.
    pub fn from_files(files: &ModelFiles) -> Result<Self> {
        let mut tokens = SpecialTokens::default();
        let tokenizer_config = JsonFile::find(files, TOKENIZER_CONFIG)?;
        if let Some(file) = &tokenizer_config {
            tokens.read_added(file)?;
            tokens.add_bos = file.flag("add_bos_token")?;
            tokens.add_eos = file.flag("add_eos_token")?;
        }
        let special_tokens_map = JsonFile::find(files, SPECIAL_TOKENS_MAP)?;
        for file in tokenizer_config.iter().chain(&special_tokens_map) {
            tokens.read_named(file)?;
        }
        tokens.read_ids(files)?;
        // Configs name a beginning-of-sequence id even where the tokeniser has none (Qwen 2): it has the last word.
        if tokenizer_config.is_some() {
            tokens.bos_id = None;
        }
        Ok(tokens)
    }

    /// The content of the token of that name, such as `bos_token`.
    pub fn content(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(key, _)| key == name).map(|(_, token)| token.content.as_str())
    }

    fn read_added(&mut self, file: &JsonFile) -> Result<()> {
        let Some(value) = file.get("added_tokens_decoder") else { return Ok(()) };
        let entries = value.as_object().ok_or_else(|| file.unexpected("added_tokens_decoder", "an object", value))?;
        for (id, entry) in entries {
            let id = id
                .parse()
                .map_err(|_| file.error(format!("added_tokens_decoder: expected token ids as keys, found {id:?}")))?;
            self.added.push((id, file.token("added_tokens_decoder", entry)?));
        }
        self.added.sort_by_key(|(id, _)| *id);
        Ok(())
    }

    /// Names already known stay: the first file that names a token decides.
    fn read_named(&mut self, file: &JsonFile) -> Result<()> {
        for (key, value) in &file.content {
            match value {
                Value::Null => {}
                Value::String(_) | Value::Object(_) if key.ends_with("_token") && self.content(key).is_none() => {
                    self.named.push((key.clone(), file.token(key, value)?.special(true)));
                }
                // transformers 5 maps further names to tokens here: they are variables of the chat template.
                Value::Object(entries) if key == "extra_special_tokens" => {
                    for (name, entry) in entries {
                        self.named.push((name.clone(), file.token(key, entry)?.special(true)));
                    }
                }
                Value::Array(entries) if key == "extra_special_tokens" || key == "additional_special_tokens" => {
                    for entry in entries {
                        self.additional.push(file.token(key, entry)?.special(true));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_ids(&mut self, files: &ModelFiles) -> Result<()> {
        let mut sources = Vec::new();
        for name in [GENERATION_CONFIG, CONFIG] {
            sources.extend(JsonFile::find(files, name)?);
        }
        if let Some(text_config) = sources.last().and_then(|file| file.nested("text_config")) {
            sources.push(text_config);
        }
        for file in &sources {
            // A generation config replaces what the model's config says.
            if self.eos_ids.is_empty() {
                self.eos_ids = file.ids("eos_token_id")?;
            }
            if self.bos_id.is_none() {
                self.bos_id = file.ids("bos_token_id")?.first().copied();
            }
        }
        Ok(())
    }
}

/// A JSON object with the name of its file, for messages.
struct JsonFile {
    file: String,
    content: Map<String, Value>,
}

impl JsonFile {
    fn find(files: &ModelFiles, name: &str) -> Result<Option<Self>> {
        let content = files.find_json(name)?;
        Ok(content.map(|content| JsonFile { file: files.locate(name), content }))
    }

    fn nested(&self, key: &str) -> Option<Self> {
        let content = self.get(key)?.as_object()?.clone();
        Some(JsonFile { file: format!("{}: {key}", self.file), content })
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.content.get(key).filter(|value| !value.is_null())
    }

    fn error(&self, message: String) -> Error {
        Error::Tokenizer { file: self.file.clone(), message }
    }

    fn unexpected(&self, key: &str, expected: &str, found: &Value) -> Error {
        let mut found = found.to_string();
        if found.chars().count() > 40 {
            found = found.chars().take(40).chain("…".chars()).collect();
        }
        self.error(format!("{key}: expected {expected}, found {found}"))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.unexpected(key, "true or false", value))
    }

    /// A token: its content, or an object with its content and how it is matched.
    fn token(&self, key: &str, value: &Value) -> Result<AddedToken> {
        let entry = TokenEntry::deserialize(value)
            .map_err(|_| self.unexpected(key, "a token, or an object with its content", value))?;
        Ok(match entry {
            TokenEntry::Content(content) => AddedToken::from(content, true),
            TokenEntry::Described { content, single_word, lstrip, rstrip, normalized, special } => {
                let token = AddedToken::from(content, special).single_word(single_word).lstrip(lstrip).rstrip(rstrip);
                match normalized {
                    Some(normalized) => token.normalized(normalized),
                    None => token,
                }
            }
        })
    }

    /// A token id, or a list of them. Negative ones mean "none" to some exporters.
    fn ids(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut ids = Vec::new();
        for value in values {
            let id = value.as_i64().ok_or_else(|| self.unexpected(key, "a token id or a list of them", value))?;
            if id >= 0 {
                ids.push(u32::try_from(id).map_err(|_| self.unexpected(key, "token ids below 2^32", value))?);
            }
        }
        Ok(ids)
    }
}

/// A special token as the files write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum TokenEntry {
    Content(String),
    Described {
        content: String,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
        #[serde(default)]
        special: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<SpecialTokens> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        SpecialTokens::from_files(&ModelFiles::directory(folder.path()).unwrap())
    }

    #[test]
    fn generation_config_replaces_config_good() {
        let config = (CONFIG, r#"{"bos_token_id": 2, "eos_token_id": 1}"#);
        assert_eq!(read(&[config]).unwrap().eos_ids, [1]);
        let tokens = read(&[config, (GENERATION_CONFIG, r#"{"eos_token_id": [1, 106]}"#)]).unwrap();
        assert_eq!((tokens.eos_ids, tokens.bos_id), (vec![1, 106], Some(2)));
    }

    #[test]
    fn ids_of_a_nested_text_config_good() {
        let tokens = read(&[(CONFIG, r#"{"text_config": {"eos_token_id": 7, "bos_token_id": 3}}"#)]).unwrap();
        assert_eq!((tokens.eos_ids, tokens.bos_id), (vec![7], Some(3)));
    }

    #[test]
    fn tokens_as_text_and_as_objects_good() {
        let tokens = read(&[
            (
                TOKENIZER_CONFIG,
                r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": true},
                "extra_special_tokens": {"image_token": "<img>"}, "additional_special_tokens": ["<x>"],
                "added_tokens_decoder": {"9": {"content": "<y>", "special": true}, "3": {"content": "<z>"}}}"#,
            ),
            (SPECIAL_TOKENS_MAP, r#"{"bos_token": "<other>", "pad_token": "<pad>"}"#),
        ])
        .unwrap();
        assert_eq!(tokens.content("bos_token"), Some("<s>"));
        assert_eq!(tokens.content("pad_token"), Some("<pad>"));
        assert_eq!(tokens.content("image_token"), Some("<img>"));
        assert!(tokens.named.iter().any(|(name, token)| name == "eos_token" && token.lstrip && token.special));
        assert_eq!(tokens.additional, [AddedToken::from("<x>", true)]);
        assert_eq!(tokens.added, [(3, AddedToken::from("<z>", false)), (9, AddedToken::from("<y>", true))]);
    }

    #[test]
    fn wrong_types_name_file_key_and_value_bad() {
        for (name, content, message) in [
            (GENERATION_CONFIG, r#"{"eos_token_id": "x"}"#, "eos_token_id: expected a token id or a list of them"),
            (GENERATION_CONFIG, r#"{"eos_token_id": [1.5]}"#, "found 1.5"),
            (GENERATION_CONFIG, r#"{"eos_token_id": 5000000000}"#, "below 2^32"),
            (TOKENIZER_CONFIG, r#"{"add_bos_token": "yes"}"#, "add_bos_token: expected true or false, found \"yes\""),
            (TOKENIZER_CONFIG, r#"{"added_tokens_decoder": []}"#, "added_tokens_decoder: expected an object"),
            (TOKENIZER_CONFIG, r#"{"added_tokens_decoder": {"x": "y"}}"#, "found \"x\""),
            (TOKENIZER_CONFIG, r#"{"bos_token": {"special": true}}"#, "bos_token: expected a token"),
            (TOKENIZER_CONFIG, r#"{"#, "line 1"),
        ] {
            let error = read(&[(name, content)]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(message), "{error}");
        }
    }

    #[test]
    fn a_tokeniser_without_bos_overrules_the_config_ugly() {
        let tokens =
            read(&[(CONFIG, r#"{"bos_token_id": 151643}"#), (TOKENIZER_CONFIG, r#"{"bos_token": null}"#)]).unwrap();
        assert_eq!((tokens.bos_id, tokens.content("bos_token")), (None, None));
    }

    #[test]
    fn null_and_negative_ids_are_none_ugly() {
        assert!(read(&[(CONFIG, r#"{"eos_token_id": null}"#)]).unwrap().eos_ids.is_empty());
        assert!(read(&[(CONFIG, r#"{"eos_token_id": -1}"#)]).unwrap().eos_ids.is_empty());
    }
}
