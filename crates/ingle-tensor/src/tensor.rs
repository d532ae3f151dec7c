// SPDX-License-Identifier: EUPL-1.2
//! The tensor: a shape, a dtype, and a handle to what a device keeps.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::grad::Node;
use crate::{
    Activation, BinaryOp, CompareOp, DType, DeviceHandle, Element, Error, Op, PagedAttention, Quantization, ReduceOp,
    Result, RopeLayout, Shape, Spec, Storage, UnaryOp,
};

/// An immutable array of elements on a device.
///
/// Cloning copies a handle, never elements. Every method that computes goes through [`Tensor::apply`].
///
/// A tensor that a gradient must pass through (see [`crate::grad`]) remembers the operation it is the result of;
/// no other does.
#[derive(Clone)]
pub struct Tensor {
    spec: Spec,
    device: DeviceHandle,
    storage: Storage,
    node: Option<Arc<Node>>,
}

impl Tensor {
    /// Runs `op` on `inputs`: the one place through which every computation passes.
    ///
    /// Handles given away here let the device write in place: pass the only handle of a cache to
    /// [`Op::WriteRows`] and no copy is made.
    ///
    /// If a gradient must pass through an input, the result remembers the operation, and of its inputs what the
    /// gradient's rule asks for; that is then shared, so that nothing writes over it.
    ///
    /// # Errors
    /// What [`Op::infer`] refuses, inputs on different devices, no inputs at all, and the device's own errors;
    /// [`Error::NoDerivative`] for [`Op::QuantizeRows`] of what a gradient must pass through.
    pub fn apply(op: &Op, inputs: Vec<Tensor>) -> Result<Tensor> {
        let Some(first) = inputs.first() else {
            return Err(Error::Arity { op: op.name(), expected: "at least 1", found: 0 });
        };
        let device = first.device.clone();
        Self::apply_on(&device, op, inputs)
    }

    /// [`Tensor::apply`], for an operation that may have no inputs to tell the device by.
    pub(crate) fn apply_on(device: &DeviceHandle, op: &Op, inputs: Vec<Tensor>) -> Result<Tensor> {
        if let Some(stranger) = inputs.iter().find(|x| !Arc::ptr_eq(&x.device, device)) {
            return Err(Error::MixedDevices {
                op: op.name(),
                left: device.name().into(),
                right: stranger.device.name().into(),
            });
        }
        let specs: Vec<Spec> = inputs.iter().map(|x| x.spec.clone()).collect();
        let spec = op.infer(&specs)?;
        let node = Node::record(op, &inputs, &spec)?;
        // A device that runs the operation as a composition must not record that.
        let inputs = inputs.into_iter().map(Tensor::into_detached).collect();
        let storage = device.run(op, inputs, &spec)?;
        let node = node.map(|node| node.finished(&storage)).transpose()?;
        Ok(Tensor { spec, device: device.clone(), storage, node })
    }

    /// A tensor whose every element is `value`, converted to `dtype`.
    ///
    /// # Errors
    /// Past the device's memory.
    pub fn full(device: &DeviceHandle, shape: impl Into<Shape>, dtype: DType, value: f64) -> Result<Tensor> {
        Self::apply_on(device, &Op::Full { shape: shape.into(), dtype, value }, vec![])
    }

    /// `0, 1, … len − 1` as `i32[len]`.
    ///
    /// # Errors
    /// Past the range of i32 or the device's memory.
    pub fn arange(device: &DeviceHandle, len: usize) -> Result<Tensor> {
        Self::apply_on(device, &Op::Arange { len }, vec![])
    }

    /// A tensor of row-major elements on the host.
    ///
    /// # Errors
    /// If there are not as many as `shape` has; past the device's memory.
    pub fn from_slice<T: Element>(device: &DeviceHandle, values: &[T], shape: impl Into<Shape>) -> Result<Tensor> {
        let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(values));
        Self::from_bytes(device, bytes, Spec::new(shape, T::DTYPE))
    }

    /// A tensor of row-major little-endian bytes. A device that reads host memory keeps the handle, so that
    /// memory-mapped weights are not copied.
    ///
    /// # Errors
    /// If the number of bytes is not what `spec` needs; past the device's memory.
    pub fn from_bytes(device: &DeviceHandle, bytes: Bytes, spec: Spec) -> Result<Tensor> {
        let expected = spec.bytes();
        if bytes.len() != expected {
            return Err(Error::ByteLength { spec, expected, found: bytes.len() });
        }
        let storage = device.upload(bytes, &spec)?;
        Ok(Tensor { spec, device: device.clone(), storage, node: None })
    }

    /// Axis lengths, outermost first.
    pub fn shape(&self) -> &Shape {
        &self.spec.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.spec.dtype
    }

    /// Shape and dtype.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it lives.
    pub fn device(&self) -> &DeviceHandle {
        &self.device
    }

    /// The device's representation, for the device.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Gives up the tensor for the device's representation of it, so that a last handle can be donated.
    pub fn into_storage(self) -> Storage {
        self.storage
    }

    /// The same elements, through which no gradient passes.
    pub fn detach(&self) -> Tensor {
        self.clone().into_detached()
    }

    pub(crate) fn into_detached(self) -> Tensor {
        Tensor { node: None, ..self }
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    pub(crate) fn into_node(self) -> Option<Arc<Node>> {
        self.node
    }

    /// The same elements, as the result that `node` stands for.
    pub(crate) fn with_node(&self, node: Arc<Node>) -> Tensor {
        Tensor { node: Some(node), ..self.clone() }
    }

    /// The same spec, device and node without the elements, for rules that ask for no more. A device refuses it.
    pub(crate) fn hollow(&self) -> Tensor {
        self.with_storage(Storage::new(()))
    }

    /// The result that `node` stands for, without its elements.
    pub(crate) fn of_node(spec: Spec, device: &DeviceHandle, node: Arc<Node>) -> Tensor {
        Tensor { spec, device: device.clone(), storage: Storage::new(()), node: Some(node) }
    }

    /// Other elements of the same spec, device and node.
    pub(crate) fn with_storage(&self, storage: Storage) -> Tensor {
        Tensor { storage, spec: self.spec.clone(), device: self.device.clone(), node: self.node.clone() }
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// [`Error::ReadType`] if the tensor holds another type; the device's own errors.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if T::DTYPE != self.dtype() {
            return Err(Error::ReadType { expected: T::DTYPE, found: self.dtype() });
        }
        let bytes = self.device.download(self)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    /// The elements of a floating-point tensor in row-major order, as f32.
    ///
    /// # Errors
    /// [`Error::ReadType`] if the tensor holds integers; the device's own errors.
    pub fn to_f32_vec(&self) -> Result<Vec<f32>> {
        match self.dtype() {
            DType::F16 => Ok(self.to_vec::<f16>()?.into_iter().map(f32::from).collect()),
            DType::BF16 => Ok(self.to_vec::<bf16>()?.into_iter().map(f32::from).collect()),
            _ => self.to_vec::<f32>(),
        }
    }

    fn with(&self, op: Op, others: &[&Tensor]) -> Result<Tensor> {
        let inputs = std::iter::once(self).chain(others.iter().copied()).cloned().collect();
        Self::apply(&op, inputs)
    }
}

/// Operations, by name. Each fails as its [`Op`] does: unfit shapes or dtypes, mixed devices, memory.
#[allow(clippy::missing_errors_doc)]
impl Tensor {
    /// [`Op::Reshape`].
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.with(Op::Reshape { shape: shape.into() }, &[])
    }

    /// [`Op::Permute`].
    pub fn permute(&self, axes: &[usize]) -> Result<Tensor> {
        self.with(Op::Permute { axes: axes.to_vec() }, &[])
    }

    /// [`Op::Slice`] with a step of 1.
    pub fn slice(&self, axis: usize, start: usize, end: usize) -> Result<Tensor> {
        self.slice_step(axis, start, end, 1)
    }

    /// [`Op::Slice`].
    pub fn slice_step(&self, axis: usize, start: usize, end: usize, step: usize) -> Result<Tensor> {
        self.with(Op::Slice { axis, start, end, step }, &[])
    }

    /// [`Op::Broadcast`].
    pub fn broadcast(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        self.with(Op::Broadcast { shape: shape.into() }, &[])
    }

    /// [`Op::Concat`].
    pub fn concat(parts: &[Tensor], axis: usize) -> Result<Tensor> {
        Self::apply(&Op::Concat { axis }, parts.to_vec())
    }

    /// [`Op::Cast`]; the same tensor if it has that dtype already.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        self.with(Op::Cast { dtype }, &[])
    }

    /// `self · factor`.
    pub fn scale(&self, factor: f64) -> Result<Tensor> {
        self.mul(&Tensor::full(&self.device, Shape::default(), self.dtype(), factor)?)
    }

    /// `self + term`.
    pub fn shift(&self, term: f64) -> Result<Tensor> {
        self.add(&Tensor::full(&self.device, Shape::default(), self.dtype(), term)?)
    }

    /// [`Op::Select`], with this tensor as the condition.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        self.with(Op::Select, &[a, b])
    }

    /// [`Op::Reduce`] with a sum.
    pub fn sum_axis(&self, axis: usize) -> Result<Tensor> {
        self.with(Op::Reduce { op: ReduceOp::Sum, axis }, &[])
    }

    /// [`Op::Reduce`] with a maximum.
    pub fn max_axis(&self, axis: usize) -> Result<Tensor> {
        self.with(Op::Reduce { op: ReduceOp::Max, axis }, &[])
    }

    /// [`Op::ArgMax`].
    pub fn argmax(&self, axis: usize) -> Result<Tensor> {
        self.with(Op::ArgMax { axis }, &[])
    }

    /// [`Op::MatMul`].
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        self.with(Op::MatMul, &[other])
    }

    /// [`Op::TakeRows`].
    pub fn take_rows(&self, index: &Tensor) -> Result<Tensor> {
        self.with(Op::TakeRows, &[index])
    }

    /// [`Op::WriteRows`]; in place if this is the target's last handle.
    pub fn write_rows(self, rows: &Tensor, index: &Tensor) -> Result<Tensor> {
        Self::apply(&Op::WriteRows, vec![self, rows.clone(), index.clone()])
    }

    /// [`Op::QuantizeRows`].
    pub fn quantize_rows(&self) -> Result<Tensor> {
        self.with(Op::QuantizeRows, &[])
    }

    /// [`Op::DequantizeRows`].
    pub fn dequantize_rows(&self) -> Result<Tensor> {
        self.with(Op::DequantizeRows, &[])
    }

    /// [`Op::Pack`].
    ///
    /// # Errors
    /// See [`Op::infer`]; past the device's memory.
    pub fn pack(self) -> Result<Tensor> {
        Self::apply(&Op::Pack, vec![self])
    }

    /// [`Op::Dequantize`] of the inputs that it names.
    ///
    /// # Errors
    /// See [`Op::infer`]; past the device's memory.
    pub fn dequantize(inputs: Vec<Tensor>, quantization: Quantization, dtype: DType) -> Result<Tensor> {
        Self::apply(&Op::Dequantize { quantization, dtype }, inputs)
    }

    /// [`Op::Linear`].
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match bias {
            Some(bias) => self.with(Op::Linear, &[weight, bias]),
            None => self.with(Op::Linear, &[weight]),
        }
    }

    /// [`Op::Softmax`].
    pub fn softmax(&self) -> Result<Tensor> {
        self.with(Op::Softmax, &[])
    }

    /// [`Op::RmsNorm`].
    pub fn rms_norm(&self, weight: &Tensor, eps: f32, offset: f32) -> Result<Tensor> {
        self.with(Op::RmsNorm { eps, offset }, &[weight])
    }

    /// [`Op::LayerNorm`].
    pub fn layer_norm(&self, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
        self.with(Op::LayerNorm { eps }, &[weight, bias])
    }

    /// [`Op::Rope`].
    pub fn rope(&self, positions: &Tensor, frequencies: &Tensor, layout: RopeLayout) -> Result<Tensor> {
        self.with(Op::Rope { layout }, &[positions, frequencies])
    }

    /// [`Op::Activate`].
    pub fn activate(&self, activation: Activation) -> Result<Tensor> {
        self.with(Op::Activate(activation), &[])
    }

    /// [`Op::Glu`], with this tensor as the gate.
    pub fn glu(&self, up: &Tensor, activation: Activation) -> Result<Tensor> {
        self.with(Op::Glu { activation }, &[up])
    }

    /// [`Op::GatedMlp`]; `weights` are gate, up and down. Where a gradient passes through, its parts are computed one by
    /// one, since the way back asks for what lies between them, which is then in the dtype of this tensor.
    pub fn gated_mlp(&self, weights: [&Tensor; 3], activation: Activation) -> Result<Tensor> {
        let [gate, up, down] = weights;
        if [self, gate, up, down].into_iter().any(|x| x.node().is_some()) {
            return self.linear(gate, None)?.glu(&self.linear(up, None)?, activation)?.linear(down, None);
        }
        self.with(Op::GatedMlp { activation }, &[gate, up, down])
    }

    /// [`Op::SoftCap`].
    pub fn soft_cap(&self, cap: f32) -> Result<Tensor> {
        self.with(Op::SoftCap { cap }, &[])
    }

    /// [`Op::CrossEntropy`], with this tensor as the logits.
    pub fn cross_entropy(&self, targets: &Tensor) -> Result<Tensor> {
        self.with(Op::CrossEntropy, &[targets])
    }

    /// [`Op::PagedAttention`], with this tensor as the queries; `cache` is keys and values, `table` is
    /// blocks, sequences and positions.
    pub fn paged_attention(
        &self,
        cache: [&Tensor; 2],
        table: [&Tensor; 3],
        parameters: PagedAttention,
    ) -> Result<Tensor> {
        let [keys, values] = cache;
        let [blocks, sequences, positions] = table;
        self.with(Op::PagedAttention(parameters), &[keys, values, blocks, sequences, positions])
    }
}

macro_rules! methods {
    ($(#[$doc:meta] $name:ident($($other:ident)?) = $op:expr;)*) => {
        #[allow(clippy::missing_errors_doc)]
        impl Tensor {
            $(#[$doc]
            pub fn $name(&self $(, $other: &Tensor)?) -> Result<Tensor> {
                self.with($op, &[$($other)?])
            })*
        }
    };
}

methods! {
    /// `−x`.
    neg() = Op::Unary(UnaryOp::Neg);
    /// `|x|`.
    abs() = Op::Unary(UnaryOp::Abs);
    /// `eˣ`.
    exp() = Op::Unary(UnaryOp::Exp);
    /// The natural logarithm.
    log() = Op::Unary(UnaryOp::Log);
    /// `√x`.
    sqrt() = Op::Unary(UnaryOp::Sqrt);
    /// `1 / √x`.
    rsqrt() = Op::Unary(UnaryOp::Rsqrt);
    /// `1 / x`.
    recip() = Op::Unary(UnaryOp::Recip);
    /// The sine.
    sin() = Op::Unary(UnaryOp::Sin);
    /// The cosine.
    cos() = Op::Unary(UnaryOp::Cos);
    /// The hyperbolic tangent.
    tanh() = Op::Unary(UnaryOp::Tanh);
    /// `1 / (1 + e⁻ˣ)`.
    sigmoid() = Op::Unary(UnaryOp::Sigmoid);
    /// The error function.
    erf() = Op::Unary(UnaryOp::Erf);
    /// `self + other`, broadcast.
    add(other) = Op::Binary(BinaryOp::Add);
    /// `self − other`, broadcast.
    sub(other) = Op::Binary(BinaryOp::Sub);
    /// `self · other`, element by element, broadcast.
    mul(other) = Op::Binary(BinaryOp::Mul);
    /// `self / other`, broadcast.
    div(other) = Op::Binary(BinaryOp::Div);
    /// The larger of two, broadcast.
    maximum(other) = Op::Binary(BinaryOp::Max);
    /// The smaller of two, broadcast.
    minimum(other) = Op::Binary(BinaryOp::Min);
    /// `self = other`, as `u8`.
    equal(other) = Op::Compare(CompareOp::Equal);
    /// `self < other`, as `u8`.
    less(other) = Op::Compare(CompareOp::Less);
    /// `self ≤ other`, as `u8`.
    less_equal(other) = Op::Compare(CompareOp::LessEqual);
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} on {})", self.spec, self.device.name())
    }
}
