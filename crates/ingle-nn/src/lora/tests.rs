// SPDX-License-Identifier: EUPL-1.2
//! Adapted layers against the formula, over every kind of base.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{Quantization, grad};
use proptest::prelude::*;

use super::*;
use crate::Linear;
use crate::quantise::{AffineRow, encode_affine};

const INPUTS: usize = 64;
const OUTPUTS: usize = 40;

fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(2), ..Default::default() }).unwrap())
}

/// Numbers between −1 and 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64).map(|index| (2.0 * uniform(seed, index) - 1.0) as f32).collect()
}

fn matrix(device: &DeviceHandle, shape: [usize; 2], seed: u64) -> Tensor {
    Tensor::from_slice(device, &numbers(shape[0] * shape[1], seed), shape).unwrap()
}

/// An adapter of rank 4 that has learnt something.
fn lora(device: &DeviceHandle, seed: u64) -> Lora {
    let matrices = [matrix(device, [4, INPUTS], seed), matrix(device, [OUTPUTS, 4], seed + 100)];
    Lora::new("q_proj", matrices, 0.5).unwrap()
}

/// 4-bit words, and the floats that they stand for.
fn quantised(device: &DeviceHandle) -> (Tensor, Vec<f32>) {
    let rows = numbers(OUTPUTS * INPUTS, 3);
    let (mut words, mut scales, mut offsets) = (vec![], vec![], vec![]);
    for row in rows.chunks(INPUTS) {
        let (mut packed, mut scale, mut offset) = ([0; INPUTS / 2], [0.0; 2], [0.0; 2]);
        encode_affine(4, 32, row, AffineRow { words: &mut packed, scales: &mut scale, offsets: &mut offset });
        words.extend(packed.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)));
        scales.extend(scale);
        offsets.extend(offset);
    }
    let parts = vec![
        Tensor::from_slice(device, &words, [OUTPUTS, INPUTS / 8]).unwrap(),
        Tensor::from_slice(device, &scales, [OUTPUTS, 2]).unwrap(),
        Tensor::from_slice(device, &offsets, [OUTPUTS, 2]).unwrap(),
    ];
    let weight = Tensor::dequantize(parts, Quantization::Affine { bits: 4, group_size: 32 }, DType::F32).unwrap();
    let floats = weight.to_vec().unwrap();
    (weight, floats)
}

/// `x·weightᵀ`, in f64.
fn product(x: &[f64], weight: &[f32], inner: usize) -> Vec<f64> {
    let dot = |row: &[f64], w: &[f32]| row.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum::<f64>();
    x.chunks(inner).flat_map(|row| weight.chunks(inner).map(move |w| dot(row, w))).collect()
}

fn change(lora: &Lora, x: &[f32]) -> Vec<f64> {
    let [a, b] = lora.matrices().map(|matrix| matrix.to_vec::<f32>().unwrap());
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    product(&product(&x, &a, INPUTS), &b, 4).into_iter().map(|y| y * lora.scale()).collect()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_dense_and_a_quantised_base_stay_as_they_are_good() {
    let device = cpu();
    let (packed, floats) = quantised(&device);
    let (dense, plain) = (matrix(&device, [OUTPUTS, INPUTS], 9), numbers(OUTPUTS * INPUTS, 9));
    // The base of a quantised layer rounds what goes in to 8 bits.
    for (weight, floats, tolerance) in [(dense.pack().unwrap(), plain, 1e-5), (packed, floats, 2e-2)] {
        let mut linear = Linear::from_weight(weight);
        linear.attach(AdapterId(0), lora(&device, 1)).unwrap();
        let x = numbers(3 * INPUTS, 5);
        let tensor = Tensor::from_slice(&device, &x, [3, INPUTS]).unwrap();
        let adapted = linear.forward(&tensor, &Routes::all(AdapterId(0))).unwrap().to_vec::<f32>().unwrap();
        let base = linear.forward(&tensor, &Routes::default()).unwrap().to_vec::<f32>().unwrap();
        let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let expected = product(&wide, &floats, INPUTS);
        for (((adapted, base), expected), change) in
            adapted.iter().zip(&base).zip(expected).zip(change(&lora(&device, 1), &x))
        {
            assert!((f64::from(*base) - expected).abs() < tolerance * 10.0, "{base} {expected}");
            assert!((f64::from(adapted - base) - change).abs() < 1e-4, "{adapted} {base} {change}");
        }
    }
}

proptest! {
    #[test]
    fn a_row_has_the_same_bits_beside_others_good(rows in prop::collection::vec(0u32..4, 1..40), half in any::<bool>()) {
        let device = cpu();
        let dtype = if half { DType::BF16 } else { DType::F32 };
        let mut linear = Linear::from_weight(matrix(&device, [OUTPUTS, INPUTS], 9).cast(dtype).unwrap().pack().unwrap());
        for id in 1..4 {
            linear.attach(AdapterId(id), lora(&device, u64::from(id)).cast(dtype).unwrap()).unwrap();
        }
        let x = matrix(&device, [rows.len(), INPUTS], 5).cast(dtype).unwrap();
        let adapters: Vec<_> = rows.iter().map(|id| (*id > 0).then_some(AdapterId(*id))).collect();
        let together = linear.forward(&x, &Routes::new(&device, &adapters).unwrap()).unwrap();
        for (index, id) in rows.iter().enumerate() {
            let routes = if *id == 0 { Routes::default() } else { Routes::all(AdapterId(*id)) };
            let alone = linear.forward(&x.slice(0, index, index + 1).unwrap(), &routes).unwrap();
            let beside = together.slice(0, index, index + 1).unwrap();
            prop_assert_eq!(bits(&alone.cast(DType::F32).unwrap()), bits(&beside.cast(DType::F32).unwrap()));
        }
    }
}

#[test]
fn gradients_reach_the_adapter_good() {
    let device = cpu();
    let (weight, _) = quantised(&device);
    let x = matrix(&device, [5, INPUTS], 5);
    let [a, b] = lora(&device, 1).matrices().map(Tensor::clone);
    let loss = |p: &[Tensor]| {
        let mut linear = Linear::from_weight(weight.clone());
        linear.attach(AdapterId(0), Lora::new("q_proj", [p[0].clone(), p[1].clone()], 0.5)?)?;
        let y = linear.forward(&x, &Routes::all(AdapterId(0)))?;
        Ok::<_, Error>(y.mul(&y)?.reshape([5 * OUTPUTS])?.sum_axis(0)?)
    };
    let (_, gradients) = grad::value_and_grad(loss, &[a.clone(), b.clone()]).unwrap();
    let value = |a: &Tensor, b: &Tensor| loss(&[a.clone(), b.clone()]).unwrap().to_vec::<f32>().unwrap()[0];
    for (which, index) in [(0, 7), (0, 200), (1, 3), (1, 111)] {
        let p = [&a, &b][which];
        let step = 1e-2;
        let moved = |by: f32| {
            let mut values = p.to_vec::<f32>().unwrap();
            values[index] += by;
            let moved = Tensor::from_slice(&device, &values, p.shape()).unwrap();
            if which == 0 { value(&moved, &b) } else { value(&a, &moved) }
        };
        // A square's central difference is exact but for rounding.
        let difference = (moved(step) - moved(-step)) / (2.0 * step);
        let found = gradients[which].to_vec::<f32>().unwrap()[index];
        assert!((found - difference).abs() < 1e-2 * difference.abs().max(1.0), "{found} {difference}");
    }
}

#[test]
fn dropout_is_for_training_alone_ugly() {
    let device = cpu();
    let config = LoraConfig { rank: 4, dropout: 0.5, ..LoraConfig::default() };
    let mut lora = Lora::create("q_proj", &device, [OUTPUTS, INPUTS], &config, 1).unwrap();
    lora.b = matrix(&device, [OUTPUTS, 4], 2);
    let x = matrix(&device, [6, INPUTS], 5);
    let plain = bits(&lora.forward(&x, None).unwrap());
    let drawn = |seed, pass| bits(&lora.forward(&x, Some(Draw { seed, pass })).unwrap());
    assert_eq!(drawn(1, 1), drawn(1, 1));
    assert_ne!(drawn(1, 1), plain);
    assert!(drawn(1, 1) != drawn(1, 2) && drawn(1, 1) != drawn(2, 1));
    let without = Lora::new("q_proj", lora.matrices().map(Tensor::clone), lora.scale()).unwrap();
    assert_eq!(bits(&without.forward(&x, Some(Draw { seed: 1, pass: 1 })).unwrap()), plain);
}

#[test]
fn a_root_of_the_rank_good() {
    let config = LoraConfig { rank: 16, alpha: 8.0, ..LoraConfig::default() };
    assert_eq!(config.scale(), 0.5);
    assert_eq!(LoraConfig { scaling: LoraScaling::RootRank, ..config }.scale(), 2.0);
}

#[test]
fn the_change_of_the_weight_is_the_change_of_the_outputs_good() {
    let device = cpu();
    let (lora, x) = (lora(&device, 1), matrix(&device, [3, INPUTS], 5));
    let found = x.linear(&lora.change().unwrap(), None).unwrap().to_vec::<f32>().unwrap();
    let expected = lora.forward(&x, None).unwrap().to_vec::<f32>().unwrap();
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4));
}

#[test]
fn what_makes_no_adapter_bad() {
    let refused = |config: LoraConfig| config.check().unwrap_err().to_string();
    let good = LoraConfig::default();
    assert!(good.check().is_ok());
    assert_eq!(refused(LoraConfig { rank: 0, ..good.clone() }), "lora: rank: expected at least 1, found 0");
    let dropout = refused(LoraConfig { dropout: 1.0, ..good.clone() });
    assert_eq!(dropout, "lora: dropout: expected a number from 0 up to, not including, 1, found 1");
    assert!(refused(LoraConfig { alpha: f64::NAN, ..good.clone() }).contains("alpha: expected a finite number"));
    assert!(refused(LoraConfig { targets: vec![], ..good }).ends_with("found none"));

    let device = cpu();
    let odd = Lora::new("q_proj", [matrix(&device, [4, 8], 1), matrix(&device, [8, 3], 1)], 1.0).unwrap_err();
    assert!(odd.to_string().contains("a [rank, inputs] and b [outputs, rank]"), "{odd}");
    let mut linear = Linear::from_weight(matrix(&device, [OUTPUTS, 32], 1));
    let other = linear.attach(AdapterId(0), lora(&device, 1)).unwrap_err();
    assert!(other.to_string().contains("expected a layer of 32 inputs and 40 outputs"), "{other}");
}
