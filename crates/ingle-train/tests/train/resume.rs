// SPDX-License-Identifier: EUPL-1.2
//! Trainings that are interrupted and go on.

use std::sync::Arc;

use ingle_models::weights;
use ingle_tensor::DType;
use ingle_train::data::Order;
use ingle_train::{Ending, Recompute, Schedule, TrainOptions, Trainer, Until};

use crate::common::{Losses, Texts, bits, lora_trainer, options, trainer};

fn long() -> TrainOptions {
    TrainOptions {
        order: Order::Shuffled(5),
        batch_tokens: 90,
        validate_every: Some(5),
        checkpoint_every: Some(4),
        ..options(14)
    }
}

fn begin(folder: &std::path::Path, dtype: DType, options: TrainOptions) -> Trainer {
    let validation = Texts { vocab_size: 128, steps: 2 };
    trainer("llama-v5", dtype, options).with_validation(Arc::new(validation)).with_checkpoints(folder)
}

/// The weights of a trainer's model, as bits.
fn learnt(trainer: Trainer) -> Vec<u32> {
    let mut model = trainer.into_model().unwrap();
    weights(&mut *model).iter().flat_map(|(_, weight)| bits(&weight.to_f32_vec().unwrap())).collect()
}

#[test]
fn a_training_that_is_stopped_or_killed_goes_on_bit_for_bit_good() {
    for (dtype, dropout) in [(DType::F32, 0.0), (DType::BF16, 0.1)] {
        let long = || TrainOptions { dropout, ..long() };
        let folder = tempfile::tempdir().unwrap();
        let mut whole = Losses::default();
        let mut trainer = begin(folder.path(), dtype, long());
        let outcome = trainer.run(&mut whole).unwrap();
        assert_eq!((outcome.steps, outcome.ending, whole.validation.len()), (14, Ending::Done, 3));
        let wanted = learnt(trainer);

        // Stopped after step 7, which writes a checkpoint. Then killed after step 11, which does not: what was done
        // since step 8 is done again.
        let folder = tempfile::tempdir().unwrap();
        let mut first = Losses { stop_after: Some(7), ..Losses::default() };
        assert_eq!(begin(folder.path(), dtype, long()).run(&mut first).unwrap().ending, Ending::Stopped);
        let mut second = begin(folder.path(), dtype, long());
        assert_eq!(second.resume().unwrap(), Some(7));
        let mut killed = 0;
        let mut until_killed = Vec::new();
        let died = second.run(&mut |event: &ingle_train::Event| {
            if let ingle_train::Event::Step(step) = event {
                until_killed.push(step.loss);
                killed = step.step;
            }
            match killed {
                11 => Err(ingle_train::Error::File { path: "here".into(), message: "killed".into() }),
                _ => Ok(std::ops::ControlFlow::Continue(())),
            }
        });
        assert_eq!(died.unwrap_err().to_string(), "here: killed");
        drop(second);
        std::fs::create_dir(folder.path().join("step-00000012.part")).unwrap();
        let mut third = begin(folder.path(), dtype, long());
        assert_eq!(third.resume().unwrap(), Some(8));
        let mut rest = Losses::default();
        third.run(&mut rest).unwrap();

        assert_eq!(bits(&first.training), bits(&whole.training[..7]));
        assert_eq!(bits(&until_killed), bits(&whole.training[7..11]));
        assert_eq!(bits(&rest.training), bits(&whole.training[8..]));
        assert_eq!(bits(&rest.validation), bits(&whole.validation[1..]));
        assert_eq!(learnt(third), wanted);
        let mut kept: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        kept.sort();
        assert_eq!(kept.len(), 3, "{kept:?}");
    }
}

#[test]
fn the_best_weights_are_given_good() {
    // The rate is far too high after a while.
    let folder = tempfile::tempdir().unwrap();
    let mut hot = long();
    hot.schedule.peak = 0.5;
    hot.schedule.warmup = 1.0;
    hot.validate_every = Some(1);
    hot.patience = Some(2);
    let mut losses = Losses::default();
    let mut trainer = begin(folder.path(), DType::F32, hot.clone());
    let outcome = trainer.run(&mut losses).unwrap();
    let (step, loss) = outcome.best.unwrap();
    assert_eq!((outcome.ending, outcome.steps), (Ending::Stalled, step + 2), "{:?}", losses.validation);
    assert_eq!(loss, losses.validation.iter().copied().fold(f32::INFINITY, f32::min));
    // Trained until then and no further.
    let best = learnt(trainer);
    let other = tempfile::tempdir().unwrap();
    let mut again = begin(other.path(), DType::F32, hot);
    again.run(&mut Losses { stop_after: Some(step), ..Losses::default() }).unwrap();
    assert_eq!(learnt(again), best);
}

#[test]
fn another_training_is_refused_bad() {
    let folder = tempfile::tempdir().unwrap();
    let stopped = || Losses { stop_after: Some(1), ..Losses::default() };
    begin(folder.path(), DType::F32, long()).run(&mut stopped()).unwrap();
    let refused = |options| begin(folder.path(), DType::F32, options).resume().unwrap_err().to_string();
    let other = refused(TrainOptions { batch_tokens: 91, ..long() });
    assert!(other.starts_with("batch tokens: expected 90, as in ") && other.ends_with("found 91"), "{other}");
    let other = refused(TrainOptions { dropout: 0.5, ..long() });
    assert!(other.starts_with("dropout: expected 0.0, as in"), "{other}");
    let other = refused(TrainOptions { until: Until::Epochs(1), ..long() });
    assert!(other.starts_with("length of the training: expected Steps(14), as in"), "{other}");
    let other = trainer("qwen3-v5", DType::F32, long()).with_checkpoints(folder.path()).resume().unwrap_err();
    assert!(matches!(other, ingle_train::Error::File { .. } | ingle_train::Error::Option { .. }), "{other}");
}

#[test]
fn nothing_to_go_on_from_ugly() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(begin(&folder.path().join("none"), DType::F32, long()).resume().unwrap(), None);
    assert_eq!(trainer("llama-v5", DType::F32, long()).resume().unwrap(), None);
}

#[test]
fn an_adapter_goes_on_and_its_base_stays_good() {
    let folder = tempfile::tempdir().unwrap();
    let begin = |folder: &std::path::Path| lora_trainer("llama-v5", DType::F32, long(), 0.2).with_checkpoints(folder);
    let mut whole = Losses::default();
    begin(folder.path()).run(&mut whole).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut first = Losses { stop_after: Some(6), ..Losses::default() };
    begin(folder.path()).run(&mut first).unwrap();
    let mut rest = Losses::default();
    let mut trainer = begin(folder.path());
    assert_eq!(trainer.resume().unwrap(), Some(6));
    trainer.run(&mut rest).unwrap();
    assert_eq!(bits(&[first.training, rest.training].concat()), bits(&whole.training));
    let mut base = crate::common::model("llama-v5", DType::F32);
    let untouched: Vec<u32> = weights(&mut *base).iter().flat_map(|(_, w)| bits(&w.to_f32_vec().unwrap())).collect();
    assert_eq!(learnt(trainer), untouched);
}

#[test]
fn what_drops_out_is_the_same_when_it_is_computed_again_good() {
    let losses = |dropout, recompute, seed| {
        let mut losses = Losses::default();
        let options = TrainOptions { dropout, recompute, seed, validate_every: Some(2), ..options(3) };
        let validation = Texts { vocab_size: 128, steps: 2 };
        let mut trainer = trainer("gemma3-v5", DType::F32, options).with_validation(Arc::new(validation));
        trainer.run(&mut losses).unwrap();
        [bits(&losses.training), bits(&losses.validation)]
    };
    let dropped = losses(0.3, Recompute::Nothing, 1);
    assert_eq!(losses(0.3, Recompute::Blocks, 1), dropped);
    let [whole, other] = [losses(0.0, Recompute::Nothing, 1), losses(0.3, Recompute::Nothing, 2)];
    assert!(dropped[0][0] != whole[0][0] && dropped[0][0] != other[0][0], "it is in the training");
    // A rate of next to nothing: the validation sees the same weights, and nothing of it drops out.
    let still = |dropout| {
        let mut losses = Losses::default();
        let schedule = Schedule::constant(1e-30);
        let options = TrainOptions { dropout, schedule, validate_every: Some(1), ..options(1) };
        let validation = Texts { vocab_size: 128, steps: 2 };
        trainer("gemma3-v5", DType::F32, options).with_validation(Arc::new(validation)).run(&mut losses).unwrap();
        bits(&losses.validation)
    };
    assert_eq!(still(0.3), still(0.0));
}
