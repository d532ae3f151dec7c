// SPDX-License-Identifier: EUPL-1.2
//! The sampler against a plain one in f64 that sorts, and the statistics of its draws.

use proptest::prelude::*;

use super::*;

/// Options that leave all tokens in at temperature 1.
fn plain() -> Sampling {
    Sampling { temperature: 1.0, ..Default::default() }
}

/// Tokens with their probabilities, as the text of [`Sampling`] says, in f64 and by sorting; and how far the
/// nearest decision of a filter was from going the other way.
fn reference(logits: &[f32], options: &Sampling, seen: &[(u32, u32)]) -> (Vec<(u32, f64)>, f64) {
    let mut x: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
    for &(id, bias) in &options.logit_bias {
        x[id as usize] += f64::from(bias);
    }
    for &(id, times) in seen {
        let logit = &mut x[id as usize];
        let penalty = f64::from(options.repetition_penalty);
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        if times > 0 {
            *logit -= f64::from(options.presence_penalty) + f64::from(options.frequency_penalty) * f64::from(times);
        }
    }
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut tokens: Vec<(u32, f64)> =
        (0..).zip(&x).map(|(id, x)| (id, ((x - max) / f64::from(options.temperature)).exp())).collect();
    let total: f64 = tokens.iter().map(|t| t.1).sum();
    tokens.iter_mut().for_each(|t| t.1 /= total);
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));

    let mut margin = f64::INFINITY;
    if options.top_p < 1.0 {
        let mut sum = 0.0;
        let mut keep = 0;
        for token in &tokens {
            let before = sum < f64::from(options.top_p);
            margin = margin.min((sum - f64::from(options.top_p)).abs());
            keep += usize::from(before);
            sum += token.1;
        }
        tokens.truncate(keep);
    }
    if options.top_k > 0 {
        if let [.., last, next] = &tokens[..tokens.len().min(options.top_k + 1)] {
            margin = margin.min(if last.1 == next.1 { f64::INFINITY } else { last.1 - next.1 });
        }
        tokens.truncate(options.top_k);
    }
    let least = f64::from(options.min_p) * tokens[0].1;
    if options.min_p > 0.0 {
        margin = tokens.iter().map(|t| (t.1 - least).abs()).fold(margin, f64::min);
        tokens.retain(|t| t.1 >= least);
    }
    let kept: f64 = tokens.iter().map(|t| t.1).sum();
    tokens.iter_mut().for_each(|t| t.1 /= kept);
    (tokens, margin)
}

fn options() -> impl Strategy<Value = Sampling> {
    (
        prop_oneof![Just(1.0f32), 0.2f32..3.0],
        prop_oneof![Just(1.0f32), 0.05f32..1.0],
        prop_oneof![Just(0usize), 1usize..120],
        prop_oneof![Just(0.0f32), 0.0f32..0.5],
        prop_oneof![Just(1.0f32), 0.5f32..2.0],
        prop_oneof![Just(0.0f32), -1.0f32..1.0],
        prop_oneof![Just(0.0f32), -1.0f32..1.0],
        prop::collection::vec((0u32..40, -3.0f32..3.0), 0..4),
    )
        .prop_map(|(temperature, top_p, top_k, min_p, repetition, presence, frequency, logit_bias)| Sampling {
            temperature,
            top_p,
            top_k,
            min_p,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            logit_bias,
            seed: 0,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn draws_are_those_of_the_reference_good(
        logits in prop::collection::vec(-6.0f32..6.0, 40..300),
        options in options(),
        prompt in prop::collection::vec(0u32..40, 0..6),
    ) {
        let mut sampler = Sampler::new(options.clone(), &prompt);
        let mut seen: Vec<(u32, u32)> = Vec::new();
        if options.repetition_penalty != 1.0 {
            prompt.iter().for_each(|&id| if seen.iter().all(|s| s.0 != id) { seen.push((id, 0)) });
        }
        for index in 0..6 {
            let (tokens, margin) = reference(&logits, &options, &seen);
            let chosen = sampler.sample(&mut logits.clone()).expect("finite logits");
            match seen.iter_mut().find(|s| s.0 == chosen) {
                Some(entry) => entry.1 += 1,
                None => seen.push((chosen, 1)),
            }
            if margin < 1e-5 {
                continue;
            }
            // In the order in which the draw adds up: by id where nothing is filtered, else by likelihood.
            let mut tokens = tokens;
            if options.top_p >= 1.0 && options.top_k == 0 && options.min_p == 0.0 {
                tokens.sort_by_key(|t| t.0);
            }
            let Some(place) = tokens.iter().position(|t| t.0 == chosen) else {
                return Err(TestCaseError::fail(format!("{chosen} was filtered out")));
            };
            let low: f64 = tokens[..place].iter().map(|t| t.1).sum();
            let high = low + tokens[place].1;
            let uniform = uniform(0, index);
            prop_assert!(low - 1e-5 <= uniform && uniform <= high + 1e-5, "{low} ≤ {uniform} ≤ {high}");
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_reference_good(logits in prop::collection::vec(-30.0f32..30.0, 1..200)) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
        let rows = LogSoftmax::new(&logits);
        for (id, &x) in (0..).zip(&logits) {
            let expected = f64::from(x) - f64::from(max) - sum.ln();
            let found = f64::from(rows.of(id));
            prop_assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found} {expected}");
        }
        let top = rows.top(0, 5).top;
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        prop_assert!(top.iter().map(|t| t.0).eq(sorted.iter().take(5).map(|t| t.0)));
    }
}

/// Pearson's χ² of so many draws against the reference's probabilities.
fn chi_squared(logits: &[f32], options: &Sampling, draws: u64) -> (f64, usize) {
    let (tokens, _) = reference(logits, options, &[]);
    let mut counts = vec![0u64; logits.len()];
    let mut sampler = Sampler::new(options.clone(), &[]);
    for _ in 0..draws {
        counts[sampler.sample(&mut logits.to_vec()).expect("finite logits") as usize] += 1;
    }
    assert_eq!(tokens.iter().map(|t| counts[t.0 as usize]).sum::<u64>(), draws, "all draws are of kept tokens");
    let term = |&(id, p): &(u32, f64)| (counts[id as usize] as f64 - p * draws as f64).powi(2) / (p * draws as f64);
    (tokens.iter().map(term).sum(), tokens.len() - 1)
}

#[test]
fn draws_have_the_distribution_good() {
    let logits: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
    let filtered = Sampling { top_p: 0.9, top_k: 12, min_p: 0.05, temperature: 0.7, seed: 3, ..plain() };
    for options in [plain(), Sampling { seed: 11, ..plain() }, filtered] {
        let (statistic, freedom) = chi_squared(&logits, &options, 40_000);
        // The 99.9 % quantile for 19 degrees of freedom is 43.8, for fewer it is less.
        assert!(freedom <= 19 && statistic < 43.8, "χ² = {statistic} with {freedom} degrees of freedom");
    }
}

#[test]
fn a_wrong_distribution_is_noticed_bad() {
    // The test above can fail: draws at another temperature do not pass.
    let logits: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
    let mut counts = [0f64; 20];
    let mut sampler = Sampler::new(Sampling { temperature: 1.1, ..plain() }, &[]);
    for _ in 0..40_000 {
        counts[sampler.sample(&mut logits.clone()).expect("finite logits") as usize] += 1.0;
    }
    let (tokens, _) = reference(&logits, &plain(), &[]);
    let statistic: f64 = tokens.iter().map(|t| (counts[t.0 as usize] - t.1 * 4e4).powi(2) / (t.1 * 4e4)).sum();
    assert!(statistic > 43.8, "χ² = {statistic}");
}

#[test]
fn a_draw_depends_on_seed_and_index_only_good() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32).cos()).collect();
    let draws = |seed, prompt: &[u32]| -> Vec<u32> {
        let mut sampler = Sampler::new(Sampling { seed, ..plain() }, prompt);
        (0..20).map(|_| sampler.sample(&mut logits.clone()).expect("finite logits")).collect()
    };
    assert_eq!(draws(5, &[1, 2]), draws(5, &[3]));
    assert_ne!(draws(5, &[]), draws(6, &[]));
}

#[test]
fn equal_logits_go_to_the_lowest_id_ugly() {
    let choose = |options: Sampling| Sampler::new(options, &[]).sample(&mut [1.0, 3.0, -0.0, 3.0, 3.0]);
    assert_eq!(choose(Sampling::default()).expect("finite"), 1);
    for seed in 0..50 {
        let two = choose(Sampling { top_k: 2, seed, ..plain() }).expect("finite");
        assert!([1, 3].contains(&two), "{two}");
        assert_eq!(choose(Sampling { top_p: 0.1, seed, ..plain() }).expect("finite"), 1);
        assert_eq!(choose(Sampling { top_k: 1, seed, ..plain() }).expect("finite"), 1);
    }
    let zeros = Sampler::new(Sampling::default(), &[]).sample(&mut [-1.0, -0.0, 0.0]);
    assert_eq!(zeros.expect("finite"), 1);
}

#[test]
fn extreme_temperatures_and_logits_ugly() {
    let choose = |options: Sampling, logits: &mut [f32]| Sampler::new(options, &[]).sample(logits).expect("finite");
    for temperature in [f32::MIN_POSITIVE, 1e-45, 1e-3] {
        assert_eq!(choose(Sampling { temperature, ..plain() }, &mut [0.0, 0.1, -5.0]), 1);
        assert_eq!(choose(Sampling { temperature, top_p: 0.5, ..plain() }, &mut [f32::MIN, f32::MAX]), 1);
    }
    for seed in 0..20 {
        let warm = Sampling { temperature: f32::MAX, seed, ..plain() };
        assert!(choose(warm, &mut [f32::MIN, 0.0, f32::NEG_INFINITY]) < 3);
        let forbidden = Sampling { logit_bias: vec![(1, f32::NEG_INFINITY)], seed, ..plain() };
        assert_eq!(choose(forbidden, &mut [0.0, 50.0, f32::NEG_INFINITY]), 0);
    }
}

#[test]
fn nothing_to_choose_from_bad() {
    for row in [&mut [1.0, f32::NAN, 2.0][..], &mut [f32::NEG_INFINITY; 3], &mut [0.0, f32::INFINITY], &mut []] {
        for options in [Sampling::default(), plain()] {
            let error = Sampler::new(options, &[]).sample(row).expect_err("no maximum").to_string();
            assert!(error.contains("finite maximum"), "{error}");
        }
    }
    // NaN in every place of a long row.
    for place in 0..40 {
        let mut row = [0.5f32; 40];
        row[place] = f32::NAN;
        assert!(Sampler::new(Sampling::default(), &[]).sample(&mut row).is_err(), "{place}");
    }
}

#[test]
fn penalties_follow_their_definitions_good() {
    let options = Sampling {
        repetition_penalty: 2.0,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        logit_bias: vec![(4, 1.0)],
        ..Default::default()
    };
    let mut penalties = Penalties::new(&options, &[0, 1]);
    penalties.count(1);
    penalties.count(1);
    penalties.count(2);
    let mut logits = [4.0, -4.0, 4.0, 4.0, 4.0];
    penalties.apply(&mut logits);
    assert_eq!(logits, [2.0, -9.0, 1.25, 4.0, 5.0]);
}

#[test]
fn a_large_vocabulary_is_not_sorted_whole_good() {
    // Flat enough that the first guess of the likeliest does not have the mass.
    let logits: Vec<f32> = (0..262_144).map(|i| ((i * 7919) % 262_144) as f32 / 262_144.0).collect();
    let options = Sampling { top_p: 0.01, seed: 2, ..plain() };
    let (tokens, _) = reference(&logits, &options, &[]);
    assert!(tokens.len() > 1000);
    let mut sampler = Sampler::new(options, &[]);
    for _ in 0..5 {
        let chosen = sampler.sample(&mut logits.clone()).expect("finite logits");
        assert!(tokens.iter().any(|t| t.0 == chosen));
    }
}
