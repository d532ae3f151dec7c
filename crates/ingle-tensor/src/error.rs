// SPDX-License-Identifier: EUPL-1.2
//! What can go wrong with a tensor operation.

use crate::{DType, Spec};

/// The result of a tensor operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a tensor operation was refused. Each names the operation, what it found and what it expected.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// Operands whose shapes do not fit the operation.
    #[error("{op}: expected {expected}, found shapes {found}")]
    Shape {
        /// The operation's name.
        op: &'static str,
        /// What would have fitted.
        expected: String,
        /// The operands, as `dtype[shape]`, comma-separated.
        found: String,
    },
    /// Operands whose dtypes do not fit the operation.
    #[error("{op}: expected {expected}, found dtypes {found}")]
    DType {
        /// The operation's name.
        op: &'static str,
        /// What would have fitted.
        expected: String,
        /// The operands, as `dtype[shape]`, comma-separated.
        found: String,
    },
    /// The wrong number of operands.
    #[error("{op}: expected {expected} inputs, found {found}")]
    Arity {
        /// The operation's name.
        op: &'static str,
        /// How many inputs it takes.
        expected: &'static str,
        /// How many it was given.
        found: usize,
    },
    /// An index tensor pointed outside the axis it indexes.
    #[error("{op}: index {index} is outside an axis of length {len}")]
    Index {
        /// The operation's name.
        op: &'static str,
        /// The offending index.
        index: i64,
        /// Length of the indexed axis.
        len: usize,
    },
    /// Operands that live on different devices.
    #[error("{op}: inputs live on different devices ({left} and {right}); move them to one first")]
    MixedDevices {
        /// The operation's name.
        op: &'static str,
        /// The first input's device.
        left: String,
        /// The device that differs.
        right: String,
    },
    /// Host data whose length does not match the tensor it is to become.
    #[error("upload: {spec} needs {expected} bytes, found {found}")]
    ByteLength {
        /// The tensor to be made.
        spec: Spec,
        /// Bytes it needs.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A tensor was read as elements of a type it does not hold.
    #[error("read: the tensor holds {found}, not {expected}; cast it first")]
    ReadType {
        /// The dtype asked for.
        expected: DType,
        /// The tensor's dtype.
        found: DType,
    },
    /// A gradient would have to pass through an operation that has none.
    #[error("{op}: has no derivative; detach its inputs, or do not differentiate by what they depend on")]
    NoDerivative {
        /// The operation's name.
        op: &'static str,
    },
    /// What a checkpoint computes again did not go as the first time.
    #[error("checkpoint: {message}")]
    Checkpoint {
        /// What failed or differed.
        message: String,
    },
    /// The memory limit would be passed.
    #[error(
        "{device}: {requested} bytes more would pass the memory limit ({active} of {limit} bytes in use); \
         raise the limit, or use a smaller context or batch"
    )]
    Memory {
        /// The device's name.
        device: &'static str,
        /// Bytes asked for.
        requested: usize,
        /// Bytes in use.
        active: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The device itself failed, or cannot do what was asked.
    #[error("{op} on {device}: {message}")]
    Device {
        /// The operation's name.
        op: &'static str,
        /// The device's name.
        device: &'static str,
        /// The device's own words.
        message: String,
    },
}

/// Operands as an error shows them.
pub(crate) fn listed(inputs: &[Spec]) -> String {
    if inputs.is_empty() {
        return "none".into();
    }
    inputs.iter().map(Spec::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_what_to_do_good() {
        let error = Error::Memory { device: "cpu", requested: 300, active: 900, limit: 1000 };
        assert_eq!(
            error.to_string(),
            "cpu: 300 bytes more would pass the memory limit (900 of 1000 bytes in use); \
             raise the limit, or use a smaller context or batch"
        );
        let error = Error::Device { op: "linear", device: "cuda", message: "out of registers".into() };
        assert_eq!(error.to_string(), "linear on cuda: out of registers");
        let error = Error::Index { op: "take_rows", index: -1, len: 4 };
        assert_eq!(error.to_string(), "take_rows: index -1 is outside an axis of length 4");
    }

    #[test]
    fn operands_that_are_not_there_are_none_ugly() {
        assert_eq!(listed(&[]), "none");
        assert_eq!(listed(&[Spec::new([], DType::U8), Spec::new([2, 0], DType::F32)]), "u8[], f32[2, 0]");
    }
}
