// SPDX-License-Identifier: EUPL-1.2
//! The device: the choice of an MLX function for each operation, and its memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ingle_tensor::{
    Bytes, DType, Device, Error, Evaluation, Invariance, Memory, Op, PagedAttention, Quantization, Result, Spec,
    Storage, Tensor,
};

use crate::array::Array;
use crate::attention::{self, Kernel, Key, Operands, Places, Plan, Plans};
use crate::bridge::{self, Engine};
use crate::derived::Derived;
use crate::engine::{self, Limits, failed, unsuited};
use crate::pending::Pending;
use crate::storage::{Form, MlxStorage};
use crate::{elementwise, layout, linear, normal, rope, rows};

/// MLX as a device: on a GPU where it has one, else on the CPU.
///
/// MLX's scheduler, allocator and memory figures are the process's, so two of these share them.
///
/// Any thread may use it. MLX's graph is not made for that by itself: the bridge takes one lock for the process
/// around whatever touches an array, and binds every array to one stream that all threads may use.
pub struct MlxDevice {
    engine: Engine,
    pending: Pending,
    plans: Plans,
    turns: rope::Table,
    /// Bytes that may be active; [`UNLIMITED`] if nobody limits them.
    limit: AtomicUsize,
    /// What was active at the last reset of the peak.
    peak_floor: AtomicUsize,
    /// MLX's own limits, as they were.
    default_limit: usize,
    default_cache_limit: usize,
}

const UNLIMITED: usize = usize::MAX;

/// Elements of a vector of floats whose words the host keeps: the rotary frequencies of a head are fewer.
const SHORT: usize = 512;

/// Bytes of results that are work enough to begin with while the rest is being asked for.
const AMPLE: usize = 512 << 20;

impl MlxDevice {
    /// Starts MLX.
    ///
    /// # Errors
    /// [`Error::Device`] in MLX's words, if its device cannot be used.
    pub fn new() -> Result<MlxDevice> {
        let engine = engine::start()?;
        let Limits { memory: default_limit, cache: default_cache_limit } = engine::default_limits();
        Ok(MlxDevice {
            engine,
            pending: Pending::default(),
            plans: Derived::new(),
            turns: Derived::new(),
            limit: AtomicUsize::new(UNLIMITED),
            peak_floor: AtomicUsize::new(0),
            default_limit,
            default_cache_limit,
        })
    }

    /// Whether it computes on a GPU.
    pub fn has_gpu(&self) -> bool {
        self.engine != Engine::Cpu
    }

    /// Refuses `requested` bytes that would pass the limit. MLX's own limit is one it tries to keep to, no more.
    fn room_for(&self, op: &'static str, requested: usize) -> Result<()> {
        let limit = match self.limit.load(Ordering::Relaxed) {
            UNLIMITED => self.default_limit,
            limit => limit,
        };
        let fits = |active: usize| active.checked_add(requested).is_some_and(|bytes| bytes <= limit);
        if fits(bridge::active_memory().saturating_add(self.pending.bytes())) {
            return Ok(());
        }
        // What is pending may take less than it seems to: what nobody holds any more is freed on the way.
        self.pending.compute(op)?;
        let active = bridge::active_memory();
        if fits(active) {
            return Ok(());
        }
        Err(Error::Memory { device: self.name(), requested, active, limit })
    }

    /// The numbers of an index.
    fn numbers(&self, op: &'static str, tensor: &Tensor) -> Result<Arc<[i32]>> {
        if tensor.dtype() != DType::I32 {
            return Err(unsuited(op, format!("an index is i32, found {}", tensor.dtype())));
        }
        match tensor.storage().get::<MlxStorage>().and_then(|storage| storage.host.clone()) {
            Some(numbers) => Ok(numbers),
            // Computed or cut out of another: rare, and worth a reading rather than a read outside a table.
            None => Ok(tensor.to_vec::<i32>()?.into()),
        }
    }

    fn paged_attention(
        &self,
        op: &'static str,
        parameters: &PagedAttention,
        inputs: Vec<Tensor>,
        output: &Spec,
    ) -> Result<Array> {
        let [q, keys, values, blocks, sequences, positions] = counted(op, inputs)?;
        let (q_spec, kv_spec) = (q.spec().clone(), keys.spec().clone());
        let places = Places {
            blocks: self.numbers(op, &blocks)?,
            table: [blocks.shape()[0], blocks.shape()[1]],
            sequences: self.numbers(op, &sequences)?,
            positions: self.numbers(op, &positions)?,
        };
        let [blocks, sequences, positions] = [blocks, sequences, positions].map(|table| plain(op, table));
        let (blocks, sequences, positions) = (blocks?, sequences?, positions?);
        let kernel = Kernel::for_shapes(self.engine, &q_spec, &kv_spec);
        let key = Key::new(parameters, kv_spec.shape[0], kernel);
        let make = || Ok(Arc::new(Plan::new(op, &places, key)?));
        let plan = self.plans.get(&[&blocks, &sequences, &positions], key, make)?;
        if output.shape.elements() == 0 {
            return layout::empty(op, output);
        }
        let tables = [blocks, sequences, positions];
        let (q, keys, values) = ((plain(op, q)?, &q_spec), (plain(op, keys)?, &kv_spec), plain(op, values)?);
        let operands = Operands { q, keys, values, tables };
        attention::paged_attention(op, &plan, &operands, parameters)
    }

    /// The array, or the storage, that `op` makes.
    fn compute(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> Result<MlxStorage> {
        let name = op.name();
        // MLX's kernels are not made for nothing: on CUDA, launching one over no elements ends the process.
        if output.shape.elements() == 0 && !reads_an_index(op) {
            return Ok(MlxStorage::dense(layout::empty(name, output)?));
        }
        let array = match op {
            Op::Full { value, .. } => layout::full(name, output, *value),
            Op::Arange { len } => layout::arange(name, *len),
            Op::Reshape { shape } => {
                let [x] = counted(name, inputs)?;
                let storage = MlxStorage::of(name, x)?;
                let below = storage.below();
                let array = layout::reshape(name, &storage.plain(name, output.dtype)?, shape)?;
                return Ok(MlxStorage::dense(array).bounded(below));
            }
            Op::Permute { axes } => {
                let [x] = arrays(name, inputs)?;
                layout::permute(name, &x, axes)
            }
            Op::Slice { axis, start, end, step } => {
                let [x] = counted(name, inputs)?;
                let shape = x.shape().clone();
                layout::slice(name, &plain(name, x)?, &shape, *axis, [*start, *end, *step])
            }
            Op::Broadcast { shape } => {
                let [x] = arrays(name, inputs)?;
                layout::broadcast(name, &x, shape)
            }
            Op::Concat { axis } => {
                let storages = inputs.into_iter().filter(|x| x.shape().elements() > 0).map(|x| MlxStorage::of(name, x));
                let storages: Vec<MlxStorage> = storages.collect::<Result<_>>()?;
                let below = storages.iter().map(MlxStorage::below).collect::<Option<Vec<_>>>();
                let parts = storages.into_iter().map(|storage| storage.plain(name, output.dtype));
                let array = layout::concat(name, &parts.collect::<Result<Vec<Array>>>()?, *axis)?;
                return Ok(MlxStorage::dense(array).bounded(below.and_then(|all| all.into_iter().max())));
            }
            Op::Cast { dtype } => {
                let [x] = counted(name, inputs)?;
                let from = x.dtype();
                elementwise::cast(name, &plain(name, x)?, from, *dtype)
            }
            Op::Unary(function) => {
                let [x] = arrays(name, inputs)?;
                elementwise::unary(name, *function, &x)
            }
            Op::Binary(function) => {
                let [a, b] = arrays(name, inputs)?;
                elementwise::binary(name, *function, &a, &b)
            }
            Op::Compare(comparison) => {
                let [a, b] = arrays(name, inputs)?;
                elementwise::compare(name, *comparison, &a, &b)
            }
            Op::Select => {
                let [condition, a, b] = arrays(name, inputs)?;
                elementwise::select(name, [&condition, &a, &b])
            }
            Op::Reduce { op: function, axis } => {
                let [x] = counted(name, inputs)?;
                let spec = x.spec().clone();
                elementwise::reduce(name, *function, *axis, (&plain(name, x)?, &spec), output)
            }
            Op::ArgMax { axis } => {
                let [x] = counted(name, inputs)?;
                let below = x.shape()[*axis];
                let array = elementwise::argmax(name, *axis, &plain(name, x)?)?;
                return Ok(MlxStorage::dense(array).bounded(Some(below)));
            }
            Op::MatMul => {
                let [a, b] = arrays(name, inputs)?;
                Array::new(name, bridge::matmul(a.get(), b.get()))
            }
            Op::TakeRows => {
                let [table, index] = counted(name, inputs)?;
                let spec = table.spec().clone();
                // What the device found itself, as the tokens of the step before, need not be read to be trusted.
                if below(&index).is_none_or(|below| below > spec.shape[0]) {
                    rows::check(name, &self.numbers(name, &index)?, spec.shape[0])?;
                }
                if output.shape.elements() == 0 {
                    return Ok(MlxStorage::dense(layout::empty(name, output)?));
                }
                let table = MlxStorage::of(name, table)?;
                let bound = table.below();
                let array = rows::take(name, (table, &spec), &plain(name, index)?)?;
                return Ok(MlxStorage::dense(array).bounded(bound));
            }
            Op::WriteRows => {
                let [target, new, index] = counted(name, inputs)?;
                let numbers = self.numbers(name, &index)?;
                let spec = target.spec().clone();
                let (target, new, index) = (plain(name, target)?, plain(name, new)?, plain(name, index)?);
                rows::write(name, (target, &spec), &new, (&index, &numbers))
            }
            Op::AddRows { .. } => {
                let [rows, index] = counted(name, inputs)?;
                let numbers = self.numbers(name, &index)?;
                let (rows, index) = (plain(name, rows)?, plain(name, index)?);
                rows::add(name, &rows, (&index, &numbers), output)
            }
            Op::QuantizeRows => {
                let [x] = counted(name, inputs)?;
                let spec = x.spec().clone();
                rows::quantize(name, (&plain(name, x)?, &spec), output)
            }
            Op::DequantizeRows => {
                let [x] = arrays(name, inputs)?;
                rows::dequantize(name, &x)
            }
            Op::Dequantize { quantization, .. } => return linear::dequantize(name, inputs, *quantization, output),
            Op::Pack => {
                let [weight] = counted(name, inputs)?;
                let spec = weight.spec().clone();
                return linear::pack(name, self.engine, (MlxStorage::of(name, weight)?, &spec));
            }
            Op::Linear => self.linear(name, inputs, output),
            Op::Softmax => {
                let [x] = arrays(name, inputs)?;
                normal::softmax(name, &x)
            }
            Op::RmsNorm { eps, offset } => {
                let [x, weight] = counted(name, inputs)?;
                normal::rms_norm(name, &plain(name, x)?, &normal::factor(name, &weight, *offset)?, *eps)
            }
            Op::LayerNorm { eps } => {
                let [x, weight, bias] = arrays(name, inputs)?;
                normal::layer_norm(name, [&x, &weight, &bias], *eps)
            }
            Op::Rope { layout } => {
                let [x, positions, frequencies] = counted(name, inputs)?;
                let spec = x.spec().clone();
                let (x, positions) = (plain(name, x)?, plain(name, positions)?);
                let frequencies = rope::Frequencies::of(name, frequencies)?;
                rope::rope(name, (self.engine, &self.turns), (&x, &spec), &positions, &frequencies, *layout)
            }
            Op::Activate(function) => {
                let [x] = arrays(name, inputs)?;
                elementwise::activate(name, *function, &x)
            }
            Op::Glu { activation } => {
                let [gate, up] = arrays(name, inputs)?;
                elementwise::glu(name, *activation, &gate, &up)
            }
            Op::SoftCap { cap } => {
                let [x] = arrays(name, inputs)?;
                elementwise::soft_cap(name, &x, *cap)
            }
            Op::CrossEntropy => {
                let [logits, targets] = counted(name, inputs)?;
                let classes = logits.shape()[1];
                if below(&targets).is_none_or(|below| below > classes) {
                    rows::check_targets(name, &self.numbers(name, &targets)?, classes)?;
                }
                match output.shape.elements() {
                    0 => layout::empty(name, output),
                    _ => {
                        let (logits, targets) = (plain(name, logits)?, plain(name, targets)?);
                        Array::new(name, bridge::cross_entropy(logits.get(), targets.get()))
                    }
                }
            }
            Op::PagedAttention(parameters) => self.paged_attention(name, parameters, inputs, output),
            _ => {
                return match op.decompose(&inputs) {
                    Some(result) => MlxStorage::of(name, result?),
                    None => Err(unsuited(name, "this device does not know the operation; update ingle-mlx".into())),
                };
            }
        };
        Ok(MlxStorage::dense(array?))
    }

    fn linear(&self, op: &'static str, inputs: Vec<Tensor>, output: &Spec) -> Result<Array> {
        let specs: Vec<Spec> = inputs.iter().map(|x| x.spec().clone()).collect();
        let mut storages = inputs.into_iter().map(|x| MlxStorage::of(op, x));
        let mut next = || storages.next().unwrap_or_else(|| Err(unsuited(op, "an input is missing".into())));
        let x = next()?.plain(op, specs[0].dtype)?;
        let weight = (next()?, &specs[1]);
        let bias = match specs.get(2) {
            Some(spec) => Some((next()?, spec)),
            None => None,
        };
        linear::linear(op, self.engine, (&x, &specs[0]), weight, bias, output)
    }
}

/// Operations that refuse what is outside a table also where their result is empty, or whose result has a form of its own.
fn reads_an_index(op: &Op) -> bool {
    let rows = matches!(op, Op::TakeRows | Op::WriteRows | Op::AddRows { .. });
    let attention = matches!(op, Op::PagedAttention(_) | Op::PagedAttentionGrad(_));
    let targets = matches!(op, Op::CrossEntropy | Op::CrossEntropyGrad);
    rows || attention || targets || matches!(op, Op::Dequantize { .. } | Op::Pack)
}

/// Every element of an index is known to be below this.
fn below(index: &Tensor) -> Option<usize> {
    index.storage().get::<MlxStorage>().and_then(MlxStorage::below)
}

/// As many inputs as the operation takes; [`Op::infer`] has counted them.
fn counted<const N: usize>(op: &'static str, inputs: Vec<Tensor>) -> Result<[Tensor; N]> {
    inputs.try_into().map_err(|inputs: Vec<_>| Error::Arity { op, expected: "what infer accepts", found: inputs.len() })
}

/// An input's elements. A last handle gives the array's last handle, too.
fn plain(op: &'static str, tensor: Tensor) -> Result<Array> {
    let dtype = tensor.dtype();
    MlxStorage::of(op, tensor)?.plain(op, dtype)
}

/// The elements of as many inputs as the operation takes.
fn arrays<const N: usize>(op: &'static str, inputs: Vec<Tensor>) -> Result<[Array; N]> {
    let arrays: Vec<Array> = inputs.into_iter().map(|x| plain(op, x)).collect::<Result<_>>()?;
    arrays.try_into().map_err(|arrays: Vec<_>| Error::Arity { op, expected: "what infer accepts", found: arrays.len() })
}

/// Bytes that the result of an operation takes of its own: views take none.
fn own_bytes(op: &Op, output: &Spec) -> usize {
    match op {
        Op::Full { .. } | Op::Permute { .. } | Op::Slice { .. } | Op::Broadcast { .. } | Op::Reshape { .. } => 0,
        // At most: where it is laid out anew, in f32.
        Op::Pack => output.shape.elements().saturating_mul(DType::F32.size()),
        // In place, or a copy that the limit has already seen as the target.
        Op::WriteRows => 0,
        Op::Dequantize { quantization: Quantization::Affine { .. }, .. } => 0,
        _ => output.bytes(),
    }
}

impl fmt::Debug for MlxDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlxDevice").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Drop for MlxDevice {
    fn drop(&mut self) {
        // The limit was this device's; MLX keeps it for the process.
        if self.limit.load(Ordering::Relaxed) != UNLIMITED {
            bridge::set_memory_limit(self.default_limit);
        }
    }
}

impl Device for MlxDevice {
    fn name(&self) -> &'static str {
        match self.engine {
            Engine::Metal => "metal",
            _ => "mlx",
        }
    }

    fn description(&self) -> String {
        let engine = match self.engine {
            Engine::Metal => "Metal",
            Engine::Cuda => "CUDA",
            _ => "CPU",
        };
        let on = match bridge::device_name() {
            Ok(name) if !name.is_empty() => format!("{engine}, {name}"),
            _ => engine.into(),
        };
        format!("MLX {} on {on}", bridge::version())
    }

    fn run(&self, op: &Op, inputs: Vec<Tensor>, output: &Spec) -> Result<Storage> {
        let bytes = own_bytes(op, output);
        if bytes > 0 {
            self.room_for(op.name(), bytes)?;
        }
        let storage = self.compute(op, inputs, output)?;
        if let Form::Dense(array) | Form::Turned(array) = &storage.form {
            self.pending.add(array, bytes);
        }
        if self.pending.bytes() >= AMPLE {
            self.pending.begin(op.name())?;
        }
        Ok(storage.into_storage())
    }

    fn upload(&self, bytes: Bytes, spec: &Spec) -> Result<Storage> {
        // A new step begins: what the last one wrote and nobody read is computed meanwhile.
        self.pending.begin("upload")?;
        self.room_for("upload", spec.bytes())?;
        let array = linear::upload("upload", &bytes, spec)?;
        let short = spec.dtype == DType::F32 && spec.shape.elements() <= SHORT;
        let storage = match spec.dtype == DType::I32 || short {
            true => MlxStorage::with_words(array, bytemuck::pod_collect_to_vec::<u8, i32>(&bytes).into()),
            false => MlxStorage::dense(array),
        };
        Ok(storage.into_storage())
    }

    fn download(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let array = plain("download", tensor.clone())?;
        // What was flushed is under way, and what was asked for since can wait.
        if !bridge::is_scheduled(array.get()) {
            // In one go with whatever else is alive, so that no graph is left behind.
            self.pending.add(&array, 0);
            self.pending.compute("download")?;
        }
        let mut bytes = vec![0; tensor.spec().bytes()];
        bridge::read(array.get(), &mut bytes).map_err(|exception| failed("download", &exception))?;
        Ok(bytes)
    }

    fn activation_dtype(&self, weights: DType) -> DType {
        match self.engine {
            Engine::Cpu => DType::F32,
            _ => weights,
        }
    }

    fn invariance(&self) -> Invariance {
        Invariance::Rounding
    }

    fn evaluation(&self) -> Evaluation {
        Evaluation::Queued
    }

    fn flush(&self) -> Result<()> {
        self.pending.begin("flush")
    }

    fn busy_rows(&self) -> usize {
        match self.engine {
            Engine::Cuda => 8192,
            Engine::Metal => 2048,
            _ => 512,
        }
    }

    fn memory(&self) -> Memory {
        self.plans.forget_dead();
        self.turns.forget_dead();
        // On CUDA a thread of MLX's frees what a step made, some time after its results can be read. A stream that
        // failed says so to who reads next.
        let _ = bridge::synchronize();
        let active = bridge::active_memory();
        let peak = bridge::peak_memory().max(self.peak_floor.load(Ordering::Relaxed)).max(active);
        Memory { active, peak, cached: bridge::cached_memory() }
    }

    fn reset_peak_memory(&self) {
        bridge::reset_peak_memory();
        self.peak_floor.store(bridge::active_memory(), Ordering::Relaxed);
    }

    fn set_memory_limit(&self, bytes: Option<usize>) {
        self.limit.store(bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
        bridge::set_memory_limit(bytes.unwrap_or(self.default_limit));
    }

    fn set_cache_limit(&self, bytes: Option<usize>) {
        bridge::set_cache_limit(bytes.unwrap_or(self.default_cache_limit));
    }

    fn clear_cache(&self) {
        // It can fail only where nothing is left to free.
        let _ = bridge::clear_cache();
    }
}
