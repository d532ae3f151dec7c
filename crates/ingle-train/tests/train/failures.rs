// SPDX-License-Identifier: EUPL-1.2
//! Trainings that fail.

use std::sync::Arc;

use ingle_tensor::DType;
use ingle_train::data::{Example, Examples};
use ingle_train::{Error, Result, TrainOptions, Trained, Trainer};

use crate::common::{Losses, model, options, trainer};

#[test]
fn a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint_bad() {
    let folder = tempfile::tempdir().unwrap();
    let mut hot = TrainOptions { checkpoint_every: Some(2), clip_norm: None, ..options(40) };
    hot.schedule.peak = 1e38;
    let mut losses = Losses::default();
    let mut diverging = trainer("llama-v5", DType::F32, hot.clone()).with_checkpoints(folder.path());
    let error = diverging.run(&mut losses).unwrap_err();
    let Error::NotFinite { step, .. } = &error else { panic!("{error}") };
    assert_eq!(*step, losses.training.len() as u64 + 1);
    let kept = std::fs::read_dir(folder.path()).unwrap().count();
    assert!((1..=2).contains(&kept), "{kept}");
    let last = format!("step-{:08} is kept; go on from it with a lower learning rate", (step - 1) / 2 * 2);
    assert!(error.to_string().ends_with(&last), "{error}");
    assert!(trainer("llama-v5", DType::F32, hot).with_checkpoints(folder.path()).resume().unwrap().is_some());
}

#[test]
fn options_that_cannot_be_met_bad() {
    let refused = |change: fn(&mut TrainOptions)| {
        let mut options = options(3);
        change(&mut options);
        let run = Trainer::new(model("llama-v5", DType::F32), Trained::Weights, Arc::new(Nothing), options)
            .and_then(|mut trainer| trainer.run(&mut Losses::default()));
        run.unwrap_err().to_string()
    };
    assert_eq!(refused(|o| o.accumulate = 0), "accumulate: expected at least 1, found 0");
    assert_eq!(refused(|o| o.schedule.peak = -1.0), "learning rate: expected a number greater than 0, found -1");
    assert_eq!(refused(|o| o.clip_norm = Some(0.0)), "clip norm: expected a number greater than 0, found 0");
    let long = refused(|o| o.max_length = 56);
    assert_eq!(long, "batch tokens: expected at least the 56 tokens of a sequence, and those at least 1, found 55");
    let nothing = "data: expected examples with tokens to predict within the length of a sequence, found none";
    assert_eq!(refused(|_| ()), nothing);
}

/// Examples without a token to predict.
struct Nothing;

impl Examples for Nothing {
    fn count(&self, _epoch: u64) -> usize {
        7
    }

    fn example(&self, _epoch: u64, _index: usize) -> Result<Example> {
        Ok(Example::learnt(vec![3]))
    }
}

#[test]
fn a_token_beyond_the_vocabulary_ugly() {
    struct Beyond;
    impl Examples for Beyond {
        fn count(&self, _epoch: u64) -> usize {
            1
        }

        fn example(&self, _epoch: u64, _index: usize) -> Result<Example> {
            Ok(Example::learnt(vec![1, 2, 4_000_000_000, 500]))
        }
    }
    let trainer = Trainer::new(model("llama-v5", DType::F32), Trained::Weights, Arc::new(Beyond), options(3));
    let error = trainer.unwrap().run(&mut Losses::default()).unwrap_err().to_string();
    assert!(error.contains("is outside an axis of length 128"), "{error}");
}

#[test]
fn a_model_without_what_is_to_be_trained_bad() {
    let trained = Trained::Adapter(ingle_nn::AdapterId(1));
    let refused = Trainer::new(model("llama-v5", DType::F32), trained, Arc::new(Nothing), options(3)).err();
    let words = "model: expected one with the adapter that is to be trained, found none";
    assert_eq!(refused.map(|error| error.to_string()).as_deref(), Some(words));
}
