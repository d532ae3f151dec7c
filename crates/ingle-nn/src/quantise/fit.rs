// SPDX-License-Identifier: EUPL-1.2
//! Scales by least squares.
//!
//! A group of weights `x` is to become `scale · q + offset` with few values of `q`. Given the `q`s, the best scale and
//! offset are those of a regression; given these, each weight's best `q` is the nearest. So the two take turns
//! (Lloyd 1982), from several starts: ranges that cut off more or less of the largest weights.
//!
//! Errors count for more at larger weights, which matter more to what a row is multiplied with.

/// The best found of several fits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    pub scale: f32,
    pub offset: f32,
    error: f32,
}

/// By how many quants the range is stretched with which a search starts: past the largest quant, and so cut off, if
/// above 0.
const STARTS: [f32; 11] = [0.0, -0.25, 0.25, -0.5, 0.5, -0.75, 0.75, -1.0, 1.0, 1.4, 2.0];

/// Turns that a start takes at most.
const TURNS: usize = 4;

/// How much the error at each weight counts.
fn importances<const N: usize>(group: &[f32; N]) -> [f32; N] {
    let mean_square = group.iter().map(|x| x * x).sum::<f32>() / N as f32;
    let root = mean_square.sqrt();
    group.map(|x| root + x.abs())
}

/// Quants from 0 to `most`, and an offset of at most 0.
pub(super) fn with_offset<const N: usize>(group: &[f32; N], most: f32) -> Fit {
    let least = group.iter().copied().fold(0.0, f32::min);
    let largest = group.iter().copied().fold(f32::NEG_INFINITY, f32::max).max(least);
    let importances = importances(group);
    let range = (largest - least) / most;
    let mut best = Fit { scale: 0.0, offset: least, error: f32::INFINITY };
    if range <= 0.0 {
        return best;
    }
    for stretch in STARTS {
        let (mut scale, mut offset) = (range * most / (most + stretch), least);
        for _ in 0..TURNS {
            let quants = group.map(|x| quant(x - offset, scale, 0.0, most));
            (scale, offset) = regression(group, &quants, &importances);
            let error = error(group, &quants, &importances, (scale, offset));
            // A turn may make it worse where the offset was cut off.
            if scale <= 0.0 || error.is_nan() || error >= best.error {
                break;
            }
            best = Fit { scale, offset, error };
        }
    }
    best
}

/// Quants from `−zero` to `zero − 1`, and no offset. The scale may be negative.
pub(super) fn through_zero<const N: usize>(group: &[f32; N], zero: f32) -> f32 {
    let extreme = group.iter().copied().fold(0.0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    search(group, (extreme, -zero), |x, scale| quant(x, scale, -zero, zero - 1.0))
}

/// Quants that stand for the `values`, which rise, and no offset.
pub(super) fn to_values(group: &[f32], values: &[f32]) -> f32 {
    let Ok(group) = <&[f32; 32]>::try_from(group) else { return 0.0 };
    let (least, largest) = (values.first().copied().unwrap_or(-1.0), values.last().copied().unwrap_or(1.0));
    let extreme = group.iter().copied().fold(0.0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    let value = |x: f32, scale: f32| values[nearest(values, x / scale)];
    // The values are not symmetric, and either end may meet the largest weight.
    let scales = [least, largest].map(|end| search(group, (extreme, end), value));
    let error = |scale: f32| {
        let quants = group.map(|x| if scale == 0.0 { 0.0 } else { value(x, scale) });
        error(group, &quants, &importances(group), (scale, 0.0))
    };
    if error(scales[0]) <= error(scales[1]) { scales[0] } else { scales[1] }
}

/// The best scale at which the weight of largest magnitude is about `end`, if a weight at a scale has this quant.
fn search<const N: usize>(group: &[f32; N], (extreme, end): (f32, f32), quant: impl Fn(f32, f32) -> f32) -> f32 {
    if extreme == 0.0 {
        return 0.0;
    }
    let importances = importances(group);
    let mut best = (extreme / end, f32::INFINITY);
    for stretch in STARTS {
        // The same share of the range, whatever the quants stand for.
        let mut scale = extreme / (end * (1.0 + stretch / end.abs().min(32.0)));
        for _ in 0..TURNS {
            let quants = group.map(|x| quant(x, scale));
            let (mut products, mut squares) = (0.0, 0.0);
            for ((x, q), importance) in group.iter().zip(&quants).zip(&importances) {
                products += importance * q * x;
                squares += importance * q * q;
            }
            scale = products / squares;
            let error = error(group, &quants, &importances, (scale, 0.0));
            if !scale.is_normal() || error.is_nan() || error >= best.1 {
                break;
            }
            best = (scale, error);
        }
    }
    best.0
}

/// The quant nearest to `x / scale`.
pub(super) fn quant(x: f32, scale: f32, least: f32, most: f32) -> f32 {
    (x / scale).round_ties_even().clamp(least, most)
}

/// How far `scale · q + offset` is from the weights, if each has its nearest quant from `least` to `most`.
pub(super) fn error_of<const N: usize>(group: &[f32; N], (scale, offset): (f32, f32), [least, most]: [f32; 2]) -> f32 {
    let quants = group.map(|x| if scale == 0.0 { 0.0 } else { quant(x - offset, scale, least, most) });
    error(group, &quants, &importances(group), (scale, offset))
}

/// The index of the value nearest to `x`.
pub(super) fn nearest(values: &[f32], x: f32) -> usize {
    let above = values.partition_point(|value| *value < x).min(values.len() - 1);
    let below = above.saturating_sub(1);
    if x - values[below] < values[above] - x { below } else { above }
}

/// The scale and offset, at most 0, with the least error.
fn regression<const N: usize>(group: &[f32; N], quants: &[f32; N], importances: &[f32; N]) -> (f32, f32) {
    let (mut sum, mut q1, mut q2, mut x1, mut qx) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for ((x, q), importance) in group.iter().zip(quants).zip(importances) {
        let iq = importance * q;
        sum += importance;
        q1 += iq;
        q2 += iq * q;
        x1 += importance * x;
        qx += iq * x;
    }
    let determinant = sum * q2 - q1 * q1;
    let offset = (q2 * x1 - q1 * qx) / determinant;
    if offset > 0.0 || determinant <= 0.0 {
        return (qx / q2, 0.0);
    }
    ((sum * qx - q1 * x1) / determinant, offset)
}

fn error<const N: usize>(
    group: &[f32; N],
    quants: &[f32; N],
    importances: &[f32; N],
    (scale, offset): (f32, f32),
) -> f32 {
    let errors = group.iter().zip(quants).zip(importances);
    errors.map(|((x, q), importance)| importance * (scale * q + offset - x).powi(2)).sum()
}
