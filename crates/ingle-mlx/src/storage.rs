// SPDX-License-Identifier: EUPL-1.2
//! The device's representation of a tensor.

use std::sync::{Arc, OnceLock};

use ingle_tensor::{DType, Result, Storage, Tensor};

use crate::array::{Array, kind};
use crate::bridge;
use crate::engine::unsuited;
use crate::layout::permute;

/// How a tensor lies.
#[derive(Clone, Debug)]
pub(crate) struct MlxStorage {
    pub(crate) form: Form,
    /// The words of an uploaded index or of a short vector, so that a plan made of them needs no reading back.
    pub(crate) host: Option<Arc<[i32]>>,
    /// Of an index that the device found: every element is at least 0 and below this.
    pub(crate) bound: Option<usize>,
    /// Of a norm's weight, what MLX's kernel multiplies with: made once.
    pub(crate) factor: OnceLock<Factor>,
}

/// The weight of a norm, in f32, with an offset added.
#[derive(Clone, Debug)]
pub(crate) struct Factor {
    pub(crate) offset: f32,
    pub(crate) weight: Array,
}

/// What MLX holds of a tensor.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// An array of the tensor's shape and dtype.
    Dense(Array),
    /// The transpose of the tensor, in f32: a packed weight on a CPU. There MLX calls a BLAS, for f32 alone, whose
    /// loops run along the columns of what they multiply with.
    Turned(Array),
    /// A quantised matrix.
    Affine(Affine),
}

/// A matrix in MLX's quantised format.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    /// `u32[n, k · bits / 32]`.
    pub(crate) words: Array,
    /// `[n, k / group_size]`.
    pub(crate) scales: Array,
    /// `[n, k / group_size]`.
    pub(crate) offsets: Array,
    pub(crate) group_size: usize,
    pub(crate) bits: usize,
}

impl Affine {
    /// The floats it stands for.
    pub(crate) fn weights(&self, op: &'static str, dtype: DType) -> Result<Array> {
        let Affine { words, scales, offsets, .. } = self;
        let (group, bits) = (self.group(), self.bits());
        Array::new(op, bridge::dequantize(words.get(), scales.get(), offsets.get(), group, bits, kind(dtype)))
    }

    /// The group size, as MLX takes it.
    pub(crate) fn group(&self) -> i32 {
        self.group_size as i32
    }

    /// The bits, as MLX takes them.
    pub(crate) fn bits(&self) -> i32 {
        self.bits as i32
    }

    /// The rows that `index` names, still quantised.
    pub(crate) fn rows(&self, op: &'static str, index: &Array) -> Result<Affine> {
        let take = |part: &Array| Array::new(op, bridge::take(part.get(), index.get()));
        Ok(Affine { words: take(&self.words)?, scales: take(&self.scales)?, offsets: take(&self.offsets)?, ..*self })
    }
}

impl MlxStorage {
    /// A tensor whose elements an array holds.
    pub(crate) fn dense(array: Array) -> Self {
        MlxStorage::new(Form::Dense(array))
    }

    /// A tensor in this form.
    pub(crate) fn new(form: Form) -> Self {
        MlxStorage { form, host: None, bound: None, factor: OnceLock::new() }
    }

    /// The same, with a bound of its elements, if there is one.
    pub(crate) fn bounded(self, bound: Option<usize>) -> Self {
        MlxStorage { bound, ..self }
    }

    /// What every element is below, none being negative, as far as that is known without reading them.
    pub(crate) fn below(&self) -> Option<usize> {
        let of_words = |words: &Arc<[i32]>| {
            let all = words.iter().map(|&word| usize::try_from(word).ok());
            all.collect::<Option<Vec<_>>>().map(|all| all.into_iter().max().map_or(0, |most| most + 1))
        };
        self.bound.or_else(|| self.host.as_ref().and_then(of_words))
    }

    /// A tensor whose words the host has, too.
    pub(crate) fn with_words(array: Array, words: Arc<[i32]>) -> Self {
        MlxStorage { host: Some(words), ..MlxStorage::dense(array) }
    }

    /// The storage of an input. A tensor's last handle gives its array's last handle, so that MLX may write to it.
    pub(crate) fn of(op: &'static str, tensor: Tensor) -> Result<Self> {
        match tensor.into_storage().take::<MlxStorage>() {
            Ok(own) => Ok(own),
            Err(shared) => shared
                .get::<MlxStorage>()
                .cloned()
                .ok_or_else(|| unsuited(op, "an input is not a tensor of this device; move it here first".into())),
        }
    }

    /// The elements as an array of the tensor's own `dtype`, whatever form they are kept in.
    pub(crate) fn plain(self, op: &'static str, dtype: DType) -> Result<Array> {
        match self.form {
            Form::Dense(array) => Ok(array),
            Form::Turned(array) => narrowed(op, &permute(op, &array, &[1, 0])?, dtype),
            Form::Affine(affine) => affine.weights(op, dtype),
        }
    }

    pub(crate) fn into_storage(self) -> Storage {
        Storage::new(self)
    }
}

/// An array in f32 as `dtype`.
pub(crate) fn narrowed(op: &'static str, array: &Array, dtype: DType) -> Result<Array> {
    match dtype {
        DType::F32 => Ok(array.clone()),
        dtype => Array::new(op, bridge::cast(array.get(), kind(dtype))),
    }
}
