// SPDX-License-Identifier: EUPL-1.2
//! The suite tested on itself: it passes the reference, and it fails devices that are wrong in one thing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::*;
use crate::{
    Activation, Adam, DType, Device, Memory, Momentum, Op, PagedAttention, Result, RopeLayout, Sgd, Spec, Storage,
    Tensor, WeightDecay,
};

#[test]
fn the_reference_passes_good() {
    let device: DeviceHandle = Arc::new(Reference::new());
    let [report] = <[Report; 1]>::try_from(run(&[device])).unwrap();
    report.assert_passed();
    assert!(report.rows().iter().all(|row| row.cases > 0));
}

#[test]
fn tolerances_are_tight_good() {
    let device: DeviceHandle = Arc::new(Reference::new());
    let mut bounds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for case in cases() {
        let bytes = |(i, input): (usize, &Input)| input.on(&device, input.bytes(case.seed(i))).unwrap().1;
        let inputs: Vec<Tensor> = case.inputs.iter().enumerate().map(bytes).collect();
        let floats = inputs.iter().filter(|x| x.dtype().is_float());
        let result = Tensor::apply_on(&device, &case.op, inputs.clone()).unwrap();
        // In the narrow dtypes the last rounding hides everything else; beside i8, attention may round to 16 bits.
        let is_i8 = matches!(case.op, Op::PagedAttention(_)) && inputs[1].dtype() == DType::I8;
        if result.dtype() != DType::F32 || floats.map(Tensor::dtype).any(|dtype| dtype != DType::F32) || is_i8 {
            continue;
        }
        let values = Reference::values(&result).unwrap();
        let largest = values.into_iter().filter(|x| x.is_finite()).fold(0f64, |max, x| max.max(x.abs()));
        let bound = Reference::errors(&result).unwrap().into_iter().fold(0f64, f64::max);
        bounds.entry(case.op.name()).or_default().push(bound / tolerance::ulp(largest, DType::F32));
    }
    for (op, mut bounds) in bounds {
        bounds.sort_by(f64::total_cmp);
        let median = bounds[bounds.len() / 2];
        println!("{op:<28} {median:.0}");
        // Attention, a chain of sums, comes to 130; half an ulp of f16 is 4096 of f32, of bf16 32768. Its gradient
        // subtracts from what each weight is worth the mean of that, after which less is left than went in.
        let limit = if op.starts_with("paged_attention_grad") { 2000.0 } else { 200.0 };
        assert!(median <= limit, "{op}: half of its cases have a tolerance of over {median} ulps");
    }
}

/// A reference that is wrong in one thing.
#[derive(Debug)]
struct Faulty {
    inner: DeviceHandle,
    fault: Fault,
    kept: Mutex<Vec<Tensor>>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Gives this instead, where it gives anything.
    Computes(fn(&Op, &[Tensor]) -> Option<Result<Tensor>>),
    /// Writes rows into a target that others hold.
    WritesThrough,
    /// Never writes in place.
    Copies,
    /// Keeps some results for ever.
    Leaks,
    /// Knows no memory limit.
    Unlimited,
    /// Counts no memory.
    Uncounted,
}

impl Fault {
    fn device(self) -> DeviceHandle {
        Arc::new(Faulty { inner: Arc::new(Reference::new()), fault: self, kept: Mutex::default() })
    }
}

/// A tensor of the inner device.
type Cell = Mutex<Tensor>;

fn cell(tensor: &Tensor) -> &Cell {
    tensor.storage().get::<Cell>().unwrap()
}

impl Device for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn description(&self) -> String {
        format!("{:?}", self.fault)
    }

    fn run(&self, op: &Op, inputs: Vec<Tensor>, _output: &Spec) -> Result<Storage> {
        let inner = || inputs.iter().map(|x| cell(x).lock().unwrap().clone()).collect::<Vec<Tensor>>();
        let found = match self.fault {
            Fault::Computes(compute) => compute(op, &inner()).transpose()?,
            Fault::WritesThrough if *op == Op::WriteRows => {
                let written = Tensor::apply(op, inner())?;
                *cell(&inputs[0]).lock().unwrap() = written.clone();
                Some(written)
            }
            Fault::Copies if *op == Op::WriteRows => Some(Tensor::apply(op, inner())?),
            _ => None,
        };
        let found = match found {
            Some(found) => found,
            None => {
                let own = |x: Tensor| match x.into_storage().take::<Cell>() {
                    Ok(cell) => cell.into_inner().unwrap(),
                    Err(shared) => shared.get::<Cell>().unwrap().lock().unwrap().clone(),
                };
                Tensor::apply_on(&self.inner, op, inputs.into_iter().map(own).collect())?
            }
        };
        if matches!((self.fault, op), (Fault::Leaks, Op::Arange { .. })) {
            self.kept.lock().unwrap().push(found.clone());
        }
        Ok(Storage::new(Mutex::new(found)))
    }

    fn upload(&self, bytes: Bytes, spec: &Spec) -> Result<Storage> {
        Ok(Storage::new(Mutex::new(Tensor::from_bytes(&self.inner, bytes, spec.clone())?)))
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        self.inner.download(&cell(tensor).lock().unwrap())
    }

    fn activation_dtype(&self, weights: DType) -> DType {
        self.inner.activation_dtype(weights)
    }

    fn memory(&self) -> Memory {
        if matches!(self.fault, Fault::Uncounted) { Memory::default() } else { self.inner.memory() }
    }

    fn reset_peak_memory(&self) {
        self.inner.reset_peak_memory();
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        if !matches!(self.fault, Fault::Unlimited) {
            self.inner.set_memory_limit(bytes);
        }
    }

    fn set_cache_limit(&self, bytes: Option<usize>) {
        self.inner.set_cache_limit(bytes);
    }

    fn clear_cache(&self) {
        self.inner.clear_cache();
    }
}

/// Asserts that a device that computes so fails cases of operations like `op`.
#[track_caller]
fn refuted(op: Op, fault: fn(&Op, &[Tensor]) -> Option<Result<Tensor>>) {
    let device = Fault::Computes(fault).device();
    assert!(cases_of(&op).iter().any(|case| check(&device, case).is_err()), "no case of {} notices", op.name());
}

/// Asserts that `property` fails on a device with this fault.
#[track_caller]
fn refuted_by(property: fn(&DeviceHandle, &mut Report), fault: Fault) {
    let mut report = Report::default();
    property(&fault.device(), &mut report);
    assert!(!report.passed(), "{fault:?} passes:\n{report}");
}

#[test]
fn the_wrapper_alone_passes_good() {
    let device = Fault::Computes(|_, _| None).device();
    for op in [Op::WriteRows, Op::Softmax, Op::Permute { axes: vec![] }] {
        for case in cases_of(&op) {
            check(&device, &case).unwrap();
        }
    }
    let mut report = Report::default();
    for property in [views::run, donation::run, errors::run, memory::run] {
        property(&device, &mut report);
    }
    report.assert_passed();
}

#[test]
fn a_wrong_layout_is_noticed_bad() {
    // The right shape, the elements where they were.
    let transpose = |op: &Op, x: &[Tensor]| match op {
        Op::Permute { axes } => Some(x[0].reshape(axes.iter().map(|&axis| x[0].shape()[axis]).collect::<Vec<_>>())),
        _ => None,
    };
    refuted(Op::Permute { axes: vec![] }, transpose);
    refuted_by(views::run, Fault::Computes(transpose));

    // From the start of the axis instead of the start of the slice.
    let slice = |op: &Op, x: &[Tensor]| match op {
        Op::Slice { axis, start, end, step: 1 } => Some(x[0].slice(*axis, 0, end - start)),
        _ => None,
    };
    refuted(Op::Slice { axis: 0, start: 0, end: 0, step: 1 }, slice);
    refuted_by(views::run, Fault::Computes(slice));
}

#[test]
fn a_wrong_rounding_is_noticed_bad() {
    // Cut off instead of rounded.
    refuted(Op::Cast { dtype: DType::BF16 }, |op, x| match op {
        Op::Cast { dtype: DType::BF16 } if x[0].dtype() == DType::F32 => Some(x[0].to_f32_vec().and_then(|list| {
            let cut: Vec<f32> = list.iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect();
            Tensor::from_slice(x[0].device(), &cut, x[0].shape())?.cast(DType::BF16)
        })),
        _ => None,
    });
    // A product in bf16 where f32 was asked for.
    let narrow = |op: &Op, x: &[Tensor]| {
        let narrowed = || {
            x.iter().map(|x| {
                let narrow: Vec<half::bf16> = x.to_f32_vec()?.into_iter().map(half::bf16::from_f32).collect();
                Tensor::from_slice(x.device(), &narrow, x.shape())?.cast(x.dtype())
            })
        };
        let applies = matches!(op, Op::Linear | Op::MatMul | Op::RmsNorm { .. }) && x[0].dtype() == DType::F32;
        applies.then(|| Tensor::apply(op, narrowed().collect::<Result<_>>()?))
    };
    refuted(Op::MatMul, narrow);
    refuted(Op::Linear, narrow);
    refuted(Op::RmsNorm { eps: 0.0, offset: 0.0 }, narrow);
    // Angles in half precision.
    refuted(Op::Rope { layout: RopeLayout::Halves }, |op, x| match op {
        Op::Rope { layout } => Some(x[2].to_f32_vec().and_then(|list| {
            let narrow: Vec<half::f16> = list.into_iter().map(half::f16::from_f32).collect();
            let frequencies = Tensor::from_slice(x[2].device(), &narrow, x[2].shape())?.cast(DType::F32)?;
            x[0].rope(&x[1], &frequencies, *layout)
        })),
        _ => None,
    });
}

#[test]
fn a_forgotten_parameter_is_noticed_bad() {
    let attention = PagedAttention { block_size: 1, scale: 1.0, window: None, soft_cap: None };
    refuted(Op::PagedAttention(attention), |op, x| match op {
        Op::PagedAttention(p) if p.window.is_some() => {
            Some(Tensor::apply(&Op::PagedAttention(PagedAttention { window: None, ..*p }), x.to_vec()))
        }
        _ => None,
    });
    refuted(Op::PagedAttention(attention), |op, x| match op {
        Op::PagedAttention(p) if p.soft_cap.is_some() => {
            Some(Tensor::apply(&Op::PagedAttention(PagedAttention { soft_cap: None, ..*p }), x.to_vec()))
        }
        _ => None,
    });
    refuted(Op::Linear, |op, x| match (op, x) {
        (Op::Linear, [x, weight, _bias]) => Some(x.linear(weight, None)),
        _ => None,
    });
    refuted(Op::RmsNorm { eps: 0.0, offset: 0.0 }, |op, x| match op {
        Op::RmsNorm { offset, .. } => Some(x[0].rms_norm(&x[1], 1e-12, *offset)),
        _ => None,
    });
    refuted(Op::RmsNorm { eps: 0.0, offset: 0.0 }, |op, x| match op {
        Op::RmsNorm { eps, .. } => Some(x[0].rms_norm(&x[1], *eps, 0.0)),
        _ => None,
    });
    refuted(Op::Activate(Activation::Gelu), |op, x| match op {
        Op::Activate(Activation::Gelu) => Some(x[0].activate(Activation::GeluTanh)),
        _ => None,
    });
    refuted(Op::RmsNormGrad { eps: 0.0, offset: 0.0 }, |op, x| match op {
        Op::RmsNormGrad { offset, .. } => {
            Some(Tensor::apply(&Op::RmsNormGrad { eps: 1e-12, offset: *offset }, x.to_vec()))
        }
        _ => None,
    });
    refuted(Op::RmsNormGrad { eps: 0.0, offset: 0.0 }, |op, x| match op {
        Op::RmsNormGrad { eps, .. } => Some(Tensor::apply(&Op::RmsNormGrad { eps: *eps, offset: 0.0 }, x.to_vec())),
        _ => None,
    });
    refuted(Op::RmsNormWeightGrad { eps: 0.0 }, |op, x| match op {
        Op::RmsNormWeightGrad { .. } => Some(Tensor::apply(&Op::RmsNormWeightGrad { eps: 1e-12 }, x.to_vec())),
        _ => None,
    });
    refuted(Op::ActivateGrad(Activation::Gelu), |op, x| match op {
        Op::ActivateGrad(Activation::Gelu) => Some(Tensor::apply(&Op::ActivateGrad(Activation::GeluTanh), x.to_vec())),
        _ => None,
    });
    // What the gate is multiplied by in the place of the gate.
    refuted(Op::GluGrad { activation: Activation::Silu }, |op, x| match op {
        Op::GluGrad { .. } => Some(Tensor::apply(op, vec![x[1].clone(), x[0].clone(), x[2].clone()])),
        _ => None,
    });
    refuted(Op::Rope { layout: RopeLayout::Halves }, |op, x| match op {
        Op::Rope { layout: RopeLayout::Interleaved } => Some(x[0].rope(&x[1], &x[2], RopeLayout::Halves)),
        _ => None,
    });
}

#[test]
fn a_wrong_step_is_noticed_bad() {
    let adam = Adam { beta1: 0.9, beta2: 0.98, eps: 1e-8, weight_decay: WeightDecay::Decoupled(0.0) };
    fn adam_with(op: &Op, x: &[Tensor], fault: fn(Adam) -> Adam) -> Option<Result<Tensor>> {
        match op {
            Op::Adam(adam) if fault(*adam) != *adam => Some(Tensor::apply(&Op::Adam(fault(*adam)), x.to_vec())),
            _ => None,
        }
    }
    // Weight decay of the wrong kind, a mean of squares with the other's β.
    refuted(Op::Adam(adam), |op, x| {
        adam_with(op, x, |adam| match adam.weight_decay {
            WeightDecay::Decoupled(decay) => Adam { weight_decay: WeightDecay::Gradient(decay), ..adam },
            WeightDecay::Gradient(decay) => Adam { weight_decay: WeightDecay::Decoupled(decay), ..adam },
        })
    });
    refuted(Op::Adam(adam), |op, x| adam_with(op, x, |adam| Adam { beta2: adam.beta1, ..adam }));
    // The first rate for all of them.
    refuted(Op::Adam(adam), |op, x| {
        matches!(op, Op::Adam(_)).then(|| {
            let rates = x[2].slice(0, 0, 1)?.broadcast(x[2].shape())?;
            Tensor::apply(op, vec![x[0].clone(), x[1].clone(), rates])
        })
    });
    // A momentum that does not look ahead.
    refuted(Op::Sgd(Sgd { momentum: Momentum::None, weight_decay: 0.0 }), |op, x| match op {
        Op::Sgd(Sgd { momentum: Momentum::Nesterov(momentum), weight_decay }) => {
            let heavy = Sgd { momentum: Momentum::Heavy(*momentum), weight_decay: *weight_decay };
            Some(Tensor::apply(&Op::Sgd(heavy), x.to_vec()))
        }
        _ => None,
    });
    refuted(Op::SquaredNorm, |op, x| (*op == Op::SquaredNorm).then(|| Tensor::apply(op, x.to_vec())?.sqrt()));
}

#[test]
fn a_wrong_gradient_is_noticed_bad() {
    // Rows that overwrite instead of adding up.
    refuted(Op::AddRows { count: 0 }, |op, x| match op {
        Op::AddRows { count } if x[0].shape()[0] < 50 => Some(
            Tensor::full(x[0].device(), x[0].shape().with_axis(0, *count), x[0].dtype(), 0.0)
                .and_then(|zeros| zeros.write_rows(&x[0], &x[1])),
        ),
        _ => None,
    });
    // Ignored rows that count.
    let counted = |op: &Op, x: &[Tensor]| {
        let zero = || Tensor::full(x[1].device(), [], DType::I32, 0.0);
        let counts = matches!(op, Op::CrossEntropy | Op::CrossEntropyGrad);
        counts.then(|| {
            let mut inputs = x.to_vec();
            inputs[1] = x[1].maximum(&zero()?)?;
            Tensor::apply(op, inputs)
        })
    };
    refuted(Op::CrossEntropy, counted);
    refuted(Op::CrossEntropyGrad, counted);
    // A window, a soft cap or the scale forgotten on the way back.
    let attention = PagedAttention { block_size: 1, scale: 1.0, window: None, soft_cap: None };
    fn with(op: &Op, x: &[Tensor], fault: fn(PagedAttention) -> PagedAttention) -> Option<Result<Tensor>> {
        match op {
            Op::PagedAttentionGrad(attention) if fault(*attention) != *attention => {
                Some(Tensor::apply(&Op::PagedAttentionGrad(fault(*attention)), x.to_vec()))
            }
            _ => None,
        }
    }
    refuted(Op::PagedAttentionGrad(attention), |op, x| with(op, x, |p| PagedAttention { window: None, ..p }));
    refuted(Op::PagedAttentionGrad(attention), |op, x| with(op, x, |p| PagedAttention { soft_cap: None, ..p }));
    refuted(Op::PagedAttentionGrad(attention), |op, x| with(op, x, |p| PagedAttention { scale: p.scale * 1.01, ..p }));
    // Of one of the three alone.
    for part in 0..3 {
        let device = Fault::Computes(match part {
            0 => |op, x| off_in(op, x, 0),
            1 => |op, x| off_in(op, x, 1),
            _ => |op, x| off_in(op, x, 2),
        });
        let cases = cases_of(&Op::PagedAttentionGrad(attention));
        assert!(cases.iter().any(|case| check(&device.device(), case).is_err()), "a fault in gradient {part}");
    }
}

/// The gradients of attention, the one of input `part` a little off.
fn off_in(op: &Op, x: &[Tensor], part: usize) -> Option<Result<Tensor>> {
    let Op::PagedAttentionGrad(_) = op else { return None };
    Some(Tensor::apply(op, x.to_vec()).and_then(|all| {
        let mut first = 0;
        let parts = (0..3).map(|i| {
            let end = first + x[i].shape().elements();
            let own = all.slice(0, std::mem::replace(&mut first, end), end)?;
            if i == part { own.scale(1.01) } else { Ok(own) }
        });
        Tensor::concat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }))
}

#[test]
fn a_wrong_choice_is_noticed_bad() {
    // The last of equals.
    refuted(Op::ArgMax { axis: 0 }, |op, x| match op {
        Op::ArgMax { axis: 1 } if x[0].shape().len() == 2 => Some(x[0].to_f32_vec().and_then(|list| {
            let last = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as i32;
            let places: Vec<i32> = list.chunks(x[0].shape()[1]).map(last).collect();
            Tensor::from_slice(x[0].device(), &places, [places.len(), 1])
        })),
        _ => None,
    });
    // The token after one's own.
    let attention = PagedAttention { block_size: 1, scale: 1.0, window: None, soft_cap: None };
    refuted(Op::PagedAttention(attention), |op, x| match op {
        Op::PagedAttention(_) => Some(Tensor::full(x[5].device(), [], DType::I32, 1.0).and_then(|one| {
            let mut inputs = x.to_vec();
            inputs[5] = x[5].add(&one)?;
            Tensor::apply(op, inputs)
        })),
        _ => None,
    });
}

#[test]
fn a_result_that_depends_on_its_neighbours_is_noticed_bad() {
    // An ulp more where there are many rows: within every tolerance.
    let nudged = |op: &Op, x: &[Tensor]| {
        let applies = matches!(op, Op::Linear | Op::PagedAttention(_)) && x[0].shape()[0] > 4;
        let more = 1.0 + f64::from(f32::EPSILON);
        applies.then(|| Tensor::apply(op, x.to_vec())?.scale(more))
    };
    refuted_by(invariance::run, Fault::Computes(nudged));
}

#[test]
fn writing_where_others_look_is_noticed_bad() {
    refuted_by(donation::run, Fault::WritesThrough);
    let device = Fault::WritesThrough.device();
    assert!(cases_of(&Op::WriteRows).iter().any(|case| check(&device, case).is_err()));
}

#[test]
fn careless_memory_is_noticed_bad() {
    refuted_by(memory::run, Fault::Copies);
    refuted_by(memory::run, Fault::Unlimited);
    refuted_by(memory::run, Fault::Uncounted);
    let leaking = |device: &DeviceHandle, report: &mut Report| {
        let before = device.memory();
        for case in cases_of(&Op::Arange { len: 0 }) {
            report.outcome("arange", check(device, &case));
        }
        memory::settled(device, before, report);
    };
    refuted_by(leaking, Fault::Leaks);
}

#[test]
fn a_refusal_of_the_wrong_kind_is_noticed_bad() {
    refuted_by(
        errors::run,
        Fault::Computes(|op, x| match op {
            // Gives a result that cannot be read, and says nothing of the index.
            Op::TakeRows => Some(x[0].reshape([0])),
            _ => None,
        }),
    );
}

#[test]
fn devices_that_differ_in_a_bit_are_noticed_bad() {
    let exact: DeviceHandle = Arc::new(Reference::new());
    let nudged = Fault::Computes(|op, x| match op {
        Op::Softmax => Some(x[0].softmax().and_then(|y| y.scale(1.0 + f64::from(f32::EPSILON)))),
        _ => None,
    });
    let report = identical(&exact, &nudged.device());
    assert!(report.failures().iter().all(|failure| failure.area == "softmax"), "{report}");
    assert!(!report.passed());
}
