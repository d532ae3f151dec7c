// SPDX-License-Identifier: EUPL-1.2
//! The same request gives the same answer, to the last bit: whatever it is batched with, however its prompt is cut,
//! on however many threads.

use std::path::Path;

use ingle_models::{LoadOptions, Model, load};
use ingle_nn::ModelFiles;
use ingle_tensor::{DType, DeviceHandle};

use crate::common::{Fixture, Part, Rows, Session, cpu, logits_alone};

/// One of each architecture, with sliding windows, soft-caps and biases among them.
const FIXTURES: [&str; 6] =
    ["gemma2-v5", "gemma3_text-v5", "gemma3-published", "llama-published", "qwen2-sliding", "qwen3-sliding"];

/// Of the weights, and of keys and values.
const DTYPES: [[DType; 2]; 3] = [[DType::F32; 2], [DType::BF16; 2], [DType::BF16, DType::I8]];

/// A model, a prompt, and the prompt's logits when it is alone and fed at once, on two threads.
struct Case {
    name: String,
    files: ModelFiles,
    dtypes: [DType; 2],
    model: Box<dyn Model>,
    tokens: Vec<i32>,
    alone: Rows,
}

impl Case {
    /// The fixtures, and the demo model, which is large enough for work to be split among threads; in each dtype.
    fn all() -> Vec<Case> {
        let device = cpu(2);
        let mut cases = Vec::new();
        for dtypes in DTYPES {
            for name in FIXTURES {
                let fixture = Fixture::named(name);
                cases.push(Case::new(name, fixture.files(), fixture.tokens, (&device, dtypes)));
            }
            let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ingle/models/demo");
            let tokens = (0..150).map(|i| 5 + i * i % 1021).collect();
            cases.push(Case::new("demo", ModelFiles::directory(demo).unwrap(), tokens, (&device, dtypes)));
        }
        cases
    }

    fn new(name: &str, files: ModelFiles, tokens: Vec<i32>, (device, dtypes): (&DeviceHandle, [DType; 2])) -> Case {
        let [dtype, cache] = dtypes;
        let model = load(&files, device, &LoadOptions { dtype: Some(dtype) }, &mut |_| {}).unwrap();
        let alone = logits_alone(&*model, &tokens, tokens.len(), cache);
        Case { name: format!("{name} {dtype}, cache {cache}"), files, dtypes, model, tokens, alone }
    }

    /// Room for eight sequences as long as this one.
    fn session(&self) -> Session<'_> {
        Session::new(&*self.model, [8, self.tokens.len()], self.dtypes[1])
    }

    fn assert_same(&self, logits: &Rows, how: &str) {
        logits.assert_bit_equal(&self.alone, &format!("{}, {how}", self.name));
    }
}

#[test]
fn prompt_in_pieces_good() {
    for case in Case::all() {
        for chunk in [1, 2, 7, 16] {
            let pieces = logits_alone(&*case.model, &case.tokens, chunk, case.dtypes[1]);
            case.assert_same(&pieces, &format!("{chunk} tokens at a time"));
        }
    }
}

#[test]
fn batch_of_eight_good() {
    for case in Case::all() {
        let tokens = &case.tokens;
        let others: Vec<Vec<i32>> = (0..8).map(|other| rotated(tokens, 3 * other + 1)).collect();
        for sequence in [0, 3, 7] {
            let part = |s: usize| if s == sequence { tokens } else { &others[s][..tokens.len() - 4 * s] };
            let parts: Vec<Part<'_>> = (0..8).map(|s| Part { sequence: s, tokens: part(s) }).collect();
            let first: usize = parts[..sequence].iter().map(|part| part.tokens.len()).sum();
            let logits = rows(&case.session().step(&parts), first, tokens.len());
            case.assert_same(&logits, &format!("sequence {sequence} of 8"));
        }
    }
}

/// Chunks of a prompt beside sequences that decode, as the engine schedules them.
#[test]
fn chunks_beside_decoding_good() {
    for case in Case::all() {
        let mut session = case.session();
        let others = rotated(&case.tokens, 5);
        let prompts: Vec<Part<'_>> = (1..8).map(|s| Part { sequence: s, tokens: &others[..s] }).collect();
        session.step(&prompts);
        let mut logits = Rows { width: case.alone.width, values: Vec::new() };
        for (step, chunk) in case.tokens.chunks(7).enumerate() {
            let decoding = (1..8).map(|s| Part { sequence: s, tokens: &others[s + step..=s + step] });
            let prompt = Part { sequence: 0, tokens: chunk };
            let parts: Vec<Part<'_>> = decoding.chain([prompt]).collect();
            logits.values.extend(rows(&session.step(&parts), 7, chunk.len()).values);
        }
        case.assert_same(&logits, "chunks of 7 beside 7 that decode");
    }
}

#[test]
fn threads_good() {
    for threads in [1, 3] {
        let device = cpu(threads);
        for case in Case::all() {
            let Case { name, files, tokens, dtypes, .. } = &case;
            let other = Case::new(name, files.clone(), tokens.clone(), (&device, *dtypes));
            case.assert_same(&other.alone, &format!("{threads} threads against 2"));
        }
    }
}

/// A comparison that could not fail would prove nothing: a sequence whose history differs has other logits.
#[test]
fn other_history_bad() {
    for case in Case::all() {
        let mut tokens = case.tokens.clone();
        tokens[0] = tokens[1] + 1;
        let logits = logits_alone(&*case.model, &tokens, tokens.len(), case.dtypes[1]);
        let second = |logits: &Rows| rows(logits, 1, 1);
        let difference = second(&logits).difference(&second(&case.alone));
        assert!(difference > 0.0, "{}: the first token does not matter", case.name);
    }
}

/// `count` rows from `first` on.
fn rows(logits: &Rows, first: usize, count: usize) -> Rows {
    let Rows { width, values } = logits;
    Rows { width: *width, values: values[first * width..(first + count) * width].to_vec() }
}

fn rotated(tokens: &[i32], by: usize) -> Vec<i32> {
    tokens.iter().cycle().skip(by).take(tokens.len()).copied().collect()
}
