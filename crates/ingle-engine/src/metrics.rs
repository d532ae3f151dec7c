// SPDX-License-Identifier: EUPL-1.2
//! What an engine has done so far.

use std::time::Duration;

/// Counts and times of an [`Engine`](crate::Engine) since it was made or its metrics were last reset, and its
/// present state.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// Tokens of the prompts of requests that were begun.
    pub prompt_tokens: usize,
    /// Those of them whose keys and values were already cached.
    pub cached_tokens: usize,
    /// Tokens generated, stop tokens included.
    pub generated_tokens: usize,
    /// Prompt tokens computed: without those that were cached, with those computed again after a preemption.
    pub prefilled_tokens: usize,
    /// Time spent on prompts. A step that computes prompts beside decoding counts by tokens.
    pub prefill_time: Duration,
    /// Time spent on decoding.
    pub decode_time: Duration,
    /// From submission to the first token, of the request that got one last.
    pub last_time_to_first_token: Duration,
    /// Mean time from submission to the first token.
    pub mean_time_to_first_token: Duration,
    /// Requests that got a first token.
    pub first_tokens: usize,
    /// Tokens that came out of decoding: all generated but the first of each request.
    pub decoded_tokens: usize,
    /// Forward passes.
    pub steps: usize,
    /// How often a running request had to make room, to be computed again later.
    pub preemptions: usize,
    /// Requests being computed now.
    pub running: usize,
    /// Requests waiting now.
    pub waiting: usize,
    /// Key-value blocks in use now, over all groups of layers.
    pub blocks_used: usize,
    /// Key-value blocks not in use that hold known prefixes.
    pub blocks_cached: usize,
    /// Key-value blocks there are.
    pub blocks_total: usize,
    /// Bytes that all key-value blocks take.
    pub kv_bytes: usize,
    /// Bytes that the blocks in use take: about what a step reads of the cache.
    pub kv_used_bytes: usize,
}

impl Metrics {
    /// Prompt tokens computed per second; 0 before the first.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prefilled_tokens, self.prefill_time)
    }

    /// Tokens decoded per second, over all requests together; 0 before the first.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decoded_tokens, self.decode_time)
    }

    pub(crate) fn count_step(&mut self, prefilled: usize, decoded: usize, elapsed: Duration) {
        self.steps += 1;
        self.prefilled_tokens += prefilled;
        self.decoded_tokens += decoded;
        let share = decoded as f64 / (prefilled + decoded).max(1) as f64;
        let decode_time = elapsed.mul_f64(share);
        self.decode_time += decode_time;
        self.prefill_time += elapsed.saturating_sub(decode_time);
    }

    pub(crate) fn count_first_token(&mut self, elapsed: Duration) {
        let total = self.mean_time_to_first_token.as_secs_f64() * self.first_tokens as f64 + elapsed.as_secs_f64();
        self.first_tokens += 1;
        self.mean_time_to_first_token = Duration::from_secs_f64(total / self.first_tokens as f64);
        self.last_time_to_first_token = elapsed;
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    match time.as_secs_f64() {
        0.0 => 0.0,
        seconds => tokens as f64 / seconds,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_step_counts_by_tokens_good() {
        let mut metrics = Metrics::default();
        metrics.count_step(30, 10, Duration::from_secs(4));
        assert_eq!((metrics.prefill_time, metrics.decode_time), (Duration::from_secs(3), Duration::from_secs(1)));
        assert_eq!(metrics.prefill_tokens_per_second(), 10.0);
        assert_eq!(metrics.decode_tokens_per_second(), 10.0);
    }

    #[test]
    fn nothing_done_is_no_division_by_zero_ugly() {
        let mut metrics = Metrics::default();
        assert_eq!(metrics.decode_tokens_per_second(), 0.0);
        metrics.count_step(0, 0, Duration::ZERO);
        assert_eq!(metrics.prefill_tokens_per_second(), 0.0);
    }

    #[test]
    fn mean_and_last_time_to_first_token_good() {
        let mut metrics = Metrics::default();
        metrics.count_first_token(Duration::from_secs(1));
        metrics.count_first_token(Duration::from_secs(3));
        assert_eq!(metrics.mean_time_to_first_token, Duration::from_secs(2));
        assert_eq!(metrics.last_time_to_first_token, Duration::from_secs(3));
    }
}
