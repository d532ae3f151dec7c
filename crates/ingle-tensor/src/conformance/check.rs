// SPDX-License-Identifier: EUPL-1.2
//! Runs one case on a device and compares what comes out.

use std::fmt;
use std::sync::Arc;

use super::array::Array;
use super::case::Case;
use super::reference::Reference;
use super::tolerance::{Real, round_to, ulp};
use crate::{BinaryOp, DType, DeviceHandle, Invariance, Op, ReduceOp, Result, Spec, Tensor, UnaryOp};

/// How well a case went. Errors are in ulps of the result's dtype at the result's largest magnitude: at best ½,
/// what rounding the result costs. (An ulp of f32 is about 1e-7 of the number, of f16 1e-3, of bf16 8e-3.)
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The largest error against the reference.
    pub error: f64,
    /// Of a fused operation, the largest difference from the device's own run of its decomposition.
    pub decomposition: Option<f64>,
}

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{area}: {what}\n    in {case}")]
pub struct Failure {
    /// The operation's name, or the property tested.
    pub area: &'static str,
    /// The case.
    pub case: String,
    /// What was expected and what was found.
    pub what: String,
}

/// What an operation's result has in common with the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// The very element: same number, same sign of zero.
    Element,
    /// The same number once rounded.
    Number,
    /// A number within the bound that the reference carries.
    Bound,
}

/// What agreement `op` owes. Adding an operation means deciding it here.
fn agreement(op: &Op, inputs: &[Spec], output: &Spec) -> Agreement {
    match op {
        Op::Arange { .. }
        | Op::Reshape { .. }
        | Op::Permute { .. }
        | Op::Slice { .. }
        | Op::Broadcast { .. }
        | Op::Concat { .. }
        | Op::Select
        | Op::Unary(UnaryOp::Neg | UnaryOp::Abs)
        | Op::Compare(_)
        | Op::ArgMax { .. }
        | Op::TakeRows
        | Op::WriteRows
        | Op::QuantizeRows
        | Op::Pack => Agreement::Element,
        Op::Binary(BinaryOp::Max | BinaryOp::Min) | Op::Reduce { op: ReduceOp::Max, .. } => Agreement::Number,
        // From an integer, a device may convert by way of f32.
        Op::Cast { .. } if inputs.iter().all(|x| x.dtype.is_float()) => Agreement::Element,
        Op::Full { .. } | Op::Cast { .. } | Op::Binary(_) if !output.dtype.is_float() => Agreement::Element,
        Op::Full { .. }
        | Op::Cast { .. }
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Reduce { op: ReduceOp::Sum, .. }
        | Op::MatMul
        | Op::AddRows { .. }
        | Op::Dequantize { .. }
        | Op::DequantizeRows
        | Op::Linear
        | Op::Softmax
        | Op::RmsNorm { .. }
        | Op::LayerNorm { .. }
        | Op::Rope { .. }
        | Op::Activate(_)
        | Op::Glu { .. }
        | Op::GatedMlp { .. }
        | Op::SoftCap { .. }
        | Op::PagedAttention(_)
        | Op::CrossEntropy
        | Op::CrossEntropyGrad
        | Op::PagedAttentionGrad(_)
        | Op::RmsNormGrad { .. }
        | Op::RmsNormWeightGrad { .. }
        | Op::ActivateGrad(_)
        | Op::GluGrad { .. }
        | Op::SquaredNorm
        | Op::Adam(_)
        | Op::Sgd(_) => Agreement::Bound,
    }
}

/// Runs a case on a device and compares:
///
/// - the result with the reference's, within the tolerance that the reference carries;
/// - for a fused operation, the device's own run of the decomposition with the reference's too;
/// - the result again with the inputs donated, while a view's base lives on and then with nothing else alive:
///   the same bits, or, from a device that promises none, a result as near to the reference's;
/// - the inputs, their bases and the host's bytes afterwards: untouched.
///
/// # Errors
/// The first of these that does not hold.
pub fn check(device: &DeviceHandle, case: &Case) -> Result<Outcome, Failure> {
    check_against(&wanted(case)?, device, case)
}

/// The reference's result of a case.
pub(super) fn wanted(case: &Case) -> Result<Tensor, Failure> {
    let reference: DeviceHandle = Arc::new(Reference::new());
    Prepared::new(&reference, case).and_then(|x| x.run(case)).map_err(|error| Failure {
        area: case.op.name(),
        case: case.to_string(),
        what: format!("the reference: {error}"),
    })
}

/// [`check`] against the reference's result.
pub(super) fn check_against(wanted: &Tensor, device: &DeviceHandle, case: &Case) -> Result<Outcome, Failure> {
    let fail = |what: String| Failure { area: case.op.name(), case: case.to_string(), what };
    let step = |what: &'static str| move |error: crate::Error| fail(format!("{what}: {error}"));

    let prepared = Prepared::new(device, case).map_err(step("making the inputs"))?;
    let inputs: Vec<Spec> = prepared.views.iter().map(|x| x.spec().clone()).collect();
    let before = prepared.read().map_err(step("reading the inputs"))?;
    let result = Tensor::apply_on(device, &case.op, prepared.views.clone()).map_err(step("running it"))?;
    let bytes = device.download(&result).map_err(step("reading the result"))?;
    let mut outcome = agrees(&case.op, &inputs, wanted, &bytes).map_err(fail)?;

    let dtype = result.dtype();
    let values = |bytes: &[u8]| Array::decode(bytes, dtype).values();
    if let Some(composed) = case.op.decompose(&prepared.views) {
        let composed = composed.and_then(|x| device.download(&x)).map_err(step("running the decomposition"))?;
        agrees(&case.op, &inputs, wanted, &composed).map_err(|what| fail(format!("decomposed, {what}")))?;
        outcome.decomposition = Some(difference(values(&bytes), values(&composed), dtype));
    }
    if prepared.read().map_err(step("reading the inputs again"))? != before {
        return Err(fail("the operation changed an input that others hold".into()));
    }
    drop(result);
    let again = |found: &[u8]| match device.invariance() {
        Invariance::Exact => same(found, &bytes, dtype),
        // Sums may be taken in another order each time.
        Invariance::Rounding => agrees(&case.op, &inputs, wanted, found).is_ok(),
    };
    donate(device, case, prepared, &again).map_err(fail)?;
    Ok(outcome)
}

/// Whether two devices agree on a case in every bit.
pub(super) fn identical(one: &DeviceHandle, other: &DeviceHandle, case: &Case) -> Result<(), String> {
    let result = |device: &DeviceHandle| {
        let result = Prepared::new(device, case)?.run(case)?;
        Ok((device.download(&result)?, result.dtype()))
    };
    let say = |error: crate::Error| error.to_string();
    let ((a, dtype), (b, _)) = (result(one).map_err(say)?, result(other).map_err(say)?);
    if same(&a, &b, dtype) {
        return Ok(());
    }
    let (a, b) = (Array::decode(&a, dtype).values(), Array::decode(&b, dtype).values());
    let bits = |x: &f64| x.to_bits();
    let at = a.iter().map(bits).zip(b.iter().map(bits)).position(|(a, b)| a != b);
    let pair = at.map(|at| format!("element {at} is {:e} on one and {:e} on the other", a[at], b[at]));
    Err(pair.unwrap_or_else(|| "they have different numbers of elements".into()))
}

/// The inputs of a case on a device.
struct Prepared {
    device: DeviceHandle,
    bases: Vec<Tensor>,
    views: Vec<Tensor>,
    host: Vec<bytes::Bytes>,
}

impl Prepared {
    fn new(device: &DeviceHandle, case: &Case) -> Result<Prepared> {
        let mut prepared = Prepared { device: device.clone(), bases: vec![], views: vec![], host: vec![] };
        for (i, input) in case.inputs.iter().enumerate() {
            let bytes = input.bytes(case.seed(i));
            let (base, view) = input.on(device, bytes.clone())?;
            prepared.bases.push(base);
            prepared.views.push(view);
            prepared.host.push(bytes);
        }
        Ok(prepared)
    }

    fn run(self, case: &Case) -> Result<Tensor> {
        Tensor::apply_on(&self.device, &case.op, self.views)
    }

    fn read(&self) -> Result<Vec<Vec<u8>>> {
        self.bases.iter().chain(&self.views).map(|x| self.device.download(x)).collect()
    }
}

/// Runs the case twice more with its inputs given away. `again` says whether a result is the first one again.
fn donate(device: &DeviceHandle, case: &Case, prepared: Prepared, again: &dyn Fn(&[u8]) -> bool) -> Result<(), String> {
    let say = |error: crate::Error| format!("with donated inputs: {error}");
    let Prepared { bases, views, .. } = prepared;
    let before: Vec<Vec<u8>> = bases.iter().map(|x| device.download(x)).collect::<Result<_>>().map_err(say)?;
    let result = Tensor::apply_on(device, &case.op, views).and_then(|x| device.download(&x)).map_err(say)?;
    if !again(&result) {
        return Err("with donated views of living tensors the result differs".into());
    }
    let after: Vec<Vec<u8>> = bases.iter().map(|x| device.download(x)).collect::<Result<_>>().map_err(say)?;
    if before != after {
        return Err("a donated view wrote into the tensor it is a view of".into());
    }
    drop(bases);

    let Prepared { bases, views, host, .. } = Prepared::new(device, case).map_err(say)?;
    drop(bases);
    let result = Tensor::apply_on(device, &case.op, views).and_then(|x| device.download(&x)).map_err(say)?;
    if !again(&result) {
        return Err("with donated inputs the result differs".into());
    }
    let untouched = case.inputs.iter().enumerate().all(|(i, input)| input.bytes(case.seed(i)) == host[i]);
    if untouched { Ok(()) } else { Err("a donated input wrote into the host's bytes".into()) }
}

/// Whether a device's result agrees with the reference's as the operation owes.
pub(super) fn agrees(op: &Op, inputs: &[Spec], wanted: &Tensor, found: &[u8]) -> Result<Outcome, String> {
    let spec = wanted.spec();
    if found.len() != spec.bytes() {
        return Err(format!("the result {spec} has {} bytes, not {}", found.len(), spec.bytes()));
    }
    let agreement = agreement(op, inputs, spec);
    match Reference::array(wanted) {
        Some(wanted) => compare(wanted, &Array::decode(found, spec.dtype), agreement, spec),
        None => Err("the reference gave another device's tensor".into()),
    }
}

/// Whether two results agree in every bit; one NaN is as good as another.
pub(super) fn same(a: &[u8], b: &[u8], dtype: DType) -> bool {
    a == b
        || match (Array::decode(a, dtype), Array::decode(b, dtype)) {
            (Array::Floats(a), Array::Floats(b)) => {
                let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| same(a.value, b.value))
            }
            _ => false,
        }
}

fn compare(wanted: &Array, found: &Array, agreement: Agreement, spec: &Spec) -> Result<Outcome, String> {
    match (wanted, found) {
        (Array::Integers(wanted), Array::Integers(found)) if wanted.len() == found.len() => {
            match wanted.iter().zip(found).position(|(a, b)| a != b) {
                None => Ok(Outcome::default()),
                Some(at) => Err(differs(spec, at, &wanted[at], &found[at], "exactly")),
            }
        }
        (Array::Floats(wanted), Array::Floats(found)) if wanted.len() == found.len() => {
            let agree = |(a, b): (&Real, &Real)| admits(*a, b.value, agreement, spec.dtype);
            if let Some(at) = wanted.iter().zip(found).position(|pair| !agree(pair)) {
                let allowed = allowed(wanted[at], agreement);
                return Err(differs(spec, at, &wanted[at].value, &found[at].value, &allowed));
            }
            let values = |xs: &[Real]| xs.iter().map(|x| x.value).collect::<Vec<_>>();
            let error = difference(values(wanted), values(found), spec.dtype);
            Ok(Outcome { error, decomposition: None })
        }
        _ => Err("the result has another number of elements or another kind of dtype".into()),
    }
}

fn admits(wanted: Real, found: f64, agreement: Agreement, dtype: DType) -> bool {
    if agreement == Agreement::Bound {
        return wanted.admits(found, dtype);
    }
    let wanted = round_to(wanted.value, dtype);
    let same_sign = wanted.is_sign_negative() == found.is_sign_negative();
    let same_number = wanted == found && (agreement == Agreement::Number || same_sign);
    same_number || wanted.is_nan() && found.is_nan()
}

fn allowed(wanted: Real, agreement: Agreement) -> String {
    match agreement {
        Agreement::Bound => format!("within {:e}", wanted.error),
        Agreement::Number => "once rounded".into(),
        Agreement::Element => "exactly".into(),
    }
}

fn differs(spec: &Spec, at: usize, wanted: &dyn fmt::Debug, found: &dyn fmt::Debug, allowed: &str) -> String {
    let mut rest = at;
    let mut place: Vec<usize> = spec.shape.iter().rev().map(|&len| (rest % len, rest /= len).0).collect();
    place.reverse();
    format!("expected {wanted:?} {allowed} at {place:?} of {spec}, found {found:?}")
}

/// The largest difference between two results, in ulps of `dtype` at the first one's largest magnitude.
fn difference(a: Vec<f64>, b: Vec<f64>, dtype: DType) -> f64 {
    let finite = a.into_iter().zip(b).filter(|(a, b)| a.is_finite() && b.is_finite());
    let wider = |(off, largest): (f64, f64), (a, b): (f64, f64)| (off.max((a - b).abs()), largest.max(a.abs()));
    let (off, largest) = finite.fold((0.0, 0.0), wider);
    off / ulp(largest, dtype)
}
