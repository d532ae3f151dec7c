// SPDX-License-Identifier: EUPL-1.2
//! The CPU's representation of a tensor: a shared buffer and how a view lies in it.

use std::sync::Arc;

use ingle_tensor::{DType, Element, Error, Result, Storage, Tensor};

use crate::kernels::{Context, cast};
use crate::layout::Layout;
use crate::memory::Buffer;
use crate::packed::Packing;

/// A view of a buffer. Cloning it shares the buffer.
#[derive(Clone, Debug)]
pub(crate) struct CpuStorage {
    buffer: Arc<Buffer>,
    layout: Layout,
    dtype: DType,
    /// How the buffer is packed, if it is; the layout is then that of the whole, row-major or of its transpose.
    packing: Option<Packing>,
}

impl CpuStorage {
    /// A view of a buffer that holds elements of `dtype` wherever `layout` looks.
    pub(crate) fn new(buffer: Buffer, layout: Layout, dtype: DType) -> Self {
        CpuStorage { buffer: Arc::new(buffer), layout, dtype, packing: None }
    }

    /// The storage of an input. A tensor's last handle gives its buffer's last handle, so that
    /// [`CpuStorage::donated`] may write to it.
    pub(crate) fn of(op: &'static str, tensor: Tensor) -> Result<Self> {
        match tensor.into_storage().take::<CpuStorage>() {
            Ok(own) => Ok(own),
            Err(shared) => shared.get::<CpuStorage>().cloned().ok_or_else(|| Error::Device {
                op,
                device: "cpu",
                message: "an input is not a tensor of this device; move it here first".into(),
            }),
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    /// The same tensor, whose buffer is packed in this way.
    pub(crate) fn packed(self, packing: Packing) -> Self {
        CpuStorage { packing: Some(packing), ..self }
    }

    pub(crate) fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// The same tensor, row-major if it was packed: what every operation but a few looks at.
    pub(crate) fn plain(self, cx: &Context) -> Result<Self> {
        let Some(packing) = self.packing else { return Ok(self) };
        let rows: Vec<usize> = (0..packing.rows_of(&self.layout)).collect();
        let buffer = packing.rows(cx, self.bytes(), &rows, self.dtype)?;
        Ok(CpuStorage::new(buffer, self.layout, self.dtype))
    }

    /// The same elements of f32 as bf16. They are rounded once for all who multiply them, as long as the buffer lives;
    /// `None` for what is not f32, or only a small part of its buffer.
    pub(crate) fn rounded(&self, cx: &Context) -> Result<Option<Self>> {
        let whole = self.bytes().len() / size_of::<f32>();
        if self.dtype != DType::F32 || 2 * self.elements() < whole {
            return Ok(None);
        }
        let buffer = self.buffer.rounded(|| {
            let all = self.clone().view(Layout::contiguous(&[whole].into()));
            Ok(cast::convert(cx, all, DType::BF16)?.buffer)
        })?;
        Ok(Some(CpuStorage { buffer, layout: self.layout.clone(), dtype: DType::BF16, packing: None }))
    }

    /// The same as [`CpuStorage::rounded`], if somebody has already asked for it.
    pub(crate) fn known_rounded(&self) -> Option<Self> {
        let buffer = self.buffer.known_rounded().filter(|_| self.dtype == DType::F32)?;
        Some(CpuStorage { buffer, layout: self.layout.clone(), dtype: DType::BF16, packing: None })
    }

    /// The whole buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// The bytes of elements that lie row-major without gaps.
    pub(crate) fn contiguous_bytes(&self) -> &[u8] {
        let size = self.dtype.size();
        self.bytes()
            .get(self.layout.offset() * size..(self.layout.offset() + self.elements()) * size)
            .unwrap_or_default()
    }

    pub(crate) fn elements(&self) -> usize {
        self.layout.elements()
    }

    /// Another view of the same buffer.
    pub(crate) fn view(self, layout: Layout) -> Self {
        CpuStorage { layout, ..self }
    }

    /// The whole buffer as elements; the layout's indices point into it.
    pub(crate) fn buffer<T: Element>(&self) -> &[T] {
        debug_assert_eq!(T::DTYPE, self.dtype);
        self.raw()
    }

    /// The whole buffer as elements of some type as wide as the dtype, for moving them about.
    pub(crate) fn raw<T: Element>(&self) -> &[T] {
        debug_assert_eq!(T::DTYPE.size(), self.dtype.size());
        debug_assert!(self.packing.is_none(), "a packed tensor is read as a plain one");
        let bytes = self.buffer.bytes();
        // Pooled buffers are aligned for everything; uploads that are not were copied. A tail shorter than
        // an element belongs to no element.
        bytemuck::cast_slice(&bytes[..bytes.len() - bytes.len() % size_of::<T>()])
    }

    /// The elements, if they lie row-major without gaps.
    pub(crate) fn contiguous<T: Element>(&self) -> Option<&[T]> {
        if !self.layout.is_contiguous() {
            return None;
        }
        let start = self.layout.offset();
        self.buffer().get(start..start + self.elements())
    }

    /// The elements to write to, if nobody else can see them and they lie row-major without gaps.
    pub(crate) fn donated<T: Element>(&mut self) -> Option<&mut [T]> {
        if T::DTYPE != self.dtype || !self.layout.is_contiguous() {
            return None;
        }
        let (start, len) = (self.layout.offset(), self.elements());
        let bytes = Arc::get_mut(&mut self.buffer)?.bytes_mut()?;
        let whole = bytes.len() - bytes.len() % size_of::<T>();
        bytemuck::cast_slice_mut(&mut bytes[..whole]).get_mut(start..start + len)
    }

    pub(crate) fn into_storage(self) -> Storage {
        Storage::new(self)
    }
}
