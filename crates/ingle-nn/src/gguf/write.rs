// SPDX-License-Identifier: EUPL-1.2
//! Writing GGUF files, of version 3.

use ingle_tensor::Shape;

use super::{GgmlType, ValueType};

/// Where a tensor's data begin: at a multiple of this many bytes.
pub const ALIGNMENT: usize = 32;

/// What stands before the data of a file that is being written: metadata, and what its tensors are.
///
/// ```
/// use ingle_nn::gguf::{GgmlType, Gguf, GgufHeader};
/// use ingle_tensor::Shape;
///
/// let mut header = GgufHeader::default();
/// header.set("general.architecture", "llama");
/// header.set("tokenizer.ggml.tokens", &["a", "b"][..]);
/// header.tensor("w", GgmlType::F32, &Shape::from([1, 2]));
/// // After the header come the tensors' data, each filled up to a multiple of `ALIGNMENT`.
/// let mut file = header.bytes();
/// file.extend([1.0f32, 2.0].map(f32::to_le_bytes).concat());
///
/// let gguf = Gguf::read("tiny.gguf".into(), file.into())?;
/// assert_eq!(gguf.metadata().read::<&str>("general.architecture")?, "llama");
/// assert_eq!(gguf.get("w").expect("it is there").describe(), "F32[1, 2]");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct GgufHeader {
    values: u64,
    metadata: Vec<u8>,
    tensors: u64,
    infos: Vec<u8>,
    /// Bytes of data so far.
    data: usize,
}

impl GgufHeader {
    /// Adds a metadata value. A key may be set only once.
    pub fn set(&mut self, key: &str, value: impl ToValue) {
        write_text(key, &mut self.metadata);
        self.metadata.extend((value.value_type() as u32).to_le_bytes());
        value.write(&mut self.metadata);
        self.values += 1;
    }

    /// Adds a tensor, whose axis lengths are given outermost first; its rows must be whole blocks. Gives the bytes that
    /// its data take, not filled up.
    pub fn tensor(&mut self, name: &str, ggml_type: GgmlType, shape: &Shape) -> usize {
        write_text(name, &mut self.infos);
        self.infos.extend((shape.len() as u32).to_le_bytes());
        for len in shape.iter().rev() {
            self.infos.extend((*len as u64).to_le_bytes());
        }
        self.infos.extend(ggml_type.id().to_le_bytes());
        self.infos.extend((self.data as u64).to_le_bytes());
        self.tensors += 1;
        let bytes = shape.elements() / ggml_type.block_len() * ggml_type.block_bytes();
        self.data += bytes.next_multiple_of(ALIGNMENT);
        bytes
    }

    /// The header as it stands in the file, filled up to where the data begin.
    pub fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.to_le_bytes(), self.values.to_le_bytes()].concat();
        let mut bytes = [b"GGUF", &3u32.to_le_bytes()[..], &counts, &self.metadata, &self.infos].concat();
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }
}

fn write_text(text: &str, into: &mut Vec<u8>) {
    into.extend((text.len() as u64).to_le_bytes());
    into.extend(text.as_bytes());
}

/// What can be the value of a key: numbers, truth values, texts, and slices of these.
pub trait ToValue {
    /// Its type in the file.
    fn value_type(&self) -> ValueType;

    /// Appends it, without its type.
    fn write(&self, into: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:ty => $value_type:ident),*) => {$(
        impl ToValue for $number {
            fn value_type(&self) -> ValueType {
                ValueType::$value_type
            }

            fn write(&self, into: &mut Vec<u8>) {
                into.extend(self.to_le_bytes());
            }
        }

        impl ElementType for $number {
            const ELEMENT: ValueType = ValueType::$value_type;
        }
    )*};
}

numbers!(u32 => U32, i32 => I32, f32 => F32, u64 => U64);

impl ToValue for bool {
    fn value_type(&self) -> ValueType {
        ValueType::Bool
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.push(u8::from(*self));
    }
}

impl ToValue for &str {
    fn value_type(&self) -> ValueType {
        ValueType::Text
    }

    fn write(&self, into: &mut Vec<u8>) {
        write_text(self, into);
    }
}

impl ToValue for String {
    fn value_type(&self) -> ValueType {
        ValueType::Text
    }

    fn write(&self, into: &mut Vec<u8>) {
        write_text(self, into);
    }
}

/// A type whose values may be the elements of an array.
pub trait ElementType: ToValue {
    /// Theirs in the file.
    const ELEMENT: ValueType;
}

impl ElementType for bool {
    const ELEMENT: ValueType = ValueType::Bool;
}

impl ElementType for &str {
    const ELEMENT: ValueType = ValueType::Text;
}

impl ElementType for String {
    const ELEMENT: ValueType = ValueType::Text;
}

impl<T: ElementType> ToValue for &[T] {
    fn value_type(&self) -> ValueType {
        ValueType::Array
    }

    fn write(&self, into: &mut Vec<u8>) {
        into.extend((T::ELEMENT as u32).to_le_bytes());
        into.extend((self.len() as u64).to_le_bytes());
        self.iter().for_each(|element| element.write(into));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Gguf, Texts, Value};

    #[test]
    fn every_value_is_read_back_good() {
        let mut header = GgufHeader::default();
        header.set("u32", 7u32);
        header.set("i32", -7i32);
        header.set("u64", 1u64 << 40);
        header.set("f32", 0.5f32);
        header.set("bool", true);
        header.set("text", "fire 🔥");
        header.set("string", String::new());
        header.set("texts", &["a".to_owned(), "▁b".to_owned()][..]);
        header.set("numbers", &[1.5f32, -2.0][..]);
        header.set("flags", &[true, false, true][..]);
        let gguf = Gguf::read("m.gguf".into(), header.bytes().into()).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.get("u32"), Some(&Value::U32(7)));
        assert_eq!(metadata.get("i32"), Some(&Value::I32(-7)));
        assert_eq!(metadata.get("u64"), Some(&Value::U64(1 << 40)));
        assert_eq!(metadata.get("f32"), Some(&Value::F32(0.5)));
        assert_eq!(metadata.get("bool"), Some(&Value::Bool(true)));
        assert_eq!(metadata.read::<&str>("text").unwrap(), "fire 🔥");
        assert_eq!(metadata.read::<&str>("string").unwrap(), "");
        assert_eq!(metadata.read::<Texts>("texts").unwrap().collect::<Vec<_>>(), ["a", "▁b"]);
        assert_eq!(metadata.read::<Vec<f32>>("numbers").unwrap(), [1.5, -2.0]);
        assert_eq!(metadata.read::<Vec<bool>>("flags").unwrap(), [true, false, true]);
    }

    #[test]
    fn tensors_lie_where_the_header_says_good() {
        let mut header = GgufHeader::default();
        let shapes = [Shape::from([3]), Shape::from([2, 64]), Shape::from([1, 256])];
        let types = [GgmlType::F32, GgmlType::Q4_0, GgmlType::Q6K];
        let sizes: Vec<usize> =
            types.iter().zip(&shapes).map(|(kind, shape)| header.tensor(kind.name(), *kind, shape)).collect();
        assert_eq!(sizes, [12, 72, 210]);
        let mut file = header.bytes();
        for (byte, size) in (1u8..).zip(&sizes) {
            file.extend(vec![byte; *size]);
            file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        }
        let gguf = Gguf::read("m.gguf".into(), file.into()).unwrap();
        for (byte, ((kind, shape), size)) in (1u8..).zip(types.iter().zip(&shapes).zip(sizes)) {
            let tensor = gguf.get(kind.name()).unwrap();
            assert_eq!((tensor.ggml_type(), tensor.shape()), (*kind, shape));
            assert_eq!(**tensor.content(), vec![byte; size]);
        }
    }
}
