// SPDX-License-Identifier: EUPL-1.2
//! The header of a GGUF file: metadata, then what the tensors are and where.

use std::collections::BTreeMap;

use ingle_tensor::{Bytes, Shape};

use super::cursor::{AGAIN, Cursor, Refusal};
use super::value::{Value, quote};
use super::{GgmlType, GgufTensor};

const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;

/// As many axes as ggml's tensors have.
const MOST_AXES: u32 = 4;

type Parsed = (BTreeMap<String, Value>, BTreeMap<String, GgufTensor>);

/// The metadata and tensors of a file.
pub(super) fn parse(content: &Bytes) -> Result<Parsed, Refusal> {
    check_magic(content)?;
    let mut cursor = Cursor::new(content);
    cursor.take(MAGIC.len())?;
    check_version(cursor.u32()?)?;
    // Counts are believed one item at a time: each has to be there.
    let (tensors, values) = (cursor.u64()?, cursor.u64()?);
    check_counts(tensors, values, content.len())?;
    let metadata = read_metadata(&mut cursor, values)?;
    let infos = read_infos(&mut cursor, tensors)?;
    let alignment = read_alignment(&metadata)?;
    let data = (cursor.at() as u64).checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    check_overlap(&infos)?;
    let place = |(name, info): (&str, Info)| match info.place(content, data, alignment) {
        Ok(tensor) => Ok((name.to_owned(), tensor)),
        Err(refusal) => Err(format!("tensor {}: {refusal}", quote(name))),
    };
    Ok((metadata, infos.into_iter().map(place).collect::<Result<_, _>>()?))
}

/// Refuses counts of so many things that they cannot be there, however small each is: a name without letters after its
/// length, then a tensor's axes, type and offset, or a value's type and one byte.
fn check_counts(tensors: u64, values: u64, size: usize) -> Result<(), Refusal> {
    const TENSOR: u64 = 8 + 4 + 4 + 8;
    const VALUE: u64 = 8 + 4 + 1;
    let least = tensors.saturating_mul(TENSOR).saturating_add(values.saturating_mul(VALUE));
    if least <= size as u64 {
        return Ok(());
    }
    Err(format!(
        "announces {tensors} tensors and {values} metadata values, more than {size} bytes can hold: truncated or damaged; \
         {AGAIN}"
    ))
}

fn check_magic(content: &[u8]) -> Result<(), Refusal> {
    if content.starts_with(MAGIC) {
        return Ok(());
    }
    if content.starts_with(b"version https://git-lfs") {
        return Err("is a Git LFS pointer, not the model; run `git lfs pull`".into());
    }
    if [b"lmgg", b"fmgg", b"tjgg"].into_iter().any(|magic| content.starts_with(magic)) {
        return Err("is of a format that came before GGUF; convert the model again with a current llama.cpp".into());
    }
    let found = content[..content.len().min(MAGIC.len())].escape_ascii();
    Err(format!("expected a GGUF file, beginning with `GGUF`, found `{found}`; {AGAIN}"))
}

fn check_version(version: u32) -> Result<(), Refusal> {
    match version {
        2 | 3 => Ok(()),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            Err("is big-endian, expected little-endian; convert the model again for this machine".into())
        }
        _ => Err(format!("expected GGUF version 2 or 3, found {version}; convert the model again with llama.cpp")),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<BTreeMap<String, Value>, Refusal> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = cursor.text().map_err(|refusal| format!("key {index} of {count} of the metadata: {refusal}"))?;
        let value = Value::read(cursor).map_err(|refusal| format!("metadata {}: {refusal}", quote(key)))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(format!("metadata {} is there twice; {AGAIN}", quote(key)));
        }
    }
    Ok(metadata)
}

fn read_alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, Refusal> {
    let Some(value) = metadata.get(ALIGNMENT) else { return Ok(DEFAULT_ALIGNMENT) };
    let alignment = value.integer().and_then(|alignment| u64::try_from(alignment).ok());
    alignment
        .filter(|alignment| alignment.is_power_of_two())
        .ok_or_else(|| format!("metadata `{ALIGNMENT}`: expected a power of two, found {value}"))
}

/// What the header says of a tensor.
struct Info {
    ggml_type: GgmlType,
    shape: Shape,
    /// From the start of the data.
    offset: u64,
    bytes: usize,
}

fn read_infos<'a>(cursor: &mut Cursor<'a>, count: u64) -> Result<BTreeMap<&'a str, Info>, Refusal> {
    let mut infos = BTreeMap::new();
    for index in 0..count {
        let name = cursor.text().map_err(|refusal| format!("name of tensor {index} of {count}: {refusal}"))?;
        let info = Info::read(cursor).map_err(|refusal| format!("tensor {}: {refusal}", quote(name)))?;
        if infos.insert(name, info).is_some() {
            return Err(format!("tensor {} is there twice; {AGAIN}", quote(name)));
        }
    }
    Ok(infos)
}

impl Info {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Refusal> {
        let axes = cursor.u32()?;
        if axes > MOST_AXES {
            return Err(format!("expected at most {MOST_AXES} axes, found {axes}"));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            let len = cursor.u64()?;
            shape.push(usize::try_from(len).map_err(|_| format!("an axis of {len} elements fits no memory"))?);
        }
        let (block_axis, id) = (shape.first().copied().unwrap_or(1), cursor.u32()?);
        let ggml_type = GgmlType::from_id(id).ok_or_else(|| {
            format!("type {id} is unknown: withdrawn from ggml, or newer than this program; convert the model again")
        })?;
        shape.reverse();
        let shape = Shape::from(shape);
        if !block_axis.is_multiple_of(ggml_type.block_len()) {
            let block = ggml_type.block_len();
            return Err(format!("{ggml_type}{shape}: expected rows of a multiple of {block} elements"));
        }
        let blocks = shape.checked_elements().map(|elements| elements / ggml_type.block_len());
        let bytes = blocks
            .and_then(|blocks| blocks.checked_mul(ggml_type.block_bytes()))
            .ok_or_else(|| format!("{ggml_type}{shape} has more elements than fit any memory"))?;
        Ok(Info { ggml_type, shape, offset: cursor.u64()?, bytes })
    }

    /// The tensor in a file whose data begin at byte `data`.
    fn place(self, content: &Bytes, data: u64, alignment: u64) -> Result<GgufTensor, Refusal> {
        let Info { ggml_type, shape, offset, bytes } = self;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("expected an offset that is a multiple of {alignment}, found {offset}"));
        }
        let range = || {
            let start = usize::try_from(data.checked_add(offset)?).ok()?;
            Some(start..start.checked_add(bytes)?)
        };
        let left = (content.len() as u64).saturating_sub(data);
        let content = match range() {
            // A file without data may end before they would begin.
            _ if bytes == 0 => Bytes::new(),
            Some(range) if range.end <= content.len() => content.slice(range),
            _ => {
                return Err(format!(
                    "{ggml_type}{shape} takes {bytes} bytes from byte {offset} of the data, of which there are {left}: \
                     truncated; {AGAIN}"
                ));
            }
        };
        Ok(GgufTensor { ggml_type, shape, content })
    }
}

fn check_overlap(infos: &BTreeMap<&str, Info>) -> Result<(), Refusal> {
    let mut in_order: Vec<(&str, &Info)> = infos.iter().map(|(name, info)| (*name, info)).collect();
    in_order.retain(|(_, info)| info.bytes > 0);
    in_order.sort_by_key(|(_, info)| info.offset);
    for pair in in_order.windows(2) {
        let [(name, info), (next_name, next)] = pair else { continue };
        if next.offset - info.offset < info.bytes as u64 {
            let (name, next_name) = (quote(name), quote(next_name));
            return Err(format!("tensors {name} and {next_name} overlap at byte {} of the data", next.offset));
        }
    }
    Ok(())
}
