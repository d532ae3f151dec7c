// SPDX-License-Identifier: EUPL-1.2
//! Shapes: the lengths of a tensor's axes, outermost first.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

use crate::DType;

/// The lengths of a tensor's axes, outermost first. The empty shape is that of a scalar.
///
/// Dereferences to a slice of lengths, so `shape[0]`, `shape.len()` and `shape.iter()` all work.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 4]>);

impl Shape {
    /// How many elements a tensor of this shape has; `None` where the product does not fit a `usize`.
    pub fn checked_elements(&self) -> Option<usize> {
        // However long the other axes: a product that passes `usize::MAX` on its way to 0 is still 0.
        if self.0.contains(&0) {
            return Some(0);
        }
        self.0.iter().try_fold(1usize, |n, &len| n.checked_mul(len))
    }

    /// How many elements a tensor of this shape has, saturating at `usize::MAX`.
    pub fn elements(&self) -> usize {
        self.checked_elements().unwrap_or(usize::MAX)
    }

    /// The shape two operands broadcast to by NumPy's rule: aligned at the last axis, a length of 1
    /// stretches. `None` if some axis has two different lengths, neither of them 1.
    pub fn broadcast_with(&self, other: &Shape) -> Option<Shape> {
        let rank = self.len().max(other.len());
        let mut lengths = SmallVec::with_capacity(rank);
        for axis in 0..rank {
            let a = aligned(self, axis, rank);
            let b = aligned(other, axis, rank);
            lengths.push(match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            });
        }
        Some(Shape(lengths))
    }

    /// This shape with axis `axis` replaced by `len`. An axis out of range leaves it unchanged.
    pub fn with_axis(&self, axis: usize, len: usize) -> Shape {
        let mut shape = self.clone();
        if let Some(slot) = shape.0.get_mut(axis) {
            *slot = len;
        }
        shape
    }

    /// Row-major strides in elements. (Of a shape without elements they mean nothing, and saturate.)
    pub fn contiguous_strides(&self) -> SmallVec<[usize; 4]> {
        let mut strides = SmallVec::from_elem(1, self.len());
        for axis in (1..self.len()).rev() {
            strides[axis - 1] = usize::saturating_mul(strides[axis], self.0[axis].max(1));
        }
        strides
    }
}

fn aligned(shape: &Shape, axis: usize, rank: usize) -> usize {
    let missing = rank - shape.len();
    if axis < missing { 1 } else { shape[axis - missing] }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(lengths: &[usize]) -> Self {
        Shape(SmallVec::from_slice(lengths))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(lengths: [usize; N]) -> Self {
        Shape(SmallVec::from_slice(&lengths))
    }
}

impl From<Vec<usize>> for Shape {
    fn from(lengths: Vec<usize>) -> Self {
        Shape(SmallVec::from_vec(lengths))
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(lengths: I) -> Self {
        Shape(lengths.into_iter().collect())
    }
}

impl From<&Shape> for Shape {
    fn from(shape: &Shape) -> Self {
        shape.clone()
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_slice())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What everybody may know of a tensor: its shape and its dtype.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Axis lengths, outermost first.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

impl Spec {
    /// A spec of `shape` and `dtype`.
    pub fn new(shape: impl Into<Shape>, dtype: DType) -> Self {
        Spec { shape: shape.into(), dtype }
    }

    /// Bytes that the elements take, packed; saturating.
    pub fn bytes(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.size())
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_stretches_ones_good() {
        let a = Shape::from([4, 1, 3]);
        let b = Shape::from([5, 1]);
        assert_eq!(a.broadcast_with(&b), Some(Shape::from([4, 5, 3])));
    }

    #[test]
    fn broadcast_refuses_unequal_lengths_bad() {
        assert_eq!(Shape::from([2, 3]).broadcast_with(&Shape::from([2])), None);
    }

    #[test]
    fn broadcast_with_empty_axis_ugly() {
        let empty = Shape::from([0, 3]);
        assert_eq!(empty.broadcast_with(&Shape::from([1, 3])), Some(empty.clone()));
        assert_eq!(empty.broadcast_with(&Shape::from([2, 3])), None);
    }

    #[test]
    fn element_count_overflow_is_seen_ugly() {
        assert_eq!(Shape::from([usize::MAX, 2]).checked_elements(), None);
        assert_eq!(Shape::from([]).checked_elements(), Some(1));
        let empty = [Shape::from([0, usize::MAX, usize::MAX]), [usize::MAX, usize::MAX, 0].into()];
        assert_eq!(empty.clone().map(|shape| shape.checked_elements()), [Some(0); 2]);
        assert_eq!(empty[0].contiguous_strides().as_slice(), [usize::MAX, usize::MAX, 1]);
    }
}
