// SPDX-License-Identifier: EUPL-1.2
//! A tensor as its file holds it.

use std::fmt;
use std::ops::Range;

use ingle_tensor::{BlockFormat, DType, Shape};
use safetensors::tensor::Dtype;

use crate::gguf::GgmlType;

/// A tensor of a [`Checkpoint`](crate::Checkpoint).
#[derive(Clone, Debug)]
pub struct StoredTensor {
    pub(super) file: usize,
    pub(super) range: Range<usize>,
    pub(super) stored: Stored,
    pub(super) shape: Shape,
}

/// How elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// In a safetensors file.
    Safetensors(Dtype),
    /// In a GGUF file.
    Ggml(GgmlType),
}

impl StoredTensor {
    /// Axis lengths, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type, or `None` where Ingle has no such type (8-bit floats, f64, …) or elements come in blocks.
    pub fn dtype(&self) -> Option<DType> {
        Some(match self.stored {
            Stored::Safetensors(Dtype::F32) | Stored::Ggml(GgmlType::F32) => DType::F32,
            Stored::Safetensors(Dtype::F16) | Stored::Ggml(GgmlType::F16) => DType::F16,
            Stored::Safetensors(Dtype::BF16) | Stored::Ggml(GgmlType::Bf16) => DType::BF16,
            Stored::Safetensors(Dtype::U8 | Dtype::BOOL) => DType::U8,
            Stored::Safetensors(Dtype::I8) | Stored::Ggml(GgmlType::I8) => DType::I8,
            Stored::Safetensors(Dtype::I32) | Stored::Ggml(GgmlType::I32) => DType::I32,
            Stored::Safetensors(Dtype::U32) => DType::U32,
            Stored::Safetensors(Dtype::I64) | Stored::Ggml(GgmlType::I64) => DType::I64,
            Stored::Safetensors(_) | Stored::Ggml(_) => return None,
        })
    }

    /// The format of its blocks, if it is stored in blocks of a format that Ingle knows.
    pub fn block_format(&self) -> Option<BlockFormat> {
        let Stored::Ggml(ggml_type) = self.stored else { return None };
        BlockFormat::ALL.into_iter().find(|format| format.name() == ggml_type.name())
    }

    /// Shape and the file's own name of the element type: `BF16[64, 32]`, `Q4_0[64, 32]`.
    pub fn describe(&self) -> String {
        format!("{}{}", self.stored, self.shape)
    }

    /// Bytes it takes in the file.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Safetensors(dtype) => write!(f, "{dtype}"),
            Stored::Ggml(ggml_type) => write!(f, "{ggml_type}"),
        }
    }
}
