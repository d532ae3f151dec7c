// SPDX-License-Identifier: EUPL-1.2
//! Pre-tokenisers: how each model parts a text into words, before any merging.

use ingle_nn::gguf::Metadata;
use regex_automata::meta::Regex;
use regex_automata::{Input, PatternID};

const PRE: &str = "tokenizer.ggml.pre";

/// A pre-tokeniser: it parts a text, and each part again, by one list of patterns after another.
pub(super) struct PreTokenizer {
    stages: Vec<Regex>,
    /// Whether a word that is a token is not merged.
    pub keeps_words: bool,
    /// Whether its models' texts begin with a beginning-of-sequence token, where the file does not say.
    pub adds_bos: bool,
}

/// What is known of a pre-tokeniser.
struct Known {
    names: &'static [&'static str],
    stages: &'static [Stage],
    keeps_words: bool,
    adds_bos: bool,
}

/// Patterns, of which the first that matches decides. The first is that of words. What matches another one is white
/// space, whose last character is left to the word that follows: `\s+(?!\S)|\s+` without looking ahead.
type Stage = &'static [&'static str];

const SPACES: &str = r"\s+";

macro_rules! contraction {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}

/// A word with at most one other sign before it, `$digits`, and signs with the newlines after them.
macro_rules! words {
    ($digits:literal) => {
        concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|", $digits, r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+")
    };
}

/// Words told apart by their capitals, with a contraction.
macro_rules! capitals {
    ($upper:literal, $lower:literal, $end:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?",
            $upper,
            "*",
            $lower,
            "+",
            $end,
            r"|[^\r\n\p{L}\p{N}]?",
            $upper,
            "+",
            $lower,
            "*",
            $end
        )
    };
}

const GPT_2: Stage = &[r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+", SPACES];
const LLAMA_3: Stage = &[concat!(contraction!(), "|", words!(r"\p{N}{1,3}")), SPACES];
const QWEN_2: Stage = &[concat!(contraction!(), "|", words!(r"\p{N}")), SPACES];
const DIGIT: Stage = &[r"\p{N}"];
const UP_TO_THREE_DIGITS: Stage = &[r"\p{N}{1,3}"];
const THREE_DIGITS: Stage = &["[0-9][0-9][0-9]"];
const CHINESE_JAPANESE: Stage = &["[一-龥぀-ゟ゠-ヿ]+"];
const DEEPSEEK_CHARACTERS: Stage = &[r"[[一-龥ࠀ-一가-\u{D7FF}]&&\S]+"];
const NEWLINES: Stage = &[r"[\r\n]"];
const BLOOM: Stage = &[r" ?[^(\s|.,!?…。，、।۔،)]+"];

/// The letters of DeepSeek LLM's pattern: those with capitals.
const DEEPSEEK_WORDS: Stage = &[concat!(
    r"\s?[",
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}",
    r"\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}",
    r"\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}",
    r"\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}\u{1F48}-\u{1F4D}",
    r"\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}",
    r"\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}",
    r"\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}",
    r"\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}",
    r"\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}",
    r"\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}",
    r"\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}",
    r"\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}",
    r"]+"
)];

const DEEPSEEK_V3: Stage = &[
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
    ),
    SPACES,
];

const KNOWN: &[Known] = &[
    Known {
        names: &["default", ""],
        stages: &[&[r"[\p{P}\$\+<=>\^~\|]+"], GPT_2, &[r"\p{N}+"], THREE_DIGITS],
        ..PLAIN
    },
    Known {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        stages: &[LLAMA_3],
        keeps_words: true,
        adds_bos: true,
    },
    Known { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], stages: &[LLAMA_3], ..PLAIN },
    Known { names: &["glm4", "glm5"], stages: &[LLAMA_3], keeps_words: true, ..PLAIN },
    Known {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "stablelm2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        stages: &[QWEN_2],
        ..PLAIN
    },
    Known {
        names: &["qwen35"],
        stages: &[&[
            concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
            ),
            SPACES,
        ]],
        ..PLAIN
    },
    Known {
        names: &["gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "exaone4", "trillion"],
        stages: &[GPT_2],
        ..PLAIN
    },
    Known {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        stages: &[DIGIT, GPT_2],
        ..PLAIN
    },
    Known { names: &["falcon"], stages: &[&[r"[\p{P}\$\+<=>\^~\|`]+"], GPT_2, THREE_DIGITS], ..PLAIN },
    Known {
        names: &["deepseek-llm"],
        stages: &[
            NEWLINES,
            DEEPSEEK_WORDS,
            &[r"\s?[!-/:-~！-／：-～‘-‟\u{3001}-。]+"],
            &[r"\s+$"],
            DEEPSEEK_CHARACTERS,
            &[r"\p{N}+"],
        ],
        ..PLAIN
    },
    Known {
        names: &["deepseek-coder"],
        stages: &[NEWLINES, &[r"\s?\p{L}+"], &[r"\s?\p{P}+"], DEEPSEEK_CHARACTERS, DIGIT],
        ..PLAIN
    },
    Known {
        names: &["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"],
        stages: &[UP_TO_THREE_DIGITS, CHINESE_JAPANESE, DEEPSEEK_V3],
        ..PLAIN
    },
    Known {
        names: &["tekken"],
        stages: &[&[
            concat!(
                capitals!(r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]", ""),
                r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
            ),
            SPACES,
        ]],
        keeps_words: true,
        adds_bos: true,
    },
    Known {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        stages: &[&[
            concat!(
                capitals!(r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]", concat!(contraction!(), "?")),
                r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+"
            ),
            SPACES,
        ]],
        ..PLAIN
    },
    Known { names: &["poro-chat", "bloom", "gpt3-finnish"], stages: &[BLOOM], ..PLAIN },
    Known { names: &["viking"], stages: &[BLOOM, DIGIT], ..PLAIN },
    Known {
        names: &["chameleon"],
        stages: &[
            &["<sentinel:[0-9]+>"],
            &["IMGIMG[A-I]{1,4}Z"],
            &[r"[\t\n]|    |  "],
            DIGIT,
            &[r"[\p{P}!-/:-@\[-`{-~]"],
            GPT_2,
        ],
        adds_bos: true,
        ..PLAIN
    },
    Known {
        names: &["seed-coder"],
        stages: &[&[
            concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+"),
            SPACES,
        ]],
        ..PLAIN
    },
    Known {
        names: &["minicpm5"],
        stages: &[UP_TO_THREE_DIGITS, &[concat!(contraction!(), "|", words!(r"\p{N}+")), SPACES]],
        keeps_words: true,
        ..PLAIN
    },
    Known {
        names: &["exaone-moe"],
        stages: &[&[
            concat!(
                contraction!(),
                r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]"
            ),
            SPACES,
        ]],
        ..PLAIN
    },
    Known { names: &["laguna"], stages: &[&[r"[^\n]+|\n+"], QWEN_2], ..PLAIN },
    Known { names: &["ufakzeka"], stages: &[&[words!(r"\p{N}"), SPACES]], ..PLAIN },
];

/// Words are merged, and no token is put before a text.
const PLAIN: Known = Known { names: &[], stages: &[], keeps_words: false, adds_bos: false };

impl PreTokenizer {
    /// The pre-tokeniser that `tokenizer.ggml.pre` names; early files name none.
    ///
    /// # Errors
    /// One line that lists those that are known, for a name that is not.
    pub fn read(metadata: &Metadata) -> Result<Self, String> {
        let name = metadata.find::<&str>(PRE).map_err(|error| error.to_string())?.unwrap_or_default();
        PreTokenizer::named(name)
    }

    fn named(name: &str) -> Result<Self, String> {
        let Some(known) = KNOWN.iter().find(|known| known.names.contains(&name)) else {
            let names: Vec<&str> =
                KNOWN.iter().flat_map(|known| known.names).copied().filter(|name| !name.is_empty()).collect();
            return Err(format!(
                "metadata `{PRE}`: expected one of {}; found `{}`",
                names.join(", "),
                name.escape_debug()
            ));
        };
        let compile =
            |patterns: &Stage| Regex::new_many(patterns).map_err(|error| format!("pre-tokeniser `{name}`: {error}"));
        let stages = known.stages.iter().map(compile).collect::<Result<_, _>>()?;
        Ok(PreTokenizer { stages, keeps_words: known.keeps_words, adds_bos: known.adds_bos })
    }

    /// The words of a text; together they are the text.
    pub fn split<'a>(&self, text: &'a str) -> Vec<&'a str> {
        let mut words = vec![text];
        for stage in &self.stages {
            let mut parts = Vec::with_capacity(words.len().max(text.len() / 4));
            words.iter().for_each(|word| split_once(stage, word, &mut parts));
            words = parts;
        }
        words
    }
}

/// Appends what matches in a text, and what stands between.
fn split_once<'a>(stage: &Regex, text: &'a str, parts: &mut Vec<&'a str>) {
    let (mut at, mut given) = (0, 0);
    while let Some(found) = stage.search(&Input::new(text).range(at..)) {
        let mut end = found.end();
        if found.pattern() != PatternID::ZERO && end < text.len() {
            // White space before a word: the last character is the word's, unless it is the only one.
            let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
            if found.start() + last < end {
                end -= last;
            }
        }
        if given < found.start() {
            parts.push(&text[given..found.start()]);
        }
        parts.push(&text[found.start()..end]);
        (at, given) = (end, end);
    }
    if given < text.len() {
        parts.push(&text[given..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        PreTokenizer::named(name).unwrap().split(text)
    }

    #[test]
    fn every_pattern_compiles_and_loses_nothing_good() {
        let text = "I'LL see  you\n\n at 12345h…  Größe 你好、かな 🔥\t\r\n x_y  ";
        for name in KNOWN.iter().flat_map(|known| known.names) {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn spaces_are_left_to_the_word_after_them_good() {
        assert_eq!(words("gpt-2", "a   b \n c  "), ["a", "  ", " b", " \n", " c", "  "]);
        assert_eq!(words("qwen2", "a \n  b12"), ["a", " \n", " ", " b", "1", "2"]);
        assert_eq!(words("llama-bpe", "\u{3000}\u{3000}x 1234"), ["\u{3000}", "\u{3000}x", " ", "123", "4"]);
    }

    #[test]
    fn unknown_names_are_told_the_known_ones_bad() {
        let error = PreTokenizer::named("nonesuch").err().unwrap();
        assert!(error.starts_with("metadata `tokenizer.ggml.pre`: expected one of default, llama-bpe, "), "{error}");
        assert!(error.ends_with("; found `nonesuch`"), "{error}");
    }
}
