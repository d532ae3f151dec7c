// SPDX-License-Identifier: EUPL-1.2
//! The element types of ggml.

use std::fmt;

/// How ggml stores a tensor's elements: in blocks of so many, each of so many bytes. The discriminant is the id in
/// the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "each name is its own definition")]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    Q8K = 15,
    Iq2Xxs = 16,
    Iq2Xs = 17,
    Iq3Xxs = 18,
    Iq1S = 19,
    Iq4Nl = 20,
    Iq3S = 21,
    Iq2S = 22,
    Iq4Xs = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    Iq1M = 29,
    Bf16 = 30,
    Tq1_0 = 34,
    Tq2_0 = 35,
    Mxfp4 = 39,
    Nvfp4 = 40,
    Q1_0 = 41,
}

impl GgmlType {
    /// Every type. Ids that are missing here were withdrawn from ggml.
    pub const ALL: [GgmlType; 34] = [
        GgmlType::F32,
        GgmlType::F16,
        GgmlType::Q4_0,
        GgmlType::Q4_1,
        GgmlType::Q5_0,
        GgmlType::Q5_1,
        GgmlType::Q8_0,
        GgmlType::Q8_1,
        GgmlType::Q2K,
        GgmlType::Q3K,
        GgmlType::Q4K,
        GgmlType::Q5K,
        GgmlType::Q6K,
        GgmlType::Q8K,
        GgmlType::Iq2Xxs,
        GgmlType::Iq2Xs,
        GgmlType::Iq3Xxs,
        GgmlType::Iq1S,
        GgmlType::Iq4Nl,
        GgmlType::Iq3S,
        GgmlType::Iq2S,
        GgmlType::Iq4Xs,
        GgmlType::I8,
        GgmlType::I16,
        GgmlType::I32,
        GgmlType::I64,
        GgmlType::F64,
        GgmlType::Iq1M,
        GgmlType::Bf16,
        GgmlType::Tq1_0,
        GgmlType::Tq2_0,
        GgmlType::Mxfp4,
        GgmlType::Nvfp4,
        GgmlType::Q1_0,
    ];

    /// The type of this id in a file.
    pub fn from_id(id: u32) -> Option<Self> {
        GgmlType::ALL.into_iter().find(|ggml_type| ggml_type.id() == id)
    }

    /// Its id in a file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The name that ggml gives it.
    pub fn name(self) -> &'static str {
        self.layout().0
    }

    /// Elements in a block.
    pub fn block_len(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Name, elements and bytes of a block, as in ggml's `ggml-common.h`.
    fn layout(self) -> (&'static str, usize, usize) {
        match self {
            GgmlType::F32 => ("F32", 1, 4),
            GgmlType::F16 => ("F16", 1, 2),
            GgmlType::Q4_0 => ("Q4_0", 32, 18),
            GgmlType::Q4_1 => ("Q4_1", 32, 20),
            GgmlType::Q5_0 => ("Q5_0", 32, 22),
            GgmlType::Q5_1 => ("Q5_1", 32, 24),
            GgmlType::Q8_0 => ("Q8_0", 32, 34),
            GgmlType::Q8_1 => ("Q8_1", 32, 36),
            GgmlType::Q2K => ("Q2_K", 256, 84),
            GgmlType::Q3K => ("Q3_K", 256, 110),
            GgmlType::Q4K => ("Q4_K", 256, 144),
            GgmlType::Q5K => ("Q5_K", 256, 176),
            GgmlType::Q6K => ("Q6_K", 256, 210),
            GgmlType::Q8K => ("Q8_K", 256, 292),
            GgmlType::Iq2Xxs => ("IQ2_XXS", 256, 66),
            GgmlType::Iq2Xs => ("IQ2_XS", 256, 74),
            GgmlType::Iq3Xxs => ("IQ3_XXS", 256, 98),
            GgmlType::Iq1S => ("IQ1_S", 256, 50),
            GgmlType::Iq4Nl => ("IQ4_NL", 32, 18),
            GgmlType::Iq3S => ("IQ3_S", 256, 110),
            GgmlType::Iq2S => ("IQ2_S", 256, 82),
            GgmlType::Iq4Xs => ("IQ4_XS", 256, 136),
            GgmlType::I8 => ("I8", 1, 1),
            GgmlType::I16 => ("I16", 1, 2),
            GgmlType::I32 => ("I32", 1, 4),
            GgmlType::I64 => ("I64", 1, 8),
            GgmlType::F64 => ("F64", 1, 8),
            GgmlType::Iq1M => ("IQ1_M", 256, 56),
            GgmlType::Bf16 => ("BF16", 1, 2),
            GgmlType::Tq1_0 => ("TQ1_0", 256, 54),
            GgmlType::Tq2_0 => ("TQ2_0", 256, 66),
            GgmlType::Mxfp4 => ("MXFP4", 32, 17),
            GgmlType::Nvfp4 => ("NVFP4", 64, 36),
            GgmlType::Q1_0 => ("Q1_0", 128, 18),
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
