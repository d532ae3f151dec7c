// SPDX-License-Identifier: EUPL-1.2
//! Tokenizers, detokenisation and chat templates against what the Python packages make of the same texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ingle_engine::Error;
use ingle_engine::text::{ChatTemplate, Detokenizer, GenerationPrompt, Message, Special, SpecialText, Tokenizer};
use ingle_nn::ModelFiles;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder's text, and what the `tokenizers` package makes of it.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    ids_no_special: Vec<u32>,
    decoded: String,
    decoded_skip_special: String,
}

struct Fixture {
    name: &'static str,
    tokenizer: Tokenizer,
    cases: Vec<Case>,
}

static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(|| {
    let names =
        ["byte-level", "byte-level-qwen", "byte-level-gpt2-prefix-space", "sentencepiece-gemma", "sentencepiece-llama"];
    let load = |name| {
        let folder = fixtures().join("tokenizers").join(name);
        let tokenizer = Tokenizer::from_files(&ModelFiles::directory(&folder).unwrap()).unwrap();
        let cases: Vec<Case> = read_json(&folder.join("expected.json"));
        assert!(cases.len() > 40, "{name}: only {} cases", cases.len());
        Fixture { name, tokenizer, cases }
    };
    names.into_iter().map(load).collect()
});

fn fixture(name: &str) -> &'static Fixture {
    FIXTURES.iter().find(|fixture| fixture.name == name).unwrap()
}

/// The answer as a reader gets it.
fn stream(tokenizer: &Tokenizer, prompt: &[u32], answer: &[u32]) -> String {
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), prompt);
    let mut text = String::new();
    for id in answer {
        text += &detokenizer.push(*id).unwrap();
    }
    text + &detokenizer.finish()
}

/// The answer's part of the decoded whole.
fn decode_after(tokenizer: &Tokenizer, prompt: &[u32], answer: &[u32]) -> String {
    let before = tokenizer.decode(prompt, SpecialText::Skip).unwrap();
    let whole = tokenizer.decode(&[prompt, answer].concat(), SpecialText::Skip).unwrap();
    whole.strip_prefix(&before).unwrap_or_else(|| panic!("{whole:?} does not begin with {before:?}")).to_owned()
}

#[test]
fn ids_are_those_of_the_python_package_good() {
    for Fixture { name, tokenizer, cases } in FIXTURES.iter() {
        for case in cases {
            let omitted = tokenizer.encode(&case.text, Special::Omit).unwrap();
            assert_eq!(omitted, case.ids_no_special, "{name}: {:?}", case.text);
            let added = tokenizer.encode(&case.text, Special::Add).unwrap();
            // The package doubles a beginning-of-sequence token that the text has already.
            let doubled = case.ids.len() > 1 && case.ids[0] == case.ids[1] && Some(case.ids[0]) == tokenizer.bos();
            assert_eq!(added, case.ids[usize::from(doubled)..], "{name}: {:?}", case.text);
        }
    }
}

#[test]
fn a_batch_has_the_ids_of_its_texts_good() {
    for Fixture { name, tokenizer, cases } in FIXTURES.iter() {
        let texts: Vec<&str> = cases.iter().map(|case| case.text.as_str()).collect();
        for special in [Special::Add, Special::Omit] {
            let one_by_one: Vec<_> = texts.iter().map(|text| tokenizer.encode(text, special).unwrap()).collect();
            assert_eq!(tokenizer.encode_batch(&texts, special).unwrap(), one_by_one, "{name}");
        }
    }
}

#[test]
fn text_is_that_of_the_python_package_good() {
    for Fixture { name, tokenizer, cases } in FIXTURES.iter() {
        for case in cases {
            let decode = |special| tokenizer.decode(&case.ids, special).unwrap();
            assert_eq!(decode(SpecialText::Keep), case.decoded, "{name}: {:?}", case.text);
            assert_eq!(decode(SpecialText::Skip), case.decoded_skip_special, "{name}: {:?}", case.text);
        }
    }
}

#[test]
fn streamed_text_is_the_decoded_text_good() {
    for Fixture { name, tokenizer, cases } in FIXTURES.iter() {
        for case in cases {
            for cut in 0..=case.ids.len() {
                let (prompt, answer) = case.ids.split_at(cut);
                // A character that the prompt leaves incomplete is the answer's to complete.
                if tokenizer.decode(prompt, SpecialText::Skip).unwrap().ends_with('\u{FFFD}') {
                    continue;
                }
                let expected = decode_after(tokenizer, prompt, answer);
                assert_eq!(stream(tokenizer, prompt, answer), expected, "{name}: {:?} cut at {cut}", case.text);
            }
        }
    }
}

#[test]
fn a_character_begun_by_the_prompt_is_completed_good() {
    for (name, text) in [("byte-level", "🜁"), ("sentencepiece-llama", "🜁"), ("sentencepiece-gemma", "🜁")] {
        let tokenizer = &fixture(name).tokenizer;
        let ids = tokenizer.encode(text, Special::Omit).unwrap();
        assert!(ids.len() > 1, "{name}: expected a character of several tokens");
        let (prompt, answer) = ids.split_at(ids.len() - 1);
        assert_eq!(stream(tokenizer, prompt, answer), text, "{name}");
    }
}

#[test]
fn characters_come_whole_and_as_soon_as_they_are_good() {
    for Fixture { name, tokenizer, .. } in FIXTURES.iter() {
        let ids = tokenizer.encode("a🜁b", Special::Omit).unwrap();
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), &[]);
        let pieces: Vec<String> = ids.iter().map(|id| detokenizer.push(*id).unwrap()).collect();
        assert!(!pieces.concat().contains('\u{FFFD}'), "{name}: {pieces:?}");
        assert!(pieces[pieces.len() - 2].contains('🜁'), "{name}: {pieces:?}");
        assert_eq!(detokenizer.finish(), "", "{name}");
    }
}

#[test]
fn an_incomplete_character_is_flushed_good() {
    for Fixture { name, tokenizer, .. } in FIXTURES.iter() {
        let ids = tokenizer.encode("a🜁", Special::Omit).unwrap();
        let cut = &ids[..ids.len() - 1];
        assert_eq!(stream(tokenizer, &[], cut), decode_after(tokenizer, &[], cut), "{name}");
    }
}

#[test]
fn special_tokens_of_the_files_good() {
    let tokenizer = &fixture("byte-level").tokenizer;
    assert_eq!(tokenizer.bos(), Some(500));
    assert_eq!(tokenizer.eos_tokens(), [504]);
    assert!(tokenizer.is_special(504) && !tokenizer.is_special(100) && !tokenizer.is_special(1_000_000));
    assert_eq!(tokenizer.piece(504).as_deref(), Some("<|eot_id|>"));
    assert_eq!(tokenizer.piece(1_000_000), None);
    assert_eq!(tokenizer.vocab_size(), 505);

    let gemma = &fixture("sentencepiece-gemma").tokenizer;
    assert_eq!((gemma.bos(), gemma.eos_tokens(), gemma.end_of_turn_tokens()), (Some(2), &[1][..], &[1, 6][..]));
    let qwen = &fixture("byte-level-qwen").tokenizer;
    assert_eq!(qwen.bos(), None);
    assert_eq!(qwen.eos_tokens(), [qwen.id("<|im_end|>").unwrap()]);
}

#[test]
fn a_second_bos_is_never_added_ugly() {
    for (name, bos) in [("byte-level", "<|begin_of_text|>"), ("sentencepiece-gemma", "<bos>")] {
        let tokenizer = &fixture(name).tokenizer;
        let plain = tokenizer.encode("fire", Special::Add).unwrap();
        assert_eq!(tokenizer.encode(&format!("{bos}fire"), Special::Add).unwrap(), plain);
        assert_eq!(tokenizer.encode_batch(&[format!("{bos}fire")], Special::Add).unwrap(), [plain]);
    }
}

#[test]
fn ids_beyond_the_vocabulary_have_no_text_ugly() {
    for Fixture { name, tokenizer, .. } in FIXTURES.iter() {
        let ids = tokenizer.encode("a b", Special::Omit).unwrap();
        let strange: Vec<u32> = ids.iter().flat_map(|id| [u32::MAX, *id, 999_999]).collect();
        let expected = tokenizer.decode(&ids, SpecialText::Skip).unwrap();
        assert_eq!(stream(tokenizer, &[], &strange), expected, "{name}");
    }
}

#[test]
fn bytes_that_never_become_text_cost_no_more_ugly() {
    for (name, piece) in [("byte-level", "ð"), ("sentencepiece-llama", "<0xF0>")] {
        let tokenizer = &fixture(name).tokenizer;
        let id = tokenizer.id(piece).unwrap();
        let answer = vec![id; 20_000];
        assert_eq!(stream(tokenizer, &[], &answer), "\u{FFFD}".repeat(answer.len()), "{name}");
    }
}

#[test]
fn a_mistake_among_byte_tokens_leaves_earlier_characters_ugly() {
    let tokenizer = &fixture("sentencepiece-llama").tokenizer;
    let id = |piece: &str| tokenizer.id(piece).unwrap();
    let answer = ["<0xE4>", "<0xBD>", "<0xA0>", "<0xFF>", "<0x41>", "▁", "a"].map(id);
    assert_eq!(stream(tokenizer, &[], &answer), "你\u{FFFD}\u{FFFD} a");
}

/// The tokens of a random answer, one character or token an item. Byte tokens of SentencePiece come as whole
/// characters: for a run of bytes with a mistake in it, streaming and decoding differ by design.
fn random_tokens(tokenizer: &Tokenizer, seeds: &[(prop::sample::Index, char)]) -> Vec<Vec<u32>> {
    let is_byte = |id| tokenizer.piece(id).is_some_and(|piece| piece.len() == 6 && piece.starts_with("<0x"));
    let spell = |character: char| {
        let bytes = character.to_string().into_bytes();
        bytes.iter().map(|byte| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap()).collect()
    };
    let choose = |(seed, character): &(prop::sample::Index, char)| {
        let id = seed.index(tokenizer.vocab_size()) as u32;
        if is_byte(id) { spell(*character) } else { vec![id] }
    };
    seeds.iter().map(choose).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn random_tokens_stream_as_they_decode_good(
        kind in 0..5usize,
        seeds in prop::collection::vec(any::<(prop::sample::Index, char)>(), 0..24),
        cut in any::<prop::sample::Index>(),
    ) {
        let tokenizer = &FIXTURES[kind].tokenizer;
        let tokens = random_tokens(tokenizer, &seeds);
        let (prompt, answer) = tokens.split_at(cut.index(tokens.len() + 1));
        let (prompt, answer) = (prompt.concat(), answer.concat());
        // A character that the prompt leaves incomplete is the answer's to complete.
        prop_assume!(!tokenizer.decode(&prompt, SpecialText::Skip).unwrap().ends_with('\u{FFFD}'));
        prop_assert_eq!(stream(tokenizer, &prompt, &answer), decode_after(tokenizer, &prompt, &answer));
    }

    /// Bytes in any order, so that characters are made, broken and left incomplete.
    #[test]
    fn random_bytes_stream_as_they_decode_ugly(bytes in prop::collection::vec(
        prop_oneof![Just(0xE4u8), Just(0xBD), Just(0xA0), Just(0xF0), Just(0x9F), Just(0x80), Just(0x41), any::<u8>()],
        0..24,
    )) {
        let tokenizer = &fixture("byte-level").tokenizer;
        // A byte-level vocabulary begins with the 256 bytes, in the order of their letters.
        let letters = (0..256u32).map(|id| tokenizer.piece(id).unwrap()).collect::<Vec<_>>();
        prop_assert!(letters.iter().all(|letter| letter.chars().count() == 1));
        let ids: Vec<u32> = bytes.iter().map(|byte| u32::from(*byte)).collect();
        prop_assert_eq!(stream(tokenizer, &[], &ids), decode_after(tokenizer, &[], &ids));
    }

    #[test]
    fn random_text_survives_good(text in "\\PC{0,40}", kind in 0..2usize) {
        let tokenizer = &fixture(["byte-level", "sentencepiece-gemma"][kind]).tokenizer;
        let ids = tokenizer.encode(&text, Special::Add).unwrap();
        let plain = !ids.iter().skip(1).any(|id| tokenizer.is_special(*id));
        prop_assume!(plain && !(kind == 1 && text.contains('▁')));
        prop_assert_eq!(stream(tokenizer, &[], &ids), text);
    }
}

#[derive(Deserialize)]
struct Chats {
    bos_token: Option<String>,
    eos_token: Option<String>,
    cases: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    name: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    expected: Option<String>,
    error: Option<String>,
}

impl Chats {
    fn read(path: &str) -> Self {
        let chats: Chats = read_json(&fixtures().join("chat").join(path));
        assert!(chats.cases.len() > 10, "{path}: only {} cases", chats.cases.len());
        chats
    }

    fn check(&self, template: &ChatTemplate) {
        for chat in &self.cases {
            let prompt = if chat.add_generation_prompt { GenerationPrompt::Add } else { GenerationPrompt::Omit };
            let rendered = template.render(&chat.messages, prompt, &Map::new());
            match (&chat.expected, &chat.error) {
                (Some(expected), None) => assert_eq!(&rendered.unwrap(), expected, "{}", chat.name),
                (None, Some(raised)) => {
                    let error = rendered.unwrap_err();
                    assert!(matches!(&error, Error::Template { message, .. } if message == raised), "{error}");
                }
                _ => panic!("{}: expected either a text or an error", chat.name),
            }
        }
    }
}

/// A model directory with a tokenizer that has these special tokens, and these files.
fn model(special: &[&str], files: &[(&str, Value)]) -> (tempfile::TempDir, ModelFiles) {
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id + 2, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        })
        .collect();
    let tokenizer = json!({"added_tokens": added, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}});
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        fs::write(folder.path().join(name), text).unwrap();
    }
    let files = ModelFiles::directory(folder.path()).unwrap();
    (folder, files)
}

fn template(special: &[&str], files: &[(&str, Value)]) -> Result<ChatTemplate, Error> {
    let (_folder, files) = model(special, files);
    ChatTemplate::from_files(&files, &Tokenizer::from_files(&files)?)
}

fn render(template: &ChatTemplate, variables: Value) -> Result<String, Error> {
    template.render(&[Message::new("user", "hi")], GenerationPrompt::Add, variables.as_object().unwrap())
}

#[test]
fn built_in_templates_render_as_transformers_good() {
    for (path, mark, origin) in [
        ("gemma.json", "<start_of_turn>", "built-in Gemma"),
        ("chatml.json", "<|im_start|>", "built-in ChatML"),
        ("llama3.json", "<|start_header_id|>", "built-in Llama 3"),
    ] {
        let chats = Chats::read(path);
        let tokens = json!({"bos_token": chats.bos_token, "eos_token": chats.eos_token});
        let template = template(&[mark], &[("tokenizer_config.json", tokens)]).unwrap();
        assert_eq!(template.origin(), origin);
        chats.check(&template);
    }
}

#[test]
fn a_hard_template_renders_as_in_transformers_good() {
    let config: Value = read_json(&fixtures().join("chat/hard/tokenizer_config.json"));
    let template = template(&[], &[("tokenizer_config.json", config)]).unwrap();
    assert!(template.origin().ends_with("tokenizer_config.json"));
    Chats::read("hard/cases.json").check(&template);
}

#[test]
fn a_rendered_chat_has_one_bos_good() {
    let tokenizer = &fixture("byte-level").tokenizer;
    let files = ModelFiles::directory(fixtures().join("tokenizers/byte-level")).unwrap();
    let template = ChatTemplate::from_files(&files, tokenizer).unwrap();
    let text = template.render(&[Message::new("user", "hi")], GenerationPrompt::Add, &Map::new()).unwrap();
    for special in [Special::Omit, Special::Add] {
        let ids = tokenizer.encode(&text, special).unwrap();
        assert_eq!(ids[0], 500);
        assert_eq!(ids.iter().filter(|id| **id == 500).count(), 1);
        assert!(ids.contains(&504), "special tokens of the template stand for themselves");
    }
}

#[test]
fn templates_are_found_where_models_keep_them_good() {
    let config = ("tokenizer_config.json", json!({"chat_template": "config"}));
    let processor = ("chat_template.json", json!({"chat_template": "processor"}));
    let jinja = ("chat_template.jinja", json!("file {{ messages[0].content }}"));
    let rendered = |files: &[_]| render(&template(&["<|im_start|>"], files).unwrap(), json!({})).unwrap();
    assert_eq!(rendered(&[config.clone(), processor.clone(), jinja]), "file hi");
    assert_eq!(rendered(&[config, processor.clone()]), "config");
    assert_eq!(rendered(&[processor]), "processor");

    let named = json!({"chat_template": [
        {"name": "tool_use", "template": "tools {{ tools | tojson }}"},
        {"name": "default", "template": "plain {{ tools is none }}"},
    ]});
    let template = template(&[], &[("tokenizer_config.json", named)]).unwrap();
    assert_eq!(render(&template, json!({})).unwrap(), "plain True");
    assert_eq!(render(&template, json!({"tools": [{"name": "f"}]})).unwrap(), r#"tools [{"name": "f"}]"#);
}

#[test]
fn a_model_without_marks_is_told_by_its_type_good() {
    for (model_type, origin) in
        [("gemma3_text", "built-in Gemma"), ("llama", "built-in Llama 3"), ("qwen3", "built-in ChatML")]
    {
        let template = template(&[], &[("config.json", json!({"model_type": model_type}))]).unwrap();
        assert_eq!(template.origin(), origin);
    }
}

#[test]
fn further_fields_and_variables_reach_the_template_good() {
    let source = "{{ messages[0].name }} {{ date_string }} {{ bos_token }}{{ messages[0] | tojson }}";
    let template = ChatTemplate::new("test", source, &[("bos_token", "<s>")]);
    let message: Message = serde_json::from_value(json!({"role": "tool", "content": "4", "name": "add"})).unwrap();
    let variables = json!({"date_string": "today"});
    let text = template.render(&[message], GenerationPrompt::Omit, variables.as_object().unwrap()).unwrap();
    assert_eq!(text, r#"add today <s>{"role": "tool", "content": "4", "name": "add"}"#);
}

#[test]
fn raised_and_malformed_templates_name_their_file_bad() {
    let raising = json!({"chat_template": "{{ raise_exception('no system role') }}"});
    let error = render(&template(&[], &[("tokenizer_config.json", raising)]).unwrap(), json!({})).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("chat template (") && message.ends_with("tokenizer_config.json): no system role"));

    let broken = ("chat_template.jinja", json!("line one\n{% for %}"));
    let error = render(&template(&[], &[broken]).unwrap(), json!({})).unwrap_err().to_string();
    assert!(error.contains("chat_template.jinja): line 2: syntax error"), "{error}");

    for (content, found) in [(json!(7), "expected a text"), (json!([{"name": "rag", "template": ""}]), "[\"rag\"]")] {
        let config = ("tokenizer_config.json", json!({"chat_template": content}));
        let error = template(&[], &[config]).unwrap_err().to_string();
        assert!(error.contains("tokenizer_config.json") && error.contains(found), "{error}");
    }
}

#[test]
fn add_bos_token_overrules_the_post_processor_good() {
    let loaded = |config: Value| {
        let (_folder, files) = model(&["<s>", "</s>"], &[("tokenizer_config.json", config)]);
        Tokenizer::from_files(&files).unwrap().encode("ab", Special::Add).unwrap()
    };
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let with = |key: &str, value: bool| {
        let mut config = tokens.clone();
        config[key] = json!(value);
        config
    };
    assert_eq!(loaded(tokens.clone()), [0, 1]);
    assert_eq!(loaded(with("add_bos_token", true)), [2, 0, 1]);
    assert_eq!(loaded(with("add_eos_token", true)), [0, 1, 3]);

    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixtures().join("tokenizers/sentencepiece-gemma").join(name), folder.path().join(name)).unwrap();
    }
    let mut config: Value = read_json(&folder.path().join("tokenizer_config.json"));
    config["add_bos_token"] = json!(false);
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    let plain = tokenizer.encode("fire", Special::Omit).unwrap();
    assert_eq!(tokenizer.encode("fire", Special::Add).unwrap(), plain);
}

#[test]
fn stops_of_the_generation_config_are_united_with_the_tokenizers_good() {
    let (_folder, files) = model(
        &["<s>", "</s>", "<|im_end|>", "<end_of_turn>"],
        &[
            ("tokenizer_config.json", json!({"eos_token": "</s>"})),
            ("generation_config.json", json!({"eos_token_id": [4, 3]})),
            ("config.json", json!({"eos_token_id": 2})),
        ],
    );
    let tokenizer = Tokenizer::from_files(&files).unwrap();
    assert_eq!(tokenizer.eos_tokens(), [4, 3]);
    assert_eq!(tokenizer.end_of_turn_tokens(), [4, 3, 5]);
}

#[test]
fn tokens_of_tokenizer_config_are_added_good() {
    let added = json!({"2": {"content": "<x>", "special": true}, "3": {"content": "<y>", "special": false}});
    let config = json!({"added_tokens_decoder": added, "eos_token": "<y>"});
    let (_folder, files) = model(&[], &[("tokenizer_config.json", config)]);
    let tokenizer = Tokenizer::from_files(&files).unwrap();
    assert_eq!(tokenizer.encode("a<x><y>", Special::Omit).unwrap(), [0, 2, 3]);
    assert!(tokenizer.is_special(2) && tokenizer.is_special(3));
    assert_eq!(tokenizer.eos_tokens(), [3]);
}

#[test]
fn truncation_and_padding_are_ignored_ugly() {
    let folder = tempfile::tempdir().unwrap();
    let mut content: Value = read_json(&fixtures().join("tokenizers/byte-level/tokenizer.json"));
    content["truncation"] = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    content["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "!"});
    fs::write(folder.path().join("tokenizer.json"), content.to_string()).unwrap();
    let tokenizer = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    let text = "Who lit the fire on the hill?";
    let expected = fixture("byte-level").tokenizer.encode(text, Special::Add).unwrap();
    assert_eq!(tokenizer.encode(text, Special::Add).unwrap(), expected);
    assert_eq!(tokenizer.bos(), Some(500), "told by the post-processor, there being no tokenizer_config.json");
}

#[test]
fn missing_tokenizer_names_the_file_and_the_remedy_bad() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: file not found; copy it"), "{error}");
}

#[test]
fn malformed_tokenizer_names_the_file_and_the_place_bad() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let whole = fs::read_to_string(fixtures().join("tokenizers/byte-level/tokenizer.json")).unwrap();
    for content in ["", "{", "[]", r#"{"model": {"type": "Magic"}}"#, &whole[..whole.len() / 2], "\u{0}"] {
        fs::write(&path, content).unwrap();
        let error = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap_err();
        assert!(matches!(&error, Error::Tokenizer { file, .. } if file.ends_with("tokenizer.json")), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn a_text_the_vocabulary_cannot_spell_is_an_error_bad() {
    let folder = tempfile::tempdir().unwrap();
    let content = json!({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}});
    fs::write(folder.path().join("tokenizer.json"), content.to_string()).unwrap();
    let tokenizer = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("a", Special::Add).unwrap(), [0]);
    let error = tokenizer.encode("b", Special::Add).unwrap_err();
    assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    assert!(tokenizer.encode_batch(&["a", "b"], Special::Add).is_err());
}

#[test]
fn white_space_without_end_is_an_error_ugly() {
    let tokenizer = &fixture("byte-level").tokenizer;
    let text = |count| format!("{}x", " ".repeat(count));
    let ids = tokenizer.encode(&text(500_000), Special::Omit).unwrap();
    assert_eq!(tokenizer.decode(&ids, SpecialText::Keep).unwrap(), text(500_000));
    let error = tokenizer.encode(&text(500_001), Special::Omit).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: expected at most 500000 white-space"), "{error}");
    assert!(tokenizer.encode_batch(&[text(1), text(500_001)], Special::Omit).is_err());
}

#[test]
fn a_post_processor_that_lies_is_an_error_ugly() {
    let folder = tempfile::tempdir().unwrap();
    let mut content: Value = read_json(&fixtures().join("tokenizers/sentencepiece-gemma/tokenizer.json"));
    for single in [
        json!([{"SpecialToken": {"id": "<nowhere>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]),
        json!([{"Sequence": {"id": "B", "type_id": 0}}]),
        json!([]),
    ] {
        content["post_processor"]["single"] = single;
        fs::write(folder.path().join("tokenizer.json"), content.to_string()).unwrap();
        let error = Tokenizer::from_files(&ModelFiles::directory(folder.path()).unwrap()).unwrap_err();
        assert!(matches!(error, Error::Tokenizer { .. }), "{error}");
    }
}
