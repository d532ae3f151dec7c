// SPDX-License-Identifier: EUPL-1.2
//! The values of GGUF's metadata.

use std::fmt;
use std::ops::Range;

use ingle_tensor::Bytes;

use super::cursor::{Cursor, Refusal};

/// Arrays within arrays go no deeper: reading one that did would use up the stack.
const MOST_NESTING: usize = 8;

/// The type of a [`Value`]. The discriminant is the id in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[expect(missing_docs, reason = "each name is its own definition")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::Text,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// Bytes that each value takes, if all take the same.
    fn bytes(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::Text | ValueType::Array => None,
        }
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Refusal> {
        let id = cursor.u32()?;
        ValueType::ALL
            .into_iter()
            .find(|value_type| *value_type as u32 == id)
            .ok_or_else(|| format!("expected a value type from 0 to 12, found {id}"))
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::Text => "text",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        })
    }
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each name is its own definition")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    /// A type and a value of it.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Refusal> {
        let value_type = ValueType::read(cursor)?;
        Value::read_as(value_type, cursor)
    }

    fn read_as(value_type: ValueType, cursor: &mut Cursor<'_>) -> Result<Self, Refusal> {
        Ok(match value_type {
            ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array()?)),
            ValueType::U32 => Value::U32(cursor.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
            ValueType::Bool => Value::Bool(read_bools(cursor, 1)? == [1]),
            ValueType::Text => Value::Text(cursor.text()?.to_owned()),
            ValueType::Array => Value::Array(Array::read(cursor)?),
            ValueType::U64 => Value::U64(cursor.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        })
    }

    /// The whole number that it is, of whatever type.
    pub fn integer(&self) -> Option<i128> {
        Some(match self {
            Value::U8(value) => (*value).into(),
            Value::I8(value) => (*value).into(),
            Value::U16(value) => (*value).into(),
            Value::I16(value) => (*value).into(),
            Value::U32(value) => (*value).into(),
            Value::I32(value) => (*value).into(),
            Value::U64(value) => (*value).into(),
            Value::I64(value) => (*value).into(),
            _ => return None,
        })
    }
}

/// Type and value, quoted: `u32 16`, a quoted text, `array of 3 f32`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(value) => write!(f, "u8 {value}"),
            Value::I8(value) => write!(f, "i8 {value}"),
            Value::U16(value) => write!(f, "u16 {value}"),
            Value::I16(value) => write!(f, "i16 {value}"),
            Value::U32(value) => write!(f, "u32 {value}"),
            Value::I32(value) => write!(f, "i32 {value}"),
            Value::F32(value) => write!(f, "f32 {value}"),
            Value::Bool(value) => write!(f, "bool {value}"),
            Value::Text(value) => write!(f, "text {}", quote(value)),
            Value::Array(value) => write!(f, "array of {} {}", value.len, value.element),
            Value::U64(value) => write!(f, "u64 {value}"),
            Value::I64(value) => write!(f, "i64 {value}"),
            Value::F64(value) => write!(f, "f64 {value}"),
        }
    }
}

/// A text of a file as a message may quote it.
pub(super) fn quote(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("`{}…`", text[..end].escape_debug()),
        None => format!("`{}`", text.escape_debug()),
    }
}

/// An array of the metadata. Its elements stay in the file and are read as they are asked for: a vocabulary of
/// 262,144 tokens takes no memory here.
#[derive(Clone, PartialEq)]
pub struct Array {
    element: ValueType,
    len: usize,
    /// The elements, checked.
    content: Bytes,
}

impl Array {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, Refusal> {
        let (element, len, start) = Array::pass(cursor, 0)?;
        Ok(Array { element, len, content: cursor.since(start) })
    }

    /// Checks an array and moves past it. Gives its elements' type, their number, and where they start.
    fn pass(cursor: &mut Cursor<'_>, depth: usize) -> Result<(ValueType, usize, usize), Refusal> {
        if depth == MOST_NESTING {
            return Err(format!("expected arrays within arrays at most {MOST_NESTING} deep, found more"));
        }
        let element = ValueType::read(cursor)?;
        let announced = cursor.u64()?;
        let start = cursor.at();
        let short = |cursor: &Cursor<'_>| cursor.short(announced.saturating_mul(element.bytes().unwrap_or(1) as u64));
        let Ok(len) = usize::try_from(announced) else { return Err(short(cursor)) };
        match (element, element.bytes()) {
            (ValueType::Bool, _) => {
                read_bools(cursor, len)?;
            }
            (_, Some(bytes)) => match len.checked_mul(bytes) {
                Some(length) => {
                    cursor.take(length)?;
                }
                None => return Err(short(cursor)),
            },
            (ValueType::Array, _) => {
                for _ in 0..len {
                    Array::pass(cursor, depth + 1)?;
                }
            }
            _ => {
                for index in 0..len {
                    cursor.text().map_err(|refusal| format!("element {index} of {len}: {refusal}"))?;
                }
            }
        }
        Ok((element, len, start))
    }

    /// The type of its elements.
    pub fn element(&self) -> ValueType {
        self.element
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements.
    pub fn iter(&self) -> impl Iterator<Item = Value> {
        let mut cursor = Cursor::new(&self.content);
        // They were checked when the array was read.
        (0..self.len).map_while(move |_| Value::read_as(self.element, &mut cursor).ok())
    }

    /// Its elements as they are in the file: little-endian numbers, or texts with their lengths.
    pub fn content(&self) -> &Bytes {
        &self.content
    }

    /// Its elements, if they are texts.
    pub fn texts(&self) -> Option<Texts<'_>> {
        (self.element == ValueType::Text).then(|| Texts { cursor: Cursor::new(&self.content), left: self.len })
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.element, self.len)
    }
}

/// The texts of an array, one after another, borrowed from the file.
pub struct Texts<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Texts<'a> {
    /// Where in [`Array::content`] each text stands.
    pub fn ranges(mut self) -> impl Iterator<Item = Range<usize>> + use<'a> {
        std::iter::from_fn(move || {
            self.left = self.left.checked_sub(1)?;
            self.cursor.text_range().ok()
        })
    }
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        // They were checked when the array was read.
        self.cursor.text().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Texts<'_> {}

impl fmt::Debug for Texts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Texts({} left)", self.left)
    }
}

/// So many bytes, each 0 or 1.
fn read_bools<'a>(cursor: &mut Cursor<'a>, len: usize) -> Result<&'a [u8], Refusal> {
    let bytes = cursor.take(len)?;
    match bytes.iter().find(|byte| **byte > 1) {
        Some(byte) => Err(format!("expected 0 or 1 as truth value, found {byte}")),
        None => Ok(bytes),
    }
}
