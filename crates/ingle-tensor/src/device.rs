// SPDX-License-Identifier: EUPL-1.2
//! What a device must do: the one door through which tensors are computed.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{DType, Op, Result, Spec, Tensor};

/// A shared handle to a device.
pub type DeviceHandle = Arc<dyn Device>;

/// A device runs tensor operations.
///
/// Implementations decide how bytes lie (strides, packing, device memory, a lazy graph) and keep it to
/// themselves in [`Storage`]. They must have every primitive of [`Op`]; a fused operation they have no kernel
/// for they run with [`Op::decompose`].
///
/// A device computes each output element in an order of its own that depends on nothing but the operation's
/// parameters and the element's own operands: never on the number of rows beside it or on the number of
/// threads. It makes a request's answer independent of what is batched with it. One that cannot promise it, because
/// another's kernels compute, says so in [`Device::invariance`].
pub trait Device: fmt::Debug + Send + Sync {
    /// The short name by which users choose it: `cpu`.
    fn name(&self) -> &'static str;

    /// What it is, for people: the processor's name, its instruction sets, threads, memory.
    fn description(&self) -> String;

    /// Runs `op`. The inputs have passed [`Op::infer`], live on this device, and `output` is the spec it gave.
    /// An input that is its storage's last handle ([`Tensor::into_storage`] then [`Storage::take`]) is
    /// donated: its memory may be written to.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] past the limit; [`crate::Error::Index`] for indices out of range, where the
    /// device can tell; [`crate::Error::Device`] for the device's own failures.
    fn run(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> Result<Storage>;

    /// Makes a tensor of row-major little-endian host bytes; their number is `spec.bytes()`. Where the
    /// device can read host memory it keeps the handle instead of a copy.
    ///
    /// # Errors
    /// [`crate::Error::Memory`] past the limit; [`crate::Error::Device`] for the device's own failures.
    fn upload(&self, bytes: Bytes, spec: &Spec) -> Result<Storage>;

    /// Waits for the tensor and gives its elements as row-major little-endian bytes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for the device's own failures, those of pending operations included.
    fn download(&self, tensor: &Tensor) -> Result<Vec<u8>>;

    /// The dtype in which activations are fastest beside weights of dtype `weights`, without computing less
    /// precisely than that dtype.
    fn activation_dtype(&self, weights: DType) -> DType;

    /// What it promises of a row's bits.
    fn invariance(&self) -> Invariance {
        Invariance::Exact
    }

    /// When it computes what it is asked for.
    fn evaluation(&self) -> Evaluation {
        Evaluation::Eager
    }

    /// Starts computing whatever was asked for so far, and returns at once. A device that is [`Evaluation::Eager`]
    /// has done so.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for the device's own failures.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Rows of activations that make it busy: a pass over more of them costs as much for each.
    fn busy_rows(&self) -> usize {
        512
    }

    /// Whether tensors hold the numbers that they are given. A device that keeps only what tensors are is for checking what
    /// would be computed: weights are not read for it.
    fn keeps_numbers(&self) -> bool {
        true
    }

    /// Memory in use now.
    fn memory(&self) -> Memory;

    /// Forgets the peak: [`Memory::peak`] starts again from what is active now.
    fn reset_peak_memory(&self);

    /// Refuses allocations that would take active memory past `bytes`; `None` lifts the limit.
    fn set_memory_limit(&self, bytes: Option<usize>);

    /// Keeps at most `bytes` of freed buffers for reuse; `None` restores the device's default.
    fn set_cache_limit(&self, bytes: Option<usize>);

    /// Gives freed buffers kept for reuse back to the system.
    fn clear_cache(&self);
}

/// What a device promises of an element that is computed twice, beside other rows or in another batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariance {
    /// The same bits.
    Exact,
    /// The same number but for rounding: sums may be taken in another order. Each result is still as near to the
    /// reference as the conformance suite asks.
    Rounding,
}

/// When a device computes what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// Before [`Device::run`] returns.
    Eager,
    /// At the next [`Device::flush`] or [`Device::download`], and while the caller goes on to ask for more.
    Queued,
}

/// A device's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Held by live tensors, memory-mapped weights included.
    pub active: usize,
    /// The most that was ever active at once since the start or the last reset.
    pub peak: usize,
    /// Freed, and kept for reuse.
    pub cached: usize,
}

/// A device's private representation of a tensor, shared by reference count.
#[derive(Clone)]
pub struct Storage(Arc<dyn Any + Send + Sync>);

impl Storage {
    /// Wraps a device's representation.
    pub fn new<T: Send + Sync + 'static>(inner: T) -> Self {
        Storage(Arc::new(inner))
    }

    /// The representation, if it is a `T`: a device asks for its own type.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }

    /// The representation itself, if it is a `T` and this is its last handle: donation.
    ///
    /// # Errors
    /// The storage unchanged, if it is shared or of another type.
    pub fn take<T: Send + Sync + 'static>(self) -> Result<T, Storage> {
        let inner = self.0.downcast::<T>().map_err(Storage)?;
        Arc::try_unwrap(inner).map_err(|inner| Storage(inner))
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("handles", &Arc::strong_count(&self.0)).finish()
    }
}
