// SPDX-License-Identifier: EUPL-1.2
//! Layers by name or pattern.

use std::fmt;

/// The layers that have a name: `q_proj`, or `self_attn.q_proj`, which stand for every layer whose name ends so, at a
/// dot; or a pattern of the whole name, in which `*` stands for anything: `*.layers.1*.mlp.*_proj`.
///
/// ```
/// use ingle_nn::Target;
///
/// let layer = "model.layers.1.self_attn.q_proj";
/// assert!(Target::new("q_proj").matches(layer) && Target::new("*.layers.1.*").matches(layer));
/// assert!(!Target::new("proj").matches(layer) && !Target::new("*.layers.2.*").matches(layer));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(String);

impl Target {
    /// The layers that `pattern` stands for.
    pub fn new(pattern: impl Into<String>) -> Self {
        Target(pattern.into())
    }

    /// Whether a layer of this name is one of them.
    pub fn matches(&self, layer: &str) -> bool {
        let pattern = self.0.as_str();
        match pattern.split_once('*') {
            None => layer.strip_suffix(pattern).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            Some((first, rest)) => {
                let Some(mut layer) = layer.strip_prefix(first) else { return false };
                let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
                // The first place that fits leaves most for the others.
                for part in between.split('*').filter(|part| !part.is_empty()) {
                    let Some(at) = layer.find(part) else { return false };
                    layer = &layer[at + part.len()..];
                }
                layer.ends_with(last)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_good() {
        let layer = "model.layers.11.self_attn.q_proj";
        for pattern in ["q_proj", "self_attn.q_proj", layer, "*", "model.*", "*q_proj", "*.1*.q_*", "model.layers.11.*"]
        {
            assert!(Target::new(pattern).matches(layer), "{pattern}");
        }
        assert!(Target::new("lm_head").matches("lm_head"));
    }

    #[test]
    fn what_only_looks_alike_ugly() {
        let layer = "model.layers.11.self_attn.q_proj";
        for pattern in ["", "_proj", "q_pro", "Q_PROJ", "*k_proj", "*layers.1.*", "layers.*", "*q_proj*q_proj", "*.x*"]
        {
            assert!(!Target::new(pattern).matches(layer), "{pattern}");
        }
        // Neither end may be used twice.
        assert!(!Target::new("ab*ba").matches("aba"));
    }
}
