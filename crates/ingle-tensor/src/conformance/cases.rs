// SPDX-License-Identifier: EUPL-1.2
//! The cases of every operation.

mod attention;
mod cross_entropy;
mod elementwise;
mod gradients;
mod layout;
mod normal;
mod optimizer;
mod products;
mod quantised;
mod reductions;
mod rows;

use super::case::{Case, Input, View};
use super::values::Values;
use crate::{DType, Op, Shape};

/// One family of operations for each variant of [`Op`], with the function that makes its cases.
macro_rules! families {
    ($($family:ident => $cases:path,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Family {
            $($family,)*
        }

        impl Family {
            const ALL: &[Family] = &[$(Family::$family,)*];

            fn cases(self) -> Vec<Case> {
                match self {
                    $(Family::$family => $cases(),)*
                }
            }
        }
    };
}

families! {
    Full => layout::full,
    Arange => layout::arange,
    Reshape => layout::reshape,
    Permute => layout::permute,
    Slice => layout::slice,
    Broadcast => layout::broadcast,
    Concat => layout::concat,
    Cast => elementwise::cast,
    Unary => elementwise::unary,
    Binary => elementwise::binary,
    Compare => elementwise::compare,
    Select => elementwise::select,
    Reduce => reductions::reduce,
    ArgMax => reductions::argmax,
    MatMul => products::matmul,
    TakeRows => rows::take_rows,
    WriteRows => rows::write_rows,
    QuantizeRows => rows::quantize_rows,
    DequantizeRows => rows::dequantize_rows,
    AddRows => rows::add_rows,
    Dequantize => quantised::dequantize,
    Pack => quantised::pack,
    Linear => products::linear,
    Softmax => reductions::softmax,
    RmsNorm => normal::rms_norm,
    LayerNorm => normal::layer_norm,
    Rope => rows::rope,
    Activate => elementwise::activate,
    Glu => elementwise::glu,
    GatedMlp => products::gated_mlp,
    SoftCap => elementwise::soft_cap,
    PagedAttention => attention::paged_attention,
    CrossEntropy => cross_entropy::cross_entropy,
    CrossEntropyGrad => cross_entropy::cross_entropy_grad,
    PagedAttentionGrad => attention::paged_attention_grad,
    RmsNormGrad => gradients::rms_norm_grad,
    RmsNormWeightGrad => gradients::rms_norm_weight_grad,
    ActivateGrad => gradients::activate_grad,
    GluGrad => gradients::glu_grad,
    SquaredNorm => optimizer::squared_norm,
    Adam => optimizer::adam,
    Sgd => optimizer::sgd,
}

impl Family {
    /// The family of an operation. There is no wildcard here on purpose: an operation added to [`Op`] does not
    /// compile until it has a family, and with it cases.
    fn of(op: &Op) -> Family {
        match op {
            Op::Full { .. } => Family::Full,
            Op::Arange { .. } => Family::Arange,
            Op::Reshape { .. } => Family::Reshape,
            Op::Permute { .. } => Family::Permute,
            Op::Slice { .. } => Family::Slice,
            Op::Broadcast { .. } => Family::Broadcast,
            Op::Concat { .. } => Family::Concat,
            Op::Cast { .. } => Family::Cast,
            Op::Unary(_) => Family::Unary,
            Op::Binary(_) => Family::Binary,
            Op::Compare(_) => Family::Compare,
            Op::Select => Family::Select,
            Op::Reduce { .. } => Family::Reduce,
            Op::ArgMax { .. } => Family::ArgMax,
            Op::MatMul => Family::MatMul,
            Op::TakeRows => Family::TakeRows,
            Op::WriteRows => Family::WriteRows,
            Op::QuantizeRows => Family::QuantizeRows,
            Op::DequantizeRows => Family::DequantizeRows,
            Op::AddRows { .. } => Family::AddRows,
            Op::Dequantize { .. } => Family::Dequantize,
            Op::Pack => Family::Pack,
            Op::Linear => Family::Linear,
            Op::Softmax => Family::Softmax,
            Op::RmsNorm { .. } => Family::RmsNorm,
            Op::LayerNorm { .. } => Family::LayerNorm,
            Op::Rope { .. } => Family::Rope,
            Op::Activate(_) => Family::Activate,
            Op::Glu { .. } => Family::Glu,
            Op::GatedMlp { .. } => Family::GatedMlp,
            Op::SoftCap { .. } => Family::SoftCap,
            Op::PagedAttention(_) => Family::PagedAttention,
            Op::CrossEntropy => Family::CrossEntropy,
            Op::CrossEntropyGrad => Family::CrossEntropyGrad,
            Op::PagedAttentionGrad(_) => Family::PagedAttentionGrad,
            Op::RmsNormGrad { .. } => Family::RmsNormGrad,
            Op::RmsNormWeightGrad { .. } => Family::RmsNormWeightGrad,
            Op::ActivateGrad(_) => Family::ActivateGrad,
            Op::GluGrad { .. } => Family::GluGrad,
            Op::SquaredNorm => Family::SquaredNorm,
            Op::Adam(_) => Family::Adam,
            Op::Sgd(_) => Family::Sgd,
        }
    }
}

/// Every case of every operation, in a fixed order.
pub fn cases() -> Vec<Case> {
    Family::ALL.iter().flat_map(|family| family.cases()).collect()
}

/// The cases of operations like `op`, whatever its parameters: for work on one kernel.
pub fn cases_of(op: &Op) -> Vec<Case> {
    Family::of(op).cases()
}

/// Shapes for operations that look at one element at a time: a scalar, empty, single, odd around the widths of
/// vector registers, and one that fills several of whatever a kernel works in.
fn shapes() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = vec![Shape::from([]), [0].into(), [1].into(), [3].into(), [7].into(), [17].into()];
    shapes.extend([Shape::from([33]), [65].into(), [3, 0, 2].into(), [5, 7].into(), [2, 3, 5, 7].into()]);
    shapes.push([129, 257].into());
    shapes
}

/// Shapes for operations that work along rows.
fn row_shapes() -> Vec<Shape> {
    let mut shapes: Vec<Shape> = vec![[1].into(), [7].into(), [0].into(), [0, 5].into(), [3, 0].into(), [1, 1].into()];
    shapes.extend([[2, 3].into(), [4, 17].into(), [3, 33].into(), [2, 65].into(), [2, 3, 7].into()]);
    shapes.extend([[9, 257].into(), [3, 1024].into()]);
    shapes
}

/// An input of each way to lie in memory, in an odd shape and one wide enough for vectors.
fn views(dtype: DType, values: &Values) -> Vec<Input> {
    let mut inputs = vec![];
    for view in View::ALL {
        for shape in [Shape::from([17]), [5, 33].into(), [3, 4, 7].into()] {
            inputs.push(Input::new(shape, dtype, values.clone()).lying(view));
        }
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_cases_of_its_own_operation_good() {
        for &family in Family::ALL {
            let cases = family.cases();
            assert!(cases.len() >= 3, "{family:?} has {} cases", cases.len());
            for case in cases {
                assert_eq!(Family::of(&case.op), family, "{case}");
            }
        }
    }

    #[test]
    fn every_case_fits_its_operation_good() {
        for case in cases() {
            let specs: Vec<_> = case.inputs.iter().map(|x| x.spec().unwrap()).collect();
            case.op.infer(&specs).unwrap_or_else(|error| panic!("{error} in {case}"));
        }
    }

    #[test]
    fn no_case_comes_twice_ugly() {
        let mut seen = std::collections::HashSet::new();
        let twice: Vec<String> =
            cases().iter().map(ToString::to_string).filter(|name| !seen.insert(name.clone())).collect();
        assert!(twice.is_empty(), "{}", twice.join("\n"));
    }

    #[test]
    fn every_family_meets_an_empty_input_and_a_view_ugly() {
        for &family in Family::ALL {
            let cases = family.cases();
            let empty = |case: &Case| {
                let specs: Vec<_> = case.inputs.iter().map(|x| x.spec().unwrap()).collect();
                let result = case.op.infer(&specs).unwrap();
                specs.iter().chain([&result]).any(|spec| spec.shape.elements() == 0)
            };
            assert!(cases.iter().any(empty), "{family:?} has no empty case");
            let takes_inputs = cases.iter().any(|case| !case.inputs.is_empty());
            let viewed = |case: &Case| case.inputs.iter().any(|x| !x.views.is_empty());
            assert!(!takes_inputs || cases.iter().any(viewed), "{family:?} reads no view");
        }
    }
}
