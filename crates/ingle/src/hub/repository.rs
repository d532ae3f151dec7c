// SPDX-License-Identifier: EUPL-1.2
//! A repository's name, what it lists, and which of that a model needs.

use super::Error;

/// The revision where none is said.
pub(super) const MAIN: &str = "main";

/// Where a repository and a revision of it are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// `owner/name`.
    pub(super) id: String,
    /// Branch, tag or commit.
    pub(super) revision: String,
}

impl Repository {
    /// Reads `owner/name[@revision]`; `otherwise` is the revision of a name without one, or else [`MAIN`].
    pub(super) fn parse(text: &str, otherwise: Option<&str>) -> Result<Self, Error> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, revision),
            None => (text, otherwise.unwrap_or(MAIN)),
        };
        // These rules are the Hub's. They also keep the name from leaving the cache folder, and from being
        // mistaken for another there, where `/` is written `--`.
        let word = |word: &str| {
            (1..=96).contains(&word.len())
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                && !word.starts_with(['-', '.'])
                && !word.ends_with(['-', '.'])
                && !word.contains("--")
                && !word.contains("..")
        };
        if !id.split_once('/').is_some_and(|(owner, name)| word(owner) && word(name)) {
            return Err(Error::Repository { found: text.into() });
        }
        let part = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte))
                && !part.starts_with('.')
        };
        if revision.len() > 255 || !revision.split('/').all(part) {
            return Err(Error::Revision { found: revision.into() });
        }
        Ok(Repository { id: id.into(), revision: revision.into() })
    }
}

/// A word from a server that may name a file of the cache: a commit, or the `ETag` of a file.
pub(super) fn is_safe_word(word: &str) -> bool {
    (1..=128).contains(&word.len())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !word.starts_with('.')
        // Another file of the cache is called so.
        && !word.ends_with(".part")
}

/// What a revision of a repository holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// The commit that the revision is now.
    pub(super) commit: String,
    /// All its files.
    pub(super) files: Vec<ListedFile>,
}

/// A file as the listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListedFile {
    /// Its path in the repository.
    pub(super) name: String,
    /// Its bytes; some mirrors do not say.
    pub(super) size: Option<u64>,
    /// The digest of its content in hexadecimal; only large files have one.
    pub(super) sha256: Option<String>,
}

impl Listing {
    /// The files that a model needs, the weights last, so that what refuses a model is known before they come.
    pub(super) fn wanted(&self, repository: &Repository) -> Result<Vec<ListedFile>, Error> {
        let refuse = |file: &ListedFile| Error::FileName { repo: repository.id.clone(), name: file.name.clone() };
        if let Some(file) = self.files.iter().find(|file| leaves_its_folder(&file.name)) {
            return Err(refuse(file));
        }
        // Mistral's own format, beside the sharded one: the same weights again.
        let consolidated = |name: &str| is_weights(name) && name.starts_with("consolidated");
        let others = self.files.iter().any(|file| is_weights(&file.name) && !consolidated(&file.name));
        let mut wanted: Vec<ListedFile> = self
            .files
            .iter()
            .filter(|file| is_needed(&file.name) && !(others && consolidated(&file.name)))
            .cloned()
            .collect();
        if let Some(file) = wanted.iter().find(|file| file.name.contains(|c: char| c.is_control() || c == ':')) {
            return Err(refuse(file));
        }
        wanted.sort_by(|a, b| (is_weights(&a.name), &a.name).cmp(&(is_weights(&b.name), &b.name)));
        wanted.dedup_by(|a, b| a.name == b.name);
        let missing = if !wanted.iter().any(|file| is_weights(&file.name)) {
            ".safetensors file"
        } else if !wanted.iter().any(|file| file.name == "config.json") {
            "config.json"
        } else {
            return Ok(wanted);
        };
        Err(Error::NotAModel { repo: repository.id.clone(), missing, found: self.weight_formats() })
    }

    /// The formats of weights that are there, in words.
    fn weight_formats(&self) -> String {
        let formats: Vec<&str> = [".safetensors", ".gguf", ".bin", ".pth", ".pt", ".onnx", ".h5", ".msgpack"]
            .into_iter()
            .filter(|format| self.files.iter().any(|file| file.name.ends_with(format)))
            .collect();
        if formats.is_empty() { "it has no weights at all".into() } else { format!("it has {}", formats.join(", ")) }
    }
}

/// Whether a name, on any system, is of something outside the folder it is put in.
fn leaves_its_folder(name: &str) -> bool {
    name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..")
}

/// Whether the file holds weights that can be loaded.
pub(super) fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// Whether the file says which of several weight files holds which tensor.
pub(super) fn is_index(name: &str) -> bool {
    name.ends_with(".safetensors.index.json")
}

/// Whether a model is loaded from this file. Files in folders are other formats and other models.
fn is_needed(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "added_tokens.json",
        "config.json",
        "generation_config.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
    ];
    !name.contains(['/', '\\'])
        && !name.starts_with('.')
        && (NAMES.contains(&name)
            || is_weights(name)
            || is_index(name)
            || name.starts_with("chat_template.")
            || (name.starts_with("tokenizer") && name.ends_with(".json")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let files = names.iter().map(|name| ListedFile { name: (*name).into(), size: None, sha256: None }).collect();
        Listing { commit: "c0ffee".into(), files }
    }

    fn wanted(names: &[&str]) -> Result<Vec<String>, Error> {
        let repository = Repository::parse("o/n", None).unwrap();
        Ok(listing(names).wanted(&repository)?.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn names_with_and_without_revision_good() {
        for (text, otherwise, id, revision) in [
            ("Qwen/Qwen3-0.6B", None, "Qwen/Qwen3-0.6B", "main"),
            ("Qwen/Qwen3-0.6B", Some("v1"), "Qwen/Qwen3-0.6B", "v1"),
            ("o/n@refs/pr/5", Some("v1"), "o/n", "refs/pr/5"),
            ("o_1/n.x@0123abc", None, "o_1/n.x", "0123abc"),
        ] {
            let found = Repository::parse(text, otherwise).unwrap();
            assert_eq!((found.id.as_str(), found.revision.as_str()), (id, revision));
        }
    }

    #[test]
    fn malformed_names_are_refused_bad() {
        for text in [
            "",
            "gpt2",
            "/",
            "o/",
            "/n",
            "o/n/x",
            "../n",
            "o/..",
            "o/n ",
            "o/a--b",
            "-o/n",
            "o/n.",
            "o\\n/x",
            "https://huggingface.co/o/n",
            "ö/n",
            "o/n\n",
        ] {
            let error = Repository::parse(text, None).unwrap_err();
            assert!(matches!(error, Error::Repository { .. }), "{text}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn malformed_revisions_are_refused_bad() {
        for text in ["o/n@", "o/n@..", "o/n@a/../b", "o/n@/etc", "o/n@a?b", "o/n@a#b", "o/n@a@b", "o/n@a b"] {
            assert!(matches!(Repository::parse(text, None), Err(Error::Revision { .. })), "{text}");
        }
    }

    #[test]
    fn only_what_a_model_needs_and_weights_last_good() {
        let found = wanted(&[
            ".gitattributes",
            "LICENSE",
            "README.md",
            "model-00002-of-00002.safetensors",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "special_tokens_map.json",
            "chat_template.jinja",
            "added_tokens.json",
            "vocab.json",
            "merges.txt",
            "pytorch_model.bin",
            "consolidated.00.pth",
            "model.gguf",
            "onnx/model.onnx",
            "original/params.json",
            "onnx/config.json",
            "consolidated.safetensors",
            "params.json",
        ]);
        assert_eq!(
            found.unwrap(),
            [
                "added_tokens.json",
                "chat_template.jinja",
                "config.json",
                "generation_config.json",
                "merges.txt",
                "model.safetensors.index.json",
                "special_tokens_map.json",
                "tokenizer.json",
                "tokenizer.model",
                "tokenizer_config.json",
                "vocab.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ]
        );
    }

    #[test]
    fn consolidated_weights_alone_are_taken_ugly() {
        assert_eq!(
            wanted(&["config.json", "consolidated.safetensors"]).unwrap(),
            ["config.json", "consolidated.safetensors"]
        );
    }

    #[test]
    fn repositories_without_a_model_say_what_is_there_bad() {
        assert_eq!(
            wanted(&["config.json", "a.gguf", "pytorch_model.bin"]).unwrap_err().to_string(),
            "o/n: has no .safetensors file (it has .gguf, .bin); look for a repository of that model with \
             safetensors weights"
        );
        assert!(wanted(&[]).unwrap_err().to_string().contains("no weights at all"));
        assert!(wanted(&["adapter.safetensors"]).unwrap_err().to_string().contains("has no config.json"));
    }

    #[test]
    fn hostile_names_refuse_the_repository_ugly() {
        for name in [
            "../evil.safetensors",
            "a/../../evil.json",
            "/etc/passwd",
            "..",
            "..\\evil.safetensors",
            "\\\\host\\x.safetensors",
            "a\u{1b}[2J.safetensors",
            "C:evil.safetensors",
        ] {
            let error = wanted(&["config.json", "model.safetensors", name]).unwrap_err();
            assert!(matches!(error, Error::FileName { .. }), "{name}: {error}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn unicode_names_are_only_names_ugly() {
        let names = ["config.json", "모델.safetensors", "．．／model.safetensors"];
        assert_eq!(wanted(&names).unwrap().len(), 3);
    }

    proptest! {
        #[test]
        fn what_is_wanted_stays_in_its_folder_ugly(names in prop::collection::vec("[./\\\\a:\u{7}é]{0,6}(\\.safetensors)?", 0..4)) {
            let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
            names.extend(["config.json", "model.safetensors"]);
            for name in wanted(&names).unwrap_or_default() {
                let path = std::path::Path::new(&name);
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().and_then(|name| name.to_str()), Some(name.as_str()));
            }
        }

        #[test]
        fn parsed_names_stay_in_the_cache_ugly(text in "[./@a\\-]{0,8}/[./@a\\-]{0,8}") {
            if let Ok(repository) = Repository::parse(&text, None) {
                prop_assert_eq!(repository.id.matches('/').count(), 1);
                prop_assert!(!repository.id.split('/').any(|part| part.starts_with('.')));
                prop_assert!(!repository.revision.split('/').any(|part| part.is_empty() || part.starts_with('.')));
            }
        }
    }
}
