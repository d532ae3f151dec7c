// SPDX-License-Identifier: EUPL-1.2
//! The device: its options, and the choice of a kernel for each operation.

use std::fmt;

use ingle_tensor::{Bytes, DType, Device, Error, Memory, Op, Result, Spec, Storage, Tensor};

use crate::ahead::Order;
use crate::kernels::{
    Context, activation, attention, cast, elementwise, linear, loss, matmul, norm, optimizer, quantised_rows, reduce,
    rope, rows, views,
};
use crate::layout::Layout;
use crate::machine;
use crate::memory::{Contents, MemoryPool};
use crate::pool::ThreadPool;
use crate::simd::Isa;
use crate::storage::CpuStorage;

/// How a [`CpuDevice`] is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads that compute, the calling one included; the machine's cores if `None`.
    pub threads: Option<usize>,
    /// The instruction set; what the environment variable `INGLE_CPU` names if `None`, else the fastest.
    pub isa: Option<Isa>,
}

/// The CPU as a device.
pub struct CpuDevice {
    cx: Context,
}

impl CpuDevice {
    /// Starts the threads of a device.
    ///
    /// # Errors
    /// [`Error::Device`] if the machine lacks the instruction set asked for, or `INGLE_CPU` names none.
    pub fn new(options: CpuOptions) -> Result<CpuDevice> {
        let isa = match options.isa {
            Some(isa) => available(isa)?,
            None => match std::env::var_os("INGLE_CPU").filter(|name| !name.is_empty()) {
                Some(name) => named(&name.to_string_lossy())?,
                None => Isa::best(),
            },
        };
        let threads = options.threads.unwrap_or_else(machine::cores).max(1);
        let (pool, memory, order) = (ThreadPool::new(threads), MemoryPool::new(), Order::default());
        Ok(CpuDevice { cx: Context { pool, memory, isa, order } })
    }

    /// Threads that compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.cx.pool.threads()
    }

    /// The instruction set its kernels use.
    pub fn isa(&self) -> Isa {
        self.cx.isa
    }
}

fn refused(message: String) -> Error {
    Error::Device { op: "start", device: "cpu", message }
}

fn known() -> String {
    Isa::available().into_iter().map(Isa::name).collect::<Vec<_>>().join(", ")
}

fn available(isa: Isa) -> Result<Isa> {
    if isa.is_available() {
        return Ok(isa);
    }
    Err(refused(format!("this machine has no {isa}; choose among {}", known())))
}

/// The instruction set of this name. `avx512` is what of AVX-512 the machine has.
fn named(name: &str) -> Result<Isa> {
    match Isa::ALL.into_iter().find(|isa| isa.name() == name) {
        Some(Isa::Avx512) if !Isa::Avx512.is_available() => available(Isa::Avx512f),
        Some(isa) => available(isa),
        None => Err(refused(format!("INGLE_CPU={name} names no instruction set; choose among {}", known()))),
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuDevice").field("isa", &self.isa()).field("threads", &self.threads()).finish()
    }
}

/// The inputs as they are. Few operations read a packed weight; for the others it is unpacked.
fn storages(cx: &Context, op: &Op, inputs: Vec<Tensor>) -> Result<Vec<CpuStorage>> {
    let reads_packed = matches!(op, Op::Linear | Op::GatedMlp { .. } | Op::TakeRows | Op::Pack | Op::Permute { .. });
    let reads_across = matches!(op, Op::Linear | Op::GatedMlp { .. } | Op::Permute { .. });
    let storage = |tensor| match CpuStorage::of(op.name(), tensor) {
        Ok(storage) if !reads_packed || !(reads_across || storage.layout().is_contiguous()) => storage.plain(cx),
        storage => storage,
    };
    inputs.into_iter().map(storage).collect()
}

/// As many inputs as the operation takes; [`Op::infer`] has counted them.
fn take<const N: usize>(cx: &Context, op: &Op, inputs: Vec<Tensor>) -> Result<[CpuStorage; N]> {
    let storages = storages(cx, op, inputs)?;
    storages.try_into().map_err(|storages: Vec<_>| Error::Arity {
        op: op.name(),
        expected: "what infer accepts",
        found: storages.len(),
    })
}

impl Device for CpuDevice {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> String {
        let memory = machine::memory().map(|bytes| format!(", {} GiB", bytes.div_ceil(1 << 30))).unwrap_or_default();
        format!("{}, {}, {} threads{memory}", machine::processor(), self.isa(), self.threads())
    }

    fn run(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> Result<Storage> {
        let cx = &self.cx;
        let name = op.name();
        let shape = &output.shape;
        let result = match op {
            Op::Full { value, .. } => views::full(cx, output, *value),
            Op::Arange { .. } => views::arange(cx, shape),
            Op::Reshape { shape } => {
                let [x] = take(cx, op, inputs)?;
                views::reshape(cx, x, shape)
            }
            Op::Permute { axes } => {
                let [x] = take(cx, op, inputs)?;
                views::permute(cx, x, axes)
            }
            Op::Slice { axis, start, step, .. } => {
                let [x] = take(cx, op, inputs)?;
                let layout = x.layout().slice(*axis, *start, *step, shape[*axis]);
                Ok(x.view(layout))
            }
            Op::Broadcast { shape } => {
                let [x] = take(cx, op, inputs)?;
                let layout = x.layout().broadcast(shape);
                Ok(x.view(layout))
            }
            Op::Concat { axis } => views::concat(cx, &storages(cx, op, inputs)?, *axis, output),
            Op::Cast { dtype } => {
                let [x] = take(cx, op, inputs)?;
                cast::cast(cx, x, *dtype)
            }
            Op::Unary(function) => {
                let [x] = take(cx, op, inputs)?;
                elementwise::unary(cx, *function, x)
            }
            Op::Binary(function) => elementwise::binary(cx, *function, take(cx, op, inputs)?, shape),
            Op::Compare(comparison) => elementwise::compare(cx, *comparison, &take(cx, op, inputs)?, shape),
            Op::Select => elementwise::select(cx, take(cx, op, inputs)?, shape),
            Op::Reduce { op: function, axis } => {
                let [x] = take(cx, op, inputs)?;
                reduce::reduce(cx, *function, *axis, x)
            }
            Op::ArgMax { axis } => {
                let [x] = take(cx, op, inputs)?;
                reduce::argmax(cx, *axis, x)
            }
            Op::MatMul => matmul::matmul(cx, take(cx, op, inputs)?, output),
            Op::TakeRows => rows::take(cx, take(cx, op, inputs)?, output),
            Op::WriteRows => rows::write(cx, take(cx, op, inputs)?),
            Op::QuantizeRows => {
                let [x] = take(cx, op, inputs)?;
                quantised_rows::quantize(cx, x, output)
            }
            Op::DequantizeRows => {
                let [x] = take(cx, op, inputs)?;
                quantised_rows::dequantize(cx, x, output)
            }
            Op::AddRows { .. } => rows::add(cx, take(cx, op, inputs)?, output),
            Op::Dequantize { quantization, .. } => {
                linear::dequantize(cx, storages(cx, op, inputs)?, *quantization, output)
            }
            Op::Pack => {
                let [weight] = take(cx, op, inputs)?;
                linear::pack(cx, weight)
            }
            Op::Linear if inputs.len() == 3 => {
                let [x, weight, bias] = take(cx, op, inputs)?;
                linear::linear(cx, [x, weight], Some(bias), output)
            }
            Op::Linear => linear::linear(cx, take(cx, op, inputs)?, None, output),
            Op::Softmax => {
                let [x] = take(cx, op, inputs)?;
                norm::softmax(cx, x, output)
            }
            Op::RmsNorm { eps, offset } => norm::rms_norm(cx, take(cx, op, inputs)?, (*eps, *offset), output),
            Op::LayerNorm { eps } => norm::layer_norm(cx, take(cx, op, inputs)?, *eps, output),
            Op::Rope { layout } => rope::rope(cx, take(cx, op, inputs)?, *layout, output),
            Op::Activate(function) => {
                let [x] = take(cx, op, inputs)?;
                activation::activate(cx, *function, x)
            }
            Op::Glu { activation } => activation::glu(cx, *activation, take(cx, op, inputs)?),
            Op::GatedMlp { activation } => linear::gated_mlp(cx, *activation, take(cx, op, inputs)?, output),
            Op::SoftCap { cap } => {
                let [x] = take(cx, op, inputs)?;
                activation::soft_cap(cx, *cap, x)
            }
            Op::CrossEntropy => loss::cross_entropy(cx, take(cx, op, inputs)?, output),
            Op::CrossEntropyGrad => loss::cross_entropy_grad(cx, take(cx, op, inputs)?),
            Op::RmsNormGrad { eps, offset } => norm::rms_norm_grad(cx, take(cx, op, inputs)?, (*eps, *offset), output),
            Op::RmsNormWeightGrad { eps } => norm::rms_norm_weight_grad(cx, take(cx, op, inputs)?, *eps, output),
            Op::ActivateGrad(function) => activation::activate_grad(cx, *function, take(cx, op, inputs)?),
            Op::GluGrad { activation } => activation::glu_grad(cx, *activation, take(cx, op, inputs)?, output),
            Op::SquaredNorm => {
                let [x] = take(cx, op, inputs)?;
                optimizer::squared_norm(cx, x)
            }
            Op::Adam(parameters) => optimizer::adam(cx, take(cx, op, inputs)?, parameters),
            Op::Sgd(parameters) => optimizer::sgd(cx, take(cx, op, inputs)?, parameters),
            Op::PagedAttention(parameters) => attention::paged_attention(cx, take(cx, op, inputs)?, parameters, output),
            Op::PagedAttentionGrad(parameters) => {
                attention::grad::paged_attention_grad(cx, take(cx, op, inputs)?, parameters, output)
            }
            _ => {
                return match op.decompose(&inputs) {
                    Some(result) => Ok(result?.into_storage()),
                    None => Err(Error::Device {
                        op: name,
                        device: "cpu",
                        message: "this device does not know the operation; update ingle-cpu".into(),
                    }),
                };
            }
        };
        Ok(result?.into_storage())
    }

    fn upload(&self, bytes: Bytes, spec: &Spec) -> Result<Storage> {
        let aligned = bytes.as_ptr().align_offset(spec.dtype.size()) == 0;
        let buffer = if aligned {
            self.cx.memory.share(bytes)?
        } else {
            let mut buffer = self.cx.memory.take(bytes.len(), Contents::Anything)?;
            if let Some(to) = buffer.bytes_mut() {
                to.copy_from_slice(&bytes);
            }
            buffer
        };
        Ok(CpuStorage::new(buffer, Layout::contiguous(&spec.shape), spec.dtype).into_storage())
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        views::bytes(&self.cx, CpuStorage::of("download", tensor.clone())?.plain(&self.cx)?)
    }

    fn activation_dtype(&self, _weights: DType) -> DType {
        DType::F32
    }

    fn memory(&self) -> Memory {
        self.cx.memory.memory()
    }

    fn reset_peak_memory(&self) {
        self.cx.memory.reset_peak();
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        self.cx.memory.set_limit(bytes);
    }

    fn set_cache_limit(&self, bytes: Option<usize>) {
        self.cx.memory.set_cache_limit(bytes);
    }

    fn clear_cache(&self) {
        self.cx.memory.clear_cache();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_choose_threads_and_instruction_set_good() -> Result<()> {
        let device = CpuDevice::new(CpuOptions { threads: Some(3), isa: Some(Isa::Scalar) })?;
        assert_eq!((device.threads(), device.isa()), (3, Isa::Scalar));
        assert!(device.description().contains("scalar, 3 threads"), "{}", device.description());
        assert!(CpuDevice::new(CpuOptions::default())?.threads() >= 1);
        for isa in Isa::available() {
            assert_eq!(named(isa.name())?, isa);
        }
        Ok(())
    }

    #[test]
    fn an_instruction_set_the_machine_lacks_is_refused_bad() {
        let elsewhere = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
        let refused = CpuDevice::new(CpuOptions { threads: None, isa: Some(elsewhere) }).map(|_| ());
        let message = refused.map_err(|error| error.to_string());
        assert_eq!(message, Err(format!("start on cpu: this machine has no {elsewhere}; choose among {}", known())));
    }

    #[test]
    fn an_unknown_instruction_set_is_refused_bad() {
        for name in ["sse9", "AVX2"] {
            let message = named(name).map_err(|error| error.to_string());
            let expected = format!("INGLE_CPU={name} names no instruction set; choose among {}", known());
            assert_eq!(message, Err(format!("start on cpu: {expected}")));
        }
    }
}
