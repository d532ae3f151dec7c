// SPDX-License-Identifier: EUPL-1.2
//! Making a model smaller: quantised files of a dense checkpoint, in MLX's format or in GGUF.

mod gguf;
mod mlx;

use std::path::{Path, PathBuf};

use ingle_engine::text::GgufVocabulary;
use ingle_models::{Export, ExportedTensor, GgufType};
use ingle_nn::{LoadProgress, output};
use ingle_tensor::Quantization;

use crate::{CancelToken, Error, Result, discover};

/// How [`quantize`] writes a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuantizeFormat {
    /// A directory of safetensors in MLX's format, with `config.json` and the tokeniser: for mlx-lm, and for Ingle.
    Mlx {
        /// Bits of a weight: 2, 3, 4, 5, 6 or 8.
        bits: usize,
        /// Weights that share a scale: 32, 64 or 128.
        group_size: usize,
    },
    /// A GGUF file: for llama.cpp and its kin, and for Ingle.
    Gguf(GgufType),
}

/// What [`quantize`] has written.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// Where.
    pub path: PathBuf,
    /// Bytes that the weights took before.
    pub original_bytes: usize,
    /// Bytes that they take now.
    pub bytes: usize,
    /// How many there are.
    pub parameters: usize,
    /// Matrices that stay as they were: groups of an MLX model's size do not divide their rows.
    pub left: usize,
}

/// Writes the model called `model` (see [`crate::load`]) to `out`, in another format. `progress` is called after every
/// few megabytes read; when `cancel` is cancelled, what was written is removed again.
///
/// All is written beside `out` first: that is there whole or not at all.
///
/// ```no_run
/// use ingle::{CancelToken, GgufType, QuantizeFormat};
///
/// let format = QuantizeFormat::Gguf(GgufType::Q4KM);
/// let written = ingle::quantize("Qwen/Qwen3-0.6B", "qwen3.gguf", &format, &CancelToken::new(), &mut |_| {})?;
/// println!("{:.2} bits a weight", 8.0 * written.bytes as f64 / written.parameters as f64);
/// # Ok::<(), ingle::Error>(())
/// ```
///
/// # Errors
/// A model that is not there, is quantised already, or is of a kind that the format cannot hold; weights that are not
/// finite; [`ingle_nn::Error::Output`] if `out` is there already or cannot be written; [`Error::Cancelled`].
pub fn quantize(
    model: &str,
    out: impl AsRef<Path>,
    format: &QuantizeFormat,
    cancel: &CancelToken,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Quantized> {
    let (files, out) = (discover::resolve(model)?, out.as_ref());
    if out.exists() {
        return Err(output::refused(out, "is there already; remove it, or give another path").into());
    }
    let export = Export::open(&files)?;
    let mut pace = Pace { read: 0, total: export.bytes(), cancel, progress };
    let (bytes, left) = match *format {
        QuantizeFormat::Mlx { bits, group_size } => {
            one_of("bits", bits, &Quantization::AFFINE_BITS)?;
            one_of("group_size", group_size, &Quantization::AFFINE_GROUPS)?;
            mlx::write(&files, &export, Quantization::Affine { bits, group_size }, out, &mut pace)?
        }
        QuantizeFormat::Gguf(gguf_type) => {
            let plan = export.to_gguf(gguf_type)?;
            let vocabulary = GgufVocabulary::from_files(&files, export.vocab_size())?;
            (gguf::write(plan, &vocabulary, out, &mut pace)?, 0)
        }
    };
    let (original_bytes, parameters) = (export.bytes(), export.parameters());
    Ok(Quantized { path: out.into(), original_bytes, bytes, parameters, left })
}

fn one_of(option: &'static str, found: usize, allowed: &[usize]) -> Result<()> {
    if allowed.contains(&found) {
        return Ok(());
    }
    let allowed: Vec<String> = allowed.iter().map(usize::to_string).collect();
    Err(Error::Option { option, expected: format!("one of {}", allowed.join(", ")), found: found.to_string() })
}

/// How far the work is, and whether it is still wanted.
struct Pace<'a> {
    read: usize,
    total: usize,
    cancel: &'a CancelToken,
    progress: &'a mut dyn FnMut(LoadProgress),
}

impl Pace<'_> {
    /// Converts a tensor, and hands its pieces to `write`.
    fn convert(&mut self, tensor: &ExportedTensor, mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (read, bytes) = (self.read, tensor.original.bytes());
        let total = tensor.written_bytes().max(1);
        let mut written = 0;
        tensor.original.convert(&tensor.conversion, |piece| {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            write(piece)?;
            written += piece.len();
            let share = (written as f64 / total as f64).min(1.0);
            self.report(read + (share * bytes as f64) as usize);
            Ok(())
        })?;
        self.report(read + bytes);
        Ok(())
    }

    fn report(&mut self, read: usize) {
        self.read = read;
        (self.progress)(LoadProgress { loaded_bytes: read, total_bytes: self.total });
    }
}
