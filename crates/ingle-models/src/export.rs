// SPDX-License-Identifier: EUPL-1.2
//! A model's dense weights on their way into another format.

use ingle_nn::quantise::{Conversion, Form, Original, RowOrder};
use ingle_nn::{Error, ModelFiles, Result};
use ingle_tensor::Shape;

use crate::decoder::Prefixes;
use crate::gguf::{self, GgufType};
use crate::load::Source;

/// A model of dense weights in safetensors, to be written in another format.
pub struct Export {
    source: Source,
}

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct ExportedTensor {
    /// Its name in the new file.
    pub name: String,
    /// Where its numbers come from.
    pub original: Original,
    /// What becomes of them.
    pub conversion: Conversion,
}

impl Export {
    /// Opens a model's files and checks them.
    ///
    /// # Errors
    /// As [`crate::read_summary`]; [`Error::Malformed`] for a model that is quantised, or in GGUF.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        if let ModelFiles::Gguf(path) = files {
            let message = "is a GGUF file; give the directory of the checkpoint that it was made of".into();
            return Err(Error::Malformed { file: path.display().to_string(), message });
        }
        let source = Source::open(files)?;
        match &source.summary.quantisation {
            None => Ok(Export { source }),
            Some(quantisation) => {
                let message = format!("is quantised already ({quantisation}); give the original checkpoint");
                Err(Error::Malformed { file: files.locate("config.json"), message })
            }
        }
    }

    /// Rows of the embedding table.
    pub fn vocab_size(&self) -> usize {
        self.source.summary.vocab_size
    }

    /// How many weights there are.
    pub fn parameters(&self) -> usize {
        self.source.summary.parameters
    }

    /// Bytes that the weights take now.
    pub fn bytes(&self) -> usize {
        self.source.summary.weight_bytes
    }

    /// The tensors of an MLX model whose matrices are quantised to `bits` in groups of `group_size`, as mlx-lm names
    /// them. Matrices whose rows are no whole groups stay as they are.
    ///
    /// # Errors
    /// [`Error::UnfitTensor`] for a tensor that holds no floating-point numbers.
    pub fn to_mlx(&self, bits: usize, group_size: usize) -> Result<Vec<ExportedTensor>> {
        let affine = Form::Affine { bits, group_size };
        let convert = |(name, original): (String, Original)| {
            let is_matrix = original.shape().len() == 2 && name.ends_with(".weight");
            let columns = original.shape().last().copied().unwrap_or_default();
            let form = if is_matrix && affine.fits(columns) { affine } else { Form::Float(original.dtype()) };
            ExportedTensor { name, original, conversion: Conversion { form, rows: RowOrder::Unchanged, shift: 0.0 } }
        };
        Ok(self.originals("language_model.")?.into_iter().map(convert).collect())
    }

    /// The tensors of a GGUF model, and what its header says of it besides them and the tokeniser.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a model of which llama.cpp knows no such kind; [`Error::UnfitTensor`] for a tensor that
    /// holds no floating-point numbers.
    pub fn to_gguf(&self, gguf_type: GgufType) -> Result<gguf::Plan> {
        gguf::plan(&self.source.summary, &self.source.config, self.originals("")?, gguf_type)
    }

    /// Every tensor, by the name that a model of this architecture usually has for it; `nested` stands before it in one
    /// with vision.
    fn originals(&self, nested: &str) -> Result<Vec<(String, Original)>> {
        let Source { checkpoint, prefixes: Prefixes { model, lm_head }, summary, .. } = &self.source;
        let nested = if summary.architecture == "gemma3" { nested } else { "" };
        let rename = |name: &str| {
            let under = |prefix: &str| name.strip_prefix(prefix)?.strip_prefix('.').map(str::to_owned);
            match under(lm_head) {
                Some(rest) => format!("{nested}lm_head.{rest}"),
                None if model.is_empty() => format!("{nested}model.{name}"),
                None => format!("{nested}model.{}", under(model).unwrap_or_else(|| name.to_owned())),
            }
        };
        checkpoint.tensors().map(|(name, _)| Ok((rename(name), checkpoint.original(name)?))).collect()
    }
}

impl ExportedTensor {
    /// The shape of the tensor, as it is and will be.
    pub fn shape(&self) -> &Shape {
        self.original.shape()
    }

    /// Bytes that it will take.
    pub fn written_bytes(&self) -> usize {
        let columns = self.shape().last().copied().unwrap_or(1);
        let rows = self.shape().elements().checked_div(columns).unwrap_or(0);
        rows * self.conversion.form.row_bytes(columns, self.original.dtype())
    }
}
