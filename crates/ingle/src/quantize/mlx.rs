// SPDX-License-Identifier: EUPL-1.2
//! A directory in MLX's format, as `mlx_lm.convert` writes it.

use std::path::Path;

use ingle_models::{COMPANIONS, Export, ExportedTensor};
use ingle_nn::output::{OutputFile, Part};
use ingle_nn::quantise::Form;
use ingle_nn::{ModelFiles, SafetensorsHeader};
use ingle_tensor::{DType, Quantization, Shape};
use serde_json::{Map, Value, json};

use super::Pace;
use crate::Result;

mod config;

/// Bytes of weights in one file.
const SHARD: usize = 5 << 30;

/// Writes the directory. Gives the bytes that the weights take, and how many matrices stay as they were.
pub(super) fn write(
    files: &ModelFiles,
    export: &Export,
    quantization: Quantization,
    out: &Path,
    pace: &mut Pace<'_>,
) -> Result<(usize, usize)> {
    let Quantization::Affine { bits, group_size } = quantization else { return Ok((0, 0)) };
    let tensors = export.to_mlx(bits, group_size)?;
    let stays = |tensor: &&ExportedTensor| {
        let is_matrix = tensor.shape().len() == 2 && tensor.name.ends_with(".weight");
        is_matrix && matches!(tensor.conversion.form, Form::Float(_))
    };
    let left = tensors.iter().filter(stays).count();
    let config: Map<String, Value> = files.read_json("config.json", "it says what the model is")?;
    let config = config::quantised(config, bits, group_size);

    let part = Part::folder(out)?;
    let put = |name: &str, content: &[u8]| {
        let mut file = OutputFile::create(&part.path().join(name))?;
        file.write(content)?;
        Ok::<_, crate::Error>(file.finish()?)
    };
    put("config.json", format!("{:#}\n", Value::Object(config)).as_bytes())?;
    for name in COMPANIONS {
        if let Some(content) = files.find(name)? {
            put(name, &content)?;
        }
    }
    let shards = shards(tensors);
    let mut weight_map = Map::new();
    let mut bytes = 0;
    let count = shards.len();
    for (index, shard) in shards.into_iter().enumerate() {
        let name = match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let parts = shard.iter().flat_map(|tensor| parts(tensor).map(|(part, ..)| part));
        weight_map.extend(parts.map(|part| (part, json!(name))));
        bytes += write_shard(shard, &part.path().join(&name), pace)?;
    }
    if count > 1 {
        let index = json!({"metadata": {"total_size": bytes}, "weight_map": weight_map});
        put("model.safetensors.index.json", format!("{index:#}\n").as_bytes())?;
    }
    part.finish()?;
    Ok((bytes, left))
}

/// Tensors, as many to a file as are at most [`SHARD`] bytes.
fn shards(tensors: Vec<ExportedTensor>) -> Vec<Vec<ExportedTensor>> {
    let (mut shards, mut bytes) = (vec![Vec::new()], 0);
    for tensor in tensors {
        bytes += tensor.written_bytes();
        if bytes > SHARD && shards.last().is_some_and(|shard| !shard.is_empty()) {
            shards.push(Vec::new());
            bytes = tensor.written_bytes();
        }
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

/// The tensors in the file that stand for one of the model: name, dtype and shape.
fn parts(tensor: &ExportedTensor) -> impl Iterator<Item = (String, DType, Shape)> {
    let (name, shape, dtype) = (&tensor.name, tensor.shape(), tensor.original.dtype());
    let Form::Affine { bits, group_size } = tensor.conversion.form else {
        return vec![(name.clone(), dtype, shape.clone())].into_iter();
    };
    let layer = name.strip_suffix("weight").unwrap_or(name);
    let columns = shape.last().copied().unwrap_or_default();
    let rows = |columns: usize| shape.with_axis(shape.len().saturating_sub(1), columns);
    vec![
        (name.clone(), DType::U32, rows(columns * bits / 32)),
        (format!("{layer}scales"), dtype, rows(columns / group_size)),
        (format!("{layer}biases"), dtype, rows(columns / group_size)),
    ]
    .into_iter()
}

fn write_shard(tensors: Vec<ExportedTensor>, path: &Path, pace: &mut Pace<'_>) -> Result<usize> {
    let mut header = SafetensorsHeader::new("mlx");
    for (name, dtype, shape) in tensors.iter().flat_map(parts) {
        header.tensor(&name, dtype, &shape);
    }
    let mut file = OutputFile::create(path)?;
    file.write(&header.bytes())?;
    for tensor in tensors {
        let Form::Affine { bits, .. } = tensor.conversion.form else {
            pace.convert(&tensor, |piece| Ok(file.write(piece)?))?;
            continue;
        };
        // Rows come with their scales and offsets, which the file has after all words.
        let columns = tensor.shape().last().copied().unwrap_or_default();
        let row_bytes = tensor.conversion.form.row_bytes(columns, tensor.original.dtype());
        let (words, groups) = (columns * bits / 8, (row_bytes - columns * bits / 8) / 2);
        let (mut scales, mut offsets, mut packed) = (Vec::new(), Vec::new(), Vec::new());
        pace.convert(&tensor, |piece| {
            packed.clear();
            for row in piece.chunks_exact(row_bytes.max(1)) {
                packed.extend_from_slice(&row[..words]);
                scales.extend_from_slice(&row[words..words + groups]);
                offsets.extend_from_slice(&row[words + groups..]);
            }
            Ok(file.write(&packed)?)
        })?;
        file.write(&scales)?;
        file.write(&offsets)?;
    }
    file.finish()?;
    Ok(header.data_bytes())
}
