// SPDX-License-Identifier: EUPL-1.2
//! `ingle models`: which models are there.

use std::path::PathBuf;

use serde_json::json;

use crate::{Failure, output};

/// List models: the built-in one, and those in a folder (or in the hub's cache if none is given)
///
/// Every folder below DIR that holds a config.json and weights is listed, and every .gguf file; what is known to be of
/// no use from its header is listed with the reason.
#[derive(clap::Args)]
pub struct Args {
    /// Where to look; the hub's cache, where `ingle pull` puts models, if not given
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let mut found = vec![ingle::demo()];
        match &self.dir {
            Some(dir) => found.extend(ingle::discover(dir)?),
            None => found.extend(ingle::pulled()?),
        }
        if self.json {
            let rows: Vec<_> = found
                .iter()
                .map(|model| match &model.summary {
                    Ok(summary) => json!({
                        "name": model.name,
                        "architecture": summary.architecture,
                        "parameters": summary.parameters,
                        "weight_bytes": summary.weight_bytes,
                        "dtype": summary.dtype.name(),
                        "quantisation": summary.quantisation,
                        "context_length": summary.context_length,
                    }),
                    Err(error) => json!({ "name": model.name, "error": error.to_string() }),
                })
                .collect();
            return output::json(&rows);
        }
        let width = found.iter().map(|model| model.name.chars().count()).max().unwrap_or(0);
        for model in &found {
            let rest = match &model.summary {
                Ok(summary) => format!(
                    "{:<12} {:>14} parameters  {:>10}  {}",
                    summary.architecture,
                    output::count(summary.parameters),
                    output::bytes(summary.weight_bytes),
                    summary.quantisation.clone().unwrap_or_else(|| summary.dtype.name().into()),
                ),
                Err(error) => format!("not usable: {error}"),
            };
            output::text(&format!("{:<width$}  {rest}\n", model.name))?;
        }
        Ok(())
    }
}
