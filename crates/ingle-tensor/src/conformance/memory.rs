// SPDX-License-Identifier: EUPL-1.2
//! Memory is counted, limited, and given back.

use super::report::Report;
use crate::{DType, DeviceHandle, Error, Memory, Result, Tensor};

const AREA: &str = "memory";

/// Elements of the tensors used here: 4 MiB of f32.
const ELEMENTS: usize = 1 << 20;
const BYTES: usize = 4 * ELEMENTS;

/// What is wrong, if the device could be asked at all.
type Holds = Result<Result<(), String>>;

type Property = fn(&DeviceHandle) -> Holds;

pub(super) fn run(device: &DeviceHandle, report: &mut Report) {
    let properties: [(&str, Property); 6] = [
        ("live tensors are active, dropped ones are not", counted),
        ("the peak is remembered until it is reset", peak),
        ("the limit refuses, and what failed leaves nothing behind", limited),
        ("an upload past the limit is refused", upload_limited),
        ("clear_cache leaves nothing cached", cleared),
        ("a donated cache is written in place", in_place),
    ];
    for (what, property) in properties {
        let holds = property(device).map_err(|error| error.to_string()).and_then(|x| x);
        device.set_memory_limit(None);
        device.set_cache_limit(None);
        report.property(AREA, what, holds);
    }
}

/// That active memory is what it was before the suite.
pub(super) fn settled(device: &DeviceHandle, before: Memory, report: &mut Report) {
    let after = device.memory().active;
    let holds = if after == before.active {
        Ok(())
    } else {
        Err(format!("{} bytes were active before the suite, {after} after it", before.active))
    };
    report.property(AREA, "the suite leaves nothing behind", holds);
}

/// A computed tensor of 4 MiB, in memory of its own.
fn large(device: &DeviceHandle) -> Result<Tensor> {
    let x = Tensor::from_slice(device, &vec![1f32; ELEMENTS], [ELEMENTS])?.neg()?;
    device.download(&x)?;
    Ok(x)
}

/// Whether `found` is `expected`, give or take what a device rounds allocations up to.
fn about(what: &str, found: usize, expected: usize) -> Result<(), String> {
    if found >= expected && found <= expected + BYTES / 4 {
        return Ok(());
    }
    Err(format!("{what}: expected {expected} bytes, found {found}"))
}

fn counted(device: &DeviceHandle) -> Holds {
    let before = device.memory().active;
    let x = large(device)?;
    let with_one = device.memory().active;
    let same = x.clone();
    let with_clone = device.memory().active;
    drop((x, same));
    let without = device.memory().active;
    Ok(about("one tensor", with_one, before + BYTES)
        .and_then(|()| about("a clone of it", with_clone, with_one))
        .and_then(|()| about("after dropping both", without, before)))
}

fn peak(device: &DeviceHandle) -> Holds {
    device.reset_peak_memory();
    let before = device.memory();
    if before.peak != before.active {
        return Ok(Err(format!("after a reset the peak is not what is active: {before:?}")));
    }
    drop((large(device)?, large(device)?));
    let after = device.memory();
    if after.peak < before.active + 2 * BYTES {
        return Ok(Err(format!("after 2 tensors of {BYTES} bytes: {after:?}, before: {before:?}")));
    }
    device.reset_peak_memory();
    let reset = device.memory();
    Ok(about("the peak after a reset", reset.peak, before.active))
}

/// That a result is [`Error::Memory`] with the limit in it.
fn refused(result: Result<()>, limit: usize) -> Result<(), String> {
    match result {
        Err(Error::Memory { limit: found, requested, active, .. }) if found == limit && active + requested > limit => {
            Ok(())
        }
        other => Err(format!("expected a refusal at {limit} bytes, found {other:?}")),
    }
}

fn limited(device: &DeviceHandle) -> Holds {
    let x = Tensor::from_slice(device, &vec![1f32; ELEMENTS], [ELEMENTS])?;
    device.clear_cache();
    let before = device.memory().active;
    let limit = before + BYTES / 2;
    device.set_memory_limit(Some(limit));
    let too_much = x.exp().and_then(|y| device.download(&y).map(|_| ()));
    if let Err(what) = refused(too_much, limit) {
        return Ok(Err(what));
    }
    let after = device.memory().active;
    if after != before {
        return Ok(Err(format!("{before} bytes were active before the refusal, {after} after it")));
    }
    let little = x.slice(0, 0, 8)?.exp()?.to_f32_vec()?;
    if little.iter().any(|y| (y - std::f32::consts::E).abs() > 1e-6) {
        return Ok(Err(format!("below the limit exp(1) is {little:?}")));
    }
    device.set_memory_limit(None);
    let enough = x.exp()?;
    device.download(&enough)?;
    Ok(Ok(()))
}

fn upload_limited(device: &DeviceHandle) -> Holds {
    let limit = device.memory().active + BYTES / 2;
    device.set_memory_limit(Some(limit));
    let values = vec![1f32; ELEMENTS];
    let result = Tensor::from_slice(device, &values, [ELEMENTS]).and_then(|x| device.download(&x).map(|_| ()));
    Ok(refused(result, limit))
}

fn cleared(device: &DeviceHandle) -> Holds {
    drop(large(device)?);
    device.clear_cache();
    let cached = device.memory().cached;
    if cached != 0 {
        return Ok(Err(format!("{cached} bytes are cached after clear_cache")));
    }
    device.set_cache_limit(Some(0));
    drop(large(device)?);
    let cached = device.memory().cached;
    Ok(if cached == 0 { Ok(()) } else { Err(format!("{cached} bytes are cached at a limit of 0")) })
}

fn in_place(device: &DeviceHandle) -> Holds {
    let width = 1024;
    let row = Tensor::full(device, [1, width], DType::F32, 2.0)?;
    let write = |cache: Tensor, at: i32| -> Result<Tensor> {
        let cache = cache.write_rows(&row, &Tensor::from_slice(device, &[at], [1])?)?;
        cache.slice(0, 0, 1)?.to_f32_vec()?;
        Ok(cache)
    };
    // A constant may lie in memory as one element: the first write gives the cache memory of its own.
    let mut cache = write(Tensor::full(device, [ELEMENTS / width, width], DType::F32, 0.0)?, 0)?;
    device.reset_peak_memory();
    let before = device.memory().peak;
    for at in 1..5 {
        cache = write(cache, at)?;
    }
    let peak = device.memory().peak;
    if peak > before + BYTES / 4 {
        return Ok(Err(format!("writing 4 rows took {} bytes beside a cache of {BYTES}", peak - before)));
    }
    let sum: f32 = cache.to_f32_vec()?.iter().sum();
    let expected = (2 * 5 * width) as f32;
    Ok(if sum == expected { Ok(()) } else { Err(format!("the rows written sum to {sum}, not {expected}")) })
}
