// SPDX-License-Identifier: EUPL-1.2
//! Gradients against those that PyTorch gives on the same inputs, in f64 (`scripts/fixtures/make_gradients.py`).

use serde_json::Value;

use super::{device, values};
use crate::grad::vjp;
use crate::{Activation, BinaryOp, DType, DeviceHandle, Op, PagedAttention, Result, RopeLayout, Tensor};

const FIXTURE: &str = include_str!("../../../../../fixtures/gradients/operations.json");

/// As the script has it.
const EPS: f32 = 1.0 / 1024.0;

fn numbers(entry: &Value) -> Vec<f64> {
    entry["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn tensor(device: &DeviceHandle, entry: &Value) -> Tensor {
    let shape: Vec<usize> = entry["shape"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect();
    if entry["integers"] == true {
        let list: Vec<i32> = numbers(entry).into_iter().map(|x| x as i32).collect();
        return Tensor::from_slice(device, &list, shape).unwrap();
    }
    let list: Vec<f32> = numbers(entry).into_iter().map(|x| x as f32).collect();
    // The parser may be off by the last bit of f64.
    let holds = |(a, b): (&f32, f64)| (f64::from(*a) - b).abs() <= 1e-15 * b.abs();
    assert!(list.iter().zip(numbers(entry)).all(holds), "an input that f32 does not hold");
    Tensor::from_slice(device, &list, shape).unwrap()
}

/// One sequence whose blocks lie in any order, its queries the last positions.
fn attention(x: &[Tensor], window: Option<usize>, soft_cap: Option<f32>) -> Result<Tensor> {
    let [q, keys, values] = x else { unreachable!() };
    let device = q.device();
    let (tokens, length) = (q.shape()[0] as i32, keys.shape()[0] as i32);
    let (blocks, spare) = (Tensor::from_slice(device, &[2i32, 0, 3], [1, 3])?, [8, keys.shape()[1], keys.shape()[2]]);
    let slots: Vec<i32> = (0..length).map(|p| [2, 0, 3][p as usize / 2] * 2 + p % 2).collect();
    let slots = Tensor::from_slice(device, &slots, [slots.len()])?;
    let cached = |x: &Tensor| Tensor::full(device, spare, DType::F32, 9.0)?.write_rows(x, &slots);
    let positions: Vec<i32> = (length - tokens..length).collect();
    let positions = Tensor::from_slice(device, &positions, [positions.len()])?;
    let sequences = Tensor::full(device, positions.shape(), DType::I32, 0.0)?;
    let parameters = PagedAttention { block_size: 2, scale: 0.5, window, soft_cap };
    q.paged_attention([&cached(keys)?, &cached(values)?], [&blocks, &sequences, &positions], parameters)
}

fn run(operation: &str, x: &[Tensor]) -> Result<Tensor> {
    match operation {
        "abs" => x[0].abs(),
        "maximum" => x[0].maximum(&x[1]),
        "minimum" => x[0].minimum(&x[1]),
        "reduce_max" => x[0].max_axis(1),
        "div" => Tensor::apply(&Op::Binary(BinaryOp::Div), x.to_vec()),
        "erf" => x[0].erf(),
        "tanh" => x[0].tanh(),
        "matmul" => x[0].matmul(&x[1]),
        "linear" => x[0].linear(&x[1], Some(&x[2])),
        "take_rows" => x[0].take_rows(&x[1]),
        "softmax" => x[0].softmax(),
        "rms_norm" => x[0].rms_norm(&x[1], EPS, 1.0),
        "layer_norm" => x[0].layer_norm(&x[1], &x[2], EPS),
        "rope_halves" => x[0].rope(&x[1], &x[2], RopeLayout::Halves),
        "rope_interleaved" => x[0].rope(&x[1], &x[2], RopeLayout::Interleaved),
        "silu" => x[0].activate(Activation::Silu),
        "gelu" => x[0].activate(Activation::Gelu),
        "gelu_tanh" => x[0].activate(Activation::GeluTanh),
        "swiglu" => x[0].glu(&x[1], Activation::Silu),
        "geglu" => x[0].glu(&x[1], Activation::GeluTanh),
        "soft_cap" => x[0].soft_cap(2.0),
        "attention" => attention(x, None, None),
        "attention_window" => attention(x, Some(3), None),
        "attention_capped" => attention(x, None, Some(2.0)),
        "cross_entropy" => x[0].cross_entropy(&x[1]),
        other => panic!("the fixture names {other}, which the test does not know"),
    }
}

/// The largest difference, relative to the largest number. Both compute in f64, by different formulas.
fn off(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-3f64, |max, x| max.max(x.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

#[test]
fn gradients_are_pytorchs_good() -> Result<()> {
    let entries: Vec<Value> = serde_json::from_str(FIXTURE).unwrap();
    assert!(entries.len() >= 25);
    for entry in entries {
        let operation = entry["operation"].as_str().unwrap();
        let device = device();
        let inputs: Vec<Tensor> = entry["inputs"].as_array().unwrap().iter().map(|x| tensor(&device, x)).collect();
        let floats: Vec<usize> = (0..inputs.len()).filter(|&i| inputs[i].dtype().is_float()).collect();
        let variables: Vec<Tensor> = floats.iter().map(|&i| inputs[i].clone()).collect();
        let (result, pullback) = vjp(
            |variables| {
                let mut inputs = inputs.clone();
                floats.iter().zip(variables).for_each(|(&i, variable)| inputs[i] = variable.clone());
                run(operation, &inputs)
            },
            &variables,
        )?;
        let mut worst = off(&values(&result), &numbers(&entry["result"]));
        let gradients = pullback.pull(&tensor(&device, &entry["cotangent"]))?;
        let expected = entry["gradients"].as_array().unwrap();
        assert_eq!(gradients.len(), expected.len());
        for (found, expected) in gradients.iter().zip(expected) {
            worst = worst.max(off(&values(found), &numbers(expected)));
        }
        println!("{operation:<20} {worst:.1e}");
        assert!(worst < 1e-12, "{operation} is off by {worst:e}");
    }
    Ok(())
}
