// SPDX-License-Identifier: EUPL-1.2
//! How the elements of a view lie in their buffer: strides and an offset, in elements.

use ingle_tensor::Shape;
use smallvec::SmallVec;

/// Axis lengths or strides, inline for the ranks that occur.
pub(crate) type Axes = SmallVec<[usize; 6]>;

/// Shape, strides and offset of a view. Strides are never negative; a broadcast axis has stride 0.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    shape: Shape,
    strides: Axes,
    offset: usize,
}

impl Layout {
    /// Row-major from the buffer's first element.
    pub(crate) fn contiguous(shape: &Shape) -> Self {
        Layout { shape: shape.clone(), strides: SmallVec::from_slice(&shape.contiguous_strides()), offset: 0 }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn strides(&self) -> &[usize] {
        &self.strides
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Whether the elements lie row-major without gaps (from `offset`).
    pub(crate) fn is_contiguous(&self) -> bool {
        if self.elements() == 0 {
            return true;
        }
        let mut expected = 1;
        for (&len, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if len != 1 && stride != expected {
                return false;
            }
            expected *= len;
        }
        true
    }

    /// The same elements under another shape, where strides can express it.
    pub(crate) fn reshape(&self, shape: &Shape) -> Option<Layout> {
        if self.elements() == 0 || self.is_contiguous() {
            return Some(Layout { offset: self.offset, ..Layout::contiguous(shape) });
        }
        // Each run of axes that lies evenly in memory must be made of whole axes of the new shape.
        let runs = self.runs();
        let mut strides = Axes::from_elem(0, shape.len());
        let mut axis = shape.len();
        for (&len, &stride) in runs.dims.iter().zip(&runs.strides).rev() {
            let mut filled = 1;
            while filled < len {
                axis = axis.checked_sub(1)?;
                strides[axis] = stride * filled;
                filled *= shape[axis];
            }
            if filled != len {
                return None;
            }
        }
        Some(Layout { shape: shape.clone(), strides, offset: self.offset })
    }

    /// Axis `i` of the result is axis `axes[i]` of this.
    pub(crate) fn permute(&self, axes: &[usize]) -> Layout {
        Layout {
            shape: axes.iter().map(|&axis| self.shape[axis]).collect(),
            strides: axes.iter().map(|&axis| self.strides[axis]).collect(),
            offset: self.offset,
        }
    }

    /// `len` indices of `axis` from `start`, `step` apart.
    pub(crate) fn slice(&self, axis: usize, start: usize, step: usize, len: usize) -> Layout {
        let mut strides = self.strides.clone();
        let shape = self.shape.with_axis(axis, len);
        // An empty result must not point past its buffer.
        let offset = if shape.elements() == 0 { self.offset } else { self.offset + start * strides[axis] };
        strides[axis] = strides[axis].saturating_mul(step);
        Layout { shape, strides, offset }
    }

    /// Stretched to `shape` by NumPy's rule.
    pub(crate) fn broadcast(&self, shape: &Shape) -> Layout {
        let missing = shape.len() - self.shape.len();
        let strides = (0..shape.len())
            .map(|axis| match axis.checked_sub(missing) {
                Some(own) if self.shape[own] == shape[axis] => self.strides[own],
                _ => 0,
            })
            .collect();
        Layout { shape: shape.clone(), strides, offset: self.offset }
    }

    /// The view as the fewest evenly spaced axes.
    pub(crate) fn runs(&self) -> Runs {
        let mut dims = Axes::new();
        let mut strides = Axes::new();
        for (&len, &stride) in self.shape.iter().zip(&self.strides) {
            if len == 1 {
                continue;
            }
            match (dims.last_mut(), strides.last_mut()) {
                (Some(outer), Some(outer_stride)) if *outer_stride == stride.saturating_mul(len) => {
                    *outer *= len;
                    *outer_stride = stride;
                }
                _ => {
                    dims.push(len);
                    strides.push(stride);
                }
            }
        }
        if dims.is_empty() {
            dims.push(1);
            strides.push(1);
        }
        Runs { dims, strides, offset: self.offset }
    }
}

/// A view as a walk over runs of evenly spaced elements.
#[derive(Clone, Debug)]
pub(crate) struct Runs {
    dims: Axes,
    strides: Axes,
    offset: usize,
}

/// Some consecutive elements of a view: `len` of them from buffer index `start`, `stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: usize,
    pub(crate) stride: usize,
    pub(crate) len: usize,
}

impl Runs {
    /// The whole view, if it is a single run.
    pub(crate) fn single(&self) -> Option<Run> {
        match (&self.dims[..], &self.strides[..]) {
            (&[len], &[stride]) => Some(Run { start: self.offset, stride, len }),
            _ => None,
        }
    }

    /// Rows and columns of the innermost matrix, if it lies column by column.
    pub(crate) fn transposed(&self) -> Option<[usize; 2]> {
        match (&self.dims[..], &self.strides[..]) {
            ([.., rows, columns], [.., 1, stride]) if stride >= rows => Some([*rows, *columns]),
            _ => None,
        }
    }

    /// Walks the elements `first .. first + len` of the view in row-major order, run by run.
    pub(crate) fn walk(&self, first: usize, len: usize, mut visit: impl FnMut(Run)) {
        let inner = self.dims.len() - 1;
        let mut index = Axes::from_elem(0, self.dims.len());
        let mut start = self.offset;
        let mut rest = first;
        for axis in (0..=inner).rev() {
            let dim = self.dims[axis].max(1);
            index[axis] = rest % dim;
            rest /= dim;
            start += index[axis] * self.strides[axis];
        }
        let mut remaining = len;
        while remaining > 0 {
            let run = remaining.min(self.dims[inner] - index[inner]);
            visit(Run { start, stride: self.strides[inner], len: run });
            remaining -= run;
            index[inner] += run;
            start += run * self.strides[inner];
            let mut axis = inner;
            while index[axis] == self.dims[axis] && axis > 0 {
                start -= index[axis] * self.strides[axis];
                index[axis] = 0;
                axis -= 1;
                index[axis] += 1;
                start += self.strides[axis];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(layout: &Layout) -> Vec<usize> {
        let mut all = Vec::new();
        layout.runs().walk(0, layout.elements(), |run| all.extend((0..run.len).map(|i| run.start + i * run.stride)));
        all
    }

    #[test]
    fn views_walk_in_row_major_order_good() {
        let layout = Layout::contiguous(&Shape::from([2, 3]));
        assert_eq!(indices(&layout), [0, 1, 2, 3, 4, 5]);
        assert_eq!(indices(&layout.permute(&[1, 0])), [0, 3, 1, 4, 2, 5]);
        assert_eq!(indices(&layout.slice(1, 0, 2, 2)), [0, 2, 3, 5]);
        assert_eq!(indices(&layout.slice(0, 1, 1, 1).broadcast(&Shape::from([2, 3]))), [3, 4, 5, 3, 4, 5]);
    }

    #[test]
    fn walk_starts_anywhere_good() {
        let layout = Layout::contiguous(&Shape::from([3, 4])).permute(&[1, 0]);
        let all = indices(&layout);
        for first in 0..all.len() {
            let mut part = Vec::new();
            layout.runs().walk(first, all.len() - first, |run| {
                part.extend((0..run.len).map(|i| run.start + i * run.stride));
            });
            assert_eq!(part, all[first..]);
        }
    }

    #[test]
    fn reshape_of_an_uneven_view_needs_a_copy_bad() {
        let layout = Layout::contiguous(&Shape::from([2, 3])).permute(&[1, 0]);
        assert!(layout.reshape(&Shape::from([6])).is_none());
    }

    #[test]
    fn reshape_splits_and_joins_evenly_spaced_axes_ugly() {
        let layout = Layout::contiguous(&Shape::from([4, 6])).slice(1, 0, 1, 4);
        let split = layout.reshape(&Shape::from([2, 2, 1, 2, 2])).map(|l| indices(&l));
        assert_eq!(split, Some(indices(&layout)));
        let stretched = Layout::contiguous(&Shape::from([1, 2])).broadcast(&Shape::from([6, 2]));
        let regrouped = stretched.reshape(&Shape::from([3, 2, 2])).map(|l| indices(&l));
        assert_eq!(regrouped, Some(indices(&stretched)));
        assert!(stretched.reshape(&Shape::from([3, 4])).is_none());
    }

    #[test]
    fn empty_views_stay_inside_ugly() {
        let layout = Layout::contiguous(&Shape::from([2, 3]));
        let empty = layout.slice(0, 2, 1, 0);
        assert_eq!(empty.offset(), 0);
        assert!(empty.is_contiguous());
        assert_eq!(indices(&empty), Vec::<usize>::new());
    }
}
