// SPDX-License-Identifier: EUPL-1.2
//! What every benchmark here needs: a device, operands, and rates in GFLOP/s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Bencher, Criterion, Throughput};
use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_tensor::{DType, DeviceHandle, Result, Shape, Tensor};

/// Wall time, with rates of arithmetic in GFLOP/s.
pub struct Time;

/// Operations by the second where criterion counts elements.
struct Flops;

pub fn criterion() -> Criterion<Time> {
    let criterion = Criterion::default().with_measurement(Time).without_plots();
    criterion.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1))
}

/// The rate of something that reads and writes so many bytes.
pub fn bytes(count: usize) -> Throughput {
    Throughput::BytesDecimal(count as u64)
}

/// The rate of something that adds and multiplies so often.
pub fn flops(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

/// Times an operation, which must not fail.
pub fn run(timer: &mut Bencher<'_, Time>, operation: impl Fn() -> Result<Tensor>) {
    timer.iter(|| operation().expect("the operation runs"));
}

pub fn device() -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions::default()).expect("a CPU"))
}

/// Numbers between −1 and 1 without a pattern that a kernel could profit from.
pub fn numbers(device: &DeviceHandle, shape: impl Into<Shape>, dtype: DType) -> Tensor {
    let shape = shape.into();
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 + (i >> 9) * 131) % 2003) as f32 / 1001.0 - 1.0).collect();
    Tensor::from_slice(device, &values, shape).expect("a tensor").cast(dtype).expect("a cast")
}

/// Row numbers below `below`, scattered.
pub fn scattered(device: &DeviceHandle, count: usize, below: usize) -> Tensor {
    let rows: Vec<i32> = (0..count).map(|i| ((i * 104_729 + 17) % below) as i32).collect();
    Tensor::from_slice(device, &rows, [count]).expect("an index")
}

impl Measurement for Time {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        WallTime.start()
    }

    fn end(&self, begin: Instant) -> Duration {
        WallTime.end(begin)
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        WallTime.add(a, b)
    }

    fn zero(&self) -> Duration {
        WallTime.zero()
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Flops
    }
}

impl ValueFormatter for Flops {
    fn scale_values(&self, typical: f64, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_values(typical, values)
    }

    fn scale_throughputs(&self, typical: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        match *throughput {
            Throughput::Elements(flops) => {
                // Values are in nanoseconds.
                values.iter_mut().for_each(|nanoseconds| *nanoseconds = flops as f64 / *nanoseconds);
                "GFLOP/s"
            }
            _ => WallTime.formatter().scale_throughputs(typical, throughput, values),
        }
    }

    fn scale_for_machines(&self, values: &mut [f64]) -> &'static str {
        WallTime.formatter().scale_for_machines(values)
    }
}
