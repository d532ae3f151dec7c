// SPDX-License-Identifier: EUPL-1.2
//! `ingle devices`: what models can run on here.

use serde_json::json;

use crate::{Failure, output};

/// List the backends and what each would run on here; the first that is available is the default
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Result<(), Failure> {
        let probes: Vec<_> = ingle::backends().into_iter().map(|backend| (backend.name(), backend.probe())).collect();
        if self.json {
            let rows: Vec<_> = probes
                .iter()
                .map(|(name, probe)| match probe {
                    Ok(description) => json!({"name": name, "available": true, "description": description}),
                    Err(reason) => json!({"name": name, "available": false, "reason": reason}),
                })
                .collect();
            return output::json(&rows);
        }
        for (name, probe) in probes {
            let line = match probe {
                Ok(description) => description,
                Err(reason) => format!("not available: {reason}"),
            };
            output::text(&format!("{name:<8} {line}\n"))?;
        }
        Ok(())
    }
}
