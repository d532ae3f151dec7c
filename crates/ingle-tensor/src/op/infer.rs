// SPDX-License-Identifier: EUPL-1.2
//! The shape and dtype rule of each operation, checked once for every device.

use super::{Momentum, Op, PagedAttention, UnaryOp, WeightDecay};
use crate::error::listed;
use crate::{BinaryOp, DType, Error, Quantization, Result, Shape, Spec};

impl Op {
    /// The spec of the result that this operation gives on inputs of these specs.
    ///
    /// # Errors
    /// [`Error::Arity`], [`Error::Shape`] or [`Error::DType`] if the inputs do not fit the operation.
    pub fn infer(&self, inputs: &[Spec]) -> Result<Spec> {
        let rule = Rule { op: self.name(), inputs };
        match self {
            Op::Full { shape, dtype, .. } => {
                rule.inputs::<0>()?;
                rule.sized(Spec::new(shape, *dtype))
            }
            Op::Arange { len } => {
                rule.inputs::<0>()?;
                rule.shape_if(i32::try_from(*len).is_ok(), "a length within i32")?;
                Ok(Spec::new([*len], DType::I32))
            }
            Op::Reshape { shape } => {
                let [x] = rule.inputs()?;
                let elements = shape.checked_elements();
                rule.shape_if(elements.is_some() && elements == x.shape.checked_elements(), || {
                    format!("as many elements as {shape} has")
                })?;
                Ok(Spec::new(shape, x.dtype))
            }
            Op::Permute { axes } => {
                let [x] = rule.inputs()?;
                let mut seen: Vec<usize> = axes.clone();
                seen.sort_unstable();
                rule.shape_if(seen.iter().copied().eq(0..x.shape.len()), || {
                    format!("a rank of which {axes:?} is a permutation")
                })?;
                Ok(Spec::new(axes.iter().map(|&axis| x.shape[axis]).collect::<Shape>(), x.dtype))
            }
            Op::Slice { axis, start, end, step } => {
                let [x] = rule.inputs()?;
                let len = rule.axis_length(x, *axis)?;
                rule.shape_if(*step >= 1 && start <= end && *end <= len, || {
                    format!("axis {axis} to hold {start}..{end} in steps of {step}")
                })?;
                Ok(Spec::new(x.shape.with_axis(*axis, (end - start).div_ceil(*step)), x.dtype))
            }
            Op::Broadcast { shape } => {
                let [x] = rule.inputs()?;
                rule.shape_if(x.shape.broadcast_with(shape).as_ref() == Some(shape), || {
                    format!("a shape that broadcasts to {shape}")
                })?;
                rule.sized(Spec::new(shape, x.dtype))
            }
            Op::Concat { axis } => rule.concat(*axis),
            Op::Cast { dtype } => {
                let [x] = rule.inputs()?;
                rule.sized(Spec::new(&x.shape, *dtype))
            }
            Op::Unary(UnaryOp::Neg | UnaryOp::Abs) => {
                let [x] = rule.inputs()?;
                rule.dtype_if(!matches!(x.dtype, DType::U8 | DType::U32), "a float or a signed integer")?;
                Ok(x.clone())
            }
            Op::Unary(_) | Op::Softmax | Op::Activate(_) => {
                let [x] = rule.inputs()?;
                rule.floats(&[x])?;
                rule.shape_if(*self != Op::Softmax || !x.shape.is_empty(), "at least one axis")?;
                Ok(x.clone())
            }
            Op::SoftCap { cap } => {
                let [x] = rule.inputs()?;
                rule.floats(&[x])?;
                rule.shape_if(*cap > 0.0 && cap.is_finite(), "a finite cap greater than 0")?;
                Ok(x.clone())
            }
            Op::Binary(op) => {
                let [a, b] = rule.inputs()?;
                rule.same_dtype(&[a, b])?;
                if *op == BinaryOp::Div {
                    rule.floats(&[a])?;
                }
                Ok(Spec::new(rule.broadcast(&[a, b])?, a.dtype))
            }
            Op::Compare(_) => {
                let [a, b] = rule.inputs()?;
                rule.same_dtype(&[a, b])?;
                Ok(Spec::new(rule.broadcast(&[a, b])?, DType::U8))
            }
            Op::Select => {
                let [condition, a, b] = rule.inputs()?;
                rule.dtype_if(condition.dtype == DType::U8, "a u8 condition")?;
                rule.same_dtype(&[a, b])?;
                Ok(Spec::new(rule.broadcast(&[condition, a, b])?, a.dtype))
            }
            Op::Reduce { axis, .. } => {
                let [x] = rule.inputs()?;
                rule.floats(&[x])?;
                rule.axis_length(x, *axis)?;
                Ok(Spec::new(x.shape.with_axis(*axis, 1), x.dtype))
            }
            Op::ArgMax { axis } => {
                let [x] = rule.inputs()?;
                rule.floats(&[x])?;
                let len = rule.axis_length(x, *axis)?;
                rule.shape_if(len > 0, "a non-empty axis")?;
                rule.sized(Spec::new(x.shape.with_axis(*axis, 1), DType::I32))
            }
            Op::MatMul => rule.matmul(),
            Op::TakeRows => {
                let [table, index] = rule.inputs()?;
                rule.index(index)?;
                rule.shape_if(!table.shape.is_empty(), "a table of rows")?;
                rule.sized(Spec::new(table.shape.with_axis(0, index.shape[0]), table.dtype))
            }
            Op::WriteRows => {
                let [target, rows, index] = rule.inputs()?;
                rule.index(index)?;
                rule.dtype_if(
                    [target, rows].iter().all(|s| s.dtype.is_float())
                        || [target, rows].iter().all(|s| s.dtype == DType::I8),
                    "floating-point operands, or i8 ones",
                )?;
                rule.shape_if(
                    !target.shape.is_empty() && rows.shape == target.shape.with_axis(0, index.shape[0]),
                    "target [n, …], rows [T, …], index [T]",
                )?;
                Ok(target.clone())
            }
            Op::QuantizeRows => {
                let [x] = rule.inputs()?;
                rule.floats(&[x])?;
                rule.shape_if(!x.shape.is_empty(), "at least one axis")?;
                let last = x.shape.len() - 1;
                rule.sized(Spec::new(x.shape.with_axis(last, x.shape[last].saturating_add(SCALE_BYTES)), DType::I8))
            }
            Op::DequantizeRows => {
                let [x] = rule.inputs()?;
                rule.dtype_if(x.dtype == DType::I8, "i8 rows")?;
                let width = x.shape.last().and_then(|width| width.checked_sub(SCALE_BYTES));
                rule.shape_if(width.is_some(), "rows of integers and the 4 bytes of a scale")?;
                rule.sized(Spec::new(x.shape.with_axis(x.shape.len() - 1, width.unwrap_or(0)), DType::F32))
            }
            Op::AddRows { count } => {
                let [rows, index] = rule.inputs()?;
                rule.floats(&[rows])?;
                rule.index(index)?;
                let fits = !rows.shape.is_empty() && rows.shape[0] == index.shape[0];
                rule.shape_if(fits, "rows [T, …], index [T]")?;
                rule.sized(Spec::new(rows.shape.with_axis(0, *count), rows.dtype))
            }
            Op::Dequantize { quantization, dtype } => rule.dequantize(*quantization, *dtype),
            Op::Pack => {
                let [weight] = rule.inputs()?;
                rule.floats(&[weight])?;
                rule.shape_if(weight.shape.len() == 2, "weight [n, k]")?;
                Ok(weight.clone())
            }
            Op::Linear => {
                let (x, weight, bias) = match rule.inputs {
                    [x, weight] => (x, weight, None),
                    [x, weight, bias] => (x, weight, Some(bias)),
                    _ => return Err(Error::Arity { op: rule.op, expected: "2 or 3", found: rule.inputs.len() }),
                };
                rule.linear(x, weight, bias, "x […, k], weight [n, k] and, if any, bias [n]")
            }
            Op::RmsNorm { .. } => {
                let [x, weight] = rule.inputs()?;
                rule.last_axis_vectors(x, &[weight])
            }
            Op::LayerNorm { .. } => {
                let [x, weight, bias] = rule.inputs()?;
                rule.last_axis_vectors(x, &[weight, bias])
            }
            Op::Rope { .. } => rule.rope(),
            Op::Glu { .. } => {
                let [gate, up] = rule.inputs()?;
                rule.floats(&[gate])?;
                rule.same_dtype(&[gate, up])?;
                rule.shape_if(gate.shape == up.shape, "two equal shapes")?;
                Ok(gate.clone())
            }
            Op::GatedMlp { .. } => {
                let [x, gate, up, down] = rule.inputs()?;
                rule.shape_if(gate.shape == up.shape, "a gate and an up of one shape")?;
                let words = "x […, k], gate and up [n, k], down [m, n]";
                let hidden = rule.linear(x, gate, None, words)?;
                rule.linear(&hidden, down, None, words)
            }
            Op::PagedAttention(attention) => rule.paged_attention(attention, rule.inputs()?),
            Op::PagedAttentionGrad(attention) => {
                let [q, keys, values, blocks, sequences, positions, gradient] = rule.inputs()?;
                rule.paged_attention(attention, [q, keys, values, blocks, sequences, positions])?;
                rule.same_dtype(&[q, gradient])?;
                rule.dtype_if(keys.dtype.is_float(), "keys and values of floats, for others have no gradient")?;
                rule.shape_if(q.shape == gradient.shape, "a gradient of the shape of q")?;
                let elements = [q, keys, values].map(|x| x.shape.checked_elements());
                let total = elements.into_iter().try_fold(0usize, |sum, len| sum.checked_add(len?));
                rule.sized(Spec::new([total.unwrap_or(usize::MAX)], DType::F32))
            }
            Op::CrossEntropy => {
                let [logits, targets] = rule.inputs()?;
                rule.logits(logits, targets)?;
                Ok(Spec::new(&targets.shape, DType::F32))
            }
            Op::CrossEntropyGrad => {
                let [logits, targets, gradient] = rule.inputs()?;
                rule.logits(logits, targets)?;
                rule.dtype_if(gradient.dtype == DType::F32, "an f32 gradient")?;
                rule.shape_if(gradient.shape == targets.shape, "a gradient of the shape of the targets")?;
                Ok(logits.clone())
            }
            Op::RmsNormGrad { .. } => {
                let [x, weight, gradient] = rule.inputs()?;
                rule.same_dtype(&[x, gradient])?;
                rule.shape_if(x.shape == gradient.shape, "a gradient of the shape of x")?;
                rule.last_axis_vectors(x, &[weight])
            }
            Op::RmsNormWeightGrad { .. } => {
                let [x, gradient] = rule.inputs()?;
                rule.floats(&[x])?;
                rule.same_dtype(&[x, gradient])?;
                rule.shape_if(x.shape == gradient.shape && !x.shape.is_empty(), "x and a gradient […, d]")?;
                Ok(Spec::new([x.shape[x.shape.len() - 1]], DType::F32))
            }
            Op::ActivateGrad(_) => {
                let [x, gradient] = rule.inputs()?;
                rule.floats(&[x])?;
                rule.same_dtype(&[x, gradient])?;
                rule.shape_if(x.shape == gradient.shape, "two equal shapes")?;
                Ok(x.clone())
            }
            Op::GluGrad { .. } => {
                let [gate, up, gradient] = rule.inputs()?;
                rule.floats(&[gate])?;
                rule.same_dtype(&[gate, up, gradient])?;
                rule.shape_if(gate.shape == up.shape && gate.shape == gradient.shape, "three equal shapes")?;
                let both = std::iter::once(2).chain(gate.shape.iter().copied()).collect::<Shape>();
                rule.sized(Spec::new(both, gate.dtype))
            }
            Op::SquaredNorm => {
                let [x] = rule.inputs()?;
                rule.floats(&[x])?;
                Ok(Spec::new([], DType::F32))
            }
            Op::Adam(adam) => {
                let fraction = 0.0..1.0;
                let known = fraction.contains(&adam.beta1) && fraction.contains(&adam.beta2) && adam.eps >= 0.0;
                rule.shape_if(known, "betas from 0 and below 1, and an eps of at least 0")?;
                let (WeightDecay::Gradient(decay) | WeightDecay::Decoupled(decay)) = adam.weight_decay;
                rule.shape_if(decay.is_finite(), "a finite weight decay")?;
                rule.optimizer(3, 4)
            }
            Op::Sgd(sgd) => {
                let known = match sgd.momentum {
                    Momentum::None => true,
                    Momentum::Heavy(momentum) | Momentum::Nesterov(momentum) => momentum.is_finite(),
                };
                rule.shape_if(known && sgd.weight_decay.is_finite(), "a finite momentum and weight decay")?;
                rule.optimizer(sgd.momentum.state_rows(), 2)
            }
        }
    }
}

/// Bytes of the scale of a row of [`Op::QuantizeRows`].
const SCALE_BYTES: usize = size_of::<f32>();

/// The inputs of one operation, and the ways to refuse them.
struct Rule<'a> {
    op: &'static str,
    inputs: &'a [Spec],
}

/// What was expected, said when it is needed.
trait Expected {
    fn say(self) -> String;
}

impl Expected for &str {
    fn say(self) -> String {
        self.to_owned()
    }
}

impl<F: FnOnce() -> String> Expected for F {
    fn say(self) -> String {
        self()
    }
}

impl<'a> Rule<'a> {
    fn inputs<const N: usize>(&self) -> Result<[&'a Spec; N]> {
        const COUNTS: [&str; 8] = ["no", "1", "2", "3", "4", "5", "6", "7"];
        let inputs: Vec<&Spec> = self.inputs.iter().collect();
        inputs.try_into().map_err(|_| Error::Arity {
            op: self.op,
            expected: COUNTS.get(N).copied().unwrap_or("more"),
            found: self.inputs.len(),
        })
    }

    fn shape_if(&self, holds: bool, expected: impl Expected) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::Shape { op: self.op, expected: expected.say(), found: listed(self.inputs) })
    }

    fn dtype_if(&self, holds: bool, expected: impl Expected) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::DType { op: self.op, expected: expected.say(), found: listed(self.inputs) })
    }

    /// Refuses a result with more bytes than an address space.
    fn sized(&self, spec: Spec) -> Result<Spec> {
        let bytes = spec.shape.checked_elements().and_then(|n| n.checked_mul(spec.dtype.size()));
        self.shape_if(bytes.is_some_and(|n| n <= isize::MAX as usize), || {
            format!("a result smaller than {}", spec.shape)
        })?;
        Ok(spec)
    }

    fn floats(&self, specs: &[&Spec]) -> Result<()> {
        self.dtype_if(specs.iter().all(|s| s.dtype.is_float()), "floating-point operands")
    }

    fn same_dtype(&self, specs: &[&Spec]) -> Result<()> {
        self.dtype_if(specs.windows(2).all(|w| w[0].dtype == w[1].dtype), "operands of one dtype")
    }

    fn index(&self, spec: &Spec) -> Result<()> {
        self.dtype_if(spec.dtype == DType::I32, "an i32 index")?;
        self.shape_if(spec.shape.len() == 1, "an index of one axis")
    }

    fn axis_length(&self, spec: &Spec, axis: usize) -> Result<usize> {
        self.shape_if(axis < spec.shape.len(), || format!("an axis {axis}"))?;
        Ok(spec.shape[axis])
    }

    fn broadcast(&self, specs: &[&Spec]) -> Result<Shape> {
        let mut shape = Shape::default();
        for spec in specs {
            match shape.broadcast_with(&spec.shape) {
                Some(joined) => shape = joined,
                None => self.shape_if(false, "shapes that broadcast together")?,
            }
        }
        self.sized(Spec::new(shape, DType::I64)).map(|spec| spec.shape)
    }

    fn concat(&self, axis: usize) -> Result<Spec> {
        let Some(first) = self.inputs.first() else {
            return Err(Error::Arity { op: self.op, expected: "at least 1", found: 0 });
        };
        self.axis_length(first, axis)?;
        self.same_dtype(&self.inputs.iter().collect::<Vec<_>>())?;
        let alike = |s: &Spec| {
            s.shape.len() == first.shape.len() && s.shape.with_axis(axis, 0) == first.shape.with_axis(axis, 0)
        };
        self.shape_if(self.inputs.iter().all(alike), || format!("shapes that differ only along axis {axis}"))?;
        let len = self.inputs.iter().map(|s| s.shape[axis]).fold(0, usize::saturating_add);
        self.sized(Spec::new(first.shape.with_axis(axis, len), first.dtype))
    }

    fn matmul(&self) -> Result<Spec> {
        let [a, b] = self.inputs()?;
        self.floats(&[a])?;
        self.same_dtype(&[a, b])?;
        let expected = "[…, m, k] and […, k, n] with leading axes that broadcast";
        self.shape_if(a.shape.len() >= 2 && b.shape.len() >= 2, expected)?;
        let (a_lead, a_last) = a.shape.split_at(a.shape.len() - 2);
        let (b_lead, b_last) = b.shape.split_at(b.shape.len() - 2);
        self.shape_if(a_last[1] == b_last[0], expected)?;
        let Some(lead) = Shape::from(a_lead).broadcast_with(&Shape::from(b_lead)) else {
            self.shape_if(false, expected)?;
            return Ok(a.clone());
        };
        let shape = lead.iter().copied().chain([a_last[0], b_last[1]]).collect::<Shape>();
        self.sized(Spec::new(shape, a.dtype))
    }

    fn linear(&self, x: &Spec, weight: &Spec, bias: Option<&Spec>, words: &'static str) -> Result<Spec> {
        self.floats(&self.inputs.iter().collect::<Vec<_>>())?;
        let fits = !x.shape.is_empty()
            && weight.shape.len() == 2
            && x.shape[x.shape.len() - 1] == weight.shape[1]
            && bias.is_none_or(|bias| *bias.shape == [weight.shape[0]]);
        self.shape_if(fits, words)?;
        self.sized(Spec::new(x.shape.with_axis(x.shape.len() - 1, weight.shape[0]), x.dtype))
    }

    fn dequantize(&self, quantization: Quantization, dtype: DType) -> Result<Spec> {
        self.dtype_if(dtype.is_float(), "a floating-point result")?;
        let (packed, k) = match quantization {
            Quantization::Affine { bits, group_size } => {
                let [weight, scales, offsets] = self.inputs()?;
                let known =
                    Quantization::AFFINE_BITS.contains(&bits) && Quantization::AFFINE_GROUPS.contains(&group_size);
                self.shape_if(known, "2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128")?;
                self.dtype_if(weight.dtype == DType::U32, "a u32 weight")?;
                self.floats(&[scales, offsets])?;
                self.same_dtype(&[scales, offsets])?;
                let matrix = weight.shape.len() == 2 && scales.shape.len() == 2;
                let k = if matrix { scales.shape[1].saturating_mul(group_size) } else { 0 };
                let fits = matrix
                    && scales.shape == offsets.shape
                    && scales.shape[0] == weight.shape[0]
                    && quantization.row_bytes(k) == weight.shape[1].checked_mul(size_of::<u32>());
                self.shape_if(fits, || {
                    format!(
                        "weight [n, k · {bits} / 32], scales and offsets [n, k / {group_size}] with k a multiple of {group_size}"
                    )
                })?;
                (weight, k)
            }
            Quantization::Blocks(format) => {
                let [blocks] = self.inputs()?;
                self.dtype_if(blocks.dtype == DType::U8, "u8 blocks")?;
                let bytes = format.block_bytes();
                let fits = blocks.shape.len() == 2 && blocks.shape[1].is_multiple_of(bytes);
                self.shape_if(fits, || format!("rows [n, bytes] of whole blocks of {bytes} bytes"))?;
                (blocks, blocks.shape[1] / bytes * format.block_len())
            }
        };
        self.sized(Spec::new([packed.shape[0], k], dtype))
    }

    fn last_axis_vectors(&self, x: &Spec, vectors: &[&Spec]) -> Result<Spec> {
        self.floats(&self.inputs.iter().collect::<Vec<_>>())?;
        let width = x.shape.last().copied();
        let fits = |v: &&Spec| v.shape.len() == 1 && Some(v.shape[0]) == width;
        self.shape_if(vectors.iter().all(fits), "x […, d] and a weight (and bias) [d]")?;
        Ok(x.clone())
    }

    fn rope(&self) -> Result<Spec> {
        let [x, positions, frequencies] = self.inputs()?;
        self.floats(&[x])?;
        self.dtype_if(frequencies.dtype == DType::F32, "f32 frequencies")?;
        self.index(positions)?;
        let fits = x.shape.len() == 3
            && positions.shape[0] == x.shape[0]
            && frequencies.shape.len() == 1
            && frequencies.shape[0].saturating_mul(2) <= x.shape[2];
        self.shape_if(fits, "x [T, H, D], positions [T], frequencies [R/2] with R ≤ D")?;
        Ok(x.clone())
    }

    /// A state of so many rows, a gradient of the shape of each, and so many rates.
    fn optimizer(&self, rows: usize, rates: usize) -> Result<Spec> {
        let [state, gradient, given] = self.inputs()?;
        self.dtype_if(state.dtype == DType::F32 && given.dtype == DType::F32, "an f32 state and f32 rates")?;
        self.floats(&[gradient])?;
        let fits = state.shape.split_first().is_some_and(|(first, rest)| *first == rows && *rest == *gradient.shape)
            && *given.shape == [rates];
        self.shape_if(fits, || format!("state [{rows}, …], gradient […], rates [{rates}]"))?;
        Ok(state.clone())
    }

    fn logits(&self, logits: &Spec, targets: &Spec) -> Result<()> {
        self.floats(&[logits])?;
        self.index(targets)?;
        let fits = logits.shape.len() == 2 && logits.shape[0] == targets.shape[0] && logits.shape[1] > 0;
        self.shape_if(fits, "logits [T, V] with V at least 1, targets [T]")
    }

    fn paged_attention(&self, attention: &PagedAttention, inputs: [&Spec; 6]) -> Result<Spec> {
        let block_size = attention.block_size;
        self.shape_if(block_size > 0 && attention.window != Some(0), "a block and a window of at least 1")?;
        let soft_cap = attention.soft_cap.unwrap_or(1.0);
        self.shape_if(soft_cap > 0.0 && soft_cap.is_finite(), "a finite soft cap greater than 0")?;
        let [q, keys, values, blocks, sequences, positions] = inputs;
        self.floats(&[q])?;
        self.dtype_if(keys.dtype.is_float() || keys.dtype == DType::I8, "keys and values of floats or i8")?;
        self.same_dtype(&[keys, values])?;
        self.dtype_if(blocks.dtype == DType::I32, "an i32 block table")?;
        self.index(sequences)?;
        self.index(positions)?;
        let beside = if keys.dtype == DType::I8 { SCALE_BYTES } else { 0 };
        let fits = q.shape.len() == 3
            && keys.shape.len() == 3
            && keys.shape == values.shape
            && blocks.shape.len() == 2
            && keys.shape[1] > 0
            && q.shape[1].is_multiple_of(keys.shape[1])
            && keys.shape[2] == q.shape[2].saturating_add(beside)
            && keys.shape[0].is_multiple_of(block_size)
            && sequences.shape[0] == q.shape[0]
            && positions.shape[0] == q.shape[0];
        self.shape_if(fits, || {
            format!(
                "q [T, H, D], keys and values [n × {block_size}, KH, {}] with H a multiple of KH, \
                 blocks [S, B], sequences [T], positions [T]",
                if beside > 0 { "D + 4" } else { "D" }
            )
        })?;
        Ok(q.clone())
    }
}
