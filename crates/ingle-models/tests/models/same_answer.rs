// SPDX-License-Identifier: EUPL-1.2
//! The same request gives the same answer, to the last bit: whatever it is batched with, however its prompt is cut,
//! on however many threads.

use ingle_models::Model;
use ingle_tensor::DType;

use crate::common::{Fixture, Part, Rows, Session, cpu, logits_alone};

/// One of each architecture, with sliding windows, soft-caps and biases among them.
const FIXTURES: [&str; 6] =
    ["gemma2-v5", "gemma3_text-v5", "gemma3-published", "llama-published", "qwen2-sliding", "qwen3-sliding"];

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Runs `test` on every fixture and dtype, with the fixture's tokens and the logits they have alone and at once.
fn for_each_model(test: impl Fn(&dyn Model, DType, &[i32], &Rows, &str)) {
    let device = cpu(2);
    for name in FIXTURES {
        let fixture = Fixture::named(name);
        for dtype in DTYPES {
            let model = fixture.load(&device, dtype);
            let alone = logits_alone(&*model, &fixture.tokens, fixture.tokens.len(), dtype);
            test(&*model, dtype, &fixture.tokens, &alone, &format!("{name} {dtype}"));
        }
    }
}

#[test]
fn prompt_in_pieces_good() {
    for_each_model(|model, dtype, tokens, alone, what| {
        for chunk in [1, 2, 7, 16] {
            let pieces = logits_alone(model, tokens, chunk, dtype);
            pieces.assert_bit_equal(alone, &format!("{what}, {chunk} tokens at a time"));
        }
    });
}

#[test]
fn batch_of_eight_good() {
    for_each_model(|model, dtype, tokens, alone, what| {
        for sequence in [0, 3, 7] {
            let others: Vec<Vec<i32>> = (0..8).map(|other| rotated(tokens, 3 * other + 1)).collect();
            let mut session = Session::new(model, [8, tokens.len()], dtype);
            let part = |s: usize| if s == sequence { tokens } else { &others[s][..tokens.len() - 4 * s] };
            let parts: Vec<Part<'_>> = (0..8).map(|s| Part { sequence: s, tokens: part(s) }).collect();
            let first: usize = parts[..sequence].iter().map(|part| part.tokens.len()).sum();
            let logits = rows(&session.step(&parts), first, tokens.len());
            logits.assert_bit_equal(alone, &format!("{what}, sequence {sequence} of 8"));
        }
    });
}

/// Chunks of a prompt beside sequences that decode, as the engine schedules them.
#[test]
fn chunks_beside_decoding_good() {
    for_each_model(|model, dtype, tokens, alone, what| {
        let mut session = Session::new(model, [8, tokens.len()], dtype);
        let others = rotated(tokens, 5);
        let prompts: Vec<Part<'_>> = (1..8).map(|s| Part { sequence: s, tokens: &others[..s] }).collect();
        session.step(&prompts);
        let mut logits = Rows { width: alone.width, values: Vec::new() };
        for (step, chunk) in tokens.chunks(7).enumerate() {
            let decoding = (1..8).map(|s| Part { sequence: s, tokens: &others[s + step..s + step + 1] });
            let prompt = Part { sequence: 0, tokens: chunk };
            let parts: Vec<Part<'_>> = decoding.chain([prompt]).collect();
            logits.values.extend(rows(&session.step(&parts), 7, chunk.len()).values);
        }
        logits.assert_bit_equal(alone, &format!("{what}, chunks of 7 beside 7 that decode"));
    });
}

#[test]
fn threads_good() {
    let one = cpu(1);
    for_each_model(|_, dtype, tokens, alone, what| {
        let fixture = FIXTURES.iter().find(|name| what.starts_with(**name)).unwrap();
        let model = Fixture::named(fixture).load(&one, dtype);
        let single = logits_alone(&*model, tokens, tokens.len(), dtype);
        single.assert_bit_equal(alone, &format!("{what}, 1 thread against 2"));
    });
}

/// A comparison that could not fail would prove nothing: a sequence whose history differs has other logits.
#[test]
fn other_history_bad() {
    for_each_model(|model, dtype, tokens, alone, what| {
        let mut other = tokens.to_vec();
        other[0] = other[1];
        let logits = logits_alone(model, &other, tokens.len(), dtype);
        let last = |logits: &Rows| rows(logits, 1, 1);
        assert!(last(&logits).difference(&last(alone)) > 0.0, "{what}: the first token does not matter");
    });
}

/// `count` rows from `first` on.
fn rows(logits: &Rows, first: usize, count: usize) -> Rows {
    let Rows { width, values } = logits;
    Rows { width: *width, values: values[first * width..(first + count) * width].to_vec() }
}

fn rotated(tokens: &[i32], by: usize) -> Vec<i32> {
    tokens.iter().cycle().skip(by).take(tokens.len()).copied().collect()
}
