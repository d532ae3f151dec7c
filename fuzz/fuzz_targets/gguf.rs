// SPDX-License-Identifier: EUPL-1.2
//! The container: header, metadata as every type, tensors.

#![no_main]

use ingle_nn::Checkpoint;
use ingle_nn::gguf::{Array, FromValue, Gguf, Metadata, Texts, Value};
use ingle_tensor::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(gguf) = Gguf::read("fuzz.gguf".into(), Bytes::copy_from_slice(data)) else { return };
    let metadata = gguf.metadata();
    for (key, value) in metadata.iter() {
        read_as_every_type(metadata, key);
        if let Value::Array(array) = value {
            walk_array(array);
        }
    }
    for (name, tensor) in gguf.tensors() {
        let (content, ggml_type) = (tensor.content(), tensor.ggml_type());
        assert_eq!(content.len(), tensor.bytes());
        let elements = tensor.shape().checked_elements().expect("what takes room can be counted");
        assert_eq!(content.len(), elements / ggml_type.block_len() * ggml_type.block_bytes());
        assert_eq!(gguf.get(name).map(|tensor| tensor.bytes()), Some(content.len()));
        // The last byte is in the file.
        std::hint::black_box(content.last());
    }
    ingle_fuzz::walk(&Checkpoint::from_gguf(&[gguf], str::to_owned).expect("names differ within a file"));
});

fn read_as_every_type(metadata: &Metadata, key: &str) {
    fn read<'a, T: FromValue<'a>>(metadata: &'a Metadata, key: &str) -> bool {
        metadata.read::<T>(key).is_ok()
    }
    let read = [
        read::<bool>(metadata, key),
        read::<u32>(metadata, key),
        read::<i32>(metadata, key),
        read::<u64>(metadata, key),
        read::<usize>(metadata, key),
        read::<f32>(metadata, key),
        read::<&str>(metadata, key),
        read::<&Array>(metadata, key),
        read::<Texts<'_>>(metadata, key),
        read::<Vec<bool>>(metadata, key),
        read::<Vec<u32>>(metadata, key),
        read::<Vec<f32>>(metadata, key),
    ];
    std::hint::black_box(read);
    std::hint::black_box(metadata.unexpected(key, "something else").to_string());
}

fn walk_array(array: &Array) {
    let mut elements = 0;
    for value in array.iter() {
        elements += 1;
        std::hint::black_box((value.integer(), value.to_string()));
    }
    assert_eq!(elements, array.len(), "what was checked can be read again");
    let (Some(texts), Some(again)) = (array.texts(), array.texts()) else { return };
    for (text, range) in texts.zip(again.ranges()) {
        assert_eq!(text.as_bytes(), &array.content()[range]);
    }
}
