// SPDX-License-Identifier: EUPL-1.2
//! Drawing a token at random, without sorting the vocabulary.

use std::cmp::Ordering;

use super::Sampling;

/// A logit and its token, likelier ones first and then lower ids.
pub(super) type Candidate = (f32, u32);

fn order(a: &Candidate, b: &Candidate) -> Ordering {
    // No candidate is NaN.
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
}

/// The tokens whose logit is at least `least`.
pub(super) fn candidates(logits: &[f32], least: f32) -> Vec<Candidate> {
    (0..).zip(logits).filter(|&(_, &logit)| logit >= least).map(|(id, &logit)| (logit, id)).collect()
}

/// Keeps the `count` likeliest, likeliest first.
pub(super) fn likeliest(candidates: &mut Vec<Candidate>, count: usize) {
    if count == 0 {
        candidates.clear();
    }
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, order);
        candidates.truncate(count);
    }
    candidates.sort_unstable_by(order);
}

/// Draws a token at a temperature above 0. `max` is the largest logit, finite; `uniform` is in `[0, 1)`.
pub(super) fn draw(logits: &[f32], max: f32, options: &Sampling, uniform: f64) -> u32 {
    // In units of the likeliest token's probability. The difference comes first: it cannot overflow.
    let weight = |logit: f32| f64::from(((logit - max) / options.temperature).exp());
    if options.top_p >= 1.0 && options.top_k == 0 && options.min_p <= 0.0 {
        let weights: Vec<f64> = logits.iter().map(|&logit| weight(logit)).collect();
        return pick(&weights, uniform) as u32;
    }

    // Each filter keeps a run of the tokens in order of likelihood, so all of them together keep the shortest.
    let mut kept = candidates(logits, f32::NEG_INFINITY);
    if options.min_p > 0.0 {
        kept.retain(|&(logit, _)| weight(logit) >= f64::from(options.min_p));
    }
    let most = match options.top_k {
        0 => kept.len(),
        top_k => top_k.min(kept.len()),
    };
    if options.top_p < 1.0 {
        let total: f64 = logits.iter().map(|&logit| weight(logit)).sum();
        keep_mass(&mut kept, most, weight, f64::from(options.top_p) * total);
    } else {
        likeliest(&mut kept, most);
    }
    let weights: Vec<f64> = kept.iter().map(|&(logit, _)| weight(logit)).collect();
    kept[pick(&weights, uniform)].1
}

/// Keeps the likeliest tokens that together weigh at least `mass`, at most `most` of them, likeliest first.
fn keep_mass(candidates: &mut Vec<Candidate>, most: usize, weight: impl Fn(f32) -> f64, mass: f64) {
    // The few likeliest nearly always have it: sort those, and more only if not.
    const FIRST: usize = 64;
    const FACTOR: usize = 8;
    let mut count = FIRST.min(most);
    loop {
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count, order);
        }
        candidates[..count].sort_unstable_by(order);
        let mut sum = 0.0;
        let enough = candidates[..count].iter().position(|&(logit, _)| {
            sum += weight(logit);
            sum >= mass
        });
        match enough {
            Some(last) => return candidates.truncate(last + 1),
            None if count == most => return candidates.truncate(most),
            None => count = (count * FACTOR).min(most),
        }
    }
}

/// The index at which the running sum of weights passes `uniform` of their total. One without weight is never
/// picked; one of them has weight.
fn pick(weights: &[f64], uniform: f64) -> usize {
    let threshold = uniform * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            sum += weight;
            last = index;
            if sum > threshold {
                break;
            }
        }
    }
    last
}
