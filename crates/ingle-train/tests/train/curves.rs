// SPDX-License-Identifier: EUPL-1.2
//! Loss curves beside PyTorch's.

use std::collections::BTreeMap;

use ingle_tensor::DType;
use ingle_train::{Ending, Recompute, TrainOptions};

use crate::common::{Losses, bits, fixtures, lora_trainer, options, trainer};

#[test]
fn fifty_steps_are_pytorchs_good() {
    let wanted: BTreeMap<String, Vec<f32>> =
        serde_json::from_slice(&std::fs::read(fixtures("training/curves.json")).unwrap()).unwrap();
    assert_eq!(wanted.len(), 5);
    for (name, wanted) in wanted {
        let mut losses = Losses::default();
        let mut options = options(50);
        let mut training = match name.strip_suffix("+lora") {
            Some(base) => {
                options.schedule.peak = 1e-2;
                lora_trainer(base, DType::F32, options, 0.0)
            }
            None => trainer(&name, DType::F32, options),
        };
        let outcome = training.run(&mut losses).unwrap();
        assert_eq!((outcome.steps, outcome.ending, losses.training.len()), (50, Ending::Done, wanted.len()));
        let off = losses.training.iter().zip(&wanted).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
        println!("{name}: off by {off:e} at most");
        assert!(off < 1e-3, "{name}: off by {off}: {:?}", losses.training);
    }
}

#[test]
fn batches_that_are_accumulated_are_one_large_batch_good() {
    let run = |accumulate, batch_tokens| {
        let mut losses = Losses::default();
        let options = TrainOptions { accumulate, batch_tokens, ..options(8) };
        trainer("llama-v5", DType::F32, options).run(&mut losses).unwrap();
        losses.training
    };
    // Six texts: in one batch, or in two.
    let (one, two) = (run(1, 2 * 55), run(2, 55));
    let off = one.iter().zip(&two).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
    assert!(one.len() == 8 && off < 2e-3, "{one:?} and {two:?}");
}

#[test]
fn half_width_weights_learn_alike_good() {
    let run = |dtype| {
        let mut losses = Losses::default();
        trainer("gemma3_text-v5", dtype, options(25)).run(&mut losses).unwrap();
        losses.training
    };
    let (exact, half) = (run(DType::F32), run(DType::BF16));
    assert!(half[24] < half[0] / 2.0, "{half:?}");
    for (exact, half) in exact.iter().zip(&half) {
        assert!((exact - half).abs() < 0.1 * exact.max(1.0), "{exact} and {half}");
    }
}

#[test]
fn blocks_that_are_computed_again_change_no_bit_good() {
    let run = |recompute, dropout| {
        let mut losses = Losses::default();
        let options = TrainOptions { recompute, ..options(6) };
        lora_trainer("gemma3_text-v5", DType::BF16, options.clone(), dropout).run(&mut losses).unwrap();
        trainer("gemma3_text-v5", DType::F32, options).run(&mut losses).unwrap();
        bits(&losses.training)
    };
    assert_eq!(run(Recompute::Nothing, 0.3), run(Recompute::Blocks, 0.3));
    assert_ne!(run(Recompute::Nothing, 0.3)[..6], run(Recompute::Nothing, 0.0)[..6]);
}
