// SPDX-License-Identifier: EUPL-1.2

use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::Memory;

use super::*;

const BLOCK_SIZE: usize = 2;
const FULL: CacheLayer = CacheLayer { kv_heads: 1, head_dim: 2, window: None };
const SLIDING: CacheLayer = CacheLayer { window: Some(3), ..FULL };

fn cpu() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(1), ..Default::default() }).unwrap())
}

fn cache(device: &DeviceHandle) -> KvCache {
    cache_of(device, DType::F32)
}

fn cache_of(device: &DeviceHandle, dtype: DType) -> KvCache {
    KvCache::new(device, &[SLIDING, FULL, SLIDING], BLOCK_SIZE, dtype).unwrap()
}

/// A batch of one sequence's tokens `first..last`, which lies in the cache in order.
fn batch(device: &DeviceHandle, cache: &KvCache, [first, last]: [i32; 2]) -> Batch {
    let list = |values: Vec<i32>| Tensor::from_slice(device, &values, [values.len()]).unwrap();
    let tokens = || list((first..last).collect());
    let blocks: Vec<i32> = (0..(last as usize).div_ceil(BLOCK_SIZE) as i32).collect();
    let table =
        |_| BlockTable { blocks: Tensor::from_slice(device, &blocks, [1, blocks.len()]).unwrap(), slots: tokens() };
    Batch {
        tokens: tokens(),
        positions: tokens(),
        sequences: list(vec![0; (last - first) as usize]),
        tables: cache.groups().iter().map(table).collect(),
        outputs: tokens(),
        routes: Routes::default(),
        output_routes: Routes::default(),
        activations: Activations::Kept,
        hidden: None,
        dropout: None,
    }
}

/// Attention of equal queries and keys, `[T, 1, 2]`: the mean of the values, which are the tokens' positions.
fn mean_of_positions(cache: &mut KvCache, layer: usize, [first, last]: [i32; 2]) -> Result<Vec<f32>> {
    let device = cache.device.clone();
    let batch = batch(&device, cache, [first, last]);
    let count = (last - first) as usize;
    let q = Tensor::full(&device, [count, 1, 2], DType::F32, 0.0)?;
    let positions: Vec<f32> = (first..last).flat_map(|position| [position as f32; 2]).collect();
    let v = Tensor::from_slice(&device, &positions, [count, 1, 2])?;
    let attended = cache.attend(layer, [&q, &q, &v], &batch, 1.0, None)?;
    Ok(attended.to_vec::<f32>()?.chunks(2).map(|head| head[0]).collect())
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "expected {expected:?}, found {found:?}");
}

#[test]
fn layers_that_see_equally_far_share_a_group_good() {
    let device = cpu();
    let mut cache = cache(&device);
    assert_eq!(
        cache.groups(),
        [
            CacheGroup { window: Some(3), block_bytes: 2 * 2 * BLOCK_SIZE * 2 * 4, blocks: 0 },
            CacheGroup { window: None, block_bytes: 2 * BLOCK_SIZE * 2 * 4, blocks: 0 },
        ]
    );
    cache.grow(0, 3).unwrap();
    cache.grow(1, 5).unwrap();
    assert_eq!(cache.bytes(), 3 * 64 + 5 * 32);
}

#[test]
fn tokens_see_what_was_written_before_good() {
    let device = cpu();
    let mut cache = cache(&device);
    for group in 0..2 {
        cache.grow(group, 4).unwrap();
    }
    assert_close(&mean_of_positions(&mut cache, 1, [0, 3]).unwrap(), &[0.0, 0.5, 1.0]);
    assert_close(&mean_of_positions(&mut cache, 1, [3, 5]).unwrap(), &[1.5, 2.0]);
    assert_close(&mean_of_positions(&mut cache, 0, [0, 5]).unwrap(), &[0.0, 0.5, 1.0, 2.0, 3.0]);
}

#[test]
fn integers_take_a_byte_each_and_four_for_their_scale_good() {
    let device = cpu();
    let mut cache = cache_of(&device, DType::I8);
    let bytes: Vec<usize> = cache.groups().iter().map(|group| group.block_bytes).collect();
    assert_eq!(bytes, [2 * 2 * BLOCK_SIZE * (2 + 4), 2 * BLOCK_SIZE * (2 + 4)]);
    assert_eq!((cache.dtype(), cache.token_bytes()), (DType::I8, 3 * 2 * (2 + 4)));
    for group in 0..2 {
        cache.grow(group, 4).unwrap();
    }
    assert_eq!(cache.bytes(), 4 * bytes.iter().sum::<usize>());
    // Rows of equal numbers lose nothing, and weights are within 2⁻¹⁶ of theirs.
    for (layer, range, expected) in [(1, [0, 3], &[0.0, 0.5, 1.0][..]), (1, [3, 5], &[1.5, 2.0])] {
        let found = mean_of_positions(&mut cache, layer, range).unwrap();
        let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near && found.len() == expected.len(), "expected {expected:?}, found {found:?}");
    }
    cache.reset().unwrap();
    assert_eq!((cache.dtype(), cache.bytes()), (DType::I8, 0));
}

#[test]
fn growing_keeps_what_is_there_ugly() {
    let device = cpu();
    let mut cache = cache(&device);
    cache.grow(1, 2).unwrap();
    mean_of_positions(&mut cache, 1, [0, 4]).unwrap();
    cache.grow(1, 3).unwrap();
    assert_close(&mean_of_positions(&mut cache, 1, [4, 5]).unwrap(), &[2.0]);
    let bytes = cache.bytes();
    for (group, blocks) in [(1, 3), (1, 0), (9, 9)] {
        cache.grow(group, blocks).unwrap();
        assert_eq!(cache.bytes(), bytes);
    }
}

#[test]
fn growing_takes_one_layer_at_a_time_ugly() {
    let device = cpu();
    let mut cache = KvCache::new(&device, &[FULL; 8], BLOCK_SIZE, DType::F32).unwrap();
    let few = 1 << 10;
    cache.grow(0, few).unwrap();
    let of_a_layer = cache.bytes() / 8;
    device.reset_peak_memory();
    cache.grow(0, 2 * few).unwrap();
    let Memory { active, peak, cached } = device.memory();
    // What it held before, and the slots' numbers.
    assert!(peak - active <= 2 * of_a_layer, "{peak} bytes for {active}, of which a layer had {of_a_layer}");
    assert_eq!(cached, 0);
}

#[test]
fn first_blocks_leave_what_the_device_keeps_for_reuse_good() {
    let device = cpu();
    // A step of a training, which begins with a cache of its own, has left this behind for the next.
    drop(Tensor::full(&device, [1 << 20], DType::F32, 1.0).unwrap());
    let Memory { cached: before, .. } = device.memory();
    cache(&device).grow(1, 4).unwrap();
    let Memory { cached, .. } = device.memory();
    assert!(before >= 4 << 20 && cached >= before, "{cached} bytes are kept of {before}");
}

#[test]
fn failure_that_comes_while_growing_loses_nothing_bad() {
    let device = cpu();
    let mut cache = cache(&device);
    cache.grow(1, 2).unwrap();
    mean_of_positions(&mut cache, 1, [0, 4]).unwrap();
    device.set_memory_limit(Some(device.memory().active + 1));
    assert!(cache.grow(0, 1 << 10).is_err() && cache.grow(1, 1 << 10).is_err());
    device.set_memory_limit(None);
    assert_eq!(cache.groups().iter().map(|group| group.blocks).collect::<Vec<_>>(), [0, 2]);
    cache.grow(1, 3).unwrap();
    assert_close(&mean_of_positions(&mut cache, 1, [4, 5]).unwrap(), &[2.0]);
}

#[test]
fn failure_loses_a_layer_until_reset_bad() {
    let device = cpu();
    let mut cache = cache(&device);
    cache.grow(1, 1).unwrap();
    // Position 4 is in a block that the cache does not have.
    assert!(mean_of_positions(&mut cache, 1, [4, 5]).is_err());
    let lost = mean_of_positions(&mut cache, 1, [0, 1]).unwrap_err();
    assert_eq!(lost.to_string(), "key-value cache of layer 1: lost in an earlier failure; reset the cache");
    assert!(matches!(cache.grow(1, 2), Err(Error::CacheLost { layer: 1 })));
    cache.reset().unwrap();
    assert_eq!(cache.bytes(), 0);
    cache.grow(1, 1).unwrap();
    assert_close(&mean_of_positions(&mut cache, 1, [0, 1]).unwrap(), &[0.0]);
}

#[test]
fn layer_or_table_out_of_range_bad() {
    let device = cpu();
    let mut cache = cache(&device);
    assert!(matches!(mean_of_positions(&mut cache, 3, [0, 1]), Err(Error::CacheLost { layer: 3 })));
}
