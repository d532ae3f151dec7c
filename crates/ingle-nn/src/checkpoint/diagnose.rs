// SPDX-License-Identifier: EUPL-1.2
//! Why a safetensors file was refused, in words that name the tensor and the numbers.

use safetensors::SafeTensorError;
use safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

const AGAIN: &str = "download the file again";

/// One line on what is wrong with a file that the `safetensors` crate refused with `error`.
pub(super) fn explain(content: &[u8], error: &SafeTensorError) -> String {
    if content.starts_with(b"version https://git-lfs") {
        return "is a Git LFS pointer, not the weights; run `git lfs pull`".into();
    }
    let Some((length, rest)) = content.split_first_chunk::<8>() else {
        return format!("expected a safetensors header, found a file of {} bytes; {AGAIN}", content.len());
    };
    let length = u64::from_le_bytes(*length);
    let Some((header, data)) = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length)) else {
        let found = rest.len();
        return format!(
            "announces a header of {length} bytes, but {found} follow: truncated or not safetensors; {AGAIN}"
        );
    };
    match serde_json::from_slice::<Map<String, Value>>(header) {
        Ok(header) => explain_tensors(header, data.len()).unwrap_or_else(|| format!("{error}; {AGAIN}")),
        Err(_) => format!("{error}; {AGAIN}"),
    }
}

/// The first tensor at fault in file order, if one is.
fn explain_tensors(header: Map<String, Value>, data: usize) -> Option<String> {
    let mut tensors = Vec::new();
    for (name, value) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
        match serde_json::from_value::<TensorInfo>(value) {
            Ok(info) => tensors.push((name, info)),
            Err(error) => return Some(format!("tensor `{name}`: {error}")),
        }
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut expected = 0;
    for (name, info) in &tensors {
        let (start, end) = info.data_offsets;
        if start != expected || end < start {
            return Some(format!(
                "tensor `{name}`: offsets {start}..{end} leave a gap, overlap or run backwards; expected a start at {expected}"
            ));
        }
        let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &len| n.checked_mul(len));
        if bits.is_none_or(|bits| !bits.is_multiple_of(8) || bits / 8 != end - start) {
            let needed = bits.map_or("more bytes than there are".into(), |bits| format!("{} bytes", bits.div_ceil(8)));
            let (dtype, shape, found) = (info.dtype, &info.shape, end - start);
            return Some(format!("tensor `{name}`: {dtype}{shape:?} needs {needed}, its offsets give {found}"));
        }
        if end > data {
            return Some(format!(
                "tensor `{name}`: ends at byte {end} of the data, of which there are {data}; {AGAIN}"
            ));
        }
        expected = end;
    }
    (expected != data).then(|| format!("its tensors take {expected} bytes, found {data}; {AGAIN}"))
}
