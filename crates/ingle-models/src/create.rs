// SPDX-License-Identifier: EUPL-1.2
//! A model that knows nothing yet.

use ingle_nn::{Error, Initialisation, ModelFiles, Result, Weights};
use ingle_tensor::{DType, DeviceHandle};

use crate::config::Config;
use crate::decoder::{Decoder, Prefixes};
use crate::load::{PLAIN, read_config};
use crate::{Model, Summary};

/// How a model is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// Another seed gives other weights.
    pub seed: u64,
    /// Of the weights: a float.
    pub dtype: DType,
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions { seed: 0, dtype: DType::F32 }
    }
}

/// A model of the architecture and sizes that `config.json` says, with random weights: matrices normal with
/// `initializer_range` (0.02 where there is none) as their standard deviation, norms that scale nothing, biases of 0.
/// It is how transformers begins one.
///
/// ```
/// use std::sync::Arc;
///
/// use ingle_cpu::{CpuDevice, CpuOptions};
/// use ingle_models::{CreateOptions, create};
/// use ingle_nn::ModelFiles;
/// use ingle_tensor::DeviceHandle;
///
/// const CONFIG: &[u8] = br#"{
///     "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
///     "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": true
/// }"#;
/// let files = ModelFiles::Embedded { name: "new", files: &[("config.json", CONFIG)] };
/// let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default())?);
/// let model = create(&files, &device, &CreateOptions::default())?;
/// assert_eq!(model.summary().parameters, 64 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16);
/// # Ok::<(), ingle_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::Malformed`] for a configuration that is wrong, unknown or not supported; [`Error::MissingFile`] if there is
/// none; past the device's memory.
pub fn create(files: &ModelFiles, device: &DeviceHandle, options: &CreateOptions) -> Result<Box<dyn Model>> {
    let CreateOptions { seed, dtype } = *options;
    if !dtype.is_float() {
        let (expected, found) = ("weights as f32, f16 or bf16".into(), dtype.to_string());
        return Err(Error::Tensor(ingle_tensor::Error::DType { op: "create", expected, found }));
    }
    let file = Config::open(files)?;
    let (architecture, config) = read_config(&file)?;
    let text = file.object("text_config")?.unwrap_or_else(|| file.clone());
    let standard_deviation = text.number("initializer_range", 0.02)?;
    let weights = Weights::initial(device, Initialisation { seed, standard_deviation, dtype });
    let summary = Summary {
        architecture: architecture.into(),
        vocab_size: config.vocab_size,
        layers: config.layer_types.len(),
        hidden_size: config.hidden_size,
        // Counted as they are made.
        parameters: 0,
        weight_bytes: 0,
        dtype,
        quantisation: None,
        context_length: config.max_position_embeddings,
    };
    // As transformers names them in a model with vision.
    let prefixes = match architecture {
        "gemma3" => Prefixes { model: "language_model.model", lm_head: "lm_head" },
        _ => PLAIN,
    };
    Ok(Box::new(Decoder::load(&config, summary, prefixes, &weights)?))
}
