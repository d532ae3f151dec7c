// SPDX-License-Identifier: EUPL-1.2

use std::sync::Arc;

use half::bf16;
use ingle_cpu::{CpuDevice, CpuOptions};
use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::{Bias, Embedding, Head, Linear, ModelFiles, RmsNorm, RmsNormConfig, Routes};

fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(1), ..Default::default() }).unwrap())
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
}

/// A checkpoint of bf16 tensors, and one of integers.
fn checkpoint() -> Checkpoint {
    let (weight, bias, norm) = (bytes_of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), bytes_of(&[0.5, -0.5]), bytes_of(&[0.0; 3]));
    let bf16 = |shape: &[usize], data| TensorView::new(Dtype::BF16, shape.to_vec(), data).unwrap();
    let tensors = [
        ("mlp.up_proj.weight", bf16(&[2, 3], &weight)),
        ("mlp.up_proj.bias", bf16(&[2], &bias)),
        ("norm.weight", bf16(&[3], &norm)),
        ("packed.weight", TensorView::new(Dtype::I32, vec![3], &[0; 12]).unwrap()),
    ];
    let folder = tempfile::tempdir().unwrap();
    safetensors::serialize_to_file(tensors, None, &folder.path().join("model.safetensors")).unwrap();
    // The mapping outlives the folder.
    Checkpoint::open(&ModelFiles::directory(folder.path()).unwrap()).unwrap()
}

/// Loads with `load`, ignoring progress.
fn with_weights<T>(dtype: Option<DType>, load: impl FnOnce(Weights<'_>) -> T) -> T {
    let checkpoint = checkpoint();
    load(Weights::new(&checkpoint, &cpu(), dtype, &mut |_| {}))
}

#[test]
fn layers_of_a_scope_good() {
    with_weights(None, |weights| {
        let mlp = weights.scope("mlp");
        let x = Tensor::from_slice(weights.device(), &[1.0f32, 0.0, -1.0], [1, 3]).unwrap();
        let up_proj = Linear::load(&mlp.scope("up_proj"), [2, 3], Bias::Present).unwrap();
        assert_eq!(up_proj.forward(&x, &Routes::default()).unwrap().to_vec::<f32>().unwrap(), [-1.5, -2.5]);
        let plain = Linear::load(&mlp.scope("up_proj"), [2, 3], Bias::Absent).unwrap();
        assert_eq!(plain.forward(&x, &Routes::default()).unwrap().to_vec::<f32>().unwrap(), [-2.0, -2.0]);
        let norm = RmsNorm::load(&weights.scope("norm"), 3, RmsNormConfig { eps: 0.0, offset: 1.0 }).unwrap();
        let x = Tensor::from_slice(weights.device(), &[3.0f32, 3.0, 3.0], [1, 3]).unwrap();
        assert_eq!(norm.forward(&x).unwrap().to_vec::<f32>().unwrap(), [1.0; 3]);
    });
}

#[test]
fn embedding_and_its_head_good() {
    for head in [Head::Tied, Head::Separate] {
        with_weights(None, |weights| {
            let table = Embedding::load(&weights.scope("").scope("mlp.up_proj"), [2, 3], head).unwrap();
            let tokens = Tensor::from_slice(weights.device(), &[1i32, 0, 1], [3]).unwrap();
            let x = table.forward(&tokens, DType::F32).unwrap();
            assert_eq!(x.to_vec::<f32>().unwrap(), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            let logits = table.as_linear().forward(&x, &Routes::default()).unwrap();
            assert_eq!(logits.to_vec::<f32>().unwrap(), [32.0, 77.0, 14.0, 32.0, 32.0, 77.0]);
            assert_eq!(weights.loaded(), Loaded { parameters: 6, bytes: 12 });
        });
    }
}

#[test]
fn stored_dtype_stays_or_is_cast_good() {
    for (dtype, expected) in [(None, DType::BF16), (Some(DType::F32), DType::F32), (Some(DType::F16), DType::F16)] {
        with_weights(dtype, |weights| {
            let tensor = weights.tensor("mlp.up_proj.weight", [2, 3], 0.0).unwrap();
            assert_eq!(tensor.dtype(), expected);
            assert_eq!(tensor.to_f32_vec().unwrap(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
            assert_eq!(weights.loaded(), Loaded { parameters: 6, bytes: 6 * expected.size() });
        });
    }
}

#[test]
fn progress_ends_at_the_total_good() {
    let checkpoint = checkpoint().retain(|name| name.starts_with("mlp"));
    let mut seen = Vec::new();
    let mut on_progress = |progress| seen.push(progress);
    let weights = Weights::new(&checkpoint, &cpu(), None, &mut on_progress);
    Linear::load(&weights.scope("mlp.up_proj"), [2, 3], Bias::Present).unwrap();
    drop(weights);
    let at = |loaded_bytes| LoadProgress { loaded_bytes, total_bytes: 16 };
    assert_eq!(seen, [at(4), at(16)]);
}

fn refused(name: &str, shape: &[usize]) -> String {
    let error = with_weights(None, |weights| weights.tensor(name, shape, 0.0).unwrap_err().to_string());
    let (_folder, error) = error.split_once("model.safetensors: ").unwrap();
    error.to_owned()
}

#[test]
fn wrong_shape_bad() {
    let expected = "tensor `mlp.up_proj.weight`: expected shape [3, 2], found BF16[2, 3]";
    assert_eq!(refused("mlp.up_proj.weight", &[3, 2]), expected);
}

#[test]
fn integers_bad() {
    let expected = "tensor `packed.weight`: expected dtype F32, F16 or BF16, found I32[3]";
    assert_eq!(refused("packed.weight", &[3]), expected);
}

#[test]
fn missing_tensor_names_the_nearest_bad() {
    let doubt = "configuration and weights may not belong together";
    let near = "the nearest there is `mlp.up_proj.weight`";
    assert_eq!(
        refused("mlp.down_proj.weight", &[3, 2]),
        format!("tensor `mlp.down_proj.weight` is missing; {near}; {doubt}")
    );
    assert_eq!(refused("x", &[3, 2]), format!("tensor `x` is missing; {doubt}"));
}

#[test]
fn edit_distance_good() {
    assert_eq!(edit_distance("kitten", "sitting"), 3);
    assert_eq!(edit_distance("", "abc"), 3);
    assert_eq!(edit_distance("abc", ""), 3);
    assert_eq!(edit_distance("same", "same"), 0);
}

/// Data that starts at an odd byte, as old files have it, cannot be read in place everywhere.
#[test]
fn misaligned_data_ugly() {
    let header = br#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    for padding in 0..4 {
        let length = (header.len() + padding) as u64;
        let values: Vec<u8> = [1.5f32, -2.5].iter().flat_map(|value| value.to_le_bytes()).collect();
        let content = [&length.to_le_bytes()[..], header, &b"    "[..padding], &values].concat();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.safetensors"), content).unwrap();
        let checkpoint = Checkpoint::open(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
        let mut on_progress = |_| {};
        let weights = Weights::new(&checkpoint, &cpu(), None, &mut on_progress);
        assert_eq!(weights.tensor("w", [2], 0.0).unwrap().to_vec::<f32>().unwrap(), [1.5, -2.5]);
    }
}

#[test]
fn large_tensor_reports_as_it_is_read_ugly() {
    let header = br#"{"w":{"dtype":"F16","shape":[20971520],"data_offsets":[0,41943040]}}"#;
    let content: &[u8] = [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; 40 << 20]].concat().leak();
    let files = vec![("model.safetensors", content)].leak();
    let checkpoint = Checkpoint::open(&ModelFiles::Embedded { name: "large", files }).unwrap();
    let mut seen = Vec::new();
    let mut on_progress = |progress: LoadProgress| seen.push(progress.loaded_bytes >> 20);
    Weights::new(&checkpoint, &cpu(), None, &mut on_progress).tensor("w", [20 << 20], 0.0).unwrap();
    assert_eq!(seen, [16, 32, 40]);
}

#[test]
#[cfg(target_os = "linux")]
fn large_tensor_is_in_memory_once_it_is_loaded_good() {
    let header = br#"{"w":{"dtype":"F16","shape":[33554432],"data_offsets":[0,67108864]}}"#;
    let content = [&(header.len() as u64).to_le_bytes()[..], header, &vec![0; 64 << 20]].concat();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), content).unwrap();
    let checkpoint = Checkpoint::open(&ModelFiles::directory(folder.path()).unwrap()).unwrap();
    let mut on_progress = |_| {};
    let pages = crate::mapping::FilePages::new();
    let before = pages.count();
    let weights = Weights::new(&checkpoint, &cpu(), None, &mut on_progress);
    let kept = weights.tensor("w", [32 << 20], 0.0).unwrap();
    let after = pages.count();
    assert!(after > before + 15_000, "{before} pages before, {after} after");
    drop(kept);
}
