// SPDX-License-Identifier: EUPL-1.2
//! `ingle quantize`: make a model smaller.

use std::path::PathBuf;

use clap::ValueEnum;
use ingle::{GgufType, QuantizeFormat};
use serde_json::json;

use crate::output::Progress;
use crate::{Failure, interrupt, output};

/// Write a model with fewer bits for each weight
///
/// As MLX (a directory that mlx-lm loads, too): matrices in groups of weights that
/// share a scale. As GGUF (a file that llama.cpp loads, too): in one of its types.
/// The model has to be the original, in safetensors. What is written comes to
/// its place when it is whole.
///
/// Examples:
///   ingle quantize Qwen/Qwen3-0.6B --bits 4 --group-size 64 qwen3-4bit
///   ingle quantize Qwen/Qwen3-0.6B --format gguf --type q4_k_m qwen3-q4_k_m.gguf
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model directory, the name of a pulled model (owner/name), or `demo`
    #[arg(value_name = "MODEL")]
    model: String,

    /// Where to write: a directory for MLX, a file for GGUF
    #[arg(value_name = "OUT")]
    out: PathBuf,

    /// The format to write
    #[arg(long, value_enum, default_value_t = Format::Mlx)]
    format: Format,

    /// MLX: bits of a weight: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "gguf_type")]
    bits: usize,

    /// MLX: weights that share a scale: 32, 64 or 128
    #[arg(long, value_name = "N", default_value_t = 64, conflicts_with = "gguf_type")]
    group_size: usize,

    /// GGUF: how most weights are stored: q8_0, q4_0, q4_k_m, …
    #[arg(long = "type", id = "gguf_type", value_name = "TYPE", value_parser = gguf_type, required_if_eq("format", "gguf"))]
    gguf_type: Option<GgufType>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Mlx,
    Gguf,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let format = match (self.format, self.gguf_type) {
            (Format::Mlx, None) => QuantizeFormat::Mlx { bits: self.bits, group_size: self.group_size },
            (Format::Gguf, Some(gguf_type)) => QuantizeFormat::Gguf(gguf_type),
            (Format::Mlx, Some(_)) => return Err("--type: expected --format gguf beside it".into()),
            (Format::Gguf, None) => return Err("--format gguf: expected --type beside it".into()),
        };
        let (progress, cancel) = (Progress::bytes("quantising"), interrupt::token()?);
        let written = ingle::quantize(&self.model, &self.out, &format, &cancel, &mut |p| {
            progress.set(p.loaded_bytes as u64, p.total_bytes as u64);
        });
        progress.done();
        let written = written?;
        if self.json {
            return output::json(&json!({
                "path": written.path,
                "parameters": written.parameters,
                "original_bytes": written.original_bytes,
                "weight_bytes": written.bytes,
                "left_unquantised": written.left,
            }));
        }
        output::text(&format!("{}\n", written.path.display()))?;
        let bits = 8.0 * written.bytes as f64 / written.parameters.max(1) as f64;
        let (before, now) = (output::bytes(written.original_bytes), output::bytes(written.bytes));
        output::note(&format!("{now} of weights, {before} before: {bits:.2} bits a weight"));
        if written.left > 0 {
            let (left, group_size) = (written.left, self.group_size);
            output::note(&format!(
                "{left} matrices stay as they were: groups of {group_size} do not divide their rows; smaller groups may"
            ));
        }
        Ok(())
    }
}

fn gguf_type(text: &str) -> Result<GgufType, String> {
    let named = GgufType::ALL.into_iter().find(|known| known.name() == text.to_lowercase());
    named.ok_or_else(|| {
        let known: Vec<&str> = GgufType::ALL.into_iter().map(GgufType::name).collect();
        format!("expected one of {}", known.join(", "))
    })
}
