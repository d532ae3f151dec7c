// SPDX-License-Identifier: EUPL-1.2
//! `ingle info`: what a model is.

use ingle::{Inspection, Memory, WeightForm};
use serde_json::{Value, json};

use crate::args::{ModelArgs, kv_dtype_name};
use crate::{Failure, output};

/// Say what a model is: architecture, sizes, weights, context, memory
///
/// All of it but the memory is read from the headers of the model's files, so that
/// it takes no longer for a large model.
///
/// Examples:
///   ingle info --model Qwen/Qwen3-0.6B
///   ingle info --model qwen3-Q4_K_M.gguf --load
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Load the model, too, and say what memory it takes; done anyway with --memory-limit, to see whether it fits
    #[arg(long)]
    load: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let Inspection { info, weights, memory } = self.model.inspect()?;
        let memory = match memory {
            None if self.load || self.model.memory_limit.is_some() => Some(self.model.load()?.memory()),
            memory => memory,
        };
        let summary = &info.summary;
        if self.json {
            return output::json(&json!({
                "name": info.name,
                "architecture": summary.architecture,
                "backend": info.backend,
                "parameters": summary.parameters,
                "weight_bytes": summary.weight_bytes,
                "weights": weights.iter().map(form_json).collect::<Vec<_>>(),
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
                "active_memory": memory.map(|memory| memory.active),
                "peak_memory": memory.map(|memory| memory.peak),
            }));
        }
        let context = match info.context_length {
            length if length == summary.context_length => format!("{} tokens", output::count(length)),
            length => format!("{} tokens (the model's own: {})", output::count(length), summary.context_length),
        };
        let kv_bytes = output::bytes(info.kv_token_bytes);
        let memory = match memory {
            Some(Memory { active, peak, .. }) => {
                format!("{} active, {} at most", output::bytes(active), output::bytes(peak))
            }
            None => "not loaded; --load says what it takes".into(),
        };
        let rows = [
            ("name", info.name.clone()),
            ("architecture", summary.architecture.clone()),
            ("backend", info.backend.clone()),
            ("parameters", output::count(summary.parameters)),
            ("weights", stored(&weights)),
            ("quantisation", summary.quantisation.clone().unwrap_or_else(|| "none".into())),
            ("layers", summary.layers.to_string()),
            ("hidden size", summary.hidden_size.to_string()),
            ("vocabulary", output::count(summary.vocab_size)),
            ("context", context),
            ("KV cache", format!("{kv_bytes} per token in {}", kv_dtype_name(info.kv_dtype))),
            ("chat template", info.chat_template.clone()),
            ("memory", memory),
        ];
        for (name, value) in rows {
            output::text(&format!("{name:<14} {value}\n"))?;
        }
        Ok(())
    }
}

fn form_json(form: &WeightForm) -> Value {
    json!({ "form": form.name, "parameters": form.parameters, "bytes": form.bytes })
}

/// What weights take, and of a mix what each form does: `1.0 MiB: 800 KiB as Q4_0, 224 KiB as bf16`.
fn stored(weights: &[WeightForm]) -> String {
    let total = output::bytes(weights.iter().map(|form| form.bytes).sum());
    match weights {
        [] => total,
        [only] => format!("{total} as {}", only.name),
        mix => {
            let parts: Vec<String> =
                mix.iter().map(|form| format!("{} as {}", output::bytes(form.bytes), form.name)).collect();
            format!("{total}: {}", parts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_shown_as_mixes_good() {
        let form = |name: &str, bytes| WeightForm { name: name.into(), parameters: 1, bytes };
        assert_eq!(stored(&[form("bf16", 2048)]), "2.00 KiB as bf16");
        let mix = [form("4 bits in groups of 64", 2048), form("bf16", 1024)];
        assert_eq!(stored(&mix), "3.00 KiB: 2.00 KiB as 4 bits in groups of 64, 1.00 KiB as bf16");
    }

    #[test]
    fn no_weights_at_all_ugly() {
        assert_eq!(stored(&[]), "0 B");
    }
}
