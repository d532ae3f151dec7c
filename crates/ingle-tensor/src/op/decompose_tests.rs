// SPDX-License-Identifier: EUPL-1.2
//! Each decomposition against its formula, written out as loops in f64: devices are compared with the
//! decompositions, so here they are compared with what they mean.

use std::sync::Arc;

use crate::conformance::{Input, Reference, cases_of};
use crate::{Activation, DType, DeviceHandle, Op, PagedAttention, RopeLayout, Tensor};

/// The inputs of an operation, read from row-major lists.
struct Inputs {
    lists: Vec<Vec<f64>>,
    shapes: Vec<Vec<usize>>,
}

impl Inputs {
    /// The rows of an input along its last axis.
    fn rows(&self, input: usize) -> impl Iterator<Item = &[f64]> {
        let width = self.shapes[input].last().copied().unwrap_or(1);
        // A list without elements has no rows that matter.
        self.lists[input].chunks(width.max(1))
    }

    fn index(&self, input: usize, at: usize) -> usize {
        self.lists[input][at] as usize
    }
}

/// Compares every case of operations like `op`, in the dtypes that hold the values exactly, with a formula.
#[track_caller]
fn means(op: Op, formula: fn(&Op, &Inputs) -> Vec<f64>) {
    let device: DeviceHandle = Arc::new(Reference::new());
    let mut compared = 0;
    for case in cases_of(&op) {
        let input = |(i, input): (usize, &Input)| input.on(&device, input.bytes(case.seed(i))).unwrap().1;
        let tensors: Vec<Tensor> = case.inputs.iter().enumerate().map(input).collect();
        let inputs = Inputs {
            lists: tensors.iter().map(|x| Reference::values(x).unwrap()).collect(),
            shapes: tensors.iter().map(|x| x.shape().to_vec()).collect(),
        };
        let found = Reference::values(&case.op.decompose(&tensors).unwrap().unwrap()).unwrap();
        let expected = formula(&case.op, &inputs);
        assert_eq!(found.len(), expected.len(), "{case}");
        for (found, expected) in found.iter().zip(&expected) {
            let largest = expected.abs().max(1e-300);
            let equal = found == expected || found.is_nan() && expected.is_nan();
            // The two round differently in f64, and where the formula cancels that shows.
            assert!(equal || (found - expected).abs() <= 1e-9 * largest.max(1e-3), "{found} for {expected} in {case}");
        }
        compared += found.len();
    }
    assert!(compared > 1000);
}

#[test]
fn linear_good() {
    means(Op::Linear, |_, x| {
        let mut y = vec![];
        let (n, k) = (x.shapes[1][0], x.shapes[1][1]);
        let tokens: usize = x.shapes[0].iter().rev().skip(1).product();
        for (token, column) in (0..tokens).flat_map(|token| (0..n).map(move |column| (token, column))) {
            let bias = x.lists.get(2).map_or(0.0, |bias| bias[column]);
            y.push(bias + (0..k).map(|j| x.lists[0][token * k + j] * x.lists[1][column * k + j]).sum::<f64>());
        }
        y
    });
}

#[test]
fn softmax_good() {
    means(Op::Softmax, |_, x| {
        let softmax = |row: &[f64]| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let e: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.into_iter().map(move |e| e / sum)
        };
        x.rows(0).flat_map(softmax).collect()
    });
}

#[test]
fn rms_norm_good() {
    means(Op::RmsNorm { eps: 0.0, offset: 0.0 }, |op, x| {
        let Op::RmsNorm { eps, offset } = *op else { unreachable!() };
        let normal = |row: &[f64]| {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            let weighted = |(x, w): (&f64, &f64)| x / (mean + f64::from(eps)).sqrt() * (f64::from(offset) + w);
            row.iter().zip(&x.lists[1]).map(weighted).collect::<Vec<_>>()
        };
        x.rows(0).flat_map(normal).collect()
    });
}

#[test]
fn layer_norm_good() {
    means(Op::LayerNorm { eps: 0.0 }, |op, x| {
        let Op::LayerNorm { eps } = *op else { unreachable!() };
        let normal = |row: &[f64]| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row.len() as f64;
            let (weight, bias) = (&x.lists[1], &x.lists[2]);
            let deviation = (variance + f64::from(eps)).sqrt();
            let weighted = |(i, x): (usize, &f64)| (x - mean) / deviation * weight[i] + bias[i];
            row.iter().enumerate().map(weighted).collect::<Vec<_>>()
        };
        x.rows(0).flat_map(normal).collect()
    });
}

#[test]
fn rope_good() {
    means(Op::Rope { layout: RopeLayout::Halves }, |op, x| {
        let Op::Rope { layout } = *op else { unreachable!() };
        let (heads, width, half) = (x.shapes[0][1], x.shapes[0][2], x.shapes[2][0]);
        let mut y = x.lists[0].clone();
        for token in 0..x.shapes[0][0] {
            for head in 0..heads {
                for j in 0..half {
                    let (a, b) = match layout {
                        RopeLayout::Halves => (j, j + half),
                        RopeLayout::Interleaved => (2 * j, 2 * j + 1),
                    };
                    let start = (token * heads + head) * width;
                    let (sin, cos) = (x.lists[1][token] * x.lists[2][j]).sin_cos();
                    let (p, q) = (x.lists[0][start + a], x.lists[0][start + b]);
                    // The pair as a complex number, times e^(iθ).
                    y[start + a] = p * cos - q * sin;
                    y[start + b] = p * sin + q * cos;
                }
            }
        }
        y
    });
}

fn activation(activation: Activation, x: f64) -> f64 {
    // Another way to the error function than the reference's: twice the integral of the bell, by Simpson.
    let erf = |x: f64| {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let steps = 2000;
        let h = x / f64::from(steps);
        let bell = |t: f64| (-t * t).exp();
        let inner: f64 = (1..steps).map(|i| bell(f64::from(i) * h) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        std::f64::consts::FRAC_2_SQRT_PI * (1.0 + inner + bell(x)) * h / 3.0
    };
    if x.is_nan() {
        return x;
    }
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x / 2.0 * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            x / 2.0 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

#[test]
fn activations_good() {
    means(Op::Activate(Activation::Silu), |op, x| {
        let Op::Activate(which) = *op else { unreachable!() };
        x.lists[0].iter().map(|&x| activation(which, x)).collect()
    });
    means(Op::Glu { activation: Activation::Silu }, |op, x| {
        let Op::Glu { activation: which } = *op else { unreachable!() };
        x.lists[0].iter().zip(&x.lists[1]).map(|(&gate, up)| activation(which, gate) * up).collect()
    });
    means(Op::GatedMlp { activation: Activation::Silu }, |op, x| {
        let Op::GatedMlp { activation: which } = *op else { unreachable!() };
        let (n, k) = (x.shapes[1][0], x.shapes[1][1]);
        let tokens: usize = x.shapes[0].iter().rev().skip(1).product();
        let dot = |weight: usize, token: usize, row: usize| -> f64 {
            (0..k).map(|i| x.lists[0][token * k + i] * x.lists[weight][row * k + i]).sum()
        };
        let hidden = |token: usize| -> Vec<f64> {
            (0..n).map(|row| activation(which, dot(1, token, row)) * dot(2, token, row)).collect()
        };
        let out = x.shapes[3][0];
        let outputs = |token: usize| {
            let hidden = hidden(token);
            let down = move |row: usize| hidden.iter().zip(&x.lists[3][row * n..]).map(|(x, w)| x * w).sum::<f64>();
            (0..out).map(down).collect::<Vec<_>>()
        };
        (0..tokens).flat_map(outputs).collect()
    });
    means(Op::SoftCap { cap: 1.0 }, |op, x| {
        let Op::SoftCap { cap } = *op else { unreachable!() };
        let cap = f64::from(cap);
        x.lists[0].iter().map(|x| cap * (x / cap).tanh()).collect()
    });
}

#[test]
fn activations_have_pytorchs_values_good() {
    let device: DeviceHandle = Arc::new(Reference::new());
    let x = Tensor::from_slice(&device, &[-1f32, 0.5, 2.0], [3]).unwrap();
    for (activation, expected) in [
        (Activation::Silu, [-0.268_941_42, 0.311_229_67, 1.761_594_2]),
        (Activation::Gelu, [-0.158_655_25, 0.345_731_23, 1.954_499_7]),
        (Activation::GeluTanh, [-0.158_808_01, 0.345_714, 1.954_597_7]),
    ] {
        let found = x.activate(activation).unwrap().to_vec::<f32>().unwrap();
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-7), "{activation:?}: {found:?}");
    }
}

/// What rows of i8 stand for: `width` integers, and the four bytes of their scale.
fn dequantised(list: &[f64], width: usize) -> Vec<f64> {
    let row = |row: &[f64]| {
        let scale = f32::from_le_bytes(std::array::from_fn(|i| row[width + i] as i8 as u8));
        row[..width].iter().map(|x| x * f64::from(scale)).collect::<Vec<f64>>()
    };
    list.chunks_exact(width + 4).flat_map(row).collect()
}

#[test]
fn paged_attention_good() {
    let parameters = PagedAttention { block_size: 1, scale: 1.0, window: None, soft_cap: None };
    means(Op::PagedAttention(parameters), |op, x| {
        let Op::PagedAttention(PagedAttention { block_size, scale, window, soft_cap }) = *op else { unreachable!() };
        let [tokens, heads, width] = x.shapes[0][..] else { unreachable!() };
        let kv_heads = x.shapes[1][1];
        let cached = |input: usize| {
            if x.shapes[input][2] == width { x.lists[input].clone() } else { dequantised(&x.lists[input], width) }
        };
        let (keys, values) = (cached(1), cached(2));
        let mut y = vec![];
        for (token, head) in (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head))) {
            let (sequence, position) = (x.index(4, token), x.index(5, token));
            let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
            let row = |position: usize| {
                let block = x.index(3, sequence * x.shapes[3][1] + position / block_size);
                let slot = block * block_size + position % block_size;
                (slot * kv_heads + head / (heads / kv_heads)) * width
            };
            let q = &x.lists[0][(token * heads + head) * width..][..width];
            let score = |position: usize| {
                let key = &keys[row(position)..][..width];
                let score = f64::from(scale) * q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            };
            let scores: Vec<f64> = (first..=position).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
            let weighted = |i: usize| {
                let value =
                    |(position, score): (usize, &f64)| (score - max).exp() / sum * values[row(first + position) + i];
                scores.iter().enumerate().map(value).sum::<f64>()
            };
            y.extend((0..width).map(weighted));
        }
        y
    });
}

#[test]
fn results_have_the_dtype_of_the_first_input_good() {
    let device: DeviceHandle = Arc::new(Reference::new());
    for dtype in DType::FLOATS {
        let x = Tensor::full(&device, [2, 4], dtype, 0.5).unwrap();
        let weight = Tensor::full(&device, [4], DType::F32, 0.5).unwrap();
        let normal = Op::RmsNorm { eps: 1e-6, offset: 0.0 }.decompose(&[x.clone(), weight]).unwrap().unwrap();
        assert_eq!(normal.dtype(), dtype);
        assert_eq!(Op::Softmax.decompose(&[x]).unwrap().unwrap().dtype(), dtype);
    }
}

#[test]
fn a_primitive_and_a_wrong_number_of_inputs_have_none_bad() {
    let device: DeviceHandle = Arc::new(Reference::new());
    let x = Tensor::full(&device, [2], DType::F32, 1.0).unwrap();
    assert!(Op::MatMul.decompose(&[x.clone(), x.clone()]).is_none());
    assert!(Op::Softmax.decompose(&[x.clone(), x]).is_none());
    assert!(Op::Softmax.decompose(&[]).is_none());
}
