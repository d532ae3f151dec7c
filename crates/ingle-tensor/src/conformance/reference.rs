// SPDX-License-Identifier: EUPL-1.2
//! The reference device: what every other device's results are compared with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::array::Array;
use super::primitives::{Input, rows_of, run, write_rows};
use crate::op::{attend_rounded, attention_grad_rounded};
use crate::{DType, Device, Error, Memory, Op, Result, Spec, Storage, Tensor};

/// A device that computes in f64 on plain row-major memory with simple loops, and every fused operation by its
/// [`Op::decompose`].
///
/// It never rounds a float: after an upload, which holds exactly what the bytes say, a value stays f64 through
/// casts and everything else. Only [`Device::download`] rounds, to the tensor's dtype. Integers are exact.
///
/// Beside each value it keeps how far a sound f32 computation may stray from it (see [`Reference::errors`]),
/// which is where the suite's tolerances come from.
///
/// ```
/// use std::sync::Arc;
///
/// use ingle_tensor::conformance::Reference;
/// use ingle_tensor::{DType, DeviceHandle, Tensor};
///
/// let device: DeviceHandle = Arc::new(Reference::new());
/// let third = Tensor::full(&device, [1], DType::F32, 1.0)?.scale(1.0 / 3.0)?.cast(DType::BF16)?;
/// assert_eq!(Reference::values(&third), Some(vec![1.0 / 3.0]));
/// assert_eq!(third.to_f32_vec()?, [0.333984375]);
/// # Ok::<(), ingle_tensor::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Reference {
    ledger: Arc<Ledger>,
}

/// What the reference keeps of a tensor.
#[derive(Debug)]
struct Stored {
    array: Array,
    _claim: Claim,
}

impl Reference {
    /// A reference device. It refuses to hold more than 4 GiB unless a limit says otherwise, being for small things.
    pub fn new() -> Self {
        Self::default()
    }

    /// The elements of a tensor of some reference device, unrounded, in row-major order; `None` if the tensor
    /// lives elsewhere. Integers past 2⁵³ lose their last bits.
    pub fn values(tensor: &Tensor) -> Option<Vec<f64>> {
        Self::array(tensor).map(Array::values)
    }

    /// For each element of a float tensor of some reference device, the largest error of a sound f32
    /// computation of it; `None` if the tensor lives elsewhere or holds integers, which are exact.
    pub fn errors(tensor: &Tensor) -> Option<Vec<f64>> {
        match Self::array(tensor)? {
            Array::Floats(xs) => Some(xs.iter().map(|x| x.error).collect()),
            Array::Integers(_) => None,
        }
    }

    pub(super) fn array(tensor: &Tensor) -> Option<&Array> {
        tensor.storage().get::<Stored>().map(|stored| &stored.array)
    }

    fn store(&self, array: Array, spec: &Spec) -> Result<Storage> {
        let claim = Ledger::claim(&self.ledger, spec.bytes())?;
        Ok(Storage::new(Stored { array, _claim: claim }))
    }

    fn stranger(op: &Op) -> Error {
        Error::Device { op: op.name(), device: "reference", message: "an input is not of this device".into() }
    }

    /// In place if the target is donated.
    fn write_rows(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> Result<Storage> {
        let arity = |inputs: Vec<Tensor>| Error::Arity { op: op.name(), expected: "3", found: inputs.len() };
        let [target, rows, index] = <[Tensor; 3]>::try_from(inputs).map_err(arity)?;
        let index = rows_of(op, &input(&index).ok_or_else(|| Self::stranger(op))?, output.shape[0])?;
        let rows = input(&rows).ok_or_else(|| Self::stranger(op))?;
        let mut stored = match target.into_storage().take::<Stored>() {
            Ok(stored) => stored,
            Err(shared) => {
                let array = shared.get::<Stored>().map(|stored| stored.array.clone());
                let claim = Ledger::claim(&self.ledger, output.bytes())?;
                Stored { array: array.ok_or_else(|| Self::stranger(op))?, _claim: claim }
            }
        };
        write_rows(&mut stored.array, output.dtype, &rows, &index);
        Ok(Storage::new(stored))
    }
}

/// The same numbers, with an error as large as rounding may make it: to a float dtype, or beside i8 to 16-bit
/// integers, each row against its largest number. In f32 that would be to add and take away 256 times as much.
fn rounded(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if dtype.is_float() {
        return x.cast(dtype)?.cast(DType::F32);
    }
    let largest = x.abs()?.max_axis(x.shape().len() - 1)?.scale(256.0)?;
    x.add(&largest)?.sub(&largest)
}

/// [`rounded`], for weights that a device may round before it divides them by their sum. There they may stand anywhere
/// in their octave, and half an ulp there is up to a whole one here.
fn rounded_weights(weights: &Tensor, dtype: DType) -> Result<Tensor> {
    let once = rounded(weights, dtype)?;
    if dtype.is_float() { rounded(&once, dtype) } else { Ok(once) }
}

fn input(tensor: &Tensor) -> Option<Input<'_>> {
    Reference::array(tensor).map(|array| Input { array, spec: tensor.spec() })
}

impl Device for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn description(&self) -> String {
        "f64 on the host, for comparison".into()
    }

    fn run(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> Result<Storage> {
        match (op, inputs.as_slice()) {
            (Op::WriteRows, _) => return self.write_rows(op, inputs, output),
            // `Op::Linear` lets a device round x to the weight's dtype. The reference does not round, but a
            // cast there and back widens its error by as much.
            (Op::Linear, [x, weight, ..]) if x.dtype() != weight.dtype() && weight.dtype() != DType::F32 => {
                let mut inputs = inputs.clone();
                inputs[0] = x.cast(weight.dtype())?.cast(DType::F32)?;
                let sum = op.decompose(&inputs).ok_or_else(|| Self::stranger(op))??;
                return Ok(sum.cast(output.dtype)?.into_storage());
            }
            (Op::PagedAttention(parameters), [q, keys, values, blocks, sequences, positions])
                if keys.dtype() != DType::F32 =>
            {
                let q = rounded(&q.cast(DType::F32)?, keys.dtype())?;
                let round = |weights: &Tensor| rounded_weights(weights, keys.dtype());
                let inputs = [&q, keys, values, blocks, sequences, positions];
                let attended = attend_rounded(parameters, inputs, round)?;
                return Ok(attended.cast(output.dtype)?.into_storage());
            }
            (Op::PagedAttentionGrad(parameters), [q, keys, values, blocks, sequences, positions, gradient])
                if keys.dtype() != DType::F32 =>
            {
                let round = |x: &Tensor| rounded(x, keys.dtype());
                let (q, gradient) = (round(&q.cast(DType::F32)?)?, round(&gradient.cast(DType::F32)?)?);
                let inputs = [&q, keys, values, blocks, sequences, positions, &gradient];
                return Ok(attention_grad_rounded(parameters, inputs, round)?.into_storage());
            }
            _ => {}
        }
        let ready: Option<Vec<Input<'_>>> = inputs.iter().map(input).collect();
        let ready = ready.ok_or_else(|| Self::stranger(op))?;
        // Refused before the work, which may be more than memory holds.
        drop(Ledger::claim(&self.ledger, output.bytes())?);
        match (run(op, &ready, output), op.decompose(&inputs)) {
            (Some(array), _) => self.store(array?, output),
            (None, Some(composed)) => Ok(composed?.into_storage()),
            (None, None) => Err(Self::stranger(op)),
        }
    }

    fn upload(&self, bytes: Bytes, spec: &Spec) -> Result<Storage> {
        self.store(Array::decode(&bytes, spec.dtype), spec)
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let op = Op::Reshape { shape: tensor.shape().clone() };
        Self::array(tensor).map(|array| array.encode(tensor.dtype())).ok_or_else(|| Self::stranger(&op))
    }

    fn activation_dtype(&self, _weights: DType) -> DType {
        DType::F32
    }

    fn memory(&self) -> Memory {
        self.ledger.lock().memory
    }

    fn reset_peak_memory(&self) {
        let mut account = self.ledger.lock();
        account.memory.peak = account.memory.active;
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        self.ledger.lock().limit = bytes;
    }

    fn set_cache_limit(&self, _bytes: Option<usize>) {}

    fn clear_cache(&self) {}
}

/// Bytes in use; nothing freed is kept.
#[derive(Debug, Default)]
struct Ledger(Mutex<Account>);

#[derive(Debug, Default)]
struct Account {
    memory: Memory,
    limit: Option<usize>,
}

/// Bytes that are in use until this drops.
#[derive(Debug)]
struct Claim {
    ledger: Arc<Ledger>,
    bytes: usize,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit where none is set.
    const LIMIT: usize = 1 << 32;

    fn claim(ledger: &Arc<Ledger>, bytes: usize) -> Result<Claim> {
        let mut account = ledger.lock();
        let active = account.memory.active;
        let wanted = active.saturating_add(bytes);
        let limit = account.limit.unwrap_or(Self::LIMIT);
        if wanted > limit {
            return Err(Error::Memory { device: "reference", requested: bytes, active, limit });
        }
        account.memory.active = wanted;
        account.memory.peak = account.memory.peak.max(wanted);
        Ok(Claim { ledger: ledger.clone(), bytes })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.lock().memory.active -= self.bytes;
    }
}
