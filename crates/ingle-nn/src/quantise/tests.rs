// SPDX-License-Identifier: EUPL-1.2
//! The encoders against MLX, the `gguf` package and ggml (`fixtures/encoded`).

use std::path::Path;

use ingle_tensor::{Quantization, UnpackedRow};
use proptest::prelude::*;

use super::pack::{PlainBlock, SuperBlock};
use super::*;

const COLUMNS: usize = 512;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/encoded").join(name)).unwrap()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

fn rows() -> Vec<Vec<f32>> {
    floats(&fixture("weights")).chunks_exact(COLUMNS).map(<[f32]>::to_vec).collect()
}

fn encoded(format: BlockFormat, row: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; row.len() / format.block_len() * format.block_bytes()];
    encode_blocks(format, row, &mut blocks);
    blocks
}

/// The weights that a row of blocks stands for.
fn decoded(format: BlockFormat, blocks: &[u8], columns: usize) -> Vec<f32> {
    let quantization = Quantization::Blocks(format);
    let groups = columns / quantization.form().group_size;
    let (mut quants, mut scales, mut offsets) = (vec![0; columns], vec![0.0; groups], vec![0.0; groups]);
    let mut row = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
    let UnpackedRow { quants, scales, offsets } = &mut row;
    quantization.unpack_row(blocks, UnpackedRow { quants, scales, offsets });
    quantization.weights(&row).collect()
}

/// The root of the mean square of differences.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    let squares = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / found.len() as f64).sqrt()
}

const EXACT: [BlockFormat; 5] =
    [BlockFormat::Q4_0, BlockFormat::Q4_1, BlockFormat::Q5_0, BlockFormat::Q5_1, BlockFormat::Q8_0];

#[test]
fn plain_formats_are_those_of_gguf_good() {
    for format in EXACT {
        let expected = fixture(&format!("{}.packed", format.name()));
        let found: Vec<u8> = rows().iter().flat_map(|row| encoded(format, row)).collect();
        let differing = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert_eq!((found.len(), differing), (expected.len(), 0), "{}", format.name());
    }
}

#[test]
fn affine_is_that_of_mlx_good() {
    for bits in Quantization::AFFINE_BITS {
        for group_size in Quantization::AFFINE_GROUPS {
            let name = format!("affine-{bits}-{group_size}");
            let (mut words, mut scales, mut offsets) = (vec![], vec![], vec![]);
            for row in rows() {
                let groups = COLUMNS / group_size;
                let (mut w, mut s, mut o) = (vec![0; COLUMNS * bits / 8], vec![0.0; groups], vec![0.0; groups]);
                encode_affine(bits, group_size, &row, AffineRow { words: &mut w, scales: &mut s, offsets: &mut o });
                words.extend(w);
                scales.extend(s);
                offsets.extend(o);
            }
            assert_eq!(scales, floats(&fixture(&format!("{name}.scales"))), "{name}");
            assert_eq!(offsets, floats(&fixture(&format!("{name}.offsets"))), "{name}");
            let expected = fixture(&format!("{name}.packed"));
            let differing = words.iter().zip(&expected).filter(|(a, b)| a != b).count();
            assert_eq!((words.len(), differing), (expected.len(), 0), "{name}");
        }
    }
}

/// As near to the weights as what ggml makes of them, where the format leaves the choice to the encoder.
#[test]
fn fitted_formats_are_as_good_as_ggmls_good() {
    let mut table = String::new();
    let mut worse = Vec::new();
    for format in BlockFormat::ALL.into_iter().filter(|format| !EXACT.contains(format)) {
        let expected = fixture(&format!("{}.packed", format.name()));
        let row_bytes = COLUMNS / format.block_len() * format.block_bytes();
        for (index, (row, theirs)) in rows().iter().zip(expected.chunks_exact(row_bytes)).enumerate() {
            let ours = distance(&decoded(format, &encoded(format, row), COLUMNS), row);
            let theirs = distance(&decoded(format, theirs, COLUMNS), row);
            table += &format!(
                "{:<8} row {index}: {ours:.3e}, ggml {theirs:.3e}, ratio {:.3}\n",
                format.name(),
                ours / theirs
            );
            // What the half precision of a scale makes of a row is no merit of either.
            let rounding = row.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs()))) / 4096.0;
            if ours > theirs.max(rounding) {
                worse.push(format!("{} row {index}: {ours:e}, ggml {theirs:e}", format.name()));
            }
        }
    }
    println!("{table}");
    assert!(worse.is_empty(), "{worse:#?}");
}

fn any_block(format: BlockFormat) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), format.block_bytes())
}

proptest! {
    /// What is unpacked packs into the same bytes.
    #[test]
    fn packing_is_the_inverse_of_unpacking_good(
        (format, block) in prop::sample::select(BlockFormat::ALL.to_vec()).prop_flat_map(|f| (Just(f), any_block(f))),
    ) {
        let quantization = Quantization::Blocks(format);
        let (mut quants, mut scales, mut offsets) = ([0; 256], [0.0; 16], [0.0; 16]);
        let len = format.block_len();
        let groups = len / quantization.form().group_size;
        let row = UnpackedRow {
            quants: &mut quants[..len],
            scales: &mut scales[..groups],
            offsets: &mut offsets[..groups],
        };
        quantization.unpack_row(&block, row);
        let mut packed = vec![0; block.len()];
        match format.super_scales(&block) {
            Some(supers) => pack::supers(format, &SuperBlock { supers, quants }, &mut packed),
            None => {
                let half = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]);
                let mut plain = PlainBlock { scale: half(0), offset: half(2), quants: [0; 32] };
                plain.quants.copy_from_slice(&quants[..32]);
                pack::plain(format, &plain, &mut packed);
            }
        }
        prop_assert_eq!(packed, block);
    }

    /// Whatever finite weights come, what comes out stands for something near them.
    #[test]
    fn any_weights_ugly(
        row in prop::collection::vec(prop_oneof![-1e4f32..1e4, -1.0f32..1.0, Just(0.0f32), Just(-0.0f32)], 256),
        format in prop::sample::select(BlockFormat::ALL.to_vec()),
    ) {
        let found = decoded(format, &encoded(format, &row), 256);
        let largest = row.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        // The range of a group spreads over so many steps, and its scale is rounded too.
        let steps = (1 << quantization_bits(format)) as f32;
        for (found, expected) in found.iter().zip(&row) {
            prop_assert!((found - expected).abs() <= 2.5 * largest / steps, "{expected} became {found}");
        }
    }
}

fn quantization_bits(format: BlockFormat) -> usize {
    Quantization::Blocks(format).form().bits
}
