// SPDX-License-Identifier: EUPL-1.2
//! Writing safetensors files.

use std::path::Path;

use ingle_tensor::{DType, Shape, Tensor};
use serde_json::{Map, Value, json};

use crate::Result;
use crate::output::OutputFile;

/// What stands before the data of a safetensors file that is being written. The data follow in the order in which their
/// tensors were added, without gaps.
///
/// ```
/// use ingle_nn::{Checkpoint, ModelFiles, SafetensorsHeader};
/// use ingle_tensor::{DType, Shape};
///
/// let mut header = SafetensorsHeader::new("pt");
/// header.tensor("w", DType::F32, &Shape::from([2]));
/// let mut file = header.bytes();
/// file.extend([1.0f32, 2.0].map(f32::to_le_bytes).concat());
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("model.safetensors"), file)?;
/// let checkpoint = Checkpoint::open(&ModelFiles::directory(folder.path())?)?;
/// assert_eq!(checkpoint.get("w").expect("it is there").describe(), "F32[2]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct SafetensorsHeader {
    entries: Map<String, Value>,
    data: usize,
}

impl SafetensorsHeader {
    /// The header of a file that names its `format`: `pt` or `mlx`.
    pub fn new(format: &str) -> Self {
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), json!({ "format": format }));
        SafetensorsHeader { entries, data: 0 }
    }

    /// Adds a tensor. Gives the bytes that its data take.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &Shape) -> usize {
        let bytes = shape.elements() * dtype.size();
        let offsets = [self.data, self.data + bytes];
        let dtype = dtype.name().to_uppercase();
        self.entries.insert(name.into(), json!({"dtype": dtype, "shape": **shape, "data_offsets": offsets}));
        self.data += bytes;
        bytes
    }

    /// Bytes of data so far.
    pub fn data_bytes(&self) -> usize {
        self.data
    }

    /// The header as it stands in the file, filled up so that the data are aligned.
    pub fn bytes(&self) -> Vec<u8> {
        const ALIGNMENT: usize = 8;
        let mut json = Value::Object(self.entries.clone()).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
        [&(json.len() as u64).to_le_bytes()[..], &json].concat()
    }
}

/// Writes a safetensors file that names its `format` (`pt` or `mlx`): tensors with their names, each in its own dtype.
/// It is on the disk when this returns.
///
/// # Errors
/// [`Error::Output`](crate::Error::Output) if it cannot be written; the device's own.
pub fn write_safetensors(path: &Path, format: &str, tensors: &[(String, Tensor)]) -> Result<()> {
    let mut header = SafetensorsHeader::new(format);
    for (name, tensor) in tensors {
        header.tensor(name, tensor.dtype(), tensor.shape());
    }
    let mut file = OutputFile::create(path)?;
    file.write(&header.bytes())?;
    for (_, tensor) in tensors {
        file.write(&tensor.device().download(tensor)?)?;
    }
    file.finish()
}
