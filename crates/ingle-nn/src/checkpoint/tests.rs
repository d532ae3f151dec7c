// SPDX-License-Identifier: EUPL-1.2

use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A safetensors file of this header and so many bytes of data.
fn file(header: &Value, data: usize) -> Vec<u8> {
    let header = serde_json::to_vec(header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &vec![7; data]].concat()
}

fn two_tensors() -> Value {
    json!({
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
        "b.weight": {"dtype": "F32", "shape": [4], "data_offsets": [12, 28]},
    })
}

fn folder(files: &[(&str, Vec<u8>)]) -> (TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let files = ModelFiles::directory(folder.path()).unwrap();
    (folder, files)
}

/// The error of opening these files, without the folder.
fn refused(files: &[(&str, Vec<u8>)]) -> String {
    let (folder, files) = folder(files);
    let error = Checkpoint::open(&files).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&format!("{}/", folder.path().display()), "")
}

fn index(weight_map: &Value) -> (&'static str, Vec<u8>) {
    (INDEX, serde_json::to_vec(&json!({"metadata": {}, "weight_map": weight_map})).unwrap())
}

#[test]
fn single_file_good() {
    let (_folder, files) = folder(&[(SINGLE, file(&two_tensors(), 28))]);
    let checkpoint = Checkpoint::open(&files).unwrap();
    let names: Vec<&str> = checkpoint.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["a.weight", "b.weight"]);
    let a = checkpoint.get("a.weight").unwrap();
    assert_eq!((&**a.shape(), a.dtype(), a.bytes()), (&[2, 3][..], Some(DType::BF16), 12));
    assert_eq!(a.describe(), "BF16[2, 3]");
    assert_eq!(checkpoint.content(a).len(), 12);
    assert_eq!((checkpoint.bytes(), checkpoint.main_dtype()), (28, Some(DType::F32)));
}

#[test]
fn shards_by_index_good() {
    let b = json!({"b": {"dtype": "F16", "shape": [], "data_offsets": [0, 2]}});
    let map = json!({"a.weight": "one.safetensors", "b.weight": "one.safetensors", "b": "two.safetensors"});
    // What the index does not name stays out, whatever is in it.
    let stray = ("stray.safetensors", b"not safetensors".to_vec());
    let one = ("one.safetensors", file(&two_tensors(), 28));
    let (_folder, files) = folder(&[index(&map), one, ("two.safetensors", file(&b, 2)), stray]);
    let checkpoint = Checkpoint::open(&files).unwrap();
    assert_eq!(checkpoint.tensors().count(), 3);
    assert!(checkpoint.locate().ends_with("two.safetensors"));
    assert_eq!(checkpoint.get("b").unwrap().dtype(), Some(DType::F16));
}

#[test]
fn any_safetensors_good() {
    let (_folder, files) = folder(&[("weights.safetensors", file(&two_tensors(), 28))]);
    assert_eq!(Checkpoint::open(&files).unwrap().tensors().count(), 2);
}

#[test]
fn prefix_is_found_good() {
    let (_folder, files) = folder(&[(SINGLE, file(&two_tensors(), 28))]);
    let checkpoint = Checkpoint::open(&files).unwrap();
    assert_eq!(checkpoint.find_prefix(&["x", "b", "a"], "weight"), Some("b"));
    assert_eq!(checkpoint.find_prefix(&["x", ""], "a.weight"), Some(""));
    assert_eq!(checkpoint.find_prefix(&["x"], "weight"), None);
    assert_eq!(checkpoint.retain(|name| name == "a.weight").bytes(), 12);
}

#[test]
fn no_weights_bad() {
    let expected = "model.safetensors: file not found; download the model's weights as safetensors";
    assert_eq!(refused(&[("pytorch_model.bin", vec![0])]), expected);
}

#[test]
fn too_short_bad() {
    let expected = "model.safetensors: expected a safetensors header, found a file of 5 bytes; download the file again";
    assert_eq!(refused(&[(SINGLE, vec![0; 5])]), expected);
}

#[test]
fn git_lfs_pointer_bad() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec();
    let expected = "model.safetensors: is a Git LFS pointer, not the weights; run `git lfs pull`";
    assert_eq!(refused(&[(SINGLE, pointer)]), expected);
}

#[test]
fn header_longer_than_file_bad() {
    let mut content = file(&two_tensors(), 28);
    content[..8].copy_from_slice(&(1u64 << 50).to_le_bytes());
    let expected = format!(
        "model.safetensors: announces a header of 1125899906842624 bytes, but {} follow: truncated or not safetensors; \
         download the file again",
        content.len() - 8
    );
    assert_eq!(refused(&[(SINGLE, content)]), expected);
}

#[test]
fn header_not_json_bad() {
    let mut content = file(&two_tensors(), 28);
    content[8] = b'?';
    let error = refused(&[(SINGLE, content)]);
    assert!(error.starts_with("model.safetensors: invalid JSON in header: expected value"), "{error}");
}

#[test]
fn truncated_data_bad() {
    let expected = "model.safetensors: tensor `b.weight`: ends at byte 28 of the data, of which there are 27; download the \
                    file again";
    assert_eq!(refused(&[(SINGLE, file(&two_tensors(), 27))]), expected);
}

#[test]
fn left_over_data_bad() {
    let expected = "model.safetensors: its tensors take 28 bytes, found 29; download the file again";
    assert_eq!(refused(&[(SINGLE, file(&two_tensors(), 29))]), expected);
}

#[test]
fn lying_tensors_bad() {
    let max = u64::MAX;
    let gap = "leave a gap, overlap or run backwards; expected a start at 12";
    let cases = [
        (json!({"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}), format!("offsets 8..24 {gap}")),
        (json!({"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}), format!("offsets 16..32 {gap}")),
        (json!({"dtype": "F32", "shape": [4], "data_offsets": [12, 4]}), format!("offsets 12..4 {gap}")),
        (
            json!({"dtype": "F32", "shape": [5], "data_offsets": [12, 28]}),
            "F32[5] needs 20 bytes, its offsets give 16".into(),
        ),
        (
            json!({"dtype": "F32", "shape": [max, max], "data_offsets": [12, 28]}),
            format!("F32[{max}, {max}] needs more bytes than there are, its offsets give 16"),
        ),
        (
            json!({"dtype": "F32", "shape": [1u64 << 62], "data_offsets": [12, 28]}),
            format!("F32[{}] needs more bytes than there are, its offsets give 16", 1u64 << 62),
        ),
        (
            json!({"dtype": "F32", "shape": [4], "data_offsets": [12, max]}),
            format!("F32[4] needs 16 bytes, its offsets give {}", max - 12),
        ),
        (
            json!({"dtype": "F4", "shape": [33], "data_offsets": [12, 28]}),
            "F4[33] needs 17 bytes, its offsets give 16".into(),
        ),
    ];
    for (tensor, expected) in cases {
        let mut header = two_tensors();
        header["b.weight"] = tensor;
        let expected = format!("model.safetensors: tensor `b.weight`: {expected}");
        assert_eq!(refused(&[(SINGLE, file(&header, 28))]), expected);
    }
}

#[test]
fn unknown_dtype_bad() {
    let mut header = two_tensors();
    header["b.weight"]["dtype"] = json!("F128");
    let error = refused(&[(SINGLE, file(&header, 28))]);
    assert!(
        error.starts_with("model.safetensors: tensor `b.weight`: unknown variant `F128`, expected one of"),
        "{error}"
    );
}

#[test]
fn index_that_lies_bad() {
    let one = || ("one.safetensors", file(&two_tensors(), 28));
    let missing = refused(&[index(&json!({"a": "two.safetensors"})), one()]);
    assert_eq!(
        missing,
        "two.safetensors: file not found; model.safetensors.index.json names it: download the missing shard"
    );
    let tensor = refused(&[index(&json!({"c.weight": "one.safetensors"})), one()]);
    let expected = "one.safetensors: tensor `c.weight` is missing; model.safetensors.index.json says it is there: download \
                    the shard again";
    assert_eq!(tensor, expected);
    for outside in ["../one.safetensors", "/etc/passwd", "one.bin", ""] {
        let error = refused(&[index(&json!({"a.weight": outside})), one()]);
        let expected = format!("{INDEX}: weight_map: expected names of *.safetensors beside it, found `{outside}`");
        assert_eq!(error, expected);
    }
    let error = refused(&[(INDEX, b"{}".to_vec()), one()]);
    assert!(error.starts_with("model.safetensors.index.json: missing field `weight_map`"), "{error}");
}

#[test]
fn tensor_in_two_files_bad() {
    let twice = file(&two_tensors(), 28);
    let error = refused(&[("1.safetensors", twice.clone()), ("2.safetensors", twice)]);
    assert!(error.starts_with("2.safetensors: tensor `"), "{error}");
    assert!(error.ends_with("` is in 1.safetensors too"), "{error}");
}

#[test]
fn empty_tensors_and_files_ugly() {
    let header = json!({"none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}});
    let (_folder, files) = folder(&[(SINGLE, file(&header, 0))]);
    assert_eq!(Checkpoint::open(&files).unwrap().bytes(), 0);
    let (_folder, files) = folder(&[(SINGLE, file(&json!({}), 0))]);
    let checkpoint = Checkpoint::open(&files).unwrap();
    assert_eq!((checkpoint.tensors().count(), checkpoint.main_dtype()), (0, None));
}

#[test]
fn dtype_that_ingle_lacks_ugly() {
    let header = json!({"w": {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [0, 3]}});
    let (_folder, files) = folder(&[(SINGLE, file(&header, 3))]);
    let checkpoint = Checkpoint::open(&files).unwrap();
    assert_eq!((checkpoint.get("w").unwrap().dtype(), checkpoint.main_dtype()), (None, None));
}

/// Opens a file of this content; every tensor's bytes can then be had.
fn open_any(content: Vec<u8>) {
    let (_folder, files) = folder(&[(SINGLE, content)]);
    if let Ok(checkpoint) = Checkpoint::open(&files) {
        for (_, tensor) in checkpoint.tensors() {
            assert_eq!(checkpoint.content(tensor).len(), tensor.bytes());
        }
    }
}

proptest! {
    #[test]
    fn any_truncation_ugly(length in 0usize..300) {
        let mut content = file(&two_tensors(), 28);
        let whole = content.len();
        content.truncate(length);
        let (_folder, files) = folder(&[(SINGLE, content)]);
        prop_assert_eq!(Checkpoint::open(&files).is_ok(), length >= whole);
    }

    #[test]
    fn any_mutation_ugly(changes in prop::collection::vec((0usize..300, any::<u8>()), 1..6)) {
        let mut content = file(&two_tensors(), 28);
        for (at, byte) in changes {
            let at = at % content.len();
            content[at] = byte;
        }
        open_any(content);
    }

    #[test]
    fn any_number_in_the_header_ugly(
        shape in prop::collection::vec(prop_oneof![0u64..9, any::<u64>()], 0..4),
        start in prop_oneof![0u64..40, any::<u64>()],
        end in prop_oneof![0u64..40, any::<u64>()],
    ) {
        let mut header = two_tensors();
        header["b.weight"]["shape"] = json!(shape);
        header["b.weight"]["data_offsets"] = json!([start, end]);
        open_any(file(&header, 28));
    }

    #[test]
    fn any_bytes_ugly(content in prop::collection::vec(any::<u8>(), 0..200)) {
        open_any(content);
    }

    #[test]
    fn any_header_text_ugly(text in "[\\[\\]{}\":,0-9a-z_A-Z ]{0,120}") {
        open_any([&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat());
    }
}
