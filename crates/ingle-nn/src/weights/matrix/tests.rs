// SPDX-License-Identifier: EUPL-1.2
//! Matrices that MLX has quantised, right and wrong.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Quantization, Tensor};
use safetensors::tensor::{Dtype, TensorView};

use super::super::{Loaded, Weights};
use crate::{AffineLayers, Checkpoint, LayerForm, ModelFiles, Result};

fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(1), ..Default::default() }).unwrap())
}

/// A file of `fixtures/quantised`: what MLX itself packs, and what it reads it as.
fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/quantised").join(name)).unwrap()
}

/// Tensors by name, to be written to a file.
#[derive(Clone, Default)]
struct Stored(BTreeMap<&'static str, (Dtype, Vec<usize>, Vec<u8>)>);

/// Rows and columns of the fixtures.
const SHAPE: [usize; 2] = [2, 256];

impl Stored {
    /// The layer `up_proj` in a form.
    fn affine(bits: usize, group_size: usize) -> Self {
        let [rows, columns] = SHAPE;
        let part = |suffix: &str| fixture(&format!("affine-{bits}-{group_size}.{suffix}"));
        let groups = vec![rows, columns / group_size];
        Stored::default()
            .with("up_proj.weight", Dtype::U32, &[rows, columns * bits / 32], part("packed"))
            .with("up_proj.scales", Dtype::F32, &groups, part("scales"))
            .with("up_proj.biases", Dtype::F32, &groups, part("offsets"))
    }

    fn with(mut self, name: &'static str, dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Self {
        self.0.insert(name, (dtype, shape.to_vec(), data));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    fn open(&self) -> Checkpoint {
        let view = |(dtype, shape, data): &'_ (Dtype, Vec<usize>, Vec<u8>)| (*dtype, shape.clone(), data.clone());
        let owned: Vec<_> = self.0.iter().map(|(name, tensor)| (*name, view(tensor))).collect();
        let views = owned
            .iter()
            .map(|(name, (dtype, shape, data))| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        let folder = tempfile::tempdir().unwrap();
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        // The mapping outlives the folder.
        Checkpoint::open(&ModelFiles::directory(folder.path()).unwrap()).unwrap()
    }
}

fn affine(bits: usize, group_size: usize) -> Quantization {
    Quantization::Affine { bits, group_size }
}

fn layers(default: Quantization, own: &[(&str, LayerForm)]) -> AffineLayers {
    AffineLayers { default, layers: own.iter().map(|(name, form)| ((*name).to_owned(), *form)).collect() }
}

fn load(checkpoint: &Checkpoint, dtype: Option<DType>, shape: [usize; 2]) -> Result<(Tensor, Loaded)> {
    let mut on_progress = |_| {};
    let weights = Weights::new(checkpoint, &cpu(), dtype, &mut on_progress);
    let matrix = weights.scope("up_proj").matrix(shape)?;
    Ok((matrix, weights.loaded()))
}

/// The error of a layer in 4-bit, groups of 64, after its file's name.
fn refused(stored: &Stored, own: &[(&str, LayerForm)], shape: [usize; 2]) -> String {
    let checkpoint = stored.open().with_affine(layers(affine(4, 64), own)).unwrap();
    let error = load(&checkpoint, None, shape).unwrap_err().to_string();
    error.split_once("model.safetensors: ").unwrap().1.to_owned()
}

#[test]
fn every_form_that_mlx_writes_good() {
    for bits in Quantization::AFFINE_BITS {
        for group_size in Quantization::AFFINE_GROUPS {
            let stored = Stored::affine(bits, group_size).open();
            let checkpoint = stored.with_affine(layers(affine(bits, group_size), &[])).unwrap();
            let (matrix, loaded) = load(&checkpoint, None, SHAPE).unwrap();
            let values = fixture(&format!("affine-{bits}-{group_size}.values"));
            let values = values.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word));
            for (found, expected) in matrix.to_vec::<f32>().unwrap().into_iter().zip(values) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{bits} {group_size}");
            }
            assert_eq!((loaded.parameters, loaded.bytes), (checkpoint.parameters(), checkpoint.bytes()));
            assert_eq!(checkpoint.parameters(), 512);
        }
    }
}

#[test]
fn dtype_is_that_of_the_scales_or_what_is_asked_for_good() {
    let checkpoint = Stored::affine(4, 64).open().with_affine(layers(affine(4, 64), &[])).unwrap();
    for (asked, expected) in [(None, DType::F32), (Some(DType::BF16), DType::BF16)] {
        let (matrix, loaded) = load(&checkpoint, asked, SHAPE).unwrap();
        assert_eq!(matrix.dtype(), expected);
        assert_eq!(loaded.bytes, 2 * (128 + 2 * 4 * 4), "it stays packed");
    }
    assert_eq!(checkpoint.main_dtype(), Some(DType::F32));
}

#[test]
fn layers_of_their_own_form_and_dense_ones_good() {
    let dense = vec![0u8; 2 * 256 * 4];
    let stored = Stored::affine(8, 32).with("down_proj.weight", Dtype::F32, &SHAPE, dense);
    let own = [("up_proj", LayerForm::Quantised(affine(8, 32)))];
    let checkpoint = stored.open().with_affine(layers(affine(4, 64), &own)).unwrap();
    assert!(load(&checkpoint, None, SHAPE).is_ok());
    let mut on_progress = |_| {};
    let weights = Weights::new(&checkpoint, &cpu(), None, &mut on_progress);
    assert_eq!(weights.scope("down_proj").matrix(SHAPE).unwrap().to_vec::<f32>().unwrap(), [0.0; 512]);
    assert_eq!(checkpoint.parameters(), 1024);
}

#[test]
fn missing_parts_bad() {
    for part in ["up_proj.scales", "up_proj.biases"] {
        let error = refused(&Stored::affine(4, 64).without(part), &[], SHAPE);
        assert!(error.starts_with(&format!("tensor `{part}` is missing; the nearest there is `up_proj.")), "{error}");
    }
}

#[test]
fn shapes_that_do_not_belong_together_bad() {
    let error = refused(&Stored::affine(8, 64), &[], SHAPE);
    assert_eq!(error, "tensor `up_proj.weight`: expected shape [2, 32] (4-bit, groups of 64), found U32[2, 64]");
    let error = refused(&Stored::affine(4, 32), &[], SHAPE);
    assert_eq!(error, "tensor `up_proj.scales`: expected shape [2, 4] (4-bit, groups of 64), found F32[2, 8]");
    let short = Stored::affine(4, 64).with("up_proj.biases", Dtype::F32, &[2, 3], vec![0; 24]);
    let error = refused(&short, &[], SHAPE);
    assert_eq!(error, "tensor `up_proj.biases`: expected shape [2, 4] (4-bit, groups of 64), found F32[2, 3]");
}

#[test]
fn group_that_does_not_divide_bad() {
    let error = refused(&Stored::affine(4, 64), &[], [2, 250]);
    let expected = "tensor `up_proj.weight`: expected rows of a multiple of 64 weights (4-bit, groups of 64), not of 250, \
                    found U32[2, 32]";
    assert_eq!(error, expected);
}

#[test]
fn scales_of_another_dtype_bad() {
    let integers = Stored::affine(4, 64).with("up_proj.scales", Dtype::I32, &[2, 4], vec![0; 32]);
    let error = refused(&integers, &[], SHAPE);
    assert_eq!(error, "tensor `up_proj.scales`: expected dtype F32, F16 or BF16, found I32[2, 4]");
    let halves = Stored::affine(4, 64).with("up_proj.biases", Dtype::F16, &[2, 4], vec![0; 16]);
    let error = refused(&halves, &[], SHAPE);
    assert_eq!(error, "tensor `up_proj.biases`: expected dtype f32, that of the scales, found F16[2, 4]");
}

#[test]
fn file_and_configuration_that_disagree_bad() {
    let error = refused(&Stored::affine(4, 64), &[("up_proj", LayerForm::Dense)], SHAPE);
    let expected =
        "tensor `up_proj.weight`: expected a dense matrix, as config.json says of this layer, found U32[2, 32]";
    assert_eq!(error, expected);
    let dense = Stored::default().with("up_proj.weight", Dtype::F32, &SHAPE, vec![0; 2048]);
    let error = refused(&dense, &[("up_proj", LayerForm::Quantised(affine(8, 32)))], SHAPE);
    let expected =
        "tensor `up_proj.weight`: expected 8-bit, groups of 32 as config.json says of this layer, found F32[2, 256]";
    assert_eq!(error, expected);
    let checkpoint = Stored::affine(4, 64).open();
    let error = load(&checkpoint, None, SHAPE).unwrap_err().to_string();
    let expected = "expected dtype F32, F16 or BF16, as config.json has no `quantization`, found U32[2, 32]";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn layer_that_is_not_there_bad() {
    let own = [("gate_proj", LayerForm::Quantised(affine(8, 32)))];
    let error = Stored::affine(4, 64).open().with_affine(layers(affine(4, 64), &own)).unwrap_err().to_string();
    let expected = "tensor `gate_proj.weight` is missing; `quantization` in config.json has an entry for `gate_proj`: \
                    remove or correct it";
    assert!(error.ends_with(expected), "{error}");
    // That nothing is quantised where nothing is, is true.
    let own = [("gate_proj", LayerForm::Dense)];
    assert!(Stored::affine(4, 64).open().with_affine(layers(affine(4, 64), &own)).is_ok());
}

#[test]
fn words_that_are_not_a_matrix_ugly() {
    let vector = Stored::affine(4, 64).with("up_proj.weight", Dtype::U32, &[64], vec![0; 256]);
    let error = refused(&vector, &[], SHAPE);
    assert_eq!(error, "tensor `up_proj.weight`: expected shape [2, 32] (4-bit, groups of 64), found U32[64]");
    let bytes = Stored::affine(4, 64).with("up_proj.weight", Dtype::F8_E4M3, &SHAPE, vec![0; 512]);
    let error = refused(&bytes, &[], SHAPE);
    assert!(error.starts_with("tensor `up_proj.weight`: expected dtype F32, F16 or BF16, or one of Q4_0, "), "{error}");
}
