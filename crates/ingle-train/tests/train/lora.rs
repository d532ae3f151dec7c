// SPDX-License-Identifier: EUPL-1.2
//! An adapter's whole life: loaded beside its base, trained, saved, and loaded again.

use ingle_models::{attach, weights};
use ingle_nn::{Adapter, AdapterFormat, AdapterId, Lora};
use ingle_tensor::DType;
use ingle_train::{Recompute, TrainOptions};

use crate::common::{LORA, Losses, bits, lora_trainer, model, options};

const BASE: &str = "gemma3_text-v5";

/// The matrices of an adapter, name by name, as bits.
fn matrices(adapter: &Adapter) -> Vec<(String, [Vec<u32>; 2])> {
    let of = |lora: &Lora| lora.matrices().map(|matrix| bits(&matrix.to_f32_vec().unwrap()));
    adapter.layers().map(|(name, lora)| (name.to_owned(), of(lora))).collect()
}

#[test]
fn an_adapter_of_gemma_is_trained_saved_and_loaded_good() {
    let run = |dtype, recompute| {
        let mut losses = Losses::default();
        let mut options = TrainOptions { recompute, ..options(20) };
        options.schedule.peak = 1e-2;
        let mut trainer = lora_trainer(BASE, dtype, options, 0.0);
        trainer.run(&mut losses).unwrap();
        let mut learnt = trainer.into_model().unwrap();
        (losses.training, Adapter::of(&mut *learnt, LORA))
    };
    let (exact, adapter) = run(DType::F32, Recompute::Nothing);
    assert!(exact[19] < 0.9 * exact[0], "{exact:?}");

    // Computed again rather than kept: the same, to the bit.
    let (again, same) = run(DType::F32, Recompute::Blocks);
    assert_eq!((bits(&again), matrices(&same)), (bits(&exact), matrices(&adapter)));

    // In half the width: the same curve, but for what bf16 rounds.
    let (half, half_adapter) = run(DType::BF16, Recompute::Nothing);
    for (half, exact) in half.iter().zip(&exact) {
        assert!((half - exact).abs() < 0.02 * exact, "{half} and {exact}");
    }

    for (dtype, adapter) in [(DType::F32, adapter), (DType::BF16, half_adapter)] {
        let mut names: Vec<_> = adapter.layers().map(|(name, _)| name).collect();
        names.dedup();
        assert!(names.iter().all(|name| name.ends_with("q_proj") || name.ends_with("v_proj")), "{names:?}");
        assert!(adapter.layers().all(|(_, lora)| lora.rank() == 8));
        for format in [AdapterFormat::Peft, AdapterFormat::Mlx] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("adapter");
            adapter.save(&path, format, BASE).unwrap();
            let mut base = model(BASE, dtype);
            let untouched = weights(&mut *base).len();
            let loaded = Adapter::open(&path, base.device()).unwrap();
            attach(&mut *base, loaded, AdapterId(0)).unwrap();
            assert_eq!(matrices(&Adapter::of(&mut *base, AdapterId(0))), matrices(&adapter), "{format:?}");
            assert_eq!(weights(&mut *base).len(), untouched);
        }
    }
}
