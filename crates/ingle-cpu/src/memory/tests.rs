// SPDX-License-Identifier: EUPL-1.2

use super::*;

#[test]
fn dropped_buffers_are_reused_good() -> Result<()> {
    let pool = MemoryPool::new();
    let buffer = pool.take(1000, Contents::Anything)?;
    let address = buffer.bytes().as_ptr();
    assert_eq!(address.align_offset(ALIGNMENT), 0);
    assert_eq!(pool.memory(), Memory { active: 1024, peak: 1024, cached: 0 });
    drop(buffer);
    assert_eq!(pool.memory(), Memory { active: 0, peak: 1024, cached: 1024 });
    assert_eq!(pool.take(1020, Contents::Anything)?.bytes().as_ptr(), address);
    pool.reset_peak();
    pool.clear_cache();
    assert_eq!(pool.memory(), Memory::default());
    Ok(())
}

#[test]
fn a_large_buffer_serves_one_that_is_a_little_smaller_ugly() -> Result<()> {
    let pool = MemoryPool::new();
    drop(pool.take(3 * MAPPED, Contents::Anything)?);
    // Too small a part of it, and a part.
    let small = pool.take(3 * MAPPED / 2, Contents::Anything)?;
    assert_eq!(pool.memory().cached, 3 * MAPPED);
    let part = pool.take(5 * MAPPED / 2, Contents::Anything)?;
    assert_eq!((pool.memory().cached, part.bytes().len()), (0, 5 * MAPPED / 2));
    // What is wasted counts, and comes back.
    assert_eq!(pool.memory().active, 3 * MAPPED / 2 + 3 * MAPPED);
    drop((small, part));
    assert_eq!(pool.memory().active, 0);
    Ok(())
}

#[test]
fn lasting_buffers_lie_side_by_side_and_are_not_reused_good() -> Result<()> {
    let pool = MemoryPool::new();
    let (mut one, two) = (pool.take_lasting(100, Contents::Zeros)?, pool.take_lasting(64, Contents::Zeros)?);
    assert_eq!(two.bytes().as_ptr() as usize - one.bytes().as_ptr() as usize, 128);
    if let Some(bytes) = one.bytes_mut() {
        bytes.fill(7);
    }
    assert!(two.bytes().iter().all(|&byte| byte == 0));
    assert_eq!(pool.memory().active, 192);
    drop(one);
    assert_eq!(pool.memory(), Memory { active: 64, peak: 192, cached: 0 });
    let large = pool.take_lasting(SLAB + 1, Contents::Zeros)?;
    assert!(large.bytes().iter().all(|&byte| byte == 0));
    pool.set_limit(Some(0));
    assert!(pool.take_lasting(1, Contents::Zeros).is_err());
    Ok(())
}

#[test]
fn zeros_are_zeros_again_good() -> Result<()> {
    let pool = MemoryPool::new();
    for len in [64, 4096, MAPPED, 2 * LARGE_PAGE, LAZY_ZEROS] {
        let mut buffer = pool.take(len, Contents::Anything)?;
        assert_eq!(buffer.bytes().as_ptr().align_offset(ALIGNMENT), 0);
        assert!(buffer.bytes().iter().all(|&byte| byte == 0), "first contents are zeros");
        if let Some(bytes) = buffer.bytes_mut() {
            bytes.fill(7);
        }
        drop(buffer);
        assert!(pool.take(len, Contents::Zeros)?.bytes().iter().all(|&byte| byte == 0));
    }
    Ok(())
}

#[test]
fn the_limit_refuses_bad() -> Result<()> {
    let pool = MemoryPool::new();
    pool.set_limit(Some(4096));
    let held = pool.take(4096, Contents::Anything)?;
    let refused = pool.take(1, Contents::Anything).map(|_| ());
    assert_eq!(refused, Err(Error::Memory { device: "cpu", requested: 64, active: 4096, limit: 4096 }));
    drop(held);
    let too_large = pool.take(8192, Contents::Zeros).map(|_| ());
    assert!(matches!(too_large, Err(Error::Memory { requested: 8192, active: 0, .. })));
    pool.set_limit(None);
    assert!(pool.take(usize::MAX / 4, Contents::Zeros).is_err(), "no machine has that much");
    assert!(pool.take_lasting(usize::MAX / 4, Contents::Zeros).is_err(), "nor for weights");
    assert_eq!((pool.memory().active, pool.memory().peak), (0, 4096), "what never was there does not count");
    Ok(())
}

#[test]
fn the_cache_limit_holds_ugly() -> Result<()> {
    let pool = MemoryPool::new();
    pool.set_cache_limit(Some(1000));
    drop(pool.take(2000, Contents::Anything)?);
    drop(pool.take(0, Contents::Anything)?);
    assert_eq!(pool.memory().cached, 0);
    pool.set_cache_limit(None);
    drop(pool.take(2000, Contents::Anything)?);
    assert_eq!(pool.memory().cached, 2048);
    pool.set_cache_limit(Some(0));
    assert_eq!(pool.memory().cached, 0);
    Ok(())
}

#[test]
fn more_is_cached_than_usual_but_little_more_than_was_live_ugly() -> Result<()> {
    // Nobody touches it, so that it takes no memory.
    const LARGE: usize = DEFAULT_CACHE_LIMIT - DEFAULT_CACHE_LIMIT / 4;
    let pool = MemoryPool::new();
    let two = || Ok::<_, Error>([pool.take(LARGE, Contents::Anything)?, pool.take(LARGE, Contents::Anything)?]);
    drop(two()?);
    assert_eq!(pool.memory().cached, LARGE);
    pool.set_cache_limit(Some(usize::MAX));
    drop(two()?);
    assert_eq!(pool.memory().cached, 2 * LARGE);
    let other = pool.take(LARGE / 2, Contents::Anything)?;
    assert_eq!(pool.memory().cached, LARGE);
    drop(other);
    assert!(pool.memory().cached <= 2 * LARGE);
    Ok(())
}

#[test]
fn what_is_just_large_enough_makes_room_ugly() -> Result<()> {
    let pool = MemoryPool::new();
    let buffers = [1 << 20, 2 << 20, 64 << 20].map(|len| pool.take(len, Contents::Anything));
    drop(buffers);
    pool.set_cache_limit(Some(66 << 20));
    assert_eq!(pool.memory().cached, 66 << 20);
    drop(pool.take(4 << 20, Contents::Anything)?);
    assert_eq!(pool.memory().cached, 6 << 20, "4 of 66 are to go, and 2 would not be enough");
    Ok(())
}

#[test]
fn shared_bytes_count_as_active_ugly() -> Result<()> {
    let pool = MemoryPool::new();
    let mut buffer = pool.share(Bytes::from_static(b"weights"))?;
    assert_eq!(pool.memory().active, 7);
    assert!(buffer.bytes_mut().is_none());
    drop(buffer);
    assert_eq!(pool.memory().active, 0);
    pool.set_limit(Some(3));
    assert!(pool.share(Bytes::from_static(b"weights")).is_err());
    Ok(())
}

#[test]
fn classes_waste_little_ugly() {
    for len in [0usize, 1, 63, 64, 65, 1000, 4097, 1 << 20, (1 << 20) + 1, 123_456_789] {
        let class = size_class(len);
        assert!(class >= len && class <= len + (len / 7).max(ALIGNMENT), "{len} → {class}");
    }
}
