// SPDX-License-Identifier: EUPL-1.2
//! The rules of the operations that training needs.

use super::{ATTENTION, attention, gives, refuses, spec};
use crate::DType::{BF16, F16, F32, I32, I64};
use crate::{Activation, Adam, Momentum, Op, Sgd, WeightDecay};

#[test]
fn add_rows_good() {
    gives(&Op::AddRows { count: 9 }, &[(F16, &[4, 2, 3]), (I32, &[4])], (F16, &[9, 2, 3]));
    gives(&Op::AddRows { count: 0 }, &[(F32, &[0]), (I32, &[0])], (F32, &[0]));
}

#[test]
fn add_rows_bad() {
    let op = Op::AddRows { count: 9 };
    let words = "add_rows: expected rows [T, …], index [T], found shapes f32[3, 2], i32[4]";
    refuses(&op, &[(F32, &[3, 2]), (I32, &[4])], words);
    let words = "add_rows: expected rows [T, …], index [T], found shapes f32[], i32[4]";
    refuses(&op, &[(F32, &[]), (I32, &[4])], words);
    let words = "add_rows: expected floating-point operands, found dtypes i32[4], i32[4]";
    refuses(&op, &[(I32, &[4]), (I32, &[4])], words);
    let words = "add_rows: expected an i32 index, found dtypes f32[4], f32[4]";
    refuses(&op, &[(F32, &[4]), (F32, &[4])], words);
}

#[test]
fn cross_entropy_good() {
    gives(&Op::CrossEntropy, &[(BF16, &[5, 7]), (I32, &[5])], (F32, &[5]));
    gives(&Op::CrossEntropyGrad, &[(BF16, &[5, 7]), (I32, &[5]), (F32, &[5])], (BF16, &[5, 7]));
}

#[test]
fn cross_entropy_bad() {
    let rule = "expected logits [T, V] with V at least 1, targets [T], found shapes";
    refuses(&Op::CrossEntropy, &[(F32, &[5, 7]), (I32, &[4])], &format!("cross_entropy: {rule} f32[5, 7], i32[4]"));
    refuses(&Op::CrossEntropy, &[(F32, &[5, 0]), (I32, &[5])], &format!("cross_entropy: {rule} f32[5, 0], i32[5]"));
    refuses(&Op::CrossEntropy, &[(F32, &[7]), (I32, &[7])], &format!("cross_entropy: {rule} f32[7], i32[7]"));
    let words = "cross_entropy: expected an i32 index, found dtypes f32[5, 7], i64[5]";
    refuses(&Op::CrossEntropy, &[(F32, &[5, 7]), (I64, &[5])], words);
    let words = "cross_entropy_grad: expected an f32 gradient, found dtypes bf16[5, 7], i32[5], bf16[5]";
    refuses(&Op::CrossEntropyGrad, &[(BF16, &[5, 7]), (I32, &[5]), (BF16, &[5])], words);
    let words = "cross_entropy_grad: expected a gradient of the shape of the targets, found shapes \
                 f32[5, 7], i32[5], f32[5, 7]";
    refuses(&Op::CrossEntropyGrad, &[(F32, &[5, 7]), (I32, &[5]), (F32, &[5, 7])], words);
}

#[test]
fn paged_attention_grad_good() {
    let inputs = [&ATTENTION[..], &[(F32, &[5, 4, 6])]].concat();
    gives(&Op::PagedAttentionGrad(attention(8)), &inputs, (F32, &[5 * 4 * 6 + 2 * 24 * 2 * 6]));
}

#[test]
fn paged_attention_grad_bad() {
    let op = Op::PagedAttentionGrad(attention(8));
    refuses(&op, &ATTENTION, "paged_attention_grad: expected 7 inputs, found 6");
    for (gradient, wrong) in [((BF16, &[5, 4, 6][..]), "one dtype"), ((F32, &[5, 4, 5]), "the shape of q")] {
        let inputs: Vec<_> =
            ATTENTION.iter().copied().chain([gradient]).map(|(dtype, shape)| spec(dtype, shape)).collect();
        assert!(op.infer(&inputs).unwrap_err().to_string().contains(wrong));
    }
}

#[test]
fn gradients_of_norms_and_units_good() {
    let norm = Op::RmsNormGrad { eps: 1e-6, offset: 1.0 };
    gives(&norm, &[(F16, &[2, 5, 7]), (F32, &[7]), (F16, &[2, 5, 7])], (F16, &[2, 5, 7]));
    gives(&Op::RmsNormWeightGrad { eps: 1e-6 }, &[(BF16, &[2, 5, 7]), (BF16, &[2, 5, 7])], (F32, &[7]));
    gives(&Op::ActivateGrad(Activation::Silu), &[(BF16, &[5, 7]), (BF16, &[5, 7])], (BF16, &[5, 7]));
    let unit = Op::GluGrad { activation: Activation::Gelu };
    gives(&unit, &[(BF16, &[5, 7]), (BF16, &[5, 7]), (BF16, &[5, 7])], (BF16, &[2, 5, 7]));
}

#[test]
fn gradients_of_norms_and_units_bad() {
    let norm = Op::RmsNormGrad { eps: 1e-6, offset: 1.0 };
    let words = "rms_norm_grad: expected a gradient of the shape of x, found shapes f32[5, 7], f32[7], f32[7]";
    refuses(&norm, &[(F32, &[5, 7]), (F32, &[7]), (F32, &[7])], words);
    let words = "rms_norm_grad: expected operands of one dtype, found dtypes f32[5, 7], f32[7], f16[5, 7]";
    refuses(&norm, &[(F32, &[5, 7]), (F32, &[7]), (F16, &[5, 7])], words);
    let weight = Op::RmsNormWeightGrad { eps: 1e-6 };
    refuses(
        &weight,
        &[(F32, &[]), (F32, &[])],
        "rms_norm_weight_grad: expected x and a gradient […, d], found shapes f32[], f32[]",
    );
    let words = "silu_grad: expected two equal shapes, found shapes f32[5, 7], f32[7, 5]";
    refuses(&Op::ActivateGrad(Activation::Silu), &[(F32, &[5, 7]), (F32, &[7, 5])], words);
    let unit = Op::GluGrad { activation: Activation::Gelu };
    let words = "glu_grad: expected three equal shapes, found shapes f32[5], f32[5], f32[]";
    refuses(&unit, &[(F32, &[5]), (F32, &[5]), (F32, &[])], words);
    refuses(
        &unit,
        &[(I32, &[5]), (I32, &[5]), (I32, &[5])],
        "glu_grad: expected floating-point operands, found dtypes i32[5], i32[5], i32[5]",
    );
}

#[test]
fn optimizers_good() {
    let adam = Op::Adam(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: WeightDecay::Decoupled(0.1) });
    gives(&adam, &[(F32, &[3, 5, 7]), (BF16, &[5, 7]), (F32, &[4])], (F32, &[3, 5, 7]));
    gives(&adam, &[(F32, &[3]), (F32, &[]), (F32, &[4])], (F32, &[3]));
    for (momentum, rows) in [(Momentum::None, 1), (Momentum::Heavy(0.9), 2), (Momentum::Nesterov(0.9), 2)] {
        let sgd = Op::Sgd(Sgd { momentum, weight_decay: 0.0 });
        gives(&sgd, &[(F32, &[rows, 5]), (F32, &[5]), (F32, &[2])], (F32, &[rows, 5]));
    }
    gives(&Op::SquaredNorm, &[(BF16, &[3, 4])], (F32, &[]));
}

#[test]
fn optimizers_bad() {
    let adam = |beta1| Op::Adam(Adam { beta1, beta2: 0.999, eps: 1e-8, weight_decay: WeightDecay::Gradient(0.1) });
    let inputs: [(_, &[usize]); 3] = [(F32, &[2, 5]), (F32, &[5]), (F32, &[4])];
    let words = "adam: expected state [3, …], gradient […], rates [4], found shapes f32[2, 5], f32[5], f32[4]";
    refuses(&adam(0.9), &inputs, words);
    let inputs: [(_, &[usize]); 3] = [(BF16, &[3, 5]), (F32, &[5]), (F32, &[4])];
    let words = "adam: expected an f32 state and f32 rates, found dtypes bf16[3, 5], f32[5], f32[4]";
    refuses(&adam(0.9), &inputs, words);
    let inputs: [(_, &[usize]); 3] = [(F32, &[3, 5]), (F32, &[5]), (F32, &[4])];
    let words = "adam: expected betas from 0 and below 1, and an eps of at least 0, found shapes \
                 f32[3, 5], f32[5], f32[4]";
    refuses(&adam(1.0), &inputs, words);
    let sgd = Op::Sgd(Sgd { momentum: Momentum::None, weight_decay: 0.0 });
    let inputs: [(_, &[usize]); 3] = [(F32, &[2, 5]), (F32, &[5]), (F32, &[2])];
    let words = "sgd: expected state [1, …], gradient […], rates [2], found shapes f32[2, 5], f32[5], f32[2]";
    refuses(&sgd, &inputs, words);
    refuses(&Op::SquaredNorm, &[(I32, &[4])], "squared_norm: expected floating-point operands, found dtypes i32[4]");
}
