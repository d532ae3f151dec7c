// SPDX-License-Identifier: EUPL-1.2
//! The vocabulary: every operation Ingle knows, as plain data.
//!
//! An operation is either *primitive* (every device must have it) or *fused*: [`Op::decompose`] writes a
//! fused operation as a composition of simpler ones, in the end of primitives. The composition is the specification. A
//! device may override a fused operation with a faster kernel, which is then tested against the composition.
//!
//! To add an operation: a variant here, its shape rule in `op/infer.rs`, its decomposition in
//! `op/decompose.rs` if it is fused, its gradient's rule in `op/backward.rs` (a fused operation can do without),
//! and its cases in the conformance suite.

pub(crate) mod backward;
mod decompose;
#[cfg(test)]
mod decompose_tests;
mod infer;
#[cfg(test)]
mod infer_tests;
mod optimizer;

#[cfg(any(test, feature = "conformance"))]
pub(crate) use self::decompose::{attend_rounded, attention_grad_rounded};
pub use self::optimizer::{Adam, Momentum, Sgd, WeightDecay};
use crate::{DType, Quantization, Shape};

/// An operation with its parameters. Tensors are passed beside it, in the order each variant's text gives.
///
/// In the texts below `T` is a number of tokens, `H` of heads, `D` a head's width, and `…` any leading axes.
/// "Float" means any of [`DType::FLOATS`]. Fused operations and reductions accumulate in f32 whatever the
/// dtype of their operands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Op {
    // --- Creation (primitive, no inputs) ---
    /// A tensor whose every element is `value`, converted to `dtype`.
    Full {
        /// Shape of the result.
        shape: Shape,
        /// Element type of the result.
        dtype: DType,
        /// The value; truncated towards zero for integer dtypes.
        value: f64,
    },
    /// The integers `0, 1, … len − 1` as `i32[len]`.
    Arange {
        /// How many.
        len: usize,
    },

    // --- Layout (primitive, one input unless said) ---
    /// The same elements in row-major order under another shape.
    Reshape {
        /// The new shape; same number of elements.
        shape: Shape,
    },
    /// Axes in another order: axis `i` of the result is axis `axes[i]` of the input.
    Permute {
        /// A permutation of `0..rank`.
        axes: Vec<usize>,
    },
    /// Every `step`-th index from `start` up to, not including, `end` along one axis.
    Slice {
        /// The axis to cut.
        axis: usize,
        /// First index kept.
        start: usize,
        /// One past the last index considered.
        end: usize,
        /// Distance between kept indices, at least 1.
        step: usize,
    },
    /// Stretch axes of length 1, and add leading axes, to reach `shape` (NumPy's rule).
    Broadcast {
        /// The shape to reach.
        shape: Shape,
    },
    /// Join one or more tensors of one dtype along an axis.
    Concat {
        /// The axis along which lengths add up.
        axis: usize,
    },

    // --- Element by element (primitive) ---
    /// Convert to another dtype. Float to narrower float rounds to nearest even; float to integer truncates
    /// towards zero and saturates, and NaN becomes 0; integer to narrower integer wraps; integer to float
    /// rounds to nearest, perhaps by way of f32.
    Cast {
        /// The dtype of the result.
        dtype: DType,
    },
    /// A function of one tensor.
    Unary(UnaryOp),
    /// A function of two tensors of one dtype, broadcast together.
    Binary(BinaryOp),
    /// A comparison of two tensors of one dtype, broadcast together: `u8`, 1 where it holds.
    Compare(CompareOp),
    /// `condition, a, b` → `a` where the `u8` condition is not zero, else `b`; all broadcast together.
    Select,

    // --- Reductions (primitive); the reduced axis stays, with length 1 ---
    /// Reduce a float tensor along one axis. Along an empty axis a sum is 0 and a maximum −∞.
    Reduce {
        /// What to reduce with.
        op: ReduceOp,
        /// The axis reduced.
        axis: usize,
    },
    /// Index of the first largest element along one non-empty axis, as `i32`. NaN counts as smallest.
    ArgMax {
        /// The axis searched.
        axis: usize,
    },

    // --- Products and rows (primitive) ---
    /// `[…, m, k] · […, k, n]` → `[…, m, n]`, leading axes broadcast, one float dtype.
    MatMul,
    /// `table [n, …], index i32[T]` → `[T, …]`: rows of a table by number.
    TakeRows,
    /// `target [n, …], rows [T, …], index i32[T]` → `target` with row `index[t]` replaced by `rows[t]`: floats,
    /// converted to the target's dtype, or i8 into i8. Indices must differ from each other. Donate the target
    /// and the write happens in place.
    WriteRows,
    /// Float `x […, d]` → `i8 […, d + 4]`: each row along the last axis as 8-bit integers, and behind them the four
    /// bytes of its f32 scale, the least significant first.
    ///
    /// All in f32: the scale is `max|x| / 127`, each integer `x / scale` rounded to nearest, ties to even. A row
    /// whose scale is below the smallest normal number becomes zeros and a scale of 0; one with an infinity or
    /// NaN becomes zeros and the NaN `0x7fc00000`.
    QuantizeRows,
    /// `i8 […, d + 4]`, rows as of [`Op::QuantizeRows`] → `f32 […, d]`: each integer times its row's scale.
    DequantizeRows,
    /// `rows [T, …], index i32[T]` → `[count, …]`: row `i` of the result is the sum of those rows `t` for which
    /// `index[t] = i`, accumulated in f32 in the order of `t`; zeros if there are none. The gradient of
    /// [`Op::TakeRows`].
    AddRows {
        /// Rows of the result.
        count: usize,
    },
    /// A quantised matrix → the floats `[n, k]` it stands for ([`Quantization::weights`]). A device may keep it
    /// packed and unpack what an operation needs, so that the result takes no more memory than its inputs.
    ///
    /// Inputs: of [`Quantization::Affine`] `weight u32[n, k · bits / 32]`, `scales [n, k / group_size]` and
    /// `offsets [n, k / group_size]`; of [`Quantization::Blocks`] `blocks u8[n, bytes of a row]`.
    Dequantize {
        /// How it is quantised.
        quantization: Quantization,
        /// Dtype of the result.
        dtype: DType,
    },

    // --- Fused ---
    /// `weight [n, k]` → the same numbers, lying as the device's [`Op::Linear`] reads a weight fastest. Models
    /// apply it once, when they load; everything else reads the result as it would the input.
    Pack,
    /// `x […, k], weight [n, k]` and optionally `bias [n]` → `x · weightᵀ + bias`, in `x`'s dtype. The
    /// weight may be of another float dtype; a device may round `x` to it to use its matrix instructions. If the
    /// weight is the result of [`Op::Dequantize`], it may round `x` to 8-bit integers, each
    /// [`block_len`](Quantization::block_len) of `x` against its own largest magnitude.
    Linear,
    /// Softmax along the last axis.
    Softmax,
    /// `x […, d], weight [d]` → `x / √(mean(x²) + eps) · (offset + weight)` along the last axis
    /// (Zhang & Sennrich 2019). Gemma stores its weights around zero: `offset` is 1 there, else 0.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
        /// Added to each weight.
        offset: f32,
    },
    /// `x […, d], weight [d], bias [d]` → `(x − mean) / √(variance + eps) · weight + bias` along the last
    /// axis (Ba et al. 2016).
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// `x [T, H, D], positions i32[T], frequencies f32[R/2]` → rotary position embedding (Su et al. 2021)
    /// of the first `R ≤ D` features of each head; the rest pass through. Pair `j` of token `t` turns by
    /// `positions[t] · frequencies[j]` radians; models give the frequencies, so every scaling scheme fits.
    Rope {
        /// Which features form a pair.
        layout: RopeLayout,
    },
    /// A non-linearity of one tensor.
    Activate(Activation),
    /// `gate, up` of one shape and dtype → `activation(gate) · up` (Shazeer 2020).
    Glu {
        /// Applied to the gate.
        activation: Activation,
    },
    /// `x […, k], gate [n, k], up [n, k], down [m, n]` → `(activation(x · gateᵀ) · (x · upᵀ)) · downᵀ`, in `x`'s dtype
    /// (Shazeer 2020): [`Op::Linear`] twice, [`Op::Glu`], and [`Op::Linear`] once more. A device need not round to `x`'s
    /// dtype in between.
    GatedMlp {
        /// Applied to the product with the gate.
        activation: Activation,
    },
    /// `cap · tanh(x / cap)`: squeezes into `(−cap, cap)`.
    SoftCap {
        /// The bound, finite and greater than 0.
        cap: f32,
    },
    /// Causal attention of a ragged batch over a paged cache (Kwon et al. 2023), with grouped heads.
    ///
    /// Inputs: `q [T, H, D]`, `keys [slots, KH, D]`, `values [slots, KH, D]`, `blocks i32[S, B]`,
    /// `sequences i32[T]`, `positions i32[T]` → `[T, H, D]` in `q`'s dtype. `H` is a multiple of `KH`. Keys and
    /// values are floats, or `i8 [slots, KH, D + 4]` as [`Op::QuantizeRows`] makes them.
    ///
    /// Token `t` belongs to sequence `sequences[t]` and stands at `positions[t]` there. The key of position
    /// `p` of sequence `s` lies in slot `blocks[s, p / block_size] · block_size + p % block_size`. Token `t`
    /// attends to the positions of its own sequence from `positions[t] − window + 1` (or 0) up to and
    /// including its own. Entries of `blocks` that no attended position needs may hold any valid block.
    ///
    /// A device may round the queries and the weights, to use its matrix instructions: to the dtype of the keys and
    /// values if they are floats, else to 16-bit integers, those of a head or of a token against the largest of them.
    PagedAttention(PagedAttention),
    /// `logits [T, V], targets i32[T]` → `f32[T]`: each row's cross-entropy
    /// `ln Σ exp(logits[t]) − logits[t, targets[t]]`. A negative target is ignored: its loss is 0. The others are
    /// below `V`, which is at least 1.
    CrossEntropy,
    /// `logits [T, V], targets i32[T], gradient f32[T]` → the gradient of [`Op::CrossEntropy`] with respect to the
    /// logits, in their dtype: `(softmax(logits[t]) − 1 at targets[t]) · gradient[t]`, zeros where the target is
    /// ignored. Donate the logits and it may take their place.
    CrossEntropyGrad,
    /// The inputs of [`Op::PagedAttention`], keys and values of floats, and then the gradient of its result,
    /// `[T, H, D]` in `q`'s dtype → the gradients with respect to `q`, `keys` and `values`, one after the other, as
    /// `f32[T · H · D + 2 · slots · KH · D]`. A slot that several blocks of the table name gets the sum, one that
    /// nobody attends to zeros (Dao et al. 2022, without the whole score matrix where a device has a kernel).
    ///
    /// A device may round queries, weights and the gradients of the result and of the scores to the dtype of the keys
    /// and values, to use its matrix instructions.
    PagedAttentionGrad(PagedAttention),
    /// `x […, d], weight [d], gradient […, d]` → the gradient of [`Op::RmsNorm`] with respect to `x`. That of its result
    /// is given in the dtype of `x`, which the gradient has, too.
    RmsNormGrad {
        /// As of the norm.
        eps: f32,
        /// As of the norm.
        offset: f32,
    },
    /// `x […, d], gradient […, d]` of one dtype → the gradient of [`Op::RmsNorm`] with respect to the weight, `f32[d]`:
    /// a sum over all rows.
    RmsNormWeightGrad {
        /// As of the norm.
        eps: f32,
    },
    /// `x, gradient` of one shape and dtype → the gradient of [`Op::Activate`]: `gradient` times the derivative at `x`.
    ActivateGrad(Activation),
    /// `gate, up, gradient` of one shape and dtype → the gradients of [`Op::Glu`] with respect to the gate and to what
    /// it multiplies, `[2, …]`.
    GluGrad {
        /// As of the unit.
        activation: Activation,
    },
    /// `x […]` → `f32[]`: the sum of its squares.
    SquaredNorm,
    /// One step of an optimiser of the Adam family: `state f32[3, …], gradient […], rates f32[4]` → the state after it.
    ///
    /// The state's rows are the weights and the running means of the gradient and of its square. The rates are the
    /// learning rate, `1 − β₁ᵗ` and `1 − β₂ᵗ` at step `t = 1, 2, …`, and what the gradient is multiplied by. Donate
    /// the state and the step happens in place.
    Adam(Adam),
    /// One step of gradient descent: `state f32[2, …], gradient […], rates f32[2]` → the state after it; without
    /// momentum the state is `f32[1, …]`.
    ///
    /// The state's rows are the weights and, if there is one, the momentum. The rates are the learning rate and what
    /// the gradient is multiplied by. Donate the state and the step happens in place.
    Sgd(Sgd),
}

/// Parameters of [`Op::PagedAttention`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PagedAttention {
    /// Slots in one block of the cache.
    pub block_size: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// How many positions a token sees, its own included; all of them if `None`.
    pub window: Option<usize>,
    /// Scores pass through [`Op::SoftCap`] with this bound, if any.
    pub soft_cap: Option<f32>,
}

/// Functions of one tensor. [`UnaryOp::Neg`] and [`UnaryOp::Abs`] take floats and signed integers, which wrap
/// around at the least one; the others take floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each name is its own definition
pub enum UnaryOp {
    Neg,
    Abs,
    Exp,
    Log,
    Sqrt,
    /// `1 / √x`.
    Rsqrt,
    /// `1 / x`.
    Recip,
    Sin,
    Cos,
    Tanh,
    /// `1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// The error function.
    Erf,
}

impl UnaryOp {
    /// Every unary function.
    pub const ALL: [UnaryOp; 12] = [
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Sqrt,
        UnaryOp::Rsqrt,
        UnaryOp::Recip,
        UnaryOp::Sin,
        UnaryOp::Cos,
        UnaryOp::Tanh,
        UnaryOp::Sigmoid,
        UnaryOp::Erf,
    ];
}

/// Functions of two tensors. Integers wrap around; [`BinaryOp::Div`] takes floats only. The larger or
/// smaller of a number and NaN is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each name is its own definition
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Max,
    Min,
}

impl BinaryOp {
    /// Every binary function.
    pub const ALL: [BinaryOp; 6] =
        [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Div, BinaryOp::Max, BinaryOp::Min];
}

/// Comparisons; any comparison with NaN is false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each name is its own definition
pub enum CompareOp {
    Equal,
    Less,
    LessEqual,
}

impl CompareOp {
    /// Every comparison.
    pub const ALL: [CompareOp; 3] = [CompareOp::Equal, CompareOp::Less, CompareOp::LessEqual];
}

/// What [`Op::Reduce`] reduces with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// The sum, accumulated in f32.
    Sum,
    /// The largest element; NaN if there is one.
    Max,
}

/// Non-linearities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · sigmoid(x)` (Elfwing et al. 2017).
    Silu,
    /// `x/2 · (1 + erf(x/√2))` (Hendrycks & Gimpel 2016).
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`]: `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
    GeluTanh,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];
}

/// Which features of a head [`Op::Rope`] turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Feature `j` with feature `j + R/2`: the layout of Hugging Face checkpoints.
    Halves,
    /// Feature `2j` with feature `2j + 1`: the layout of the original paper.
    Interleaved,
}

impl Op {
    /// The operation's name, as errors and profiles show it.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Full { .. } => "full",
            Op::Arange { .. } => "arange",
            Op::Reshape { .. } => "reshape",
            Op::Permute { .. } => "permute",
            Op::Slice { .. } => "slice",
            Op::Broadcast { .. } => "broadcast",
            Op::Concat { .. } => "concat",
            Op::Cast { .. } => "cast",
            Op::Unary(op) => match op {
                UnaryOp::Neg => "neg",
                UnaryOp::Abs => "abs",
                UnaryOp::Exp => "exp",
                UnaryOp::Log => "log",
                UnaryOp::Sqrt => "sqrt",
                UnaryOp::Rsqrt => "rsqrt",
                UnaryOp::Recip => "recip",
                UnaryOp::Sin => "sin",
                UnaryOp::Cos => "cos",
                UnaryOp::Tanh => "tanh",
                UnaryOp::Sigmoid => "sigmoid",
                UnaryOp::Erf => "erf",
            },
            Op::Binary(op) => match op {
                BinaryOp::Add => "add",
                BinaryOp::Sub => "sub",
                BinaryOp::Mul => "mul",
                BinaryOp::Div => "div",
                BinaryOp::Max => "max",
                BinaryOp::Min => "min",
            },
            Op::Compare(op) => match op {
                CompareOp::Equal => "equal",
                CompareOp::Less => "less",
                CompareOp::LessEqual => "less_equal",
            },
            Op::Select => "select",
            Op::Reduce { op: ReduceOp::Sum, .. } => "reduce_sum",
            Op::Reduce { op: ReduceOp::Max, .. } => "reduce_max",
            Op::ArgMax { .. } => "argmax",
            Op::MatMul => "matmul",
            Op::TakeRows => "take_rows",
            Op::WriteRows => "write_rows",
            Op::QuantizeRows => "quantize_rows",
            Op::DequantizeRows => "dequantize_rows",
            Op::AddRows { .. } => "add_rows",
            Op::Dequantize { .. } => "dequantize",
            Op::Pack => "pack",
            Op::Linear => "linear",
            Op::Softmax => "softmax",
            Op::RmsNorm { .. } => "rms_norm",
            Op::LayerNorm { .. } => "layer_norm",
            Op::Rope { .. } => "rope",
            Op::Activate(activation) => match activation {
                Activation::Silu => "silu",
                Activation::Gelu => "gelu",
                Activation::GeluTanh => "gelu_tanh",
            },
            Op::Glu { .. } => "glu",
            Op::GatedMlp { .. } => "gated_mlp",
            Op::SoftCap { .. } => "soft_cap",
            Op::PagedAttention(_) => "paged_attention",
            Op::CrossEntropy => "cross_entropy",
            Op::CrossEntropyGrad => "cross_entropy_grad",
            Op::PagedAttentionGrad(_) => "paged_attention_grad",
            Op::RmsNormGrad { .. } => "rms_norm_grad",
            Op::RmsNormWeightGrad { .. } => "rms_norm_weight_grad",
            Op::ActivateGrad(activation) => match activation {
                Activation::Silu => "silu_grad",
                Activation::Gelu => "gelu_grad",
                Activation::GeluTanh => "gelu_tanh_grad",
            },
            Op::GluGrad { .. } => "glu_grad",
            Op::SquaredNorm => "squared_norm",
            Op::Adam(_) => "adam",
            Op::Sgd(_) => "sgd",
        }
    }
}
