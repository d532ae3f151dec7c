// SPDX-License-Identifier: EUPL-1.2
//! How a model itself wants its tokens chosen: `generation_config.json`.

use ingle_engine::Sampling;
use ingle_nn::ModelFiles;
use serde::Deserialize;

use crate::Result;

/// The fields that matter here; transformers' defaults stand for those that are absent.
#[derive(Deserialize, Default)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// Sampling as `generation_config.json` has it; greedy without that file or without `do_sample` in it.
pub fn sampling(files: &ModelFiles) -> Result<Sampling> {
    let config: GenerationConfig = files.find_json("generation_config.json")?.unwrap_or_default();
    let greedy = Sampling { repetition_penalty: config.repetition_penalty.unwrap_or(1.0), ..Sampling::default() };
    if config.do_sample != Some(true) {
        return Ok(greedy);
    }
    Ok(Sampling {
        temperature: config.temperature.unwrap_or(1.0),
        top_p: config.top_p.unwrap_or(1.0),
        top_k: config.top_k.unwrap_or(50),
        min_p: config.min_p.unwrap_or(0.0),
        ..greedy
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_own_settings_good() {
        let files = ModelFiles::Embedded {
            name: "m",
            files: &[("generation_config.json", br#"{"do_sample": true, "temperature": 0.6, "top_p": 0.95}"#)],
        };
        let own = sampling(&files).unwrap();
        assert_eq!((own.temperature, own.top_p, own.top_k), (0.6, 0.95, 50));
    }

    #[test]
    fn a_malformed_file_is_refused_bad() {
        let files =
            ModelFiles::Embedded { name: "m", files: &[("generation_config.json", br#"{"temperature": "hot"}"#)] };
        assert!(sampling(&files).unwrap_err().to_string().starts_with("m/generation_config.json: "));
    }

    #[test]
    fn temperature_without_do_sample_is_greedy_ugly() {
        let files =
            ModelFiles::Embedded { name: "m", files: &[("generation_config.json", br#"{"temperature": 0.6}"#)] };
        assert_eq!(sampling(&files).unwrap(), Sampling::default());
        assert_eq!(sampling(&ModelFiles::Embedded { name: "m", files: &[] }).unwrap(), Sampling::default());
    }
}
