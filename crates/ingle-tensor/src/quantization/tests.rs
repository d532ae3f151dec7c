// SPDX-License-Identifier: EUPL-1.2
//! Every format against what its maker reads (`scripts/fixtures/make_quantised.py`).

use std::path::PathBuf;

use super::*;

const ROWS: usize = 2;

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/quantised");
    std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn floats(name: &str) -> Vec<f32> {
    fixture(name).chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Compares each row with the values that the format's maker gives.
fn agrees(quantization: Quantization, name: &str) {
    let values = floats(&format!("{name}.values"));
    let k = values.len() / ROWS;
    let packed = fixture(&format!("{name}.packed"));
    let row_bytes = quantization.row_bytes(k).unwrap();
    assert_eq!(packed.len(), ROWS * row_bytes, "{name}");
    let groups = k / quantization.form().group_size;
    for row in 0..ROWS {
        let (mut quants, mut scales, mut offsets) = (vec![0; k], vec![0.0; groups], vec![0.0; groups]);
        if let Quantization::Affine { .. } = quantization {
            scales.copy_from_slice(&floats(&format!("{name}.scales"))[row * groups..][..groups]);
            offsets.copy_from_slice(&floats(&format!("{name}.offsets"))[row * groups..][..groups]);
        }
        let unpacked = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
        quantization.unpack_row(&packed[row * row_bytes..][..row_bytes], unpacked);
        let unpacked = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
        for (i, (found, &wanted)) in quantization.weights(&unpacked).zip(&values[row * k..]).enumerate() {
            assert!((found - wanted).abs() <= 1e-6, "{name}: weight {i} of row {row} is {found}, not {wanted}");
        }
    }
}

#[test]
fn blocks_are_read_as_ggml_reads_them_good() {
    for format in BlockFormat::ALL {
        agrees(Quantization::Blocks(format), format.name());
    }
}

#[test]
fn affine_matrices_are_read_as_mlx_reads_them_good() {
    for bits in Quantization::AFFINE_BITS {
        for group_size in Quantization::AFFINE_GROUPS {
            agrees(Quantization::Affine { bits, group_size }, &format!("affine-{bits}-{group_size}"));
        }
    }
}

#[test]
fn a_row_is_a_whole_number_of_blocks_bad() {
    assert_eq!(Quantization::Blocks(BlockFormat::Q4K).row_bytes(128), None);
    assert_eq!(Quantization::Blocks(BlockFormat::Q8_0).row_bytes(64), Some(68));
    assert_eq!(Quantization::Affine { bits: 3, group_size: 64 }.row_bytes(96), None);
    assert_eq!(Quantization::Affine { bits: 3, group_size: 64 }.row_bytes(128), Some(48));
}

#[test]
fn missing_bytes_are_not_read_ugly() {
    for format in BlockFormat::ALL {
        let (mut quants, mut scales, mut offsets) = ([7; 256], [1.0; 16], [0.0; 16]);
        let row = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
        Quantization::Blocks(format).unpack_row(&[1; 9], row);
        assert_eq!(quants, [7; 256], "{format:?}");
    }
}
