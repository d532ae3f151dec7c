// SPDX-License-Identifier: EUPL-1.2
//! What each token is: part of words, or more.

use ingle_nn::gguf::Metadata;

use super::super::bpe::Vocabulary;
use super::check_length;
use crate::Result;

const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";

/// What a token is: the numbers of `tokenizer.ggml.token_type`, after SentencePiece's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A part of words.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Has a meaning of its own, and no text.
    Control,
    /// Text that is one token wherever it stands.
    UserDefined,
    /// A byte, such as `<0x0A>`.
    Byte,
    /// In no text.
    Unused,
}

/// The kind of each token.
pub(super) struct Kinds(Vec<Kind>);

/// What llama.cpp takes for the end of a text or turn, and so for a control token, whatever the file says.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// The tokens of filling in the middle, by the key that may name another in their place: control tokens likewise.
const FILL_IN: [(&str, &[&str]); 6] = [
    (
        "fim_pre",
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        "fim_suf",
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        "fim_mid",
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// Marks of the Harmony format: text, although they are control tokens in the file.
const HARMONY: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Kinds {
    /// The kinds that the file gives, put right as llama.cpp does.
    pub fn read(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Self> {
        let numbers = metadata.find::<Vec<i32>>(TOKEN_TYPE)?.unwrap_or_else(|| vec![1; vocabulary.len()]);
        check_length(metadata, TOKEN_TYPE, numbers.len(), vocabulary.len())?;
        let mut kinds = Kinds(numbers.iter().map(|number| Kind::from_number(*number)).collect());
        let mut set = |tokens: &[&str], kind| {
            for id in tokens.iter().filter_map(|token| vocabulary.id(token.as_bytes())) {
                kinds.0[id as usize] = kind;
            }
        };
        for (name, tokens) in FILL_IN {
            if metadata.get(&format!("tokenizer.ggml.{name}_token_id")).is_none() {
                set(tokens, Kind::Control);
            }
        }
        set(&ENDS, Kind::Control);
        set(&HARMONY, Kind::UserDefined);
        let has = |token: &str| vocabulary.id(token.as_bytes()).is_some();
        let calls = has("<|call|>") || has("<|calls|>");
        if calls && (has("<|return|>") || has("<|flush|>")) {
            set(&["<|end|>"], Kind::UserDefined);
        }
        if has("<|tool_response>") {
            set(&["</s>"], Kind::Normal);
        }
        Ok(kinds)
    }

    /// The kind of a token. Ids beyond the vocabulary are unused.
    pub fn of(&self, id: u32) -> Kind {
        self.0.get(id as usize).copied().unwrap_or(Kind::Unused)
    }
}

impl Kind {
    fn from_number(number: i32) -> Self {
        match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => Kind::Unused,
        }
    }

    /// Whether it is one token wherever its content stands in a text.
    pub fn is_whole(self) -> bool {
        matches!(self, Kind::Unknown | Kind::Control | Kind::UserDefined)
    }

    /// Whether it is no part of an answer's text.
    pub fn is_special(self) -> bool {
        matches!(self, Kind::Unknown | Kind::Control)
    }
}
