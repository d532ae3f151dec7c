// SPDX-License-Identifier: EUPL-1.2
//! `ingle info`: what a model is.

use serde_json::json;

use crate::args::{ModelArgs, kv_dtype_name};
use crate::{Failure, output};

/// Say what a model is: architecture, sizes, weights, context, memory
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let model = self.model.load()?;
        let (info, memory) = (model.info(), model.memory());
        let summary = &info.summary;
        if self.json {
            return output::json(&json!({
                "name": info.name,
                "architecture": summary.architecture,
                "backend": info.backend,
                "parameters": summary.parameters,
                "weight_bytes": summary.weight_bytes,
                "dtype": summary.dtype.name(),
                "quantisation": summary.quantisation,
                "layers": summary.layers,
                "hidden_size": summary.hidden_size,
                "vocab_size": summary.vocab_size,
                "model_context_length": summary.context_length,
                "context_length": info.context_length,
                "kv_dtype": kv_dtype_name(info.kv_dtype),
                "kv_bytes_per_token": info.kv_token_bytes,
                "chat_template": info.chat_template,
                "active_memory": memory.active,
                "peak_memory": memory.peak,
            }));
        }
        let context = match info.context_length {
            length if length == summary.context_length => format!("{} tokens", output::count(length)),
            length => format!("{} tokens (the model's own: {})", output::count(length), summary.context_length),
        };
        let kv_bytes = output::bytes(info.kv_token_bytes);
        let rows = [
            ("name", info.name.clone()),
            ("architecture", summary.architecture.clone()),
            ("backend", info.backend.clone()),
            ("parameters", output::count(summary.parameters)),
            ("weights", format!("{} in {}", output::bytes(summary.weight_bytes), summary.dtype)),
            ("quantisation", summary.quantisation.clone().unwrap_or_else(|| "none".into())),
            ("layers", summary.layers.to_string()),
            ("hidden size", summary.hidden_size.to_string()),
            ("vocabulary", output::count(summary.vocab_size)),
            ("context", context),
            ("KV cache", format!("{kv_bytes} per token in {}", kv_dtype_name(info.kv_dtype))),
            ("chat template", info.chat_template.clone()),
            ("memory", format!("{} active, {} at most", output::bytes(memory.active), output::bytes(memory.peak))),
        ];
        for (name, value) in rows {
            output::text(&format!("{name:<14} {value}\n"))?;
        }
        Ok(())
    }
}
