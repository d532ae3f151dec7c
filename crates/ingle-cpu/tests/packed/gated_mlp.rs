// SPDX-License-Identifier: EUPL-1.2
//! A gated MLP over packed weights is its parts, one after another.

use ingle_cpu::Isa;
use ingle_tensor::{Activation, BlockFormat, DType, DeviceHandle, Quantization, Tensor, grad};

use crate::weights::{another, dense, device, input, numbers, of, quantisations, quantised};

/// Compares [`Op::GatedMlp`] with its parts, bit by bit.
#[track_caller]
fn is_that_of_its_parts(x: &Tensor, weights: [&Tensor; 3], activation: Activation, what: &str) {
    let [gate, up, down] = weights;
    let gated = x.linear(gate, None).unwrap().glu(&x.linear(up, None).unwrap(), activation).unwrap();
    let apart = gated.linear(down, None).unwrap();
    let found = x.gated_mlp(weights, activation).unwrap();
    assert!(x.device().download(&found).unwrap() == x.device().download(&apart).unwrap(), "{what}");
}

#[test]
fn a_gated_mlp_is_that_of_its_parts_good() {
    // Few rows, as many as fit a tile, more, and one after a whole pair of tiles; a part of a panel, several panels, and
    // rows so long that a cache holds a part of them.
    let shapes: [[usize; 2]; 4] = [[96, 256], [720, 256], [1290, 512], [230, 2304]];
    for isa in Isa::available() {
        let device = device(isa, 2);
        for (number, format) in quantisations().into_iter().map(Some).chain([None]).enumerate() {
            for ([n, k], rows) in shapes.into_iter().zip([[1, 9], [16, 33], [2, 300], [5, 65]]) {
                let weight = |[n, k]: [usize; 2], seed| match format {
                    Some(format) => another(&device, format, [n, k], seed),
                    None => of(&device, &numbers(n * k, seed), DType::BF16, [n, k]),
                };
                let n = n.next_multiple_of(format.map_or(1, |format| format.block_len()));
                let [gate, up, down] = [weight([n, k], 8), weight([n, k], 9), weight([67, n], 10)];
                for m in rows {
                    let what = format!("{isa}, {format:?}: {m} rows of {k}, {n} between");
                    let activation = Activation::ALL[number % Activation::ALL.len()];
                    is_that_of_its_parts(&input(&device, [m, k]), [&gate, &up, &down], activation, &what);
                }
            }
        }
    }
}

/// Weights with `n` numbers between and `out` outputs: of a format, or of bf16.
fn weights(device: &DeviceHandle, format: Option<BlockFormat>, [k, n, out]: [usize; 3]) -> [Tensor; 3] {
    let weight = |shape: [usize; 2], seed| match format {
        Some(format) => another(device, Quantization::Blocks(format), shape, seed),
        None => of(device, &numbers(shape[0] * shape[1], seed), DType::BF16, shape),
    };
    [weight([n, k], 8), weight([n, k], 9), weight([out, n], 10)]
}

const FORMATS: [Option<BlockFormat>; 4] =
    [Some(BlockFormat::Q4_0), Some(BlockFormat::Q8_0), Some(BlockFormat::Q4K), None];

#[test]
fn long_rows_meet_many_panels_good() {
    // A unit's 7 panels are more than wait for each other, and no multiple of as many.
    for isa in Isa::available() {
        let device = device(isa, 2);
        for format in [Some(BlockFormat::Q4_0), Some(BlockFormat::Q8_0), None] {
            let weights = weights(&device, format, [2304, 1344, 64]);
            let x = input(&device, [65, 2304]);
            is_that_of_its_parts(&x, weights.each_ref(), Activation::GeluTanh, &format!("{isa}, {format:?}"));
        }
    }
}

#[test]
fn rows_are_the_same_alone_and_together_good() {
    for isa in Isa::available() {
        for format in FORMATS {
            for dtype in [DType::F32, DType::BF16] {
                let of = |threads: usize, rows: usize| {
                    let device = device(isa, threads);
                    let weights = weights(&device, format, [256, 512, 70]);
                    let x = input(&device, [288, 256]).cast(dtype).unwrap().slice(0, 0, rows).unwrap();
                    let y = x.gated_mlp(weights.each_ref(), Activation::Silu).unwrap();
                    device.download(&y).unwrap()
                };
                let all = of(2, 288);
                for (threads, rows) in [(1, 1), (2, 8), (3, 9), (1, 16), (2, 17), (3, 31), (1, 32), (2, 255), (3, 256)]
                {
                    let some = of(threads, rows);
                    assert!(some == all[..some.len()], "{isa}, {format:?}, {dtype}: {rows} rows, {threads} threads");
                }
            }
        }
    }
}

#[test]
fn rows_may_lie_across_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        for format in FORMATS {
            let weights = weights(&device, format, [256, 256, 70]);
            for m in [5, 70] {
                let across = input(&device, [256, m]).permute(&[1, 0]).unwrap();
                is_that_of_its_parts(&across, weights.each_ref(), Activation::Gelu, &format!("{isa}, {format:?}: {m}"));
            }
        }
    }
}

#[test]
fn a_gradient_passes_as_through_its_parts_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        let [gate, up, down] = weights(&device, None, [64, 96, 64]);
        let x = input(&device, [40, 64]);
        let loss = |y: Tensor| y.mul(&y)?.reshape([40 * 64])?.sum_axis(0);
        let whole = |x: &[Tensor]| loss(x[0].gated_mlp([&x[1], &up, &down], Activation::Silu)?);
        let parts = |x: &[Tensor]| {
            loss(x[0].linear(&x[1], None)?.glu(&x[0].linear(&up, None)?, Activation::Silu)?.linear(&down, None)?)
        };
        let inputs = [x, gate];
        let (found, found_gradients) = grad::value_and_grad(whole, &inputs).unwrap();
        let (loss, gradients) = grad::value_and_grad(parts, &inputs).unwrap();
        assert_eq!(device.download(&found).unwrap(), device.download(&loss).unwrap(), "{isa}");
        for (found, gradient) in found_gradients.iter().zip(&gradients) {
            assert!(device.download(found).unwrap() == device.download(gradient).unwrap(), "{isa}");
        }
    }
}

#[test]
fn a_gated_mlp_of_weights_unlike_each_other_good() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        let square = [256, 256];
        let q4 = quantised(&device, Quantization::Blocks(BlockFormat::Q4_0), square);
        let q8 = quantised(&device, Quantization::Blocks(BlockFormat::Q8_0), square);
        let k4 = quantised(&device, Quantization::Blocks(BlockFormat::Q4K), square);
        let bf16 = dense(&device, DType::BF16, square);
        for weights in [[&q4, &q8, &k4], [&q8, &bf16, &q4], [&bf16, &k4, &bf16], [&k4, &k4, &q8]] {
            for m in [1, 40] {
                is_that_of_its_parts(&input(&device, [m, 256]), weights, Activation::Silu, &format!("{isa}: {m} rows"));
            }
        }
    }
}

#[test]
fn a_gated_mlp_of_nothing_is_nothing_ugly() {
    for isa in Isa::available() {
        let device = device(isa, 2);
        for [m, k, n, out] in
            [[0, 64, 64, 64], [3, 0, 64, 64], [40, 0, 64, 64], [3, 64, 0, 64], [40, 64, 0, 64], [40, 64, 64, 0]]
        {
            let q8 = |shape: [usize; 2]| quantised(&device, Quantization::Blocks(BlockFormat::Q8_0), shape);
            let bf16 = |shape: [usize; 2]| dense(&device, DType::BF16, shape);
            let x = input(&device, [m, k]);
            let what = format!("{isa}: {m} rows of {k}, {n} between, {out} out");
            is_that_of_its_parts(&x, [&q8([n, k]), &q8([n, k]), &q8([out, n])], Activation::Silu, &what);
            is_that_of_its_parts(&x, [&bf16([n, k]), &bf16([n, k]), &bf16([out, n])], Activation::Silu, &what);
        }
    }
}
