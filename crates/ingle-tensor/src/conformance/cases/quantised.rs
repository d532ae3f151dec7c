// SPDX-License-Identifier: EUPL-1.2
//! Cases of quantised and packed matrices.

use super::super::values::Values;
use super::{Case, Input, View};
use crate::{BlockFormat, DType, Op, Quantization};

/// Rows: none, one, and around the number that a kernel takes at once.
const ROWS: [usize; 4] = [0, 1, 5, 70];

pub(super) fn dequantize() -> Vec<Case> {
    let mut cases = vec![];
    for bits in Quantization::AFFINE_BITS {
        for group_size in Quantization::AFFINE_GROUPS {
            let quantization = Quantization::Affine { bits, group_size };
            for dtype in DType::FLOATS {
                for n in ROWS {
                    for k in [group_size, 384] {
                        cases.push(Case::new(
                            Op::Dequantize { quantization, dtype: DType::F32 },
                            affine(quantization, [n, k], dtype),
                        ));
                    }
                }
                let op = Op::Dequantize { quantization, dtype };
                cases.push(Case::new(op.clone(), affine(quantization, [3, 0], dtype)));
                for view in View::ALL {
                    let inputs = affine(quantization, [5, 256], dtype).map(|input| input.lying(view));
                    cases.push(Case::new(op.clone(), inputs));
                }
            }
        }
    }
    for format in BlockFormat::ALL {
        for dtype in DType::FLOATS {
            let op = Op::Dequantize { quantization: Quantization::Blocks(format), dtype };
            for n in ROWS {
                for k in [0, 256, 768] {
                    cases.push(Case::new(op.clone(), [blocks(format, [n, k])]));
                }
            }
            for view in View::ALL {
                cases.push(Case::new(op.clone(), [blocks(format, [3, 512]).lying(view)]));
            }
        }
    }
    cases
}

/// A weight's words, scales and offsets.
fn affine(quantization: Quantization, [n, k]: [usize; 2], dtype: DType) -> [Input; 3] {
    let Quantization::Affine { group_size, bits } = quantization else { return [(); 3].map(|()| Input::index([])) };
    let words = Input::new([n, k * bits / 32], DType::U32, Values::uniform(0.0, 4_294_967_295.0));
    let floats = |low, high| Input::new([n, k / group_size], dtype, Values::uniform(low, high));
    [words, floats(-0.1, 0.1), floats(-1.0, 1.0)]
}

/// A weight's blocks. Every byte is below 60, so that an f16 made of any two is finite and of the order of 1.
fn blocks(format: BlockFormat, [n, k]: [usize; 2]) -> Input {
    let bytes = Quantization::Blocks(format).row_bytes(k).unwrap_or(0);
    Input::new([n, bytes], DType::U8, Values::uniform(0.0, 60.0))
}

pub(super) fn pack() -> Vec<Case> {
    let mut cases = vec![];
    for dtype in DType::FLOATS {
        for shape in [[0, 3], [3, 0], [1, 1], [5, 33], [64, 64], [65, 96], [130, 257]] {
            cases.push(Case::new(Op::Pack, [Input::new(shape, dtype, Values::uniform(-1.0, 1.0))]));
        }
        for view in View::ALL {
            cases.push(Case::new(Op::Pack, [Input::new([66, 40], dtype, Values::uniform(-1.0, 1.0)).lying(view)]));
        }
    }
    cases
}
