// SPDX-License-Identifier: EUPL-1.2
//! The same request gives the same answer, whatever happens beside it.

use std::time::{Duration, Instant};

use ingle_engine::{EngineOptions, Event, FinishReason, Generate, Next, Request, Sampling, Task};
use ingle_nn::AdapterId;

use crate::tiny::*;

#[test]
fn an_answer_has_as_many_tokens_as_asked_for_good() {
    let outcome = alone(generate(prompt(1, 20), 12, 7));
    assert_eq!(outcome.tokens.len(), 12);
    assert_eq!(outcome.reason(), Some(FinishReason::Length));
    let usage = outcome.usage();
    assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens), (20, 0, 12));
    assert!(usage.time_to_first_token <= usage.total_time);
    assert!(outcome.tokens.iter().collect::<std::collections::HashSet<_>>().len() > 3, "{:?}", outcome.tokens);
}

#[test]
fn logits_are_those_of_a_whole_forward_pass_good() {
    // Step by step through the cache against all at once: what the next tokens' logits are must agree.
    let tokens = prompt(3, 90);
    let whole = alone(logits(tokens.clone(), 0));
    assert_eq!(whole.rows.len(), 90);
    for length in [1, 16, 17, 40, 90] {
        let last = alone(logits(tokens[..length].to_vec(), length - 1));
        assert_eq!(last.rows, whole.rows[length - 1..length], "{length}");
    }
}

#[test]
fn a_batch_of_eight_gives_the_same_bits_as_each_alone_good() {
    let requests: Vec<Request> = (0..8)
        .map(|i| match i % 4 {
            0 => logits(prompt(i, 40 + 7 * i as usize), 3),
            1 => score(prompt(i, 50), 1),
            _ => generate(prompt(i, 5 + 17 * i as usize), 30, i),
        })
        .collect();
    let expected: Vec<Outcome> = requests.iter().cloned().map(alone).collect();
    for step_tokens in [7, 64, 4096] {
        let mut engine = engine(EngineOptions { step_tokens: Some(step_tokens), ..Default::default() });
        let together = run(&mut engine, requests.clone());
        for (index, (a, b)) in expected.iter().zip(&together).enumerate() {
            assert_eq!((&a.tokens, &a.rows, &a.scores), (&b.tokens, &b.rows, &b.scores), "{index}, {step_tokens}");
        }
    }
}

#[test]
fn decoding_goes_on_while_a_long_prompt_is_prefilled_good() {
    let mut engine = engine(EngineOptions { step_tokens: Some(8), ..Default::default() });
    let first = engine.submit(generate(prompt(1, 4), 40, 1)).expect("valid");
    let mut events = Vec::new();
    engine.step(&mut events).expect("a step");
    let second = engine.submit(generate(prompt(2, 200), 2, 2)).expect("valid");
    let mut before = 0;
    loop {
        events.clear();
        engine.step(&mut events).expect("a step");
        if events.iter().any(|event| event.id() == second) {
            break;
        }
        assert!(events.iter().any(|event| event.id() == first), "{events:?}");
        before += 1;
    }
    // 200 tokens in chunks of 7 beside the one that decodes.
    assert_eq!(before, 28);
}

#[test]
fn a_prefix_is_computed_once_good() {
    let mut engine = engine(EngineOptions::default());
    let shared = prompt(5, 70);
    let ask = |tail: u64| [shared.clone(), prompt(tail, 9)].concat();
    let first = run(&mut engine, vec![generate(ask(1), 10, 1)]).remove(0);
    assert_eq!(first.usage().cached_tokens, 0);
    let second = run(&mut engine, vec![generate(ask(2), 10, 2)]).remove(0);
    assert_eq!(second.usage().cached_tokens, 64);
    assert_eq!(second.tokens, alone(generate(ask(2), 10, 2)).tokens);
    assert_eq!(engine.metrics().cached_tokens, 64);
}

#[test]
fn prompts_submitted_together_share_a_prefix_good() {
    let mut engine = engine(EngineOptions::default());
    let shared = prompt(5, 70);
    let requests: Vec<Request> = (0..6).map(|i| generate([shared.clone(), prompt(i, 3)].concat(), 8, i)).collect();
    let outcomes = run(&mut engine, requests.clone());
    for (request, outcome) in requests.into_iter().zip(&outcomes) {
        assert_eq!(outcome.tokens, alone(request).tokens);
    }
    assert_eq!(outcomes.iter().map(|o| o.usage().cached_tokens).collect::<Vec<_>>(), [0, 64, 64, 64, 64, 64]);
}

#[test]
fn the_next_turn_reuses_the_last_good() {
    let mut engine = engine(EngineOptions::default());
    let mut history = prompt(8, 30);
    let answer = run(&mut engine, vec![generate(history.clone(), 40, 1)]).remove(0);
    history.extend(answer.tokens);
    history.extend(prompt(9, 10));
    let next = run(&mut engine, vec![generate(history.clone(), 20, 2)]).remove(0);
    // 70 tokens of the first turn, the last of which was never computed.
    assert_eq!(next.usage().cached_tokens, 64);
    assert_eq!(next.tokens, alone(generate(history, 20, 2)).tokens);
}

#[test]
fn a_repeated_prompt_computes_its_last_token_again_ugly() {
    let mut engine = engine(EngineOptions::default());
    let tokens = prompt(4, 64);
    let first = run(&mut engine, vec![logits(tokens.clone(), 0)]).remove(0);
    let again = run(&mut engine, vec![logits(tokens.clone(), 63)]).remove(0);
    assert_eq!((again.usage().cached_tokens, again.rows.len()), (48, 1));
    assert_eq!(again.rows[0], first.rows[63]);
    // Positions whose logits are wanted are not skipped.
    let middle = run(&mut engine, vec![logits(tokens.clone(), 20)]).remove(0);
    assert_eq!((middle.usage().cached_tokens, &middle.rows[..]), (16, &first.rows[20..]));
    let scores = run(&mut engine, vec![score(tokens.clone(), 33)]).remove(0);
    assert_eq!((scores.usage().cached_tokens, scores.scores.len()), (32, 31));
    assert_eq!(scores.scores, alone(score(tokens, 1)).scores[32..]);
}

#[test]
fn a_prefix_whose_window_was_given_back_is_not_trusted_ugly() {
    // The windowed layers have given back what the middle of a long sequence would see; few blocks are left.
    let tokens = prompt(6, 240);
    let options = EngineOptions { prefix_bytes: Some(0), step_tokens: Some(16), ..Default::default() };
    let mut engine = engine(options);
    run(&mut engine, vec![logits(tokens.clone(), 239)]);
    for length in [40, 100, 200, 239] {
        let request = logits([&tokens[..length], &[1, 2, 3]].concat(), length + 2);
        let outcome = run(&mut engine, vec![request.clone()]).remove(0);
        assert_eq!(outcome.rows, alone(request).rows, "{length}");
    }
}

#[test]
fn a_pool_stays_bounded_over_thousands_of_tokens_good() {
    let mut engine = engine(EngineOptions::default());
    let id = engine.submit(generate(prompt(1, 10), 3000, 3)).expect("valid");
    let (mut events, mut tokens, mut early) = (Vec::new(), 0, 0);
    while !engine.is_idle() {
        engine.step(&mut events).expect("a step");
        tokens +=
            events.drain(..).filter(|event| matches!(event, Event::Token { id: whose, .. } if *whose == id)).count();
        if tokens == 600 {
            early = engine.metrics().kv_bytes;
        }
    }
    assert_eq!(tokens, 3000);
    assert!(early > 0 && engine.metrics().kv_bytes == early, "{early} bytes, then {}", engine.metrics().kv_bytes);
    assert_eq!(engine.metrics().blocks_used, 0);
}

#[test]
fn an_answer_longer_than_the_context_slides_the_same_way_alone_and_not_ugly() {
    let options = EngineOptions { context_length: Some(40), step_tokens: Some(16), ..Default::default() };
    let request = |seed| generate(prompt(seed, 30), 150, seed);
    let apart = run(&mut engine(options.clone()), vec![request(1)]).remove(0);
    assert_eq!(apart.tokens.len(), 150);
    let together = run(&mut engine(options.clone()), (0..4).map(request).collect());
    assert_eq!(together[1].tokens, apart.tokens);
    // Without a number, the context is the end.
    let Task::Generate(generate) = request(1).task else { unreachable!() };
    let endless = Request { task: Task::Generate(Generate { max_tokens: None, ..generate }), ..request(1) };
    let outcome = run(&mut engine(options), vec![endless]).remove(0);
    assert_eq!((outcome.tokens.len(), outcome.reason()), (10, Some(FinishReason::Length)));
    assert_eq!(outcome.tokens, apart.tokens[..10]);
}

#[test]
fn preemption_gives_the_same_tokens_as_room_for_all_good() {
    let requests: Vec<Request> = (0..6)
        .map(|i| match i {
            4 => logits(prompt(i, 120), 2),
            5 => score(prompt(i, 120), 1),
            _ => generate(prompt(i, 30), 90, i),
        })
        .collect();
    let expected: Vec<Outcome> = requests.iter().cloned().map(alone).collect();
    // Room for about two of them.
    let options = EngineOptions { kv_bytes: Some(70_000), context_length: Some(128), ..Default::default() };
    for step_tokens in [16, 512] {
        let mut engine = engine(EngineOptions { step_tokens: Some(step_tokens), ..options.clone() });
        assert_eq!(engine.context_length(), 128);
        let outcomes = run(&mut engine, requests.clone());
        for (index, (a, b)) in expected.iter().zip(&outcomes).enumerate() {
            assert_eq!(b.failed, None);
            assert_eq!((&a.tokens, &a.rows, &a.scores), (&b.tokens, &b.rows, &b.scores), "{index}, {step_tokens}");
        }
        let metrics = engine.metrics();
        assert!(metrics.preemptions > 0, "{metrics:?}");
        assert!(metrics.kv_bytes <= 70_000, "{metrics:?}");
        assert_eq!((metrics.blocks_used, metrics.running, metrics.waiting), (0, 0, 0));
    }
}

#[test]
fn few_rows_of_logits_a_step_change_nothing_ugly() {
    let requests: Vec<Request> = (0..5)
        .map(|i| match i {
            0 => logits(prompt(i, 50), 10),
            1 => score(prompt(i, 50), 10),
            _ => generate(prompt(i, 20), 20, i),
        })
        .collect();
    let expected: Vec<Outcome> = requests.iter().cloned().map(alone).collect();
    let mut engine = engine(EngineOptions { logits_bytes: Some(2 * 4 * VOCAB), ..Default::default() });
    for (a, b) in expected.iter().zip(run(&mut engine, requests)) {
        assert_eq!((&a.tokens, &a.rows, &a.scores), (&b.tokens, &b.rows, &b.scores));
    }
}

#[test]
fn sequences_take_turns_where_rows_are_few_good() {
    let mut engine = engine(EngineOptions { logits_bytes: Some(4 * VOCAB), ..Default::default() });
    let ids: Vec<_> = (0..4).map(|i| engine.submit(generate(prompt(i, 5), 50, i)).expect("valid")).collect();
    let mut events = Vec::new();
    for _ in 0..40 {
        engine.step(&mut events).expect("a step");
    }
    let count = |id| events.iter().filter(|event: &&Event| event.id() == id).count();
    let counts: Vec<usize> = ids.into_iter().map(count).collect();
    assert!(counts.iter().all(|count| (9..=11).contains(count)), "{counts:?}");
}

#[test]
fn a_cancelled_request_ends_at_once_and_others_do_not_notice_good() {
    let mut engine = engine(EngineOptions { step_tokens: Some(8), ..Default::default() });
    let kept = engine.submit(generate(prompt(1, 20), 30, 1)).expect("valid");
    let decoding = engine.submit(generate(prompt(2, 20), 1000, 2)).expect("valid");
    let prefilling = engine.submit(generate(prompt(3, 200), 1000, 3)).expect("valid");
    let mut events = Vec::new();
    for _ in 0..12 {
        engine.step(&mut events).expect("a step");
    }
    let waiting = engine.submit(logits(prompt(4, 20), 0)).expect("valid");
    [decoding, prefilling, waiting].into_iter().for_each(|id| engine.cancel(id));
    engine.cancel(decoding);
    assert!(!engine.is_idle());
    events.extend({
        let mut more = Vec::new();
        engine.step(&mut more).expect("a step");
        more
    });
    for id in [decoding, prefilling, waiting] {
        let last = events.iter().rfind(|event| event.id() == id);
        assert!(matches!(last, Some(Event::Finished { reason: FinishReason::Cancelled, .. })), "{last:?}");
    }
    let mut outcome = Outcome::default();
    events.into_iter().filter(|event| event.id() == kept).for_each(|event| outcome.take(event));
    let rest = finish(&mut engine, &[kept]).remove(0);
    outcome.tokens.extend(rest.tokens);
    assert_eq!(outcome.tokens, alone(generate(prompt(1, 20), 30, 1)).tokens);
    assert_eq!(engine.metrics().blocks_used, 0);
}

#[test]
fn a_deadline_ends_a_request_wherever_it_is_good() {
    let mut engine = engine(EngineOptions { max_sequences: 1, ..Default::default() });
    let soon = Instant::now() + Duration::from_millis(100);
    let running = Request { deadline: Some(soon), ..generate(prompt(1, 20), 1_000_000, 1) };
    let waiting = Request { deadline: Some(soon), ..generate(prompt(2, 20), 10, 1) };
    let late = Request { deadline: Some(Instant::now()), ..generate(prompt(3, 20), 10, 1) };
    let outcomes = run(&mut engine, vec![running, waiting, late]);
    assert_eq!(outcomes.iter().map(Outcome::reason).collect::<Vec<_>>(), [Some(FinishReason::Deadline); 3]);
    assert!(!outcomes[0].tokens.is_empty() && outcomes[1].tokens.is_empty() && outcomes[2].tokens.is_empty());
}

#[test]
fn a_stop_token_is_the_last_and_has_no_text_good() {
    let whole = alone(generate(prompt(1, 20), 30, 5)).tokens;
    let stop = whole[12];
    let at = whole.iter().position(|&id| id == stop).expect("it is there");
    let Task::Generate(options) = generate(Vec::new(), 30, 5).task else { unreachable!() };
    let task = Task::Generate(Generate { stop_tokens: vec![POISON, stop], ..options });
    let outcome = alone(Request { prompt: prompt(1, 20), task, adapter: None, deadline: None });
    assert_eq!((&outcome.tokens[..], outcome.reason()), (&whole[..=at], Some(FinishReason::Stop)));
    assert_eq!(outcome.usage().generated_tokens, at + 1);
}

#[test]
fn seeds_are_reproducible_and_differ_good() {
    let answer = |seed| alone(generate(prompt(1, 20), 25, seed)).tokens;
    assert_eq!(answer(1), answer(1));
    assert_ne!(answer(1), answer(2));
}

#[test]
fn log_probabilities_come_with_each_token_good() {
    let Task::Generate(options) = generate(Vec::new(), 5, 5).task else { unreachable!() };
    let task = Task::Generate(Generate { top_logprobs: Some(3), ..options });
    let mut engine = engine(EngineOptions::default());
    let tokens = prompt(1, 20);
    let id = engine.submit(Request { prompt: tokens.clone(), task, adapter: None, deadline: None }).expect("valid");
    let (mut events, mut answer, mut given) = (Vec::new(), tokens.clone(), Vec::new());
    while !engine.is_idle() {
        engine.step(&mut events).expect("a step");
    }
    for event in events.into_iter().filter(|event| event.id() == id) {
        if let Event::Token { token, .. } = event {
            let logprobs = token.logprobs.expect("asked for");
            assert_eq!(logprobs.top.len(), 3);
            assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1) && logprobs.chosen <= logprobs.top[0].1);
            answer.push(token.id);
            given.push(logprobs.chosen);
        }
    }
    // Computed on the host there, by the device here.
    let scores = alone(score(answer, tokens.len())).scores;
    assert_eq!(given.len(), scores.len());
    for (given, score) in given.into_iter().zip(scores.into_iter().map(f32::from_bits)) {
        assert!((given - score).abs() < 1e-6, "{given} {score}");
    }
}

#[test]
fn nothing_asked_for_is_nothing_computed_ugly() {
    let mut engine = engine(EngineOptions::default());
    let outcomes = run(&mut engine, vec![generate(prompt(1, 20), 0, 1), generate(prompt(1, CONTEXT), 1, 1)]);
    assert_eq!((outcomes[0].tokens.len(), outcomes[0].reason()), (0, Some(FinishReason::Length)));
    assert_eq!((outcomes[1].tokens.len(), outcomes[1].reason()), (1, Some(FinishReason::Length)));
}

#[test]
fn a_small_cache_cuts_the_context_ugly() {
    let mut engine = engine(EngineOptions { kv_bytes: Some(30_000), ..Default::default() });
    let context = engine.context_length();
    assert!(context > 16 && context < CONTEXT, "{context}");
    assert!(engine.submit(generate(prompt(1, context + 1), 1, 1)).is_err());
    let outcomes = run(&mut engine, (0..3).map(|i| generate(prompt(i, context), 20, i)).collect());
    assert!(outcomes.iter().all(|outcome| outcome.tokens.len() == 20));
    assert!(engine.metrics().kv_bytes <= 30_000);
}

#[test]
fn clearing_gives_memory_back_and_forgets_good() {
    let mut engine = engine(EngineOptions::default());
    let request = || generate(prompt(1, 50), 5, 1);
    let first = run(&mut engine, vec![request()]).remove(0);
    assert!(engine.metrics().kv_bytes > 0 && engine.metrics().blocks_cached > 0);
    engine.clear_prefix_cache().expect("cleared");
    assert_eq!((engine.metrics().kv_bytes, engine.metrics().blocks_total), (0, 0));
    let again = run(&mut engine, vec![request()]).remove(0);
    assert_eq!((again.usage().cached_tokens, again.tokens), (0, first.tokens));
    // Forgetting alone keeps the memory, and needs no more of it.
    let memory = engine.metrics().kv_bytes;
    engine.forget_prefixes();
    assert_eq!((engine.metrics().kv_bytes, engine.metrics().blocks_cached), (memory, 0));
    let again = run(&mut engine, vec![request()]).remove(0);
    assert_eq!((again.usage().cached_tokens, engine.metrics().kv_bytes), (0, memory));
    engine.forget_prefixes();
    // In the middle of another's work, only what nobody uses goes.
    let id = engine.submit(generate(prompt(2, 50), 30, 2)).expect("valid");
    let mut events = Vec::new();
    engine.step(&mut events).expect("a step");
    engine.clear_prefix_cache().expect("cleared");
    assert_eq!(engine.metrics().blocks_cached, 0);
    let outcome = finish(&mut engine, &[id]).remove(0);
    assert_eq!(outcome.tokens, alone(generate(prompt(2, 50), 30, 2)).tokens[1..]);
}

#[test]
fn metrics_count_what_was_done_good() {
    let mut engine = engine(EngineOptions::default());
    run(&mut engine, vec![generate(prompt(1, 20), 10, 1), generate(prompt(2, 30), 5, 1)]);
    let metrics = engine.metrics();
    assert_eq!((metrics.prompt_tokens, metrics.prefilled_tokens, metrics.generated_tokens), (50, 50, 15));
    assert_eq!((metrics.decoded_tokens, metrics.first_tokens, metrics.steps), (13, 2, 10));
    assert!(metrics.decode_tokens_per_second() > 0.0 && metrics.prefill_tokens_per_second() > 0.0);
    assert!(metrics.mean_time_to_first_token > Duration::ZERO);
    engine.reset_metrics();
    assert_eq!((engine.metrics().steps, engine.metrics().prompt_tokens), (0, 0));
}

#[test]
fn greedy_is_the_default_and_the_likeliest_good() {
    let request = Request {
        prompt: prompt(1, 20),
        task: Task::Generate(Generate { max_tokens: Some(1), sampling: Sampling::default(), ..Default::default() }),
        adapter: None,
        deadline: None,
    };
    let row: Vec<f32> = alone(logits(prompt(1, 20), 19)).rows[0].iter().map(|&bits| f32::from_bits(bits)).collect();
    let likeliest = (0..VOCAB).fold(0, |best, id| if row[id] > row[best] { id } else { best });
    assert_eq!(alone(request).tokens, [likeliest as u32]);
}

#[test]
fn an_adapter_is_another_model_good() {
    let with = |adapter: Option<u32>| Request { adapter: adapter.map(AdapterId), ..logits(prompt(1, 50), 49) };
    let rows = [None, Some(0), Some(1)].map(|adapter| alone(with(adapter)).rows);
    assert!(rows[0] != rows[1] && rows[1] != rows[2] && rows[0] != rows[2]);
    // What one has cached is of no use to another.
    let mut engine = engine(EngineOptions::default());
    for adapter in [None, Some(0), Some(1), Some(0), None] {
        let outcome = run(&mut engine, vec![with(adapter)]).remove(0);
        assert_eq!(outcome.rows, rows[adapter.map_or(0, |id| id as usize + 1)]);
    }
    assert_eq!(engine.metrics().cached_tokens, 2 * 48);
}

#[test]
fn what_comes_next_is_scored_on_the_device_good() {
    let tokens = prompt(3, 20);
    let row = alone(logits(tokens.clone(), 19)).rows.remove(0);
    let row: Vec<f64> = row.into_iter().map(|bits| f64::from(f32::from_bits(bits))).collect();
    let total = row.iter().map(|x| x.exp()).sum::<f64>().ln();
    for wanted in [Next::Likeliest(1), Next::Likeliest(4), Next::Tokens(vec![7, 3, 7])] {
        let found = alone(next(tokens.clone(), wanted.clone()));
        for (&token, &bits) in found.tokens.iter().zip(&found.scores) {
            let expected = row[token as usize] - total;
            assert!((f64::from(f32::from_bits(bits)) - expected).abs() < 1e-5, "{wanted:?} {token} {expected}");
        }
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        match wanted {
            Next::Likeliest(count) => assert_eq!(found.tokens, order[..count]),
            Next::Tokens(tokens) => assert_eq!(found.tokens, tokens),
        }
        assert_eq!(found.reason(), Some(FinishReason::Stop));
    }
}

#[test]
fn a_step_prepared_ahead_stops_where_the_answer_does_ugly() {
    let expected = alone(greedy(prompt(4, 30), 20));
    // The stop token is known only when the step after it is under way.
    let stop = expected.tokens[6];
    let first = expected.tokens.iter().position(|&token| token == stop).expect("it is there");
    let mut request = greedy(prompt(4, 30), 20);
    if let Task::Generate(options) = &mut request.task {
        options.stop_tokens = vec![stop];
    }
    let mut engine = queued_engine(EngineOptions::default(), Trouble::Never);
    for _ in 0..2 {
        let outcome = run(&mut engine, vec![request.clone(), greedy(prompt(5, 9), 20)]);
        assert_eq!(outcome[0].tokens, expected.tokens[..=first]);
        assert_eq!(outcome[0].usage().generated_tokens, first + 1);
        assert_eq!(outcome[1].tokens, alone(greedy(prompt(5, 9), 20)).tokens);
    }
}
