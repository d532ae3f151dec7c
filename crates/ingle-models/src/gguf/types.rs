// SPDX-License-Identifier: EUPL-1.2
//! Which tensor of a GGUF file is stored how.

use ingle_nn::gguf::GgmlType;
use ingle_nn::quantise::Form;
use ingle_tensor::{BlockFormat, DType};

/// How the matrices of a GGUF file are stored: the names of llama.cpp, in lower case. Where rows are no whole blocks of
/// 256, a format of blocks of 32 that is about as large stands in, as in llama.cpp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each name is its own definition")]
pub enum GgufType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Iq4Nl,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    /// Q4_K, with Q6_K where it matters most.
    Q4KM,
    /// Q5_K, with Q6_K where it matters most.
    Q5KM,
}

impl GgufType {
    /// Every type.
    pub const ALL: [GgufType; 16] = [
        GgufType::F32,
        GgufType::F16,
        GgufType::Bf16,
        GgufType::Q8_0,
        GgufType::Q4_0,
        GgufType::Q4_1,
        GgufType::Q5_0,
        GgufType::Q5_1,
        GgufType::Iq4Nl,
        GgufType::Q2K,
        GgufType::Q3K,
        GgufType::Q4K,
        GgufType::Q5K,
        GgufType::Q6K,
        GgufType::Q4KM,
        GgufType::Q5KM,
    ];

    /// The name by which it is chosen: `q4_k_m`.
    pub fn name(self) -> &'static str {
        match self {
            GgufType::F32 => "f32",
            GgufType::F16 => "f16",
            GgufType::Bf16 => "bf16",
            GgufType::Q8_0 => "q8_0",
            GgufType::Q4_0 => "q4_0",
            GgufType::Q4_1 => "q4_1",
            GgufType::Q5_0 => "q5_0",
            GgufType::Q5_1 => "q5_1",
            GgufType::Iq4Nl => "iq4_nl",
            GgufType::Q2K => "q2_k",
            GgufType::Q3K => "q3_k",
            GgufType::Q4K => "q4_k",
            GgufType::Q5K => "q5_k",
            GgufType::Q6K => "q6_k",
            GgufType::Q4KM => "q4_k_m",
            GgufType::Q5KM => "q5_k_m",
        }
    }

    /// Its number in `general.file_type`. Files whose every matrix is in one K format go by llama.cpp's small mix.
    pub(super) fn file_type(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q4_0 => 2,
            GgufType::Q4_1 => 3,
            GgufType::Q8_0 => 7,
            GgufType::Q5_0 => 8,
            GgufType::Q5_1 => 9,
            GgufType::Q3K => 11,
            GgufType::Q4K => 14,
            GgufType::Q4KM => 15,
            GgufType::Q5K => 16,
            GgufType::Q5KM => 17,
            GgufType::Q6K => 18,
            GgufType::Q2K => 21,
            GgufType::Iq4Nl => 25,
            GgufType::Bf16 => 32,
        }
    }

    /// How most matrices are stored.
    fn form(self) -> Form {
        Form::Blocks(match self {
            GgufType::F32 => return Form::Float(DType::F32),
            GgufType::F16 => return Form::Float(DType::F16),
            GgufType::Bf16 => return Form::Float(DType::BF16),
            GgufType::Q8_0 => BlockFormat::Q8_0,
            GgufType::Q4_0 => BlockFormat::Q4_0,
            GgufType::Q4_1 => BlockFormat::Q4_1,
            GgufType::Q5_0 => BlockFormat::Q5_0,
            GgufType::Q5_1 => BlockFormat::Q5_1,
            GgufType::Iq4Nl => BlockFormat::Iq4Nl,
            GgufType::Q2K => BlockFormat::Q2K,
            GgufType::Q3K => BlockFormat::Q3K,
            GgufType::Q4K | GgufType::Q4KM => BlockFormat::Q4K,
            GgufType::Q5K | GgufType::Q5KM => BlockFormat::Q5K,
            GgufType::Q6K => BlockFormat::Q6K,
        })
    }

    /// How the matrix `name`, with rows of `columns`, is stored in a model of so many `layers`.
    pub(super) fn form_of(self, name: &str, columns: usize, layers: usize, head: &str) -> Form {
        let Form::Blocks(format) = self.form() else { return self.form() };
        let format = match self {
            // The head decides what is said: it is worth more bits, also where it is the embedding table.
            _ if name == head && format != BlockFormat::Q8_0 => match columns.is_multiple_of(256) {
                true => BlockFormat::Q6K,
                false => BlockFormat::Q8_0,
            },
            GgufType::Q4KM | GgufType::Q5KM if is_sensitive(name, layers) => BlockFormat::Q6K,
            _ => format,
        };
        fitting(format, columns)
    }
}

/// Whether a mix gives a matrix more bits: values and what comes out of the MLP, in the first eighth of the layers, the
/// last eighth, and every third between.
fn is_sensitive(name: &str, layers: usize) -> bool {
    let in_layer = || {
        let (layer, module) = name.strip_prefix("blk.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        let eighth = layers / 8;
        let chosen = layer < eighth || layer >= 7 * layers / 8 || layer.checked_sub(eighth)? % 3 == 2;
        Some(chosen && matches!(module, "attn_v.weight" | "ffn_down.weight"))
    };
    in_layer().unwrap_or(false)
}

/// The format, or the nearest whose blocks fill rows of `columns`.
fn fitting(format: BlockFormat, columns: usize) -> Form {
    let stand_in = match format {
        BlockFormat::Q2K | BlockFormat::Q3K => BlockFormat::Q4_0,
        BlockFormat::Q4K => BlockFormat::Q5_0,
        BlockFormat::Q5K => BlockFormat::Q5_1,
        _ => BlockFormat::Q8_0,
    };
    let fits = |format: &BlockFormat| columns.is_multiple_of(format.block_len());
    [format, stand_in].into_iter().find(fits).map_or(Form::Float(DType::F16), Form::Blocks)
}

/// The type of a tensor that is written so.
pub(super) fn ggml_type(form: Form) -> GgmlType {
    let name = match form {
        Form::Blocks(format) => format.name(),
        Form::Float(DType::F16) => return GgmlType::F16,
        Form::Float(DType::BF16) => return GgmlType::Bf16,
        Form::Float(_) | Form::Affine { .. } => return GgmlType::F32,
    };
    GgmlType::ALL.into_iter().find(|ggml_type| ggml_type.name() == name).unwrap_or(GgmlType::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_and_heads_good() {
        let form = |gguf_type: GgufType, name: &str| gguf_type.form_of(name, 1024, 28, "token_embd.weight");
        let blocks = Form::Blocks;
        assert_eq!(form(GgufType::Q4KM, "token_embd.weight"), blocks(BlockFormat::Q6K));
        assert_eq!(form(GgufType::Q8_0, "token_embd.weight"), blocks(BlockFormat::Q8_0));
        assert_eq!(form(GgufType::Q4_0, "blk.0.attn_q.weight"), blocks(BlockFormat::Q4_0));
        assert_eq!(form(GgufType::Bf16, "token_embd.weight"), Form::Float(DType::BF16));
        // As llama-quantize chooses for 28 layers.
        let chosen: Vec<usize> = (0..28)
            .filter(|i| form(GgufType::Q4KM, &format!("blk.{i}.ffn_down.weight")) == blocks(BlockFormat::Q6K))
            .collect();
        assert_eq!(chosen, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27]);
        assert_eq!(form(GgufType::Q4KM, "blk.0.attn_k.weight"), blocks(BlockFormat::Q4K));
    }

    #[test]
    fn rows_that_are_no_whole_blocks_ugly() {
        let form = |gguf_type: GgufType, columns| gguf_type.form_of("blk.0.attn_q.weight", columns, 4, "output.weight");
        assert_eq!(form(GgufType::Q4K, 1152), Form::Blocks(BlockFormat::Q5_0));
        assert_eq!(form(GgufType::Q6K, 64), Form::Blocks(BlockFormat::Q8_0));
        assert_eq!(form(GgufType::Q8_0, 48), Form::Float(DType::F16));
        assert_eq!(GgufType::Q4K.form_of("output.weight", 1152, 4, "output.weight"), Form::Blocks(BlockFormat::Q8_0));
    }

    #[test]
    fn every_form_has_a_type_good() {
        for gguf_type in GgufType::ALL {
            let form = gguf_type.form();
            assert_eq!(ggml_type(form).name().to_lowercase(), gguf_type.name().trim_end_matches("_m"));
        }
    }
}
