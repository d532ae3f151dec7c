// SPDX-License-Identifier: EUPL-1.2
//! Classification: from log-probabilities to labels and probabilities.

use crate::{Error, Result};

/// What is asked about each text.
#[derive(Clone, Debug, PartialEq)]
pub enum ClassifyOptions {
    /// The so many likeliest next tokens.
    Top(usize),
    /// Which of these labels fits best as the text's continuation. A label follows the text after a space,
    /// unless the text ends with white space.
    Labels(Vec<String>),
}

/// What was found about one text.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The likeliest next tokens, likeliest first.
    Next(Vec<NextToken>),
    /// Every label in the order given.
    Labels(Vec<LabelScore>),
}

/// A token that may come next.
#[derive(Clone, Debug, PartialEq)]
pub struct NextToken {
    /// Its id.
    pub id: u32,
    /// The vocabulary's piece for it.
    pub piece: String,
    /// Its probability among all tokens.
    pub probability: f32,
}

/// A label and how well it fits.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// Natural-log probability that the text continues with the label: the sum over its tokens.
    pub logprob: f32,
    /// Its probability relative to the other labels.
    pub probability: f32,
}

/// Classifications in the order of their texts.
pub type Classifications<'a> = Box<dyn Iterator<Item = Result<Outcome>> + Send + 'a>;

/// Refuses labels among which nothing can be chosen.
pub(crate) fn check(options: &ClassifyOptions) -> Result<()> {
    match options {
        ClassifyOptions::Top(0) => Err(Error::Labels { expected: "at least 1 token", found: "0".into() }),
        ClassifyOptions::Top(_) => Ok(()),
        ClassifyOptions::Labels(labels) => {
            if labels.is_empty() {
                return Err(Error::Labels { expected: "at least one label", found: "none".into() });
            }
            for (index, label) in labels.iter().enumerate() {
                if label.trim().is_empty() {
                    return Err(Error::Labels { expected: "labels with text in them", found: format!("`{label}`") });
                }
                if labels[..index].contains(label) {
                    return Err(Error::Labels { expected: "labels that differ", found: format!("`{label}` twice") });
                }
            }
            Ok(())
        }
    }
}

/// A text followed by each label, as tokens.
pub(crate) struct Labelled {
    /// One sequence for each label.
    pub sequences: Vec<Vec<u32>>,
    /// How many tokens all sequences share: what tells the labels apart begins here.
    pub shared: usize,
}

impl Labelled {
    /// `encode` gives the tokens of each of some texts, with the model's own start and end tokens.
    pub fn new(
        encode: impl FnOnce(Vec<String>) -> Result<Vec<Vec<u32>>>,
        text: &str,
        labels: &[String],
    ) -> Result<Self> {
        let space = if text.is_empty() || text.ends_with(char::is_whitespace) { "" } else { " " };
        let mut texts: Vec<String> = labels.iter().map(|label| format!("{text}{space}{label}")).collect();
        texts.push(text.to_owned());
        let mut sequences = encode(texts)?;
        let alone = sequences.pop().unwrap_or_default();
        let shared = sequences.iter().map(|sequence| common_prefix(&alone, sequence)).min().unwrap_or(0);
        Ok(Labelled { sequences, shared })
    }

    /// The one token by which each label differs, if all labels are of one token: then one row of logits
    /// scores them all.
    pub fn single_tokens(&self) -> Option<Vec<u32>> {
        self.sequences
            .iter()
            .map(|sequence| (sequence.len() == self.shared + 1).then(|| sequence[self.shared]))
            .collect()
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The natural logarithm of the sum of the exponentials, accumulated in f64.
fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !most.is_finite() {
        return f64::from(most);
    }
    let sum: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
    f64::from(most) + sum.ln()
}

/// Label scores from the log-probability of each label.
pub(crate) fn from_logprobs(logprobs: Vec<f64>, labels: &[String]) -> Vec<LabelScore> {
    let narrow: Vec<f32> = logprobs.iter().map(|&x| x as f32).collect();
    let total = log_sum_exp(&narrow);
    let score = |(label, logprob): (&String, f64)| LabelScore {
        label: label.clone(),
        logprob: logprob as f32,
        probability: (logprob - total).exp() as f32,
    };
    labels.iter().zip(logprobs).map(score).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_good() {
        let labels = ["a".to_owned(), "b".into(), "c".into()];
        let scores = from_logprobs(vec![-2.5, -0.5, -3.0], &labels);
        let sum: f32 = scores.iter().map(|score| score.probability).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{scores:?}");
        assert!(scores[1].probability > scores[0].probability);
        assert!((scores[0].probability / scores[2].probability - 0.5f32.exp()).abs() < 1e-6);
    }

    #[test]
    fn unusable_labels_are_refused_bad() {
        let labels = |labels: &[&str]| ClassifyOptions::Labels(labels.iter().map(|&l| l.into()).collect());
        assert!(check(&labels(&["good", "bad"])).is_ok());
        for unusable in [labels(&[]), labels(&["a", " "]), labels(&["a", "b", "a"]), ClassifyOptions::Top(0)] {
            assert!(check(&unusable).is_err(), "{unusable:?}");
        }
    }

    #[test]
    fn extreme_logits_do_not_overflow_ugly() {
        assert!((log_sum_exp(&[1e30, 1e30]) - 1e30).abs() < 1e24);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        let labels = ["a".to_owned(), "b".into()];
        let scores = from_logprobs(vec![-1e4, -1.1e4], &labels);
        assert_eq!(scores[0].probability, 1.0);
    }
}
