// SPDX-License-Identifier: EUPL-1.2
//! GGUF's K formats: 256 weights in a block, whose groups' scales are quantised themselves.

use half::f16;
use ingle_tensor::{BlockFormat, SuperScales};

use super::fit;
use super::pack::{self, SuperBlock};

/// Writes one block.
pub(super) fn encode(format: BlockFormat, weights: &[f32], block: &mut [u8]) {
    let Ok(weights) = <&[f32; 256]>::try_from(weights) else { return };
    let packed = match format {
        BlockFormat::Q2K => with_offsets::<16>(weights, 3.0, 15.0),
        BlockFormat::Q3K => through_zero(weights, 4.0, 32.0),
        BlockFormat::Q4K => with_offsets::<32>(weights, 15.0, 63.0),
        BlockFormat::Q5K => with_offsets::<32>(weights, 31.0, 63.0),
        _ => through_zero(weights, 32.0, 128.0),
    };
    pack::supers(format, &packed, block);
}

/// Groups of `N` with quants from 0 to `most`; scales and minima are whole numbers up to `most_scale`.
fn with_offsets<const N: usize>(weights: &[f32; 256], most: f32, most_scale: f32) -> SuperBlock {
    let (groups, _) = weights.as_chunks::<N>();
    let mut fits: Vec<(f32, f32)> = Vec::with_capacity(groups.len());
    for group in groups {
        let fit = fit::with_offset(group, most);
        fits.push((fit.scale, -fit.offset));
    }
    let step = |of: fn(&(f32, f32)) -> f32| f16::from_f32(fits.iter().map(of).fold(0.0, f32::max) / most_scale);
    let (scale, min) = (step(|fit| fit.0), step(|fit| fit.1));
    let whole = |x: f32, step: f16| if step == f16::ZERO { 0.0 } else { fit::quant(x, step.to_f32(), 0.0, most_scale) };
    let mut supers = SuperScales { scale, min, scales: [0; 16], mins: [0; 16] };
    let mut quants = [0; 256];
    for (index, (group, quants)) in groups.iter().zip(quants.chunks_exact_mut(N)).enumerate() {
        // Rounding the one may be made good by the other.
        let around = |x: f32| [0.0, -1.0, 1.0].map(|step| (x + step).clamp(0.0, most_scale));
        let (whole_scale, whole_min) = (whole(fits[index].0, scale), whole(fits[index].1, min));
        let pairs = around(whole_scale).into_iter().flat_map(|a| around(whole_min).map(|b| (a, b)));
        let error = |(own_scale, own_min): (f32, f32)| {
            fit::error_of(group, (scale.to_f32() * own_scale, -(min.to_f32() * own_min)), [0.0, most])
        };
        let (own_scale, own_min) = least_by(pairs, error).unwrap_or((whole_scale, whole_min));
        (supers.scales[index], supers.mins[index]) = (own_scale as i8, own_min as u8);
        let (scale, offset) = (scale.to_f32() * own_scale, -(min.to_f32() * own_min));
        for (quant, x) in quants.iter_mut().zip(group) {
            *quant = if scale == 0.0 { 0 } else { fit::quant(x - offset, scale, 0.0, most) as u8 };
        }
    }
    SuperBlock { supers, quants }
}

/// Groups of 16 with quants from `−zero` to `zero − 1`; scales are whole numbers from `−least_scale` up.
fn through_zero(weights: &[f32; 256], zero: f32, least_scale: f32) -> SuperBlock {
    let (groups, _) = weights.as_chunks::<16>();
    let mut fits = [0.0f32; 16];
    fits.iter_mut().zip(groups).for_each(|(fit, group)| *fit = fit::through_zero(group, zero));
    let extreme = fits.iter().copied().fold(0.0f32, |most, x| if x.abs() > most.abs() { x } else { most });
    let scale = f16::from_f32(extreme / -least_scale);
    let mut supers = SuperScales { scale, min: f16::ZERO, scales: [0; 16], mins: [0; 16] };
    let mut quants = [0; 256];
    for (index, (group, quants)) in groups.iter().zip(quants.chunks_exact_mut(16)).enumerate() {
        let whole = match scale == f16::ZERO {
            true => 0.0,
            false => fit::quant(fits[index], scale.to_f32(), -least_scale, least_scale - 1.0),
        };
        let around = [0.0, -1.0, 1.0].map(|step| (whole + step).clamp(-least_scale, least_scale - 1.0));
        let error = |own: f32| fit::error_of(group, (scale.to_f32() * own, 0.0), [-zero, zero - 1.0]);
        let own = least_by(around, error).unwrap_or(whole);
        supers.scales[index] = own as i8;
        let scale = scale.to_f32() * own;
        for (quant, x) in quants.iter_mut().zip(group) {
            let value = if scale == 0.0 { 0.0 } else { fit::quant(*x, scale, -zero, zero - 1.0) };
            *quant = (value + zero) as u8;
        }
    }
    SuperBlock { supers, quants }
}

/// The candidate with the least error, the first of those that are equal.
fn least_by<T: Copy>(candidates: impl IntoIterator<Item = T>, error: impl Fn(T) -> f32) -> Option<T> {
    let errors = candidates.into_iter().map(|candidate| (candidate, error(candidate)));
    errors.reduce(|best, other| if other.1 < best.1 { other } else { best }).map(|(best, _)| best)
}
