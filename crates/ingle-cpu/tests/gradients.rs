// SPDX-License-Identifier: EUPL-1.2
//! Gradients of a whole decoder on the CPU, against the reference's in f64.

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::conformance::Reference;
use ingle_tensor::{Activation, DType, DeviceHandle, Error, Op, PagedAttention, RopeLayout, Tensor, grad};

const TOKENS: usize = 48;
const VOCABULARY: usize = 97;
const WIDTH: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = WIDTH / HEADS;
const LAYERS: usize = 10;

fn cpu() -> Result<DeviceHandle, Error> {
    Ok(Arc::new(CpuDevice::new(CpuOptions::default())?))
}

/// Numbers between −1 and 1 over the square root of the inner length.
fn matrix(device: &DeviceHandle, shape: [usize; 2], seed: usize) -> Result<Tensor, Error> {
    let scale = 2.0 / (shape[1] as f32).sqrt();
    let number = |i: usize| (((i * 7919 + seed * 104_729) % 10_007) as f32 / 10_007.0 - 0.5) * scale;
    Tensor::from_slice(device, &(0..shape[0] * shape[1]).map(number).collect::<Vec<_>>(), shape)
}

/// The embedding, which is the head too, and for each layer: queries, keys, values, output, gate, up, down.
fn parameters(device: &DeviceHandle) -> Result<Vec<Tensor>, Error> {
    let cached = KV_HEADS * HEAD;
    let mut shapes = vec![[VOCABULARY, WIDTH]];
    for _ in 0..LAYERS {
        shapes.extend([[WIDTH, WIDTH], [cached, WIDTH], [cached, WIDTH], [WIDTH, WIDTH]]);
        shapes.extend([[2 * WIDTH, WIDTH], [2 * WIDTH, WIDTH], [WIDTH, 2 * WIDTH]]);
    }
    shapes.into_iter().enumerate().map(|(seed, shape)| matrix(device, shape, seed)).collect()
}

/// Two documents, one after the other, in blocks of 8 slots.
struct Places {
    positions: Tensor,
    sequences: Tensor,
    blocks: Tensor,
    slots: Tensor,
    frequencies: Tensor,
    gain: Tensor,
}

impl Places {
    fn new(device: &DeviceHandle) -> Result<Places, Error> {
        let first = 20;
        let place = |t: usize| if t < first { (0, t) } else { (1, t - first) };
        let list = |f: &dyn Fn(usize) -> usize| {
            Tensor::from_slice(device, &(0..TOKENS).map(|t| f(t) as i32).collect::<Vec<_>>(), [TOKENS])
        };
        let blocks = [[3i32, 0, 5, 5], [1, 2, 4, 6]];
        let slot = |t: usize| {
            let (sequence, position) = place(t);
            blocks[sequence][position / 8] as usize * 8 + position % 8
        };
        Ok(Places {
            positions: list(&|t| place(t).1)?,
            sequences: list(&|t| place(t).0)?,
            blocks: Tensor::from_slice(device, &blocks.concat(), [2, 4])?,
            slots: list(&slot)?,
            frequencies: Tensor::from_slice(device, &[1f32, 0.1, 0.01, 0.001], [HEAD / 2])?,
            gain: Tensor::full(device, [WIDTH], DType::F32, 1.0)?,
        })
    }
}

/// One layer; its weights follow `x`.
fn layer(inputs: &[Tensor], places: &Places) -> Result<Tensor, Error> {
    let [x, q, k, v, o, gate, up, down] = inputs else {
        return Err(Error::Arity { op: "layer", expected: "8", found: inputs.len() });
    };
    let normal = x.rms_norm(&places.gain, 1e-5, 0.0)?;
    let turned = |x: Tensor| x.rope(&places.positions, &places.frequencies, RopeLayout::Halves);
    let queries = turned(normal.linear(q, None)?.reshape([TOKENS, HEADS, HEAD])?)?;
    let keys = turned(normal.linear(k, None)?.reshape([TOKENS, KV_HEADS, HEAD])?)?;
    let values = normal.linear(v, None)?.reshape([TOKENS, KV_HEADS, HEAD])?;
    let empty = || Tensor::full(x.device(), [56, KV_HEADS, HEAD], DType::F32, 0.0);
    let keys = empty()?.write_rows(&keys, &places.slots)?;
    let values = empty()?.write_rows(&values, &places.slots)?;
    let parameters = PagedAttention { block_size: 8, scale: 0.35, window: Some(12), soft_cap: None };
    let table = [&places.blocks, &places.sequences, &places.positions];
    let attended = queries.paged_attention([&keys, &values], table, parameters)?;
    let x = x.add(&attended.reshape([TOKENS, WIDTH])?.linear(o, None)?)?;
    let normal = x.rms_norm(&places.gain, 1e-5, 0.0)?;
    let hidden = normal.linear(gate, None)?.glu(&normal.linear(up, None)?, Activation::Silu)?;
    x.add(&hidden.linear(down, None)?)
}

#[derive(Clone, Copy, PartialEq)]
enum Memory {
    Kept,
    Checkpointed,
}

fn loss(p: &[Tensor], places: &Arc<Places>, memory: Memory) -> Result<Tensor, Error> {
    let device = p[0].device();
    let tokens: Vec<i32> = (0..=TOKENS).map(|t| (t * t * 31 % VOCABULARY) as i32).collect();
    let targets: Vec<i32> = (0..TOKENS).map(|t| if t % 5 == 4 { -100 } else { tokens[t + 1] }).collect();
    let index = Tensor::from_slice(device, &tokens[..TOKENS], [TOKENS])?;
    let mut x = p[0].take_rows(&index)?;
    for weights in p[1..].chunks(7) {
        let inputs = [&[x], weights].concat();
        let places = places.clone();
        x = match memory {
            Memory::Kept => layer(&inputs, &places)?,
            Memory::Checkpointed => grad::checkpoint(move |inputs: &[Tensor]| layer(inputs, &places), &inputs)?,
        };
    }
    let logits = x.rms_norm(&places.gain, 1e-5, 0.0)?.linear(&p[0], None)?;
    logits.cross_entropy(&Tensor::from_slice(device, &targets, [TOKENS])?)?.sum_axis(0)?.scale(1.0 / 39.0)
}

fn gradients(device: &DeviceHandle, memory: Memory) -> Result<(Tensor, Vec<Tensor>), Error> {
    let places = Arc::new(Places::new(device)?);
    grad::value_and_grad(|p| loss(p, &places, memory), &parameters(device)?)
}

#[test]
fn a_decoders_gradients_are_the_references_good() -> Result<(), Error> {
    let (loss, found) = gradients(&cpu()?, Memory::Kept)?;
    let reference: DeviceHandle = Arc::new(Reference::new());
    let (wanted_loss, wanted) = gradients(&reference, Memory::Kept)?;
    assert!((loss.to_f32_vec()?[0] - wanted_loss.to_f32_vec()?[0]).abs() < 1e-5);
    for (i, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        let (found, wanted) = (found.to_f32_vec()?, wanted.to_f32_vec()?);
        let largest = wanted.iter().fold(0f32, |max, x| max.max(x.abs()));
        let off = found.iter().zip(&wanted).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        assert!(largest > 1e-4 && off <= 1e-5 * largest, "parameter {i} is off by {off:e} of {largest:e}");
    }
    Ok(())
}

#[test]
fn a_checkpoint_changes_no_bit_and_saves_memory_good() -> Result<(), Error> {
    let device = cpu()?;
    let run = |memory| {
        device.reset_peak_memory();
        let before = device.memory().active;
        let (loss, gradients) = gradients(&device, memory)?;
        let peak = device.memory().peak - before;
        let all = std::iter::once(&loss).chain(&gradients).map(Tensor::to_vec::<f32>);
        Ok::<_, Error>((all.collect::<Result<Vec<_>, _>>()?, peak))
    };
    let (kept, plain) = run(Memory::Kept)?;
    let (again, checkpointed) = run(Memory::Checkpointed)?;
    println!("peak bytes: {plain} without checkpoints, {checkpointed} with one for each layer");
    let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&kept), bits(&again));
    // Half of it is the weights and their gradients.
    assert!(checkpointed * 5 < plain * 4, "{checkpointed} bytes with checkpoints, {plain} without");
    Ok(())
}

#[test]
fn logits_that_are_given_away_become_their_gradient_good() -> Result<(), Error> {
    let device = cpu()?;
    let logits = matrix(&device, [64, 5000], 1)?.neg()?;
    let targets = Tensor::from_slice(&device, &[7i32; 64], [64])?;
    let gradient = Tensor::full(&device, [64], DType::F32, 1.0)?;
    device.reset_peak_memory();
    let before = device.memory().active;
    let loss = logits.cross_entropy(&targets)?;
    let result = Tensor::apply(&Op::CrossEntropyGrad, vec![logits, targets, gradient])?;
    assert!(device.memory().peak < before + 64 * 5000, "no second table of logits");
    assert_eq!((loss.shape()[0], result.shape()[1]), (64, 5000));
    Ok(())
}

#[test]
fn targets_past_the_classes_are_refused_bad() -> Result<(), Error> {
    let device = cpu()?;
    let targets = Tensor::from_slice(&device, &[1i32, 5], [2])?;
    let refused = matrix(&device, [2, 5], 1)?.cross_entropy(&targets).unwrap_err();
    assert_eq!(refused.to_string(), "cross_entropy: index 5 is outside an axis of length 5");
    Ok(())
}

#[test]
fn narrow_gradients_are_rounded_once_ugly() -> Result<(), Error> {
    let device = cpu()?;
    // A third of an ulp of 1: two of them count only if they are added before they are rounded.
    let small = 1.0 / 384.0;
    let x = Tensor::full(&device, [1], DType::BF16, 1.0)?;
    for (terms, wanted) in [(vec![1.0, small], 1.0), (vec![1.0, small, small], 1.007_812_5)] {
        let sum = |x: &[Tensor]| {
            let parts = terms.iter().map(|&term| x[0].scale(term)).collect::<Result<Vec<_>, _>>()?;
            Tensor::concat(&parts, 0)?.sum_axis(0)
        };
        let (_, gradients) = grad::value_and_grad(sum, std::slice::from_ref(&x))?;
        assert_eq!(gradients[0].to_f32_vec()?, [wanted], "{terms:?}");
    }
    Ok(())
}
