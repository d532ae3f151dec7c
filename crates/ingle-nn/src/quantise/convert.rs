// SPDX-License-Identifier: EUPL-1.2
//! A checkpoint's tensors on their way into another file: row by row, on all cores.

use half::{bf16, f16};
use ingle_tensor::{BlockFormat, Bytes, DType, Quantization, Shape, Tensor};

use super::{AffineRow, encode_affine, encode_blocks};
use crate::{Error, Result};

/// Bytes of a tensor that are read before anything is written.
const CHUNK: usize = 32 << 20;

/// A dense tensor of a [`Checkpoint`](crate::Checkpoint), to be written in another form.
#[derive(Clone, Debug)]
pub struct Original {
    /// For messages.
    pub(crate) file: String,
    /// As the file calls it.
    pub(crate) tensor: String,
    pub(crate) content: Bytes,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
}

/// What becomes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conversion {
    /// What it is written as.
    pub form: Form,
    /// In which order its rows are written.
    pub rows: RowOrder,
    /// Added to each number.
    pub shift: f32,
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As they are, in this dtype.
    Float(DType),
    /// In MLX's format: each row's words, then its scales, then its offsets, these in the dtype of the original.
    Affine {
        /// 2, 3, 4, 5, 6 or 8.
        bits: usize,
        /// 32, 64 or 128.
        group_size: usize,
    },
    /// In GGUF's blocks.
    Blocks(BlockFormat),
}

/// In which order rows, or the elements of a vector, are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// As they are.
    Unchanged,
    /// So that features that RoPE turns together are neighbours, rather than half a head away from each other.
    Interleaved {
        /// Heads among which the rows are shared.
        heads: usize,
    },
}

impl Form {
    /// Bytes of a row of `columns` numbers, of an original of dtype `dtype`.
    pub fn row_bytes(self, columns: usize, dtype: DType) -> usize {
        match self {
            Form::Float(dtype) => columns * dtype.size(),
            Form::Affine { bits, group_size } => columns * bits / 8 + 2 * (columns / group_size) * dtype.size(),
            Form::Blocks(format) => columns / format.block_len() * format.block_bytes(),
        }
    }

    /// Whether rows of so many numbers can be written so.
    pub fn fits(self, columns: usize) -> bool {
        match self {
            Form::Float(_) => true,
            Form::Affine { bits, group_size } => Quantization::Affine { bits, group_size }.row_bytes(columns).is_some(),
            Form::Blocks(format) => columns.is_multiple_of(format.block_len()),
        }
    }
}

impl RowOrder {
    /// Which of the original's `count` rows is written as row `index`.
    pub fn source(self, index: usize, count: usize) -> usize {
        match self {
            RowOrder::Unchanged => index,
            RowOrder::Interleaved { heads } => {
                let head_dim = (count / heads.max(1)).max(2);
                let (head, feature) = (index / head_dim, index % head_dim);
                head * head_dim + feature % 2 * (head_dim / 2) + feature / 2
            }
        }
    }
}

impl Original {
    /// A matrix, `f32[rows, columns]`, as it would be written in `dtype`. It goes by the name of `tensor` of `file`.
    pub(crate) fn of_matrix(file: &str, tensor: &str, matrix: &Tensor, dtype: DType) -> Result<Self> {
        let matrix = matrix.cast(dtype)?;
        let content = matrix.device().download(&matrix)?.into();
        Ok(Original { file: file.into(), tensor: tensor.into(), content, dtype, shape: matrix.shape().clone() })
    }

    /// Axis lengths, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Element type: a floating-point one.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes it takes in its file.
    pub fn bytes(&self) -> usize {
        self.content.len()
    }

    /// Rows and their length. A vector is one row, unless its elements change places.
    fn rows(&self, order: RowOrder) -> [usize; 2] {
        match (self.shape.len(), order) {
            (0 | 1, RowOrder::Unchanged) => [1, self.shape.elements()],
            (0 | 1, RowOrder::Interleaved { .. }) => [self.shape.elements(), 1],
            _ => {
                let columns = self.shape.last().copied().unwrap_or(1);
                [self.shape.elements().checked_div(columns).unwrap_or(0), columns]
            }
        }
    }

    /// Converts the tensor, and hands it to `write` in pieces of whole rows, in order.
    ///
    /// # Errors
    /// [`Error::UnfitTensor`] if the form does not fit its rows, or it holds numbers that are not finite or too large
    /// for the form; whatever `write` fails with.
    pub fn convert<E: From<Error>>(
        &self,
        conversion: &Conversion,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Conversion { form, rows: order, shift } = *conversion;
        let [rows, columns] = self.rows(order);
        if !form.fits(columns) {
            return Err(self.unfit(format!("rows that suit {form:?}"), format!("rows of {columns}")).into());
        }
        let stored = columns * self.dtype.size();
        let row_bytes = form.row_bytes(columns, self.dtype);
        let chunk = (CHUNK / stored.max(1)).clamp(1, rows.max(1));
        let mut output = vec![0; chunk * row_bytes];
        for first in (0..rows).step_by(chunk) {
            let count = chunk.min(rows - first);
            let output = &mut output[..count * row_bytes];
            let convert = |index: usize, into: &mut [u8], numbers: &mut Vec<f32>| {
                let from = order.source(first + index, rows) * stored;
                read_floats(&self.content[from..from + stored], self.dtype, numbers);
                numbers.iter_mut().for_each(|x| *x += shift);
                let largest = largest_magnitude(numbers);
                write_row(form, self.dtype, numbers, into);
                largest
            };
            let largest = for_rows(output, row_bytes, columns, convert);
            let most = form.largest(self.dtype);
            if largest.is_nan() || largest > most {
                let expected = format!("numbers of a magnitude of at most {most:e}, to be written as {form:?}");
                return Err(self.unfit(expected, format!("{largest:e}")).into());
            }
            write(output)?;
        }
        Ok(())
    }

    fn unfit(&self, expected: String, found: String) -> Error {
        Error::UnfitTensor { file: self.file.clone(), tensor: self.tensor.clone(), expected, found }
    }
}

impl Form {
    /// The largest magnitude that comes out finite.
    fn largest(self, dtype: DType) -> f32 {
        let narrowest = match self {
            Form::Float(dtype) => dtype,
            Form::Affine { .. } => dtype,
            // Scales are halves.
            Form::Blocks(_) => DType::F16,
        };
        match narrowest {
            DType::F16 => f16::MAX.to_f32(),
            DType::BF16 => bf16::MAX.to_f32(),
            _ => f32::MAX,
        }
    }
}

/// Calls `convert` with each row's number, its place in `output`, and room for `columns` numbers, on all cores. Gives
/// the largest of the results; NaN if there is one.
fn for_rows(
    output: &mut [u8],
    row_bytes: usize,
    columns: usize,
    convert: impl Fn(usize, &mut [u8], &mut Vec<f32>) -> f32 + Sync,
) -> f32 {
    let rows = output.len().checked_div(row_bytes).unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(rows).max(1);
    let share = rows.div_ceil(threads).max(1);
    let run = |first: usize, output: &mut [u8]| {
        let mut numbers = Vec::with_capacity(columns);
        let rows = output.chunks_exact_mut(row_bytes.max(1)).enumerate();
        rows.map(|(index, into)| convert(first + index, into, &mut numbers)).fold(0.0, larger)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let shares = output.chunks_mut(share * row_bytes.max(1)).enumerate();
        let threads: Vec<_> = shares.map(|(index, output)| scope.spawn(move || run(index * share, output))).collect();
        // A thread that has stopped has not converted its rows.
        threads.into_iter().map(|thread| thread.join().unwrap_or(f32::NAN)).fold(0.0, larger)
    })
}

/// The larger of two; NaN if there is one.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || b > a || b.is_nan() { b + a * 0.0 } else { a }
}

fn largest_magnitude(numbers: &[f32]) -> f32 {
    numbers.iter().map(|x| x.abs()).fold(0.0, larger)
}

fn read_floats(bytes: &[u8], dtype: DType, into: &mut Vec<f32>) {
    into.clear();
    match dtype {
        DType::F32 => into.extend(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x))),
        DType::F16 => into.extend(bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x).to_f32())),
        _ => into.extend(bytes.as_chunks().0.iter().map(|x| bf16::from_le_bytes(*x).to_f32())),
    }
}

fn write_floats(numbers: &[f32], dtype: DType, into: &mut [u8]) {
    match dtype {
        DType::F32 => into.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, x)| *to = x.to_le_bytes()),
        DType::F16 => {
            into.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, x)| *to = f16::from_f32(*x).to_le_bytes());
        }
        _ => into.as_chunks_mut().0.iter_mut().zip(numbers).for_each(|(to, x)| *to = bf16::from_f32(*x).to_le_bytes()),
    }
}

fn write_row(form: Form, dtype: DType, numbers: &[f32], into: &mut [u8]) {
    match form {
        Form::Float(dtype) => write_floats(numbers, dtype, into),
        Form::Blocks(format) => encode_blocks(format, numbers, into),
        Form::Affine { bits, group_size } => {
            let groups = numbers.len() / group_size;
            let (words, rest) = into.split_at_mut(numbers.len() * bits / 8);
            let (mut scales, mut offsets) = (vec![0.0; groups], vec![0.0; groups]);
            encode_affine(bits, group_size, numbers, AffineRow { words, scales: &mut scales, offsets: &mut offsets });
            let (to_scales, to_offsets) = rest.split_at_mut(groups * dtype.size());
            write_floats(&scales, dtype, to_scales);
            write_floats(&offsets, dtype, to_offsets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original(shape: &[usize], numbers: &[f32], dtype: DType) -> Original {
        let mut content = vec![0; numbers.len() * dtype.size()];
        write_floats(numbers, dtype, &mut content);
        Original {
            file: "m.safetensors".into(),
            tensor: "w".into(),
            content: content.into(),
            dtype,
            shape: Shape::from(shape),
        }
    }

    fn converted(original: &Original, conversion: &Conversion) -> Result<Vec<u8>> {
        let mut output = Vec::new();
        original.convert(conversion, |rows| {
            output.extend_from_slice(rows);
            Ok::<_, Error>(())
        })?;
        Ok(output)
    }

    const PLAIN: Conversion = Conversion { form: Form::Float(DType::F32), rows: RowOrder::Unchanged, shift: 0.0 };

    fn floats(bytes: &[u8]) -> Vec<f32> {
        let mut floats = Vec::new();
        read_floats(bytes, DType::F32, &mut floats);
        floats
    }

    #[test]
    fn floats_in_every_dtype_good() {
        let numbers = [1.5, -2.0, 0.25, 1024.0];
        for from in DType::FLOATS {
            let original = original(&[2, 2], &numbers, from);
            assert_eq!(floats(&converted(&original, &PLAIN).unwrap()), numbers);
            let shifted = converted(&original, &Conversion { shift: 1.0, ..PLAIN }).unwrap();
            assert_eq!(floats(&shifted), [2.5, -1.0, 1.25, 1025.0]);
        }
    }

    #[test]
    fn halves_of_heads_are_interleaved_good() {
        let numbers: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let interleaved = Conversion { rows: RowOrder::Interleaved { heads: 2 }, ..PLAIN };
        let matrix = converted(&original(&[8, 2], &numbers, DType::F32), &interleaved).unwrap();
        let first: Vec<f32> = floats(&matrix).into_iter().step_by(2).map(|x| x / 2.0).collect();
        assert_eq!(first, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let bias = converted(&original(&[8], &numbers[..8], DType::BF16), &interleaved).unwrap();
        assert_eq!(floats(&bias), first);
    }

    /// More rows than a chunk holds, shared among threads: each comes out as it would alone.
    #[test]
    fn chunks_and_threads_change_nothing_ugly() {
        let columns = 64 << 10;
        let rows = CHUNK / (columns * 4) + 3;
        let numbers: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
        let conversion = Conversion { form: Form::Blocks(BlockFormat::Q4_0), ..PLAIN };
        let found = converted(&original(&[rows, columns], &numbers, DType::F32), &conversion).unwrap();
        let mut expected = vec![0; found.len()];
        encode_blocks(BlockFormat::Q4_0, &numbers, &mut expected);
        assert!(found == expected);
    }

    #[test]
    fn affine_rows_hold_words_scales_and_offsets_good() {
        let numbers: Vec<f32> = (0..128).map(|i| (i as f32).cos()).collect();
        let form = Form::Affine { bits: 4, group_size: 32 };
        let found = converted(&original(&[2, 64], &numbers, DType::F32), &Conversion { form, ..PLAIN }).unwrap();
        assert_eq!(found.len(), 2 * form.row_bytes(64, DType::F32));
        let (mut words, mut scales, mut offsets) = ([0; 32], [0.0; 2], [0.0; 2]);
        let row = AffineRow { words: &mut words, scales: &mut scales, offsets: &mut offsets };
        encode_affine(4, 32, &numbers[64..], row);
        let (_, second) = found.split_at(found.len() / 2);
        assert_eq!(second[..32], words);
        assert_eq!(floats(&second[32..]), [scales, offsets].concat());
    }

    #[test]
    fn numbers_that_do_not_fit_bad() {
        let blocks = Conversion { form: Form::Blocks(BlockFormat::Q4_0), ..PLAIN };
        let refused = |numbers: &[f32], conversion| {
            let original = original(&[1, numbers.len()], numbers, DType::F32);
            converted(&original, conversion).unwrap_err().to_string()
        };
        let mut numbers = [1.0; 32];
        assert!(refused(&numbers[..31], &blocks).ends_with("found rows of 31"));
        numbers[7] = f32::NAN;
        assert!(refused(&numbers, &blocks).ends_with("found NaN"), "{}", refused(&numbers, &blocks));
        numbers[7] = 1e6;
        let expected = "m.safetensors: tensor `w`: expected numbers of a magnitude of at most 6.5504e4, to be written as \
                        Float(F16), found 1e6";
        assert_eq!(refused(&numbers, &Conversion { form: Form::Float(DType::F16), ..PLAIN }), expected);
        numbers[9] = f32::INFINITY;
        assert!(refused(&numbers, &PLAIN).ends_with("found inf"));
    }

    #[test]
    fn nothing_at_all_ugly() {
        for shape in [&[0usize, 32][..], &[32, 0], &[0]] {
            assert!(converted(&original(shape, &[], DType::F32), &PLAIN).unwrap().is_empty());
        }
    }
}
