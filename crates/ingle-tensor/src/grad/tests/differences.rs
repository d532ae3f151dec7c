// SPDX-License-Identifier: EUPL-1.2
//! Every operation's rule against finite differences in f64, on the cases of the conformance suite.
//!
//! Each floating-point input moves along a random direction, in proportion to its elements, and the result's
//! central difference of fourth order is compared with what [`jvp`] gives, element by element, and with what
//! [`vjp`] gives, by the product with a random cotangent. Inputs move before they are laid out as the case's views
//! say, so that the rules of the layout operations are tried with all the others. The reference does not round,
//! whatever the dtype.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{device, values};
use crate::conformance::{Case, Values, cases};
use crate::grad::{jvp, vjp};
use crate::{DType, DeviceHandle, Op, ReduceOp, Result, Spec, Tensor};

/// How far an input moves, of its own size.
const STEP: f64 = 1e-5;

/// The largest relative error: what the difference itself may be off.
const TOLERANCE: f64 = 1e-6;

/// Past this position a step of a frequency turns too far.
const FARTHEST: i64 = 1000;

/// Elements, and products of a product of matrices, past which a case only takes time.
const LARGEST: usize = 40_000;

/// Of each operation's cases of the same dtypes, how many are tried if any is not f32.
const OF_OTHER_DTYPES: usize = 6;

/// Whether an operation has no derivative, or one that is zero wherever it is defined.
fn flat(op: &Op) -> bool {
    matches!(op, Op::Full { .. } | Op::Arange { .. } | Op::Compare(_) | Op::ArgMax { .. })
        || matches!(op, Op::QuantizeRows | Op::DequantizeRows | Op::Dequantize { .. })
}

/// Whether differences are of use: the values are finite, neither so large that a step is, nor at kinks.
fn smooth(case: &Case) -> bool {
    let moves_only = matches!(
        case.op,
        Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Broadcast { .. }
            | Op::Concat { .. }
            | Op::Select
            | Op::TakeRows
            | Op::WriteRows
            | Op::AddRows { .. }
            | Op::Rope { .. }
            | Op::PagedAttention(_)
            | Op::PagedAttentionGrad(_)
    );
    case.inputs.iter().filter(|input| input.base.dtype.is_float()).all(|input| match &input.values {
        Values::Uniform { low, high } => low.abs().max(high.abs()) <= 1000.0,
        Values::Floats(list) => moves_only && list.iter().all(|x| x.is_finite() && x.abs() <= 1000.0),
        Values::Integers(_) => moves_only,
    })
}

fn work(case: &Case, specs: &[Spec], output: &Spec) -> usize {
    let elements = |spec: &Spec| spec.shape.elements();
    let inner = match case.op {
        Op::MatMul | Op::Linear => specs[0].shape.last().copied().unwrap_or(1),
        Op::PagedAttention(_) | Op::PagedAttentionGrad(_) => specs[3].shape.elements(),
        // Among many numbers two are so near that a step exchanges them.
        Op::Reduce { op: ReduceOp::Max, .. } if elements(&specs[0]) > 2000 => return usize::MAX,
        _ => 1,
    };
    specs.iter().map(elements).sum::<usize>() + elements(output) * inner
}

/// What was found of one operation.
#[derive(Default)]
struct Row {
    inputs: usize,
    forward: f64,
    backward: f64,
}

#[test]
fn every_rule_agrees_with_differences_good() -> Result<()> {
    let device = device();
    let mut rows = BTreeMap::<&str, Row>::new();
    let mut tried = HashMap::<String, usize>::new();
    for case in cases().iter().filter(|case| !flat(&case.op) && smooth(case)) {
        let specs: Vec<Spec> = case.inputs.iter().map(|input| input.spec()).collect::<Result<_>>()?;
        let output = case.op.infer(&specs)?;
        if !output.dtype.is_float() || work(case, &specs, &output) > LARGEST {
            continue;
        }
        let dtypes: Vec<DType> = specs.iter().map(|spec| spec.dtype).filter(|dtype| dtype.is_float()).collect();
        let before = tried.entry(format!("{} {dtypes:?} {}", case.op.name(), output.dtype)).or_default();
        *before += 1;
        if *before > OF_OTHER_DTYPES && dtypes.iter().any(|&dtype| dtype != DType::F32) {
            continue;
        }
        let far = matches!(&case.inputs.get(1).map(|x| &x.values), Some(Values::Integers(list)) if list.iter().any(|&p| p > FARTHEST));
        let turns_far = |input: usize| far && input == 2 && matches!(case.op, Op::Rope { .. });
        for input in (0..specs.len()).filter(|&i| specs[i].dtype.is_float() && !turns_far(i)) {
            let Some((forward, backward)) = errors(&device, case, input)? else { continue };
            let row = rows.entry(case.op.name()).or_default();
            row.inputs += 1;
            row.forward = row.forward.max(forward);
            row.backward = row.backward.max(backward);
            assert!(forward <= TOLERANCE, "jvp is off by {forward:e} for input {input} of {case}");
            assert!(backward <= TOLERANCE, "vjp is off by {backward:e} for input {input} of {case}");
        }
    }
    println!("{:<28} {:>6} {:>10} {:>10}", "operation", "inputs", "jvp", "vjp");
    for (name, row) in &rows {
        println!("{name:<28} {:>6} {:>10.1e} {:>10.1e}", row.inputs, row.forward, row.backward);
    }
    let all = cases();
    let names = all.iter().filter(|case| !flat(&case.op)).map(|case| case.op.name());
    let missing: BTreeSet<&str> = names.filter(|name| !rows.contains_key(name)).collect();
    assert!(missing.is_empty(), "nothing was tried of {missing:?}");
    assert!(rows.values().all(|row| row.inputs >= 3));
    Ok(())
}

/// How far the derivatives by one input are off, relative to the largest; `None` if the result is not finite.
fn errors(device: &DeviceHandle, case: &Case, input: usize) -> Result<Option<(f64, f64)>> {
    let bases: Vec<Tensor> = (0..case.inputs.len())
        .map(|i| Tensor::from_bytes(device, case.inputs[i].bytes(case.seed(i)), case.inputs[i].base.clone()))
        .collect::<Result<_>>()?;
    let f = |moving: &Tensor| {
        let laid_out = |(i, base): (usize, &Tensor)| {
            let base = if i == input { moving.clone() } else { base.clone() };
            case.inputs[i].views.iter().try_fold(base, |x, view| Tensor::apply(view, vec![x]))
        };
        Tensor::apply(&case.op, bases.iter().enumerate().map(laid_out).collect::<Result<_>>()?)
    };
    let x = &bases[input];
    let uniform = |spec: &Spec, seed: u64| {
        let bytes = Values::uniform(-1.0, 1.0).bytes(&Spec::new(&spec.shape, DType::F32), seed);
        Tensor::from_bytes(device, bytes, Spec::new(&spec.shape, DType::F32))?.cast(spec.dtype)
    };
    let direction = x.mul(&uniform(x.spec(), case.seed(100))?)?;
    let moved = |steps: f64| Ok::<_, crate::Error>(values(&f(&x.add(&direction.scale(steps * STEP)?)?)?));
    let (near, far) = ([moved(1.0)?, moved(-1.0)?], [moved(2.0)?, moved(-2.0)?]);
    let difference: Vec<f64> = (0..near[0].len())
        .map(|i| (8.0 * (near[0][i] - near[1][i]) - (far[0][i] - far[1][i])) / (12.0 * STEP))
        .collect();

    if near.iter().chain(&far).flatten().any(|x| !x.is_finite()) {
        return Ok(None);
    }
    let (value, derivative) = jvp(|x| f(&x[0]), std::slice::from_ref(x), std::slice::from_ref(&direction))?;
    let largest = |list: &[f64]| list.iter().fold(0f64, |max, x| max.max(x.abs()));
    // Where the derivative all but vanishes beside what it is computed from, the difference is rounding alone.
    let floor = (1e-3 * largest(&values(&value))).max(1e-3 * largest(&values(x))).max(1e-30);
    let scale = largest(&difference).max(floor);
    let off = |(a, b): (&f64, &f64)| if a.is_finite() && b.is_finite() { (a - b).abs() } else { f64::INFINITY };
    let forward = values(&derivative).iter().zip(&difference).map(off).fold(0f64, f64::max) / scale;

    let cotangent = uniform(value.spec(), case.seed(200))?;
    let (_, pullback) = vjp(|x| f(&x[0]), std::slice::from_ref(x))?;
    let gradient = pullback.pull(&cotangent)?;
    assert_eq!(gradient[0].spec(), x.spec(), "{case}");
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let wanted = dot(&values(&cotangent), &difference);
    let found = dot(&values(&gradient[0]), &values(&direction));
    let scale = scale * (difference.len() as f64).sqrt();
    Ok(Some((forward, off((&found, &wanted)) / scale.max(1e-30))))
}
