// SPDX-License-Identifier: EUPL-1.2
//! Every primitive operation of the reference: simple loops over row-major elements.

use super::array::{Array, positions, truncate, wrap};
use super::tolerance::{Real, Sum};
use crate::{BinaryOp, CompareOp, DType, Error, Op, Quantization, ReduceOp, Result, Spec, UnaryOp, UnpackedRow};

/// An input: its elements and what they are.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) array: &'a Array,
    pub(super) spec: &'a Spec,
}

impl Input<'_> {
    fn shape(&self) -> &[usize] {
        &self.spec.shape
    }

    /// The elements stretched to `shape`.
    fn broadcast(&self, shape: &[usize]) -> Array {
        let own = self.spec.shape.contiguous_strides();
        let missing = shape.len() - own.len();
        let strides: Vec<usize> = (0..shape.len())
            .map(|axis| match axis.checked_sub(missing) {
                Some(own_axis) if self.spec.shape[own_axis] != 1 => own[own_axis],
                _ => 0,
            })
            .collect();
        self.array.gather(positions(shape, &strides, 0).into_iter())
    }
}

/// Runs a primitive; `None` for a fused operation.
pub(super) fn run(op: &Op, inputs: &[Input<'_>], output: &Spec) -> Option<Result<Array>> {
    let result = match (op, inputs) {
        (Op::Full { dtype, value, .. }, []) => Ok(full(output.shape.elements(), *dtype, *value)),
        (Op::Arange { len }, []) => Ok(Array::Integers((0..*len as i64).collect())),
        (Op::Reshape { .. }, [x]) => Ok(x.array.clone()),
        (Op::Permute { axes }, [x]) => {
            let own = x.spec.shape.contiguous_strides();
            let strides: Vec<usize> = axes.iter().map(|&axis| own[axis]).collect();
            Ok(x.array.gather(positions(&output.shape, &strides, 0).into_iter()))
        }
        (Op::Slice { axis, start, step, .. }, [x]) => {
            let mut strides = x.spec.shape.contiguous_strides();
            let offset = start * strides[*axis];
            strides[*axis] = strides[*axis].saturating_mul(*step);
            Ok(x.array.gather(positions(&output.shape, &strides, offset).into_iter()))
        }
        (Op::Broadcast { shape }, [x]) => Ok(x.broadcast(shape)),
        (Op::Concat { axis }, parts) => Ok(concat(*axis, parts, output)),
        (Op::Cast { dtype }, [x]) => Ok(cast(x, *dtype)),
        (Op::Unary(op), [x]) => Ok(unary(*op, x)),
        (Op::Binary(op), [a, b]) => Ok(binary(*op, a, b, output)),
        (Op::Compare(op), [a, b]) => Ok(compare(*op, a, b, output)),
        (Op::Select, [condition, a, b]) => Ok(select(condition, a, b, output)),
        (Op::Reduce { op, axis }, [x]) => Ok(reduce(*op, x, *axis)),
        (Op::ArgMax { axis }, [x]) => Ok(argmax(x, *axis)),
        (Op::MatMul, [a, b]) => Ok(matmul(a, b, output)),
        (Op::TakeRows, [table, index]) => rows_of(op, index, table.shape()[0]).map(|rows| take_rows(table, &rows)),
        (Op::QuantizeRows, [x]) => Ok(quantize_rows(x, output)),
        (Op::DequantizeRows, [x]) => Ok(dequantize_rows(x, output)),
        (Op::AddRows { count }, [rows, index]) => {
            rows_of(op, index, *count).map(|places| add_rows(rows, &places, output))
        }
        (Op::Dequantize { quantization, dtype }, [packed, floats @ ..]) => {
            Ok(dequantize(*quantization, packed, floats, *dtype, output))
        }
        _ => return None,
    };
    Some(result)
}

fn full(elements: usize, dtype: DType, value: f64) -> Array {
    if dtype.is_float() {
        return Array::Floats(vec![Real::exact(value).cast(DType::F32).cast(dtype); elements]);
    }
    Array::Integers(vec![truncate(value, dtype); elements])
}

fn concat(axis: usize, parts: &[Input<'_>], output: &Spec) -> Array {
    // Row by row of the leading axes, each part gives its stretch of the joined axis and what follows it.
    let outer: usize = output.shape[..axis].iter().product();
    let stretch = |x: &Input<'_>| x.shape()[axis..].iter().product::<usize>();
    let order = (0..outer).flat_map(|row| parts.iter().enumerate().map(move |(part, x)| (row, part, stretch(x))));
    let places = order.flat_map(|(row, part, len)| (row * len..(row + 1) * len).map(move |i| (part, i)));
    match parts.first().map(|x| x.array) {
        Some(Array::Integers(_)) => Array::Integers(places.map(|(part, i)| integers(&parts[part])[i]).collect()),
        _ => Array::Floats(places.map(|(part, i)| floats(&parts[part])[i]).collect()),
    }
}

fn cast(x: &Input<'_>, dtype: DType) -> Array {
    match x.array {
        Array::Floats(xs) if dtype.is_float() => Array::Floats(xs.iter().map(|x| x.cast(dtype)).collect()),
        Array::Floats(xs) => Array::Integers(xs.iter().map(|x| truncate(x.value, dtype)).collect()),
        Array::Integers(xs) if dtype.is_float() => {
            Array::Floats(xs.iter().map(|&x| Real::from_integer(x, dtype)).collect())
        }
        Array::Integers(xs) => Array::Integers(xs.iter().map(|&x| wrap(x, dtype)).collect()),
    }
}

fn unary(op: UnaryOp, x: &Input<'_>) -> Array {
    let dtype = x.spec.dtype;
    match x.array {
        Array::Floats(xs) => Array::Floats(xs.iter().map(|x| x.unary(op, dtype)).collect()),
        Array::Integers(xs) => Array::Integers(
            xs.iter()
                .map(|&x| wrap(if op == UnaryOp::Abs { x.wrapping_abs() } else { x.wrapping_neg() }, dtype))
                .collect(),
        ),
    }
}

fn binary(op: BinaryOp, a: &Input<'_>, b: &Input<'_>, output: &Spec) -> Array {
    let dtype = output.dtype;
    match (a.broadcast(&output.shape), b.broadcast(&output.shape)) {
        (Array::Integers(a), Array::Integers(b)) => {
            let compute = |(a, b): (i64, i64)| match op {
                BinaryOp::Add => a.wrapping_add(b),
                BinaryOp::Sub => a.wrapping_sub(b),
                BinaryOp::Mul => a.wrapping_mul(b),
                // Refused for integers before it comes here.
                BinaryOp::Div => a.checked_div(b).unwrap_or(0),
                BinaryOp::Max => a.max(b),
                BinaryOp::Min => a.min(b),
            };
            Array::Integers(a.into_iter().zip(b).map(|pair| wrap(compute(pair), dtype)).collect())
        }
        (a, b) => {
            let (a, b) = (into_floats(a), into_floats(b));
            Array::Floats(a.into_iter().zip(b).map(|(a, b)| a.binary(op, b, dtype)).collect())
        }
    }
}

fn compare(op: CompareOp, a: &Input<'_>, b: &Input<'_>, output: &Spec) -> Array {
    fn holds<T: PartialOrd>(op: CompareOp, a: T, b: T) -> i64 {
        i64::from(match op {
            CompareOp::Equal => a == b,
            CompareOp::Less => a < b,
            CompareOp::LessEqual => a <= b,
        })
    }
    Array::Integers(match (a.broadcast(&output.shape), b.broadcast(&output.shape)) {
        (Array::Integers(a), Array::Integers(b)) => a.into_iter().zip(b).map(|(a, b)| holds(op, a, b)).collect(),
        (a, b) => {
            let (a, b) = (into_floats(a), into_floats(b));
            a.into_iter().zip(b).map(|(a, b)| holds(op, a.value, b.value)).collect()
        }
    })
}

fn select(condition: &Input<'_>, a: &Input<'_>, b: &Input<'_>, output: &Spec) -> Array {
    fn choose<T>(conditions: &[i64], a: Vec<T>, b: Vec<T>) -> Vec<T> {
        conditions.iter().zip(a.into_iter().zip(b)).map(|(&holds, (a, b))| if holds != 0 { a } else { b }).collect()
    }
    let Array::Integers(conditions) = condition.broadcast(&output.shape) else {
        return Array::Integers(vec![]);
    };
    match (a.broadcast(&output.shape), b.broadcast(&output.shape)) {
        (Array::Integers(a), Array::Integers(b)) => Array::Integers(choose(&conditions, a, b)),
        (a, b) => Array::Floats(choose(&conditions, into_floats(a), into_floats(b))),
    }
}

/// The elements along `axis`, for each place of the other axes in row-major order.
fn lanes(x: &Input<'_>, axis: usize) -> Vec<Vec<Real>> {
    let xs = floats(x);
    let len = x.shape()[axis];
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let outer: usize = x.shape()[..axis].iter().product();
    let lane = |o: usize, i: usize| (0..len).map(|j| xs[(o * len + j) * inner + i]).collect();
    (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))).map(|(o, i)| lane(o, i)).collect()
}

fn reduce(op: ReduceOp, x: &Input<'_>, axis: usize) -> Array {
    let dtype = x.spec.dtype;
    let one = |lane: Vec<Real>| match op {
        ReduceOp::Sum => {
            let mut sum = Sum::default();
            lane.into_iter().for_each(|x| sum.add(x));
            sum.finish(dtype)
        }
        ReduceOp::Max => {
            lane.into_iter().fold(Real::exact(f64::NEG_INFINITY), |max, x| max.binary(BinaryOp::Max, x, dtype))
        }
    };
    Array::Floats(lanes(x, axis).into_iter().map(one).collect())
}

fn argmax(x: &Input<'_>, axis: usize) -> Array {
    let one = |lane: Vec<Real>| {
        let mut best = 0;
        for (i, x) in lane.iter().enumerate() {
            if x.value > lane[best].value || (lane[best].value.is_nan() && !x.value.is_nan()) {
                best = i;
            }
        }
        best as i64
    };
    Array::Integers(lanes(x, axis).into_iter().map(one).collect())
}

fn matmul(a: &Input<'_>, b: &Input<'_>, output: &Spec) -> Array {
    let rank = output.shape.len();
    let (lead, mn) = output.shape.split_at(rank - 2);
    let (m, n, k) = (mn[0], mn[1], a.shape()[a.shape().len() - 1]);
    let stretched =
        |x: &Input<'_>, rows: usize, columns: usize| into_floats(x.broadcast(&[lead, &[rows, columns]].concat()));
    let (a, b) = (stretched(a, m, k), stretched(b, k, n));
    let mut products = Vec::with_capacity(output.shape.elements());
    for batch in 0..lead.iter().product() {
        for row in 0..m {
            for column in 0..n {
                let mut sum = Sum::default();
                for j in 0..k {
                    sum.add_product(a[(batch * m + row) * k + j], b[(batch * k + j) * n + column]);
                }
                products.push(sum.finish(output.dtype));
            }
        }
    }
    Array::Floats(products)
}

/// The products and sums of each weight, as [`Quantization::weights`] defines them, in f64.
fn dequantize(
    quantization: Quantization,
    packed: &Input<'_>,
    beside: &[Input<'_>],
    dtype: DType,
    output: &Spec,
) -> Array {
    let bytes = packed.array.encode(packed.spec.dtype);
    let (n, k) = (output.shape[0], output.shape[1]);
    let form = quantization.form();
    let groups = k / form.group_size;
    let mut weights = Vec::with_capacity(n * k);
    for (row, packed) in bytes.chunks_exact((bytes.len() / n.max(1)).max(1)).take(n).enumerate() {
        let (mut quants, mut scales, mut offsets) = (vec![0; k], vec![0.0; groups], vec![0.0; groups]);
        let unpacked = UnpackedRow { quants: &mut quants, scales: &mut scales, offsets: &mut offsets };
        quantization.unpack_row(packed, unpacked);
        let real = |own: f32, input: usize, group: usize| match beside.get(input) {
            Some(input) => floats(input)[row * groups + group],
            None => Real::exact(own.into()),
        };
        for (i, &quant) in quants.iter().enumerate() {
            let value = form.codebook.map_or(quant, |codebook| codebook[usize::from(quant & 15)]);
            let steps = Real::exact(f64::from(value) - f64::from(form.zero));
            let group = i / form.group_size;
            let product = real(scales[group], 0, group).binary(BinaryOp::Mul, steps, DType::F32);
            let weight = product.binary(BinaryOp::Add, real(offsets[group], 1, group), DType::F32);
            weights.push(weight.cast(dtype));
        }
    }
    Array::Floats(weights)
}

/// Each row's integers and the bytes of its scale, computed in f32 as the operation defines them.
fn quantize_rows(x: &Input<'_>, output: &Spec) -> Array {
    let width = x.shape()[x.shape().len() - 1];
    let rows = output.shape.elements() / (width + size_of::<f32>());
    let xs = floats(x);
    let row = |row: usize| {
        let row: Vec<f32> = xs[row * width..(row + 1) * width].iter().map(|x| x.value as f32).collect();
        let finite = row.iter().all(|x| x.is_finite());
        let scale = row.iter().fold(0f32, |largest, x| largest.max(x.abs())) / 127.0;
        let scale = match scale {
            _ if !finite => f32::from_bits(0x7fc0_0000),
            scale if scale < f32::MIN_POSITIVE => 0.0,
            scale => scale,
        };
        let quant = move |x: f32| if scale > 0.0 { (x / scale).round_ties_even() as i64 } else { 0 };
        let bytes = scale.to_le_bytes().map(|byte| i64::from(byte as i8));
        row.into_iter().map(quant).chain(bytes).collect::<Vec<i64>>()
    };
    Array::Integers((0..rows).flat_map(row).collect())
}

/// Each integer times its row's scale.
fn dequantize_rows(x: &Input<'_>, output: &Spec) -> Array {
    let width = x.shape()[x.shape().len() - 1];
    let row = |row: &[i64]| {
        let (quants, scale) = row.split_at(width - size_of::<f32>());
        let scale = scale.iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte as u8));
        let scale = Real::exact(f32::from_bits(scale).into());
        let value = |&quant: &i64| Real::exact(quant as f64).binary(BinaryOp::Mul, scale, output.dtype);
        quants.iter().map(value).collect::<Vec<Real>>()
    };
    Array::Floats(integers(x).chunks_exact(width).flat_map(row).collect())
}

fn take_rows(table: &Input<'_>, rows: &[usize]) -> Array {
    let width: usize = table.shape()[1..].iter().product();
    table.array.gather(rows.iter().flat_map(|row| row * width..(row + 1) * width))
}

fn add_rows(rows: &Input<'_>, places: &[usize], output: &Spec) -> Array {
    let width: usize = output.shape[1..].iter().product();
    let mut sums = vec![Sum::default(); output.shape.elements()];
    for (t, place) in places.iter().enumerate() {
        for i in 0..width {
            sums[place * width + i].add(floats(rows)[t * width + i]);
        }
    }
    Array::Floats(sums.into_iter().map(|sum| sum.finish(output.dtype)).collect())
}

/// Writes into `target`, which the caller has for itself.
pub(super) fn write_rows(target: &mut Array, dtype: DType, rows: &Input<'_>, index: &[usize]) {
    let width: usize = rows.shape()[1..].iter().product();
    let places =
        index.iter().enumerate().flat_map(|(t, row)| (0..width).map(move |i| (row * width + i, t * width + i)));
    match (target, rows.array) {
        (Array::Floats(target), Array::Floats(rows)) => {
            places.for_each(|(to, from)| target[to] = rows[from].cast(dtype))
        }
        (Array::Integers(target), Array::Integers(rows)) => places.for_each(|(to, from)| target[to] = rows[from]),
        _ => {}
    }
}

/// The rows that an index names, of a table of `len` rows.
pub(super) fn rows_of(op: &Op, index: &Input<'_>, len: usize) -> Result<Vec<usize>> {
    let within = |&index: &i64| match usize::try_from(index) {
        Ok(row) if row < len => Ok(row),
        _ => Err(Error::Index { op: op.name(), index, len }),
    };
    integers(index).iter().map(within).collect()
}

fn floats<'a>(x: &Input<'a>) -> &'a [Real] {
    match x.array {
        Array::Floats(xs) => xs,
        Array::Integers(_) => &[],
    }
}

fn integers<'a>(x: &Input<'a>) -> &'a [i64] {
    match x.array {
        Array::Integers(xs) => xs,
        Array::Floats(_) => &[],
    }
}

fn into_floats(array: Array) -> Vec<Real> {
    match array {
        Array::Floats(xs) => xs,
        Array::Integers(_) => vec![],
    }
}
