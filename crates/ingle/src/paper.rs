// SPDX-License-Identifier: EUPL-1.2
//! A device that keeps what tensors are and none of their numbers. A model that is loaded onto it is checked against its
//! files' headers as any other, and nothing else of them is read.

use std::sync::Arc;

use ingle_models::{LoadOptions, Model, Summary};
use ingle_nn::{ModelFiles, Visitor};
use ingle_tensor::{Bytes, DType, Device, DeviceHandle, Memory, Op, Quantization, Spec, Storage, Tensor};

use crate::{Error, Result, WeightForm};

#[derive(Debug)]
struct Paper;

/// A tensor: how its numbers are stored, and in how many bytes.
struct Sheet {
    quantization: Option<Quantization>,
    bytes: usize,
}

impl Sheet {
    fn plain(spec: &Spec) -> Storage {
        Storage::new(Sheet { quantization: None, bytes: spec.bytes() })
    }
}

/// A new device.
pub fn device() -> DeviceHandle {
    Arc::new(Paper)
}

impl Device for Paper {
    fn name(&self) -> &'static str {
        "paper"
    }

    fn description(&self) -> String {
        "the headers of a model's files".into()
    }

    fn run(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> ingle_tensor::Result<Storage> {
        Ok(match op {
            Op::Dequantize { quantization, .. } => {
                let bytes = inputs.iter().map(|part| part.spec().bytes()).sum();
                Storage::new(Sheet { quantization: Some(*quantization), bytes })
            }
            _ => Sheet::plain(output),
        })
    }

    fn upload(&self, _: Bytes, spec: &Spec) -> ingle_tensor::Result<Storage> {
        Ok(Sheet::plain(spec))
    }

    fn download(&self, _: &Tensor) -> ingle_tensor::Result<Vec<u8>> {
        let message = "only headers were read, there are no numbers".into();
        Err(ingle_tensor::Error::Device { op: "download", device: self.name(), message })
    }

    fn activation_dtype(&self, weights: DType) -> DType {
        weights
    }

    fn keeps_numbers(&self) -> bool {
        false
    }

    fn memory(&self) -> Memory {
        Memory::default()
    }

    fn reset_peak_memory(&self) {}

    fn set_memory_limit(&self, _: Option<usize>) {}

    fn set_cache_limit(&self, _: Option<usize>) {}

    fn clear_cache(&self) {}
}

/// What a model is, from its configuration and headers alone.
///
/// # Errors
/// Whatever keeps it from being loaded, and can be seen there.
pub fn summary(files: &ModelFiles) -> Result<Summary> {
    let model = ingle_models::load(files, &device(), &LoadOptions::default(), &mut |_| {});
    let summary = model.map_err(|error| explained(files, error.into()))?.summary().clone();
    // The vocabulary of a GGUF file is part of its header.
    if let Some(gguf) = files.gguf()? {
        ingle_engine::text::Tokenizer::from_gguf(&gguf)?;
    }
    Ok(summary)
}

/// The forms in which the weights of a model on this device are kept, the one that takes the most bytes first.
pub fn forms(model: &mut dyn Model) -> Vec<WeightForm> {
    let mut forms: Vec<WeightForm> = Vec::new();
    model.visit(&mut Visitor::weights(&mut |_, weight| {
        let sheet = weight.storage().get::<Sheet>();
        let name = match sheet.and_then(|sheet| sheet.quantization) {
            Some(Quantization::Affine { bits, group_size }) => format!("{bits} bits in groups of {group_size}"),
            Some(Quantization::Blocks(format)) => format.name().to_owned(),
            None => weight.dtype().name().to_owned(),
        };
        let (parameters, bytes) = (weight.shape().elements(), sheet.map_or(0, |sheet| sheet.bytes));
        match forms.iter_mut().find(|form| form.name == name) {
            Some(form) => {
                form.parameters += parameters;
                form.bytes += bytes;
            }
            None => forms.push(WeightForm { name, parameters, bytes }),
        }
    }));
    forms.sort_by_key(|form| std::cmp::Reverse(form.bytes));
    forms
}

/// The error of a model that could not be loaded: that a GGUF file holds only a vocabulary says more than what it lacks
/// first.
pub fn explained(files: &ModelFiles, error: Error) -> Error {
    let ModelFiles::Gguf(path) = files else { return error };
    let Ok(parts) = ingle_nn::gguf::Gguf::open_parts(path) else { return error };
    if parts.iter().any(|part| part.tensors().next().is_some()) {
        return error;
    }
    let tokens = parts.first().map(|part| part.metadata().find::<&ingle_nn::gguf::Array>("tokenizer.ggml.tokens"));
    let found = match tokens {
        Some(Ok(Some(tokens))) => format!("a vocabulary of {} tokens and no weights", tokens.len()),
        _ => "no weights".to_owned(),
    };
    let message = format!(
        "expected a model, found {found}; download the whole model, or convert it again without --vocab-only (`ingle \
         tokenize` can use a vocabulary alone)"
    );
    ingle_nn::Error::Malformed { file: path.display().to_string(), message }.into()
}
