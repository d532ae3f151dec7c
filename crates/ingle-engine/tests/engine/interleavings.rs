// SPDX-License-Identifier: EUPL-1.2
//! Whatever is submitted and cancelled when, and however small the cache and the step, and whichever adapters: what each
//! request gives is what it gives alone.

use ingle_engine::{EngineOptions, Event, FinishReason, Next, Request, RequestId};
use ingle_nn::AdapterId;
use ingle_tensor::{DType, Evaluation};
use proptest::prelude::*;

use crate::tiny::*;

#[derive(Clone, Debug)]
struct Plan {
    /// Which of a few prefixes, how much of it, and a tail of one's own.
    prefix: (u64, usize),
    tail: (u64, usize),
    kind: usize,
    adapter: Option<u32>,
    max_tokens: usize,
    /// Steps before it is submitted, after the one before it.
    delay: usize,
    /// Steps before it is cancelled, if it is.
    patience: Option<usize>,
}

impl Plan {
    fn request(&self) -> Request {
        let mut tokens = prompt(self.prefix.0, 90);
        tokens.truncate(self.prefix.1);
        tokens.extend(prompt(self.tail.0, self.tail.1));
        let last = tokens.len() - 1;
        let request = match self.kind {
            0 => logits(tokens, last / 2),
            1 => score(tokens, last / 2 + 1),
            2 => next(
                tokens,
                [Next::Likeliest(1), Next::Likeliest(3), Next::Tokens(vec![5, 2])][self.max_tokens % 3].clone(),
            ),
            3 => greedy(tokens, self.max_tokens),
            _ => generate(tokens, self.max_tokens, self.tail.0),
        };
        Request { adapter: self.adapter.map(AdapterId), ..request }
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    (
        (0u64..3, 0usize..90),
        (0u64..100, 2usize..30),
        0usize..8,
        prop_oneof![Just(None), (0..ADAPTERS).prop_map(Some)],
        1usize..60,
        prop_oneof![Just(0usize), 0usize..20],
        prop_oneof![3 => Just(None), 1 => (0usize..40).prop_map(Some)],
    )
        .prop_map(|(prefix, tail, kind, adapter, max_tokens, delay, patience)| Plan {
            prefix,
            tail,
            kind,
            adapter,
            max_tokens,
            delay,
            patience,
        })
}

fn options() -> impl Strategy<Value = EngineOptions> {
    (
        prop_oneof![Just(512usize), 1usize..40],
        prop_oneof![Just(16usize), 1usize..20],
        prop_oneof![1 => Just(None), 3 => (60_000usize..150_000).prop_map(Some)],
        prop_oneof![Just(None), Just(Some(0usize)), Just(Some(usize::MAX))],
        prop_oneof![Just(64usize), 1usize..6],
        1usize..9,
        prop_oneof![3 => Just(None), 1 => Just(Some(DType::I8))],
    )
        .prop_map(|(step_tokens, block_size, kv_bytes, prefix_bytes, rows, max_sequences, kv_dtype)| {
            EngineOptions {
                step_tokens: Some(step_tokens),
                block_size,
                kv_bytes,
                prefix_bytes,
                logits_bytes: Some(rows * VOCAB * 4),
                max_sequences,
                kv_dtype,
                ..Default::default()
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn every_interleaving_gives_what_each_gives_alone_good(
        plans in prop::collection::vec(plan(), 1..10),
        options in options(),
        evaluation in prop_oneof![Just(Evaluation::Eager), Just(Evaluation::Queued)],
    ) {
        let kv_dtype = options.kv_dtype;
        let mut engine = match evaluation {
            Evaluation::Eager => engine(options),
            Evaluation::Queued => queued_engine(options, Trouble::Never),
        };
        prop_assume!(engine.context_length() >= 120);
        let mut outcomes: Vec<Outcome> = plans.iter().map(|_| Outcome::default()).collect();
        let mut submitted: Vec<(RequestId, usize)> = Vec::new();
        let mut events: Vec<Event> = Vec::new();
        let (mut step, mut due) = (0, plans[0].delay);
        while submitted.len() < plans.len() || !engine.is_idle() {
            while let Some(plan) = plans.get(submitted.len()).filter(|_| step >= due) {
                submitted.push((engine.submit(plan.request()).expect("valid"), step));
                due = step + plans.get(submitted.len()).map_or(0, |next| next.delay);
            }
            for (plan, &(id, since)) in plans.iter().zip(&submitted) {
                if plan.patience.is_some_and(|patience| step == since + patience) {
                    engine.cancel(id);
                }
            }
            engine.step(&mut events).expect("a step");
            for event in events.drain(..) {
                let index = submitted.iter().position(|&(id, _)| id == event.id()).expect("submitted");
                outcomes[index].take(event);
            }
            step += 1;
            prop_assert!(step < 20_000, "{engine:?}");
        }
        for (plan, outcome) in plans.iter().zip(&outcomes) {
            let expected = alone_with(EngineOptions { kv_dtype, ..Default::default() }, plan.request());
            if outcome.reason() == Some(FinishReason::Cancelled) {
                prop_assert!(plan.patience.is_some());
                prop_assert!(expected.tokens.starts_with(&outcome.tokens));
                prop_assert!(expected.rows.starts_with(&outcome.rows));
            } else {
                // Greedy, it may choose the poisoned token, and fails after it.
                prop_assert_eq!(&outcome.failed, &expected.failed);
                prop_assert_eq!(&outcome.tokens, &expected.tokens);
                prop_assert_eq!(&outcome.rows, &expected.rows);
                prop_assert_eq!(&outcome.scores, &expected.scores);
            }
        }
        let metrics = engine.metrics();
        prop_assert_eq!((metrics.blocks_used, metrics.running, metrics.waiting), (0, 0, 0));
    }
}
