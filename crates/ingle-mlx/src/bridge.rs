// SPDX-License-Identifier: EUPL-1.2
//! What is used of MLX's C++ API, and nothing else.
//!
//! Everything that MLX throws becomes an `Err` with its message. Functions that return an array add to MLX's
//! graph; only [`ffi::eval`], [`ffi::async_eval`] and [`ffi::read`] compute.

#[cxx::bridge(namespace = "ingle")]
#[allow(clippy::missing_safety_doc)] // cxx takes no documentation inside
mod ffi {
    /// Element types, by the names of [`ingle_tensor::DType`].
    #[derive(Debug)]
    enum Kind {
        F32,
        F16,
        BF16,
        U8,
        I8,
        I32,
        U32,
        I64,
    }

    /// Functions of one array.
    #[derive(Debug)]
    enum Unary {
        Neg,
        Abs,
        Exp,
        Log,
        Sqrt,
        Rsqrt,
        Recip,
        Sin,
        Cos,
        Tanh,
        Sigmoid,
        Erf,
    }

    /// Functions of two arrays.
    #[derive(Debug)]
    enum Binary {
        Add,
        Sub,
        Mul,
        Div,
        Max,
        Min,
        Equal,
        Less,
        LessEqual,
    }

    /// Non-linearities.
    #[derive(Debug)]
    enum Activation {
        Silu,
        Gelu,
        GeluTanh,
    }

    /// What MLX computes on.
    #[derive(Debug)]
    enum Engine {
        Metal,
        Cuda,
        Cpu,
    }

    /// Where the two features of a rotary pair lie.
    #[derive(Debug)]
    enum Pairs {
        /// Half of the turned features apart.
        Halves,
        /// Side by side.
        Neighbours,
    }

    unsafe extern "C++" {
        include!("ingle-mlx/src/bridge.h");

        /// An array: a node of MLX's graph, computed or not.
        type Array;
        /// Several arrays.
        type Arrays;

        /// Chooses the device and makes its stream; does nothing the second time.
        fn start() -> Result<Engine>;
        fn version() -> String;
        fn device_name() -> Result<String>;

        fn new_arrays() -> UniquePtr<Arrays>;
        fn push(self: Pin<&mut Arrays>, array: &Array);

        /// Waits until the arrays are computed.
        fn eval(arrays: &Arrays) -> Result<()>;
        /// Starts computing the arrays.
        fn async_eval(arrays: &Arrays) -> Result<()>;
        /// Whether an array is computed, or being computed.
        fn is_scheduled(array: &Array) -> bool;
        /// An array's elements in row-major order; `to` is as long as they are.
        fn read(array: &Array, to: &mut [u8]) -> Result<()>;

        fn upload(bytes: &[u8], shape: &[i32], kind: Kind) -> Result<UniquePtr<Array>>;
        fn full(shape: &[i32], kind: Kind, value: f64) -> Result<UniquePtr<Array>>;
        fn full_integer(shape: &[i32], kind: Kind, value: i64) -> Result<UniquePtr<Array>>;
        fn arange(len: i32) -> Result<UniquePtr<Array>>;

        fn reshape(x: &Array, shape: &[i32]) -> Result<UniquePtr<Array>>;
        fn transpose(x: &Array, axes: &[i32]) -> Result<UniquePtr<Array>>;
        fn slice(x: &Array, start: &[i32], stop: &[i32], step: &[i32]) -> Result<UniquePtr<Array>>;
        fn broadcast(x: &Array, shape: &[i32]) -> Result<UniquePtr<Array>>;
        fn concat(parts: &Arrays, axis: i32) -> Result<UniquePtr<Array>>;

        fn cast(x: &Array, kind: Kind) -> Result<UniquePtr<Array>>;
        /// Floats to integers: towards zero, saturating, NaN to 0.
        fn truncate(x: &Array, kind: Kind) -> Result<UniquePtr<Array>>;
        fn unary(function: Unary, x: &Array) -> Result<UniquePtr<Array>>;
        fn binary(function: Binary, a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        fn select(condition: &Array, a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        fn activate(function: Activation, x: &Array) -> Result<UniquePtr<Array>>;
        fn glu(function: Activation, gate: &Array, up: &Array) -> Result<UniquePtr<Array>>;
        fn soft_cap(x: &Array, cap: f32) -> Result<UniquePtr<Array>>;

        fn sum(x: &Array, axis: i32) -> Result<UniquePtr<Array>>;
        fn max(x: &Array, axis: i32) -> Result<UniquePtr<Array>>;
        /// The first of the largest; NaN counts as smallest.
        fn argmax(x: &Array, axis: i32) -> Result<UniquePtr<Array>>;
        fn softmax(x: &Array) -> Result<UniquePtr<Array>>;

        fn matmul(a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        /// `x · weightᵀ`; both of one dtype.
        fn linear(x: &Array, weight: &Array) -> Result<UniquePtr<Array>>;
        /// `x · weightᵀ − product`.
        fn linear_less(x: &Array, weight: &Array, product: &Array) -> Result<UniquePtr<Array>>;
        /// The sum of arrays of one shape, in f32, in their order.
        fn sum_of_parts(parts: &Arrays) -> Result<UniquePtr<Array>>;
        /// `−log softmax(logits)[target]` of each row, in f32; 0 where the target is negative.
        fn cross_entropy(logits: &Array, targets: &Array) -> Result<UniquePtr<Array>>;
        /// The transpose of a matrix, in f32, laid out row by row.
        fn turned(weight: &Array) -> Result<UniquePtr<Array>>;
        fn quantized_linear(
            x: &Array,
            words: &Array,
            scales: &Array,
            offsets: &Array,
            group_size: i32,
            bits: i32,
        ) -> Result<UniquePtr<Array>>;
        /// The floats that a quantised matrix stands for.
        fn dequantize(
            words: &Array,
            scales: &Array,
            offsets: &Array,
            group_size: i32,
            bits: i32,
            kind: Kind,
        ) -> Result<UniquePtr<Array>>;

        /// Rows as 8-bit integers and the bytes of their scale: `Op::QuantizeRows`.
        fn quantize_rows(x: &Array) -> Result<UniquePtr<Array>>;
        /// The floats that such rows stand for.
        fn dequantize_rows(x: &Array) -> Result<UniquePtr<Array>>;

        fn take(table: &Array, index: &Array) -> Result<UniquePtr<Array>>;
        /// The target with its rows `index` replaced.
        fn scatter(target: &Array, index: &Array, rows: &Array) -> Result<UniquePtr<Array>>;
        /// `count` rows: the sums, in f32, of those that each is the index of.
        fn add_rows(rows: &Array, index: &Array, count: i32) -> Result<UniquePtr<Array>>;
        /// The target with its rows from `start` on replaced.
        fn overwrite(target: &Array, rows: &Array, start: i32) -> Result<UniquePtr<Array>>;

        fn rms_norm(x: &Array, weight: &Array, eps: f32) -> Result<UniquePtr<Array>>;
        fn layer_norm(x: &Array, weight: &Array, bias: &Array, eps: f32) -> Result<UniquePtr<Array>>;
        /// `x [T, H, D]` with the first pairs of each head turned; on CUDA.
        fn rope(x: &Array, positions: &Array, frequencies: &Array, pairs: Pairs) -> Result<UniquePtr<Array>>;
        /// `x · cos + swapped · sin` in f32, in the dtype of `x`.
        fn rotate(x: &Array, swapped: &Array, cos: &Array, sin: &Array) -> Result<UniquePtr<Array>>;

        /// Queries `[T, H, D]` and caches `[N, KH, D]` of floats, `D` being 32, 64, 128 or 256. The tables are the blocks,
        /// sequences and positions of `Op::PagedAttention`, checked, and `i32[4]`: slots of a block, keys that a query
        /// sees at most or 0, and the bits of the scale and of the cap or 0. The keys of a query are shared out among
        /// so many warps. On CUDA.
        fn paged_attention(
            q: &Array,
            keys: &Array,
            values: &Array,
            tables: &Arrays,
            warps: i32,
        ) -> Result<UniquePtr<Array>>;
        /// `q [B, H, T, D]`, `k` and `v [B, KH, L, D]`: every query sees every key.
        fn attention(q: &Array, k: &Array, v: &Array, scale: f32) -> Result<UniquePtr<Array>>;
        /// Query `t` of `T` sees the first `L − T + 1 + t` keys.
        fn causal_attention(q: &Array, k: &Array, v: &Array, scale: f32) -> Result<UniquePtr<Array>>;
        /// Queries see the keys where the `bool` mask, which broadcasts to `[B, H, T, L]`, holds.
        fn masked_attention(q: &Array, k: &Array, v: &Array, mask: &Array, scale: f32) -> Result<UniquePtr<Array>>;
        /// The mask of queries and keys at these positions: `bool`, broadcast together.
        fn visible(queries: &Array, keys: &Array, window: i32) -> Result<UniquePtr<Array>>;
        /// As `masked_attention`, with a cap on the scores.
        fn capped_attention(
            q: &Array,
            k: &Array,
            v: &Array,
            mask: &Array,
            scale: f32,
            cap: f32,
        ) -> Result<UniquePtr<Array>>;

        /// Waits for all that was begun, and for what MLX frees after it.
        fn synchronize() -> Result<()>;
        fn active_memory() -> usize;
        fn peak_memory() -> usize;
        fn cached_memory() -> usize;
        fn memory_limit() -> usize;
        fn reset_peak_memory();
        fn set_memory_limit(bytes: usize) -> usize;
        fn set_cache_limit(bytes: usize) -> usize;
        fn clear_cache() -> Result<()>;
    }
}

pub(crate) use ffi::*;

// SAFETY: an array is a reference-counted node that MLX changes when it computes. Every function of the bridge
// that touches one, and its destructor, holds the one lock of `bridge/state.h` while it does, on whatever thread; and
// the stream that arrays are bound to is made to be used from any thread.
unsafe impl Send for Array {}
// SAFETY: as above; a shared reference gives access to nothing but those functions.
unsafe impl Sync for Array {}
