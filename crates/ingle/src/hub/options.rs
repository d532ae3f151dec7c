// SPDX-License-Identifier: EUPL-1.2
//! Where to pull from, as whom, and where to.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::PathBuf;

/// Where the Hub is if nothing else is said.
const HUB: &str = "https://huggingface.co";

/// Where a [`pull`](super::pull) goes. The default is what the environment says, as for the Hub's own tools.
#[derive(Clone, PartialEq, Eq)]
pub struct PullOptions {
    /// Branch, tag or commit where the repository's name has none; `main` if `None`.
    pub revision: Option<String>,
    /// The folder of fetched repositories: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or
    /// `~/.cache/huggingface/hub`. By default `None` only where there is no home folder.
    pub cache_dir: Option<PathBuf>,
    /// The Hub's address: `HF_ENDPOINT`, or `https://huggingface.co`.
    pub endpoint: String,
    /// Who asks: `HF_TOKEN`, or `HUGGING_FACE_HUB_TOKEN`, or the token file that `hf auth login` writes; a
    /// stranger if `None`.
    pub token: Option<String>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self::from_variables(|name| env::var_os(name), env::home_dir())
    }
}

impl PullOptions {
    fn from_variables(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        // An empty variable is one that is not set, as in the Hub's own tools.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let text = |name: &str| {
            let value = variable(name)?.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let hugging_face = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.map(|home| home.join(".cache/huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| hugging_face.as_ref().map(|folder| folder.join("token")));
        let token_on_file = || {
            let content = fs::read_to_string(token_file?).ok()?;
            let token = content.trim();
            (!token.is_empty()).then(|| token.to_owned())
        };
        PullOptions {
            revision: None,
            cache_dir: path("HF_HUB_CACHE").or_else(|| hugging_face.as_ref().map(|folder| folder.join("hub"))),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| HUB.into()),
            token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(token_on_file),
        }
    }
}

impl fmt::Debug for PullOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PullOptions")
            .field("revision", &self.revision)
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            // Options are logged; the token must not be.
            .field("token", &self.token.as_ref().map(|_| "…"))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(variables: &[(&str, &str)]) -> PullOptions {
        let variable = |name: &str| {
            variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
        };
        PullOptions::from_variables(variable, Some("/home/someone".into()))
    }

    #[test]
    fn nothing_set_is_the_hub_and_its_usual_folder_good() {
        let options = options(&[]);
        assert_eq!(options.endpoint, "https://huggingface.co");
        assert_eq!(options.cache_dir, Some("/home/someone/.cache/huggingface/hub".into()));
        assert_eq!((options.token, options.revision), (None, None));
    }

    #[test]
    fn variables_win_in_the_hubs_own_order_good() {
        let all = [
            ("HF_HUB_CACHE", "/models"),
            ("HF_HOME", "/hf"),
            ("XDG_CACHE_HOME", "/xdg"),
            ("HF_ENDPOINT", "http://mirror:8080"),
            ("HF_TOKEN", "hf_one\n"),
            ("HUGGING_FACE_HUB_TOKEN", "hf_two"),
        ];
        let from = |start: usize| options(&all[start..]);
        assert_eq!(from(0).cache_dir, Some("/models".into()));
        assert_eq!(from(1).cache_dir, Some("/hf/hub".into()));
        assert_eq!(from(2).cache_dir, Some("/xdg/huggingface/hub".into()));
        assert_eq!(from(3).endpoint, "http://mirror:8080");
        assert_eq!(from(4).token.as_deref(), Some("hf_one"));
        assert_eq!(from(5).token.as_deref(), Some("hf_two"));
    }

    #[test]
    fn token_file_is_read_after_the_variables_good() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).token.as_deref(), Some("hf_file"));
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", "hf_one")]).token.as_deref(), Some("hf_one"));
    }

    #[test]
    fn empty_variables_are_not_set_ugly() {
        let options =
            options(&[("HF_HOME", ""), ("HF_ENDPOINT", ""), ("HF_TOKEN", " "), ("HUGGING_FACE_HUB_TOKEN", "hf_two")]);
        assert_eq!(options.cache_dir, Some("/home/someone/.cache/huggingface/hub".into()));
        assert_eq!(options.endpoint, HUB);
        assert_eq!(options.token.as_deref(), Some("hf_two"));
    }

    #[test]
    fn token_never_shows_in_debug_ugly() {
        let shown = format!("{:?}", options(&[("HF_TOKEN", "hf_secret")]));
        assert!(shown.contains("token") && !shown.contains("hf_secret"), "{shown}");
    }
}
