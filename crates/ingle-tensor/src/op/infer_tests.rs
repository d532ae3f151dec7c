// SPDX-License-Identifier: EUPL-1.2
//! The shape and dtype rule of every operation, and the words it refuses with.

mod learning;

use crate::DType::{BF16, F16, F32, I8, I32, I64, U8, U32};
use crate::{
    Activation, BinaryOp, BlockFormat, CompareOp, DType, Error, Op, PagedAttention, Quantization, ReduceOp, RopeLayout,
    Shape, Spec, UnaryOp,
};

fn spec(dtype: DType, shape: &[usize]) -> Spec {
    Spec::new(shape, dtype)
}

/// Asserts what an operation gives on these inputs.
#[track_caller]
fn gives(op: &Op, inputs: &[(DType, &[usize])], output: (DType, &[usize])) {
    let inputs: Vec<Spec> = inputs.iter().map(|&(dtype, shape)| spec(dtype, shape)).collect();
    assert_eq!(op.infer(&inputs), Ok(spec(output.0, output.1)));
}

/// Asserts that an operation refuses these inputs, in these words.
#[track_caller]
fn refuses(op: &Op, inputs: &[(DType, &[usize])], words: &str) {
    let inputs: Vec<Spec> = inputs.iter().map(|&(dtype, shape)| spec(dtype, shape)).collect();
    assert_eq!(op.infer(&inputs).map_err(|error| error.to_string()), Err(words.into()));
}

fn slice(axis: usize, start: usize, end: usize, step: usize) -> Op {
    Op::Slice { axis, start, end, step }
}

fn reshape(shape: &[usize]) -> Op {
    Op::Reshape { shape: shape.into() }
}

fn broadcast(shape: &[usize]) -> Op {
    Op::Broadcast { shape: shape.into() }
}

fn attention(block_size: usize) -> PagedAttention {
    PagedAttention { block_size, scale: 1.0, window: None, soft_cap: None }
}

#[test]
fn creation_good() {
    gives(&Op::Full { shape: [2, 3].into(), dtype: BF16, value: 0.0 }, &[], (BF16, &[2, 3]));
    gives(&Op::Full { shape: Shape::default(), dtype: U8, value: 0.0 }, &[], (U8, &[]));
    gives(&Op::Arange { len: 0 }, &[], (I32, &[0]));
    gives(&Op::Arange { len: i32::MAX as usize }, &[], (I32, &[i32::MAX as usize]));
}

#[test]
fn creation_bad() {
    let full = Op::Full { shape: [2].into(), dtype: F32, value: 0.0 };
    refuses(&full, &[(F32, &[2])], "full: expected no inputs, found 1");
    let len = i32::MAX as usize + 1;
    refuses(&Op::Arange { len }, &[], "arange: expected a length within i32, found shapes none");
}

#[test]
fn creation_past_the_address_space_ugly() {
    let shape = Shape::from([1 << 61]);
    let words = "full: expected a result smaller than [2305843009213693952], found shapes none";
    refuses(&Op::Full { shape: shape.clone(), dtype: F32, value: 0.0 }, &[], words);
    gives(&Op::Full { shape, dtype: U8, value: 0.0 }, &[], (U8, &[1 << 61]));
    let shape = Shape::from([usize::MAX, 3]);
    let words = "full: expected a result smaller than [18446744073709551615, 3], found shapes none";
    refuses(&Op::Full { shape, dtype: U8, value: 0.0 }, &[], words);
}

#[test]
fn reshape_good() {
    gives(&reshape(&[3, 4]), &[(F16, &[2, 6])], (F16, &[3, 4]));
    gives(&reshape(&[]), &[(I64, &[1, 1])], (I64, &[]));
    gives(&reshape(&[7, 0]), &[(U32, &[0])], (U32, &[7, 0]));
}

#[test]
fn reshape_bad() {
    let words = "reshape: expected as many elements as [3, 4] has, found shapes f16[2, 5]";
    refuses(&reshape(&[3, 4]), &[(F16, &[2, 5])], words);
    refuses(&reshape(&[1]), &[], "reshape: expected 1 inputs, found 0");
}

#[test]
fn reshape_to_more_than_a_word_counts_ugly() {
    // Neither has a number of elements, which does not make them equal.
    let words = "reshape: expected as many elements as [18446744073709551615, 2] has, \
                 found shapes u8[18446744073709551615, 3]";
    refuses(&reshape(&[usize::MAX, 2]), &[(U8, &[usize::MAX, 3])], words);
    gives(&reshape(&[usize::MAX, usize::MAX, 0]), &[(U8, &[0])], (U8, &[usize::MAX, usize::MAX, 0]));
}

#[test]
fn permute_good() {
    gives(&Op::Permute { axes: vec![2, 0, 1] }, &[(F32, &[4, 5, 6])], (F32, &[6, 4, 5]));
    gives(&Op::Permute { axes: vec![] }, &[(F32, &[])], (F32, &[]));
}

#[test]
fn permute_bad() {
    let words = "permute: expected a rank of which [0, 0] is a permutation, found shapes f32[4, 5]";
    refuses(&Op::Permute { axes: vec![0, 0] }, &[(F32, &[4, 5])], words);
    let words = "permute: expected a rank of which [1, 0] is a permutation, found shapes f32[4]";
    refuses(&Op::Permute { axes: vec![1, 0] }, &[(F32, &[4])], words);
    let words = "permute: expected a rank of which [0] is a permutation, found shapes f32[4, 5]";
    refuses(&Op::Permute { axes: vec![0] }, &[(F32, &[4, 5])], words);
}

#[test]
fn slice_good() {
    gives(&slice(1, 1, 5, 1), &[(I8, &[3, 5])], (I8, &[3, 4]));
    gives(&slice(1, 0, 5, 2), &[(I8, &[3, 5])], (I8, &[3, 3]));
    gives(&slice(1, 1, 5, 4), &[(I8, &[3, 5])], (I8, &[3, 1]));
}

#[test]
fn slice_bad() {
    let words = "slice: expected axis 1 to hold 1..6 in steps of 1, found shapes f32[3, 5]";
    refuses(&slice(1, 1, 6, 1), &[(F32, &[3, 5])], words);
    let words = "slice: expected axis 0 to hold 2..1 in steps of 1, found shapes f32[3, 5]";
    refuses(&slice(0, 2, 1, 1), &[(F32, &[3, 5])], words);
    let words = "slice: expected axis 0 to hold 0..1 in steps of 0, found shapes f32[3, 5]";
    refuses(&slice(0, 0, 1, 0), &[(F32, &[3, 5])], words);
    refuses(&slice(2, 0, 0, 1), &[(F32, &[3, 5])], "slice: expected an axis 2, found shapes f32[3, 5]");
}

#[test]
fn slice_of_nothing_and_by_giant_steps_ugly() {
    gives(&slice(0, 3, 3, 1), &[(F32, &[3])], (F32, &[0]));
    gives(&slice(0, 0, 0, usize::MAX), &[(F32, &[0])], (F32, &[0]));
    gives(&slice(0, 0, 3, usize::MAX), &[(F32, &[3])], (F32, &[1]));
    refuses(&slice(0, 0, 0, 1), &[(F32, &[])], "slice: expected an axis 0, found shapes f32[]");
}

#[test]
fn broadcast_good() {
    gives(&broadcast(&[2, 3, 4]), &[(F32, &[3, 1])], (F32, &[2, 3, 4]));
    gives(&broadcast(&[0]), &[(F32, &[1])], (F32, &[0]));
    gives(&broadcast(&[5]), &[(F32, &[])], (F32, &[5]));
}

#[test]
fn broadcast_bad() {
    let words = "broadcast: expected a shape that broadcasts to [3], found shapes f32[2]";
    refuses(&broadcast(&[3]), &[(F32, &[2])], words);
    // Broadcasting together is not enough: the input may not be the larger.
    let words = "broadcast: expected a shape that broadcasts to [1], found shapes f32[3]";
    refuses(&broadcast(&[1]), &[(F32, &[3])], words);
    let words = "broadcast: expected a shape that broadcasts to [3], found shapes f32[1, 3]";
    refuses(&broadcast(&[3]), &[(F32, &[1, 3])], words);
    let words = "broadcast: expected a shape that broadcasts to [1], found shapes f32[0]";
    refuses(&broadcast(&[1]), &[(F32, &[0])], words);
}

#[test]
fn broadcast_past_the_address_space_ugly() {
    let words = "broadcast: expected a result smaller than [4611686018427387904], found shapes f32[1]";
    refuses(&broadcast(&[1 << 62]), &[(F32, &[1])], words);
    // A view of such a size is fine; an operation that widens it is not.
    gives(&broadcast(&[1 << 62]), &[(U8, &[1])], (U8, &[1 << 62]));
    let words = "cast: expected a result smaller than [4611686018427387904], found shapes u8[4611686018427387904]";
    refuses(&Op::Cast { dtype: F32 }, &[(U8, &[1 << 62])], words);
    let words = "take_rows: expected a result smaller than [4, 4611686018427387904], \
                 found shapes u8[1, 4611686018427387904], i32[4]";
    refuses(&Op::TakeRows, &[(U8, &[1, 1 << 62]), (I32, &[4])], words);
    let words =
        "argmax: expected a result smaller than [2305843009213693952, 1], found shapes f16[2305843009213693952, 1]";
    refuses(&Op::ArgMax { axis: 1 }, &[(F16, &[1 << 61, 1])], words);
}

#[test]
fn concat_good() {
    gives(&Op::Concat { axis: 1 }, &[(I32, &[2, 3]), (I32, &[2, 0]), (I32, &[2, 4])], (I32, &[2, 7]));
    gives(&Op::Concat { axis: 0 }, &[(F32, &[5])], (F32, &[5]));
}

#[test]
fn concat_bad() {
    let concat = Op::Concat { axis: 1 };
    refuses(&concat, &[], "concat: expected at least 1 inputs, found 0");
    let words = "concat: expected operands of one dtype, found dtypes i32[2, 3], f32[2, 3]";
    refuses(&concat, &[(I32, &[2, 3]), (F32, &[2, 3])], words);
    let words = "concat: expected shapes that differ only along axis 1, found shapes i32[2, 3], i32[3, 3]";
    refuses(&concat, &[(I32, &[2, 3]), (I32, &[3, 3])], words);
    let words = "concat: expected shapes that differ only along axis 1, found shapes i32[2, 3], i32[2]";
    refuses(&concat, &[(I32, &[2, 3]), (I32, &[2])], words);
    refuses(&concat, &[(I32, &[2])], "concat: expected an axis 1, found shapes i32[2]");
}

#[test]
fn concat_of_giants_ugly() {
    let giant: &[usize] = &[usize::MAX];
    let words = "concat: expected a result smaller than [18446744073709551615], \
                 found shapes u8[18446744073709551615], u8[18446744073709551615]";
    refuses(&Op::Concat { axis: 0 }, &[(U8, giant), (U8, giant)], words);
}

#[test]
fn cast_and_unary_good() {
    gives(&Op::Cast { dtype: I8 }, &[(F32, &[2, 0])], (I8, &[2, 0]));
    for op in UnaryOp::ALL {
        for dtype in DType::FLOATS {
            gives(&Op::Unary(op), &[(dtype, &[2, 3])], (dtype, &[2, 3]));
        }
    }
    gives(&Op::Unary(UnaryOp::Neg), &[(I64, &[])], (I64, &[]));
    gives(&Op::Unary(UnaryOp::Abs), &[(I8, &[3])], (I8, &[3]));
}

#[test]
fn unary_bad() {
    let words = "neg: expected a float or a signed integer, found dtypes u8[2]";
    refuses(&Op::Unary(UnaryOp::Neg), &[(U8, &[2])], words);
    let words = "abs: expected a float or a signed integer, found dtypes u32[2]";
    refuses(&Op::Unary(UnaryOp::Abs), &[(U32, &[2])], words);
    refuses(&Op::Unary(UnaryOp::Exp), &[(I32, &[2])], "exp: expected floating-point operands, found dtypes i32[2]");
    refuses(&Op::Unary(UnaryOp::Exp), &[(F32, &[2]), (F32, &[2])], "exp: expected 1 inputs, found 2");
}

#[test]
fn binary_compare_select_good() {
    for op in BinaryOp::ALL {
        gives(&Op::Binary(op), &[(BF16, &[4, 1, 3]), (BF16, &[5, 1])], (BF16, &[4, 5, 3]));
    }
    gives(&Op::Binary(BinaryOp::Mul), &[(U8, &[2]), (U8, &[])], (U8, &[2]));
    for op in CompareOp::ALL {
        gives(&Op::Compare(op), &[(I32, &[4, 1]), (I32, &[3])], (U8, &[4, 3]));
    }
    gives(&Op::Select, &[(U8, &[4, 1]), (F16, &[3]), (F16, &[])], (F16, &[4, 3]));
}

#[test]
fn binary_compare_select_bad() {
    let add = Op::Binary(BinaryOp::Add);
    let words = "add: expected shapes that broadcast together, found shapes f32[2], f32[3]";
    refuses(&add, &[(F32, &[2]), (F32, &[3])], words);
    refuses(&add, &[(F32, &[2]), (F16, &[2])], "add: expected operands of one dtype, found dtypes f32[2], f16[2]");
    let div = Op::Binary(BinaryOp::Div);
    refuses(&div, &[(I32, &[2]), (I32, &[2])], "div: expected floating-point operands, found dtypes i32[2], i32[2]");
    let less = Op::Compare(CompareOp::Less);
    refuses(&less, &[(F32, &[2])], "less: expected 2 inputs, found 1");
    let words = "select: expected a u8 condition, found dtypes i32[2], f32[2], f32[2]";
    refuses(&Op::Select, &[(I32, &[2]), (F32, &[2]), (F32, &[2])], words);
    let words = "select: expected operands of one dtype, found dtypes u8[2], f32[2], bf16[2]";
    refuses(&Op::Select, &[(U8, &[2]), (F32, &[2]), (BF16, &[2])], words);
    let words = "select: expected shapes that broadcast together, found shapes u8[2], f32[1], f32[3]";
    refuses(&Op::Select, &[(U8, &[2]), (F32, &[1]), (F32, &[3])], words);
}

#[test]
fn binary_of_empty_and_giant_ugly() {
    let add = Op::Binary(BinaryOp::Add);
    gives(&add, &[(F32, &[0, 3]), (F32, &[1, 3])], (F32, &[0, 3]));
    let words = "add: expected shapes that broadcast together, found shapes f32[0], f32[2]";
    refuses(&add, &[(F32, &[0]), (F32, &[2])], words);
    let column: (DType, &[usize]) = (U8, &[1 << 40, 1]);
    let words = "add: expected a result smaller than [1099511627776, 1099511627776], \
                 found shapes u8[1099511627776, 1], u8[1099511627776]";
    refuses(&add, &[column, (U8, &[1 << 40])], words);
}

#[test]
fn reduce_and_argmax_good() {
    for op in [ReduceOp::Sum, ReduceOp::Max] {
        gives(&Op::Reduce { op, axis: 0 }, &[(F16, &[4, 5])], (F16, &[1, 5]));
        gives(&Op::Reduce { op, axis: 1 }, &[(F16, &[4, 0])], (F16, &[4, 1]));
    }
    gives(&Op::ArgMax { axis: 1 }, &[(BF16, &[4, 5])], (I32, &[4, 1]));
}

#[test]
fn reduce_and_argmax_bad() {
    let sum = Op::Reduce { op: ReduceOp::Sum, axis: 2 };
    refuses(&sum, &[(F32, &[4, 5])], "reduce_sum: expected an axis 2, found shapes f32[4, 5]");
    refuses(&sum, &[(I32, &[4, 5, 6])], "reduce_sum: expected floating-point operands, found dtypes i32[4, 5, 6]");
    let max = Op::Reduce { op: ReduceOp::Max, axis: 0 };
    refuses(&max, &[(F32, &[])], "reduce_max: expected an axis 0, found shapes f32[]");
    let argmax = Op::ArgMax { axis: 1 };
    refuses(&argmax, &[(F32, &[4, 0])], "argmax: expected a non-empty axis, found shapes f32[4, 0]");
    refuses(&argmax, &[(I32, &[4, 1])], "argmax: expected floating-point operands, found dtypes i32[4, 1]");
}

#[test]
fn matmul_good() {
    gives(&Op::MatMul, &[(F32, &[2, 3]), (F32, &[3, 4])], (F32, &[2, 4]));
    gives(&Op::MatMul, &[(F16, &[7, 1, 2, 3]), (F16, &[5, 3, 4])], (F16, &[7, 5, 2, 4]));
    gives(&Op::MatMul, &[(BF16, &[2, 0]), (BF16, &[0, 4])], (BF16, &[2, 4]));
}

#[test]
fn matmul_bad() {
    let rule = "matmul: expected […, m, k] and […, k, n] with leading axes that broadcast, found shapes";
    refuses(&Op::MatMul, &[(F32, &[2, 3]), (F32, &[2, 3])], &format!("{rule} f32[2, 3], f32[2, 3]"));
    refuses(&Op::MatMul, &[(F32, &[3]), (F32, &[3, 2])], &format!("{rule} f32[3], f32[3, 2]"));
    let batches: [(DType, &[usize]); 2] = [(F32, &[2, 1, 3]), (F32, &[3, 3, 1])];
    refuses(&Op::MatMul, &batches, &format!("{rule} f32[2, 1, 3], f32[3, 3, 1]"));
    let words = "matmul: expected floating-point operands, found dtypes i32[1, 1], i32[1, 1]";
    refuses(&Op::MatMul, &[(I32, &[1, 1]), (I32, &[1, 1])], words);
    let words = "matmul: expected operands of one dtype, found dtypes f32[1, 1], bf16[1, 1]";
    refuses(&Op::MatMul, &[(F32, &[1, 1]), (BF16, &[1, 1])], words);
}

#[test]
fn rows_good() {
    gives(&Op::TakeRows, &[(U32, &[9, 2, 3]), (I32, &[4])], (U32, &[4, 2, 3]));
    gives(&Op::TakeRows, &[(F32, &[9]), (I32, &[0])], (F32, &[0]));
    gives(&Op::WriteRows, &[(F16, &[9, 2]), (F32, &[4, 2]), (I32, &[4])], (F16, &[9, 2]));
    gives(&Op::WriteRows, &[(I8, &[9, 2]), (I8, &[4, 2]), (I32, &[4])], (I8, &[9, 2]));
    gives(&Op::QuantizeRows, &[(BF16, &[4, 2, 7])], (I8, &[4, 2, 11]));
    gives(&Op::QuantizeRows, &[(F32, &[0])], (I8, &[4]));
    gives(&Op::DequantizeRows, &[(I8, &[4, 2, 11])], (F32, &[4, 2, 7]));
    gives(&Op::DequantizeRows, &[(I8, &[4])], (F32, &[0]));
}

#[test]
fn rows_bad() {
    let words = "take_rows: expected an i32 index, found dtypes f32[9, 2], i64[4]";
    refuses(&Op::TakeRows, &[(F32, &[9, 2]), (I64, &[4])], words);
    let words = "take_rows: expected an index of one axis, found shapes f32[9, 2], i32[2, 2]";
    refuses(&Op::TakeRows, &[(F32, &[9, 2]), (I32, &[2, 2])], words);
    let words = "take_rows: expected a table of rows, found shapes f32[], i32[2]";
    refuses(&Op::TakeRows, &[(F32, &[]), (I32, &[2])], words);
    let rule = "write_rows: expected target [n, …], rows [T, …], index [T], found shapes";
    let writes: [(DType, &[usize]); 3] = [(F32, &[9, 2]), (F32, &[3, 2]), (I32, &[4])];
    refuses(&Op::WriteRows, &writes, &format!("{rule} f32[9, 2], f32[3, 2], i32[4]"));
    let writes: [(DType, &[usize]); 3] = [(F32, &[9, 2]), (F32, &[4, 3]), (I32, &[4])];
    refuses(&Op::WriteRows, &writes, &format!("{rule} f32[9, 2], f32[4, 3], i32[4]"));
    let writes: [(DType, &[usize]); 3] = [(I32, &[9]), (I32, &[4]), (I32, &[4])];
    refuses(
        &Op::WriteRows,
        &writes,
        "write_rows: expected floating-point operands, or i8 ones, found dtypes i32[9], i32[4], i32[4]",
    );
    let writes: [(DType, &[usize]); 3] = [(I8, &[9]), (F32, &[4]), (I32, &[4])];
    refuses(
        &Op::WriteRows,
        &writes,
        "write_rows: expected floating-point operands, or i8 ones, found dtypes i8[9], f32[4], i32[4]",
    );
    let words = "quantize_rows: expected floating-point operands, found dtypes i8[3]";
    refuses(&Op::QuantizeRows, &[(I8, &[3])], words);
    refuses(&Op::QuantizeRows, &[(F32, &[])], "quantize_rows: expected at least one axis, found shapes f32[]");
    refuses(&Op::DequantizeRows, &[(U8, &[9])], "dequantize_rows: expected i8 rows, found dtypes u8[9]");
    let rule = "dequantize_rows: expected rows of integers and the 4 bytes of a scale, found shapes";
    refuses(&Op::DequantizeRows, &[(I8, &[2, 3])], &format!("{rule} i8[2, 3]"));
    refuses(&Op::DequantizeRows, &[(I8, &[])], &format!("{rule} i8[]"));
}

#[test]
fn linear_good() {
    gives(&Op::Linear, &[(F32, &[3, 8]), (BF16, &[16, 8])], (F32, &[3, 16]));
    gives(&Op::Linear, &[(BF16, &[2, 3, 8]), (F16, &[16, 8]), (F32, &[16])], (BF16, &[2, 3, 16]));
    gives(&Op::Linear, &[(F32, &[8]), (F32, &[16, 8])], (F32, &[16]));
    gives(&Op::Linear, &[(F32, &[3, 0]), (F32, &[16, 0])], (F32, &[3, 16]));
}

#[test]
fn linear_bad() {
    let rule = "linear: expected x […, k], weight [n, k] and, if any, bias [n], found shapes";
    refuses(&Op::Linear, &[(F32, &[3, 8]), (F32, &[16, 4])], &format!("{rule} f32[3, 8], f32[16, 4]"));
    refuses(&Op::Linear, &[(F32, &[]), (F32, &[16, 4])], &format!("{rule} f32[], f32[16, 4]"));
    refuses(&Op::Linear, &[(F32, &[8]), (F32, &[8])], &format!("{rule} f32[8], f32[8]"));
    let biased: [(DType, &[usize]); 3] = [(F32, &[3, 8]), (F32, &[16, 8]), (F32, &[8])];
    refuses(&Op::Linear, &biased, &format!("{rule} f32[3, 8], f32[16, 8], f32[8]"));
    refuses(&Op::Linear, &[(F32, &[8])], "linear: expected 2 or 3 inputs, found 1");
    let words = "linear: expected floating-point operands, found dtypes f32[8], u32[16, 8]";
    refuses(&Op::Linear, &[(F32, &[8]), (U32, &[16, 8])], words);
}

#[test]
fn normalisations_good() {
    let rms = Op::RmsNorm { eps: 1e-6, offset: 0.0 };
    gives(&rms, &[(BF16, &[2, 3, 8]), (F32, &[8])], (BF16, &[2, 3, 8]));
    gives(&rms, &[(BF16, &[0]), (F32, &[0])], (BF16, &[0]));
    gives(&Op::LayerNorm { eps: 1e-6 }, &[(F32, &[2, 8]), (F16, &[8]), (BF16, &[8])], (F32, &[2, 8]));
    gives(&Op::Softmax, &[(F16, &[2, 0])], (F16, &[2, 0]));
}

#[test]
fn normalisations_bad() {
    let rms = Op::RmsNorm { eps: 1e-6, offset: 0.0 };
    let rule = "expected x […, d] and a weight (and bias) [d], found shapes";
    refuses(&rms, &[(F32, &[2, 8]), (F32, &[4])], &format!("rms_norm: {rule} f32[2, 8], f32[4]"));
    refuses(&rms, &[(F32, &[2, 8]), (F32, &[1, 8])], &format!("rms_norm: {rule} f32[2, 8], f32[1, 8]"));
    refuses(&rms, &[(F32, &[]), (F32, &[1])], &format!("rms_norm: {rule} f32[], f32[1]"));
    let layer = Op::LayerNorm { eps: 1e-6 };
    let inputs: [(DType, &[usize]); 3] = [(F32, &[2, 8]), (F32, &[8]), (F32, &[9])];
    refuses(&layer, &inputs, &format!("layer_norm: {rule} f32[2, 8], f32[8], f32[9]"));
    refuses(&layer, &inputs[..2], "layer_norm: expected 3 inputs, found 2");
    let words = "rms_norm: expected floating-point operands, found dtypes f32[8], i32[8]";
    refuses(&rms, &[(F32, &[8]), (I32, &[8])], words);
    refuses(&Op::Softmax, &[(F32, &[])], "softmax: expected at least one axis, found shapes f32[]");
    refuses(&Op::Softmax, &[(I32, &[2])], "softmax: expected floating-point operands, found dtypes i32[2]");
}

#[test]
fn rope_good() {
    for layout in [RopeLayout::Halves, RopeLayout::Interleaved] {
        let rope = Op::Rope { layout };
        gives(&rope, &[(F16, &[5, 2, 8]), (I32, &[5]), (F32, &[4])], (F16, &[5, 2, 8]));
        gives(&rope, &[(F16, &[5, 2, 9]), (I32, &[5]), (F32, &[0])], (F16, &[5, 2, 9]));
    }
}

#[test]
fn rope_bad() {
    let rope = Op::Rope { layout: RopeLayout::Halves };
    let rule = "rope: expected x [T, H, D], positions [T], frequencies [R/2] with R ≤ D, found shapes";
    let inputs: [(DType, &[usize]); 3] = [(F32, &[5, 2, 8]), (I32, &[5]), (F32, &[5])];
    refuses(&rope, &inputs, &format!("{rule} f32[5, 2, 8], i32[5], f32[5]"));
    let inputs: [(DType, &[usize]); 3] = [(F32, &[5, 2, 8]), (I32, &[4]), (F32, &[4])];
    refuses(&rope, &inputs, &format!("{rule} f32[5, 2, 8], i32[4], f32[4]"));
    let inputs: [(DType, &[usize]); 3] = [(F32, &[5, 8]), (I32, &[5]), (F32, &[4])];
    refuses(&rope, &inputs, &format!("{rule} f32[5, 8], i32[5], f32[4]"));
    let inputs: [(DType, &[usize]); 3] = [(F32, &[5, 2, 8]), (I32, &[5]), (F16, &[4])];
    refuses(&rope, &inputs, "rope: expected f32 frequencies, found dtypes f32[5, 2, 8], i32[5], f16[4]");
    let inputs: [(DType, &[usize]); 3] = [(F32, &[5, 2, 8]), (F32, &[5]), (F32, &[4])];
    refuses(&rope, &inputs, "rope: expected an i32 index, found dtypes f32[5, 2, 8], f32[5], f32[4]");
}

#[test]
fn rope_with_more_frequencies_than_a_word_counts_ugly() {
    let rope = Op::Rope { layout: RopeLayout::Halves };
    let inputs = [spec(F32, &[5, 2, 8]), spec(I32, &[5]), spec(F32, &[usize::MAX / 2 + 1])];
    assert!(matches!(rope.infer(&inputs), Err(Error::Shape { op: "rope", .. })));
}

#[test]
fn activations_good() {
    for activation in Activation::ALL {
        gives(&Op::Activate(activation), &[(BF16, &[2, 3])], (BF16, &[2, 3]));
        gives(&Op::Glu { activation }, &[(BF16, &[2, 3]), (BF16, &[2, 3])], (BF16, &[2, 3]));
    }
    let glu = Op::GatedMlp { activation: Activation::Silu };
    gives(&glu, &[(F32, &[5, 2, 3]), (BF16, &[7, 3]), (F16, &[7, 3]), (BF16, &[4, 7])], (F32, &[5, 2, 4]));
    gives(&Op::SoftCap { cap: 30.0 }, &[(F32, &[])], (F32, &[]));
}

#[test]
fn activations_bad() {
    let glu = Op::Glu { activation: Activation::Silu };
    let words = "glu: expected two equal shapes, found shapes f32[2, 3], f32[3]";
    refuses(&glu, &[(F32, &[2, 3]), (F32, &[3])], words);
    refuses(&glu, &[(F32, &[3]), (F16, &[3])], "glu: expected operands of one dtype, found dtypes f32[3], f16[3]");
    let glu = Op::GatedMlp { activation: Activation::Silu };
    let words =
        "gated_mlp: expected a gate and an up of one shape, found shapes f32[2, 3], f32[4, 3], f32[5, 3], f32[3, 4]";
    refuses(&glu, &[(F32, &[2, 3]), (F32, &[4, 3]), (F32, &[5, 3]), (F32, &[3, 4])], words);
    let words = "gated_mlp: expected x […, k], gate and up [n, k], down [m, n], found shapes f32[2], f32[4, 3], f32[4, 3], f32[3, 4]";
    refuses(&glu, &[(F32, &[2]), (F32, &[4, 3]), (F32, &[4, 3]), (F32, &[3, 4])], words);
    let words = "gated_mlp: expected x […, k], gate and up [n, k], down [m, n], found shapes f32[3], f32[4, 3], f32[4, 3], f32[3, 5]";
    refuses(&glu, &[(F32, &[3]), (F32, &[4, 3]), (F32, &[4, 3]), (F32, &[3, 5])], words);
    let silu = Op::Activate(Activation::Silu);
    refuses(&silu, &[(I32, &[3])], "silu: expected floating-point operands, found dtypes i32[3]");
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let words = "soft_cap: expected a finite cap greater than 0, found shapes f32[3]";
        refuses(&Op::SoftCap { cap }, &[(F32, &[3])], words);
    }
}

/// Inputs of attention that fit: 5 tokens, 4 heads, 2 heads cached, 6 features, 3 blocks of 8 slots.
const ATTENTION: [(DType, &[usize]); 6] =
    [(F32, &[5, 4, 6]), (BF16, &[24, 2, 6]), (BF16, &[24, 2, 6]), (I32, &[2, 3]), (I32, &[5]), (I32, &[5])];

#[test]
fn paged_attention_good() {
    let op = Op::PagedAttention(attention(8));
    gives(&op, &ATTENTION, (F32, &[5, 4, 6]));
    let mut inputs = ATTENTION;
    inputs[3].1 = &[0, 0];
    gives(&op, &inputs, (F32, &[5, 4, 6]));
    let mut inputs = ATTENTION;
    for cache in &mut inputs[1..3] {
        *cache = (I8, &[24, 2, 10]);
    }
    gives(&op, &inputs, (F32, &[5, 4, 6]));
}

#[test]
fn paged_attention_bad() {
    let op = Op::PagedAttention(attention(8));
    let shapes: [(usize, &[usize]); 10] = [
        (0, &[5, 3, 6]),
        (0, &[5, 4, 7]),
        (0, &[5, 24]),
        (1, &[24, 2, 5]),
        (2, &[16, 2, 6]),
        (3, &[6]),
        (4, &[4]),
        (5, &[6]),
        (1, &[24, 12]),
        (2, &[24, 1, 6]),
    ];
    for (at, shape) in shapes {
        let mut inputs = ATTENTION.map(|(dtype, shape)| spec(dtype, shape));
        inputs[at].shape = shape.into();
        let refused = op.infer(&inputs);
        assert!(matches!(&refused, Err(Error::Shape { op: "paged_attention", .. })), "{inputs:?}: {refused:?}");
    }
    for (at, dtype) in [(0, I32), (1, F32), (2, U8), (3, I64), (4, F32), (5, U32)] {
        let mut inputs = ATTENTION.map(|(dtype, shape)| spec(dtype, shape));
        inputs[at].dtype = dtype;
        let refused = op.infer(&inputs);
        assert!(matches!(&refused, Err(Error::DType { op: "paged_attention", .. })), "{inputs:?}: {refused:?}");
    }
    refuses(&op, &ATTENTION[..5], "paged_attention: expected 6 inputs, found 5");
    let mut inputs = ATTENTION;
    inputs[1].1 = &[20, 2, 6];
    inputs[2].1 = &[20, 2, 6];
    let words = "paged_attention: expected q [T, H, D], keys and values [n × 8, KH, D] with H a multiple of KH, \
                 blocks [S, B], sequences [T], positions [T], found shapes f32[5, 4, 6], bf16[20, 2, 6], \
                 bf16[20, 2, 6], i32[2, 3], i32[5], i32[5]";
    refuses(&op, &inputs, words);
}

#[test]
fn paged_attention_with_parameters_that_mean_nothing_ugly() {
    let refused = |parameters: PagedAttention| {
        let inputs = ATTENTION.map(|(dtype, shape)| spec(dtype, shape));
        Op::PagedAttention(parameters).infer(&inputs).unwrap_err().to_string()
    };
    let words = "paged_attention: expected a block and a window of at least 1, found shapes";
    assert!(refused(attention(0)).starts_with(words));
    assert!(refused(PagedAttention { window: Some(0), ..attention(8) }).starts_with(words));
    for cap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let words = "paged_attention: expected a finite soft cap greater than 0, found shapes";
        assert!(refused(PagedAttention { soft_cap: Some(cap), ..attention(8) }).starts_with(words));
    }
    // No head is cached: no number of heads is a multiple of none.
    let mut inputs = ATTENTION.map(|(dtype, shape)| spec(dtype, shape));
    inputs[1].shape = [24, 0, 6].into();
    inputs[2].shape = [24, 0, 6].into();
    assert!(matches!(Op::PagedAttention(attention(8)).infer(&inputs), Err(Error::Shape { .. })));
}

fn affine(bits: usize, group_size: usize) -> Op {
    Op::Dequantize { quantization: Quantization::Affine { bits, group_size }, dtype: BF16 }
}

fn q8_0() -> Op {
    Op::Dequantize { quantization: Quantization::Blocks(BlockFormat::Q8_0), dtype: F32 }
}

#[test]
fn quantised_matrices_good() {
    gives(&affine(4, 64), &[(U32, &[5, 32]), (F16, &[5, 4]), (F16, &[5, 4])], (BF16, &[5, 256]));
    gives(&affine(3, 32), &[(U32, &[5, 3]), (F32, &[5, 1]), (F32, &[5, 1])], (BF16, &[5, 32]));
    gives(&q8_0(), &[(U8, &[3, 68])], (F32, &[3, 64]));
    gives(&q8_0(), &[(U8, &[3, 0])], (F32, &[3, 0]));
    gives(&Op::Pack, &[(BF16, &[3, 7])], (BF16, &[3, 7]));
}

#[test]
fn quantised_matrices_bad() {
    let short = "dequantize: expected weight [n, k · 4 / 32], scales and offsets [n, k / 64] with k a multiple of 64, found shapes ";
    for (scales, offsets) in [([5, 3], [5, 3]), ([5, 4], [5, 3]), ([4, 4], [4, 4])] {
        let found = format!("u32[5, 32], f16[{}, {}], f16[{}, {}]", scales[0], scales[1], offsets[0], offsets[1]);
        refuses(&affine(4, 64), &[(U32, &[5, 32]), (F16, &scales), (F16, &offsets)], &format!("{short}{found}"));
    }
    let inputs: [(DType, &[usize]); 3] = [(U32, &[5, 7]), (F16, &[5, 1]), (F16, &[5, 1])];
    refuses(
        &affine(7, 32),
        &inputs,
        "dequantize: expected 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, found shapes u32[5, 7], f16[5, 1], f16[5, 1]",
    );
    refuses(
        &q8_0(),
        &[(U8, &[3, 67])],
        "dequantize: expected rows [n, bytes] of whole blocks of 34 bytes, found shapes u8[3, 67]",
    );
    refuses(&q8_0(), &[(I8, &[3, 68])], "dequantize: expected u8 blocks, found dtypes i8[3, 68]");
    refuses(&Op::Pack, &[(F32, &[3])], "pack: expected weight [n, k], found shapes f32[3]");
    refuses(&Op::Pack, &[(I8, &[3, 3])], "pack: expected floating-point operands, found dtypes i8[3, 3]");
}
