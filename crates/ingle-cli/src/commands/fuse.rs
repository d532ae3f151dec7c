// SPDX-License-Identifier: EUPL-1.2
//! `ingle fuse`: merge an adapter into its model.

use std::path::PathBuf;

use serde_json::json;

use crate::output::Progress;
use crate::{Failure, interrupt, output};

/// Merge a LoRA adapter into its model for good
///
/// What comes out is a model like the one it was made of, in the same form: dense
/// weights stay dense, those in MLX's quantised format or in GGUF's are unpacked,
/// changed and quantised again. It needs no adapter any more, and runs as fast as
/// before. What is written comes to its place when it is whole.
///
/// Examples:
///   ingle fuse --model Qwen/Qwen3-0.6B --adapter adapters/formal --out qwen3-formal
///   ingle generate --model qwen3-formal --prompt "Dear Sir"
///   ingle fuse --model qwen3-Q8_0.gguf --adapter adapters/formal --out formal.gguf
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A model directory, a .gguf file, the name of a pulled model (owner/name), or `demo`
    #[arg(long, short, default_value = "demo", env = "INGLE_MODEL", value_name = "MODEL")]
    model: String,

    /// The adapter: a directory of PEFT's, mlx-lm's or Ingle's
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,

    /// The directory to write; a .gguf file if the model is one
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let (progress, cancel) = (Progress::bytes("fusing"), interrupt::token()?);
        let fused = ingle::fuse(&self.model, &self.adapter, &self.out, &cancel, &mut |p| {
            progress.set(p.loaded_bytes as u64, p.total_bytes as u64);
        });
        progress.done();
        let fused = fused?;
        if self.json {
            return output::json(&json!({
                "path": fused.path,
                "layers": fused.layers,
                "weight_bytes": fused.bytes,
            }));
        }
        output::text(&format!("{}\n", fused.path.display()))?;
        output::note(&format!("{} layers changed, {} of weights", fused.layers, output::bytes(fused.bytes)));
        Ok(())
    }
}
