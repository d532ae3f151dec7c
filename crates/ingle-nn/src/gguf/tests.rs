// SPDX-License-Identifier: EUPL-1.2

use proptest::prelude::*;

use super::*;

/// A GGUF file, written as the tests want it: right or wrong.
#[derive(Clone)]
struct File {
    version: u32,
    values: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    alignment: usize,
    data: usize,
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn value(key: &str, value_type: u32, content: &[u8]) -> Vec<u8> {
    [&text(key), &value_type.to_le_bytes()[..], content].concat()
}

fn array(element: u32, len: u64, content: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes(), &len.to_le_bytes()[..], content].concat()
}

/// Axes innermost first, as in the file.
fn tensor(name: &str, axes: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let axes_bytes: Vec<u8> = axes.iter().flat_map(|len| len.to_le_bytes()).collect();
    let count = (axes.len() as u32).to_le_bytes();
    [&text(name), &count[..], &axes_bytes, &id.to_le_bytes(), &offset.to_le_bytes()].concat()
}

impl File {
    fn new() -> Self {
        File { version: 3, values: Vec::new(), tensors: Vec::new(), alignment: 32, data: 0 }
    }

    /// One value of each type, and two tensors.
    fn rich() -> Self {
        let nested = array(9, 2, &[array(4, 1, &7u32.to_le_bytes()), array(8, 1, &text("deep"))].concat());
        let values = vec![
            value("u8", 0, &[200]),
            value("i8", 1, &[0xFF]),
            value("u16", 2, &[1, 2]),
            value("i16", 3, &[0xFE, 0xFF]),
            value("u32", 4, &70_000u32.to_le_bytes()),
            value("i32", 5, &(-70_000i32).to_le_bytes()),
            value("f32", 6, &1.5f32.to_le_bytes()),
            value("bool", 7, &[1]),
            value("text", 8, &text("fire 🔥")),
            value("texts", 9, &array(8, 3, &[text("a"), text(""), text("▁b")].concat())),
            value("u64", 10, &(1u64 << 40).to_le_bytes()),
            value("i64", 11, &(-1i64).to_le_bytes()),
            value("f64", 12, &0.25f64.to_le_bytes()),
            value("nested", 9, &nested),
            value("numbers", 9, &array(5, 2, &[1i32.to_le_bytes(), (-2i32).to_le_bytes()].concat())),
        ];
        let tensors = vec![tensor("w", &[32, 2], 2, 64), tensor("b", &[3], 0, 0)];
        File { values, tensors, data: 64 + 36, ..File::new() }
    }

    fn with(mut self, value: Vec<u8>) -> Self {
        self.values.push(value);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.values.len() as u64];
        let mut bytes = [&b"GGUF"[..], &self.version.to_le_bytes()].concat();
        bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes.extend(self.values.concat());
        bytes.extend(self.tensors.concat());
        if self.data > 0 {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        }
        let data = bytes.len();
        bytes.extend((0..self.data).map(|i| i as u8));
        assert_eq!(bytes.len(), data + self.data);
        bytes
    }

    fn read(&self) -> Result<Gguf> {
        Gguf::read("m.gguf".into(), self.bytes().into())
    }

    fn refused(&self) -> String {
        refused(self.bytes())
    }
}

fn refused(content: Vec<u8>) -> String {
    let error = Gguf::read("m.gguf".into(), content.into()).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error.strip_prefix("m.gguf: ").expect("the file's name").to_owned()
}

#[test]
fn every_type_of_value_good() {
    for version in [2, 3] {
        let gguf = File { version, ..File::rich() }.read().unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.iter().count(), 15);
        assert_eq!(metadata.get("u8"), Some(&Value::U8(200)));
        assert_eq!(metadata.get("i8"), Some(&Value::I8(-1)));
        assert_eq!(metadata.get("u16"), Some(&Value::U16(513)));
        assert_eq!(metadata.get("i16"), Some(&Value::I16(-2)));
        assert_eq!(metadata.read::<u32>("u32").unwrap(), 70_000);
        assert_eq!(metadata.read::<i32>("i32").unwrap(), -70_000);
        assert_eq!((metadata.read::<f32>("f32").unwrap(), metadata.read::<f32>("f64").unwrap()), (1.5, 0.25));
        assert!(metadata.read::<bool>("bool").unwrap());
        assert_eq!(metadata.read::<&str>("text").unwrap(), "fire 🔥");
        assert_eq!(metadata.read::<u64>("u64").unwrap(), 1 << 40);
        assert_eq!(metadata.read::<usize>("u16").unwrap(), 513, "of any width");
        assert_eq!(metadata.get("i64"), Some(&Value::I64(-1)));
        let texts = metadata.read::<Texts>("texts").unwrap();
        assert_eq!(texts.len(), 3);
        assert_eq!(texts.collect::<Vec<_>>(), ["a", "", "▁b"]);
        let array: &Array = metadata.read("texts").unwrap();
        let ranges: Vec<_> = array.texts().unwrap().ranges().collect();
        assert_eq!(ranges, [8..9, 17..17, 25..29]);
        assert_eq!(array.content()[ranges[2].clone()], *"▁b".as_bytes());
        assert_eq!(metadata.read::<Vec<i32>>("numbers").unwrap(), [1, -2]);
        assert_eq!(metadata.find::<u32>("none").unwrap(), None);
    }
}

#[test]
fn arrays_within_arrays_good() {
    let gguf = File::rich().read().unwrap();
    let nested: &Array = gguf.metadata().read("nested").unwrap();
    let inner: Vec<Value> = nested.iter().collect();
    let [Value::Array(numbers), Value::Array(texts)] = inner.as_slice() else { panic!("{inner:?}") };
    assert_eq!(numbers.iter().collect::<Vec<_>>(), [Value::U32(7)]);
    assert_eq!(texts.texts().unwrap().collect::<Vec<_>>(), ["deep"]);
}

#[test]
fn tensors_have_their_bytes_good() {
    let gguf = File::rich().read().unwrap();
    assert_eq!(gguf.tensors().map(|(name, _)| name).collect::<Vec<_>>(), ["b", "w"]);
    let w = gguf.get("w").unwrap();
    assert_eq!((w.describe().as_str(), w.ggml_type(), w.bytes()), ("Q4_0[2, 32]", GgmlType::Q4_0, 36));
    assert_eq!((w.content()[0], gguf.get("b").unwrap().content().len()), (64, 12));
    assert!(gguf.get("x").is_none());
}

#[test]
fn alignment_of_the_file_good() {
    let mut file = File::rich().with(value("general.alignment", 4, &64u32.to_le_bytes()));
    file.alignment = 64;
    assert_eq!(file.read().unwrap().get("w").unwrap().content()[0], 64);
}

#[test]
fn types_are_ggmls_good() {
    for ggml_type in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(ggml_type.id()), Some(ggml_type));
    }
    assert_eq!(GgmlType::from_id(4), None);
    let k = GgmlType::Q6K;
    assert_eq!((k.id(), k.name(), k.block_len(), k.block_bytes()), (14, "Q6_K", 256, 210));
}

#[test]
fn a_model_in_parts_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = |number: u32| folder.path().join(format!("m-{number:05}-of-00002.gguf"));
    let part = |number: u16| {
        let split = File::new().with(value("split.count", 2, &2u16.to_le_bytes()));
        split.with(value("split.no", 2, &number.to_le_bytes())).bytes()
    };
    std::fs::write(path(1), part(0)).unwrap();
    let error = Gguf::open_parts(path(1)).unwrap_err().to_string();
    assert!(error.ends_with("m-00002-of-00002.gguf: file not found; the model has 2 parts: download this one too"));
    std::fs::write(path(2), part(0)).unwrap();
    let error = Gguf::open_parts(path(1)).unwrap_err().to_string();
    assert!(error.ends_with("expected part 2 of 2 (split.no 1), found (Some(0), Some(2))"), "{error}");
    std::fs::write(path(2), part(1)).unwrap();
    assert_eq!(Gguf::open_parts(path(1)).unwrap().len(), 2);
    let error = Gguf::open_parts(path(2)).unwrap_err().to_string();
    assert!(error.ends_with("is part 2 of 2; give the part named *-00001-of-00002.gguf"), "{error}");
    std::fs::write(path(1), File::rich().bytes()).unwrap();
    assert_eq!(Gguf::open_parts(path(1)).unwrap().len(), 1);
}

#[test]
fn values_of_other_types_bad() {
    let gguf = File::rich().read().unwrap();
    let metadata = gguf.metadata();
    let cases = [
        (metadata.read::<u32>("i8").unwrap_err(), "`i8`: expected a whole number from 0 to 4294967295, found i8 -1"),
        (
            metadata.read::<u32>("u64").unwrap_err(),
            "`u64`: expected a whole number from 0 to 4294967295, found u64 109951162",
        ),
        (metadata.read::<&str>("u8").unwrap_err(), "`u8`: expected a text, found u8 200"),
        (metadata.read::<f32>("text").unwrap_err(), "`text`: expected a number with a fraction, found text `fire 🔥`"),
        (metadata.read::<bool>("f32").unwrap_err(), "`f32`: expected true or false, found f32 1.5"),
        (metadata.read::<Texts>("numbers").unwrap_err(), "`numbers`: expected an array of texts, found array of 2 i32"),
        (
            metadata.read::<Vec<f32>>("texts").unwrap_err(),
            "`texts`: expected an array of which each element is a number with a fraction, found array of 3 text",
        ),
        (metadata.read::<&str>("x").unwrap_err(), "`x` is missing, expected a text; convert the model again"),
    ];
    for (error, expected) in cases {
        let error = error.to_string();
        assert!(error.starts_with(&format!("m.gguf: metadata {expected}")), "{error}");
    }
}

#[test]
fn other_files_bad() {
    let cases: [(&[u8], &str); 4] = [
        (b"", "expected a GGUF file, beginning with `GGUF`, found ``; download the file again"),
        (b"\x7fELF", "expected a GGUF file, beginning with `GGUF`, found `\\x7fELF`; download the file again"),
        (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer, not the model; run `git lfs pull`"),
        (b"tjgg\x03\0\0\0", "is of a format that came before GGUF; convert the model again with a current llama.cpp"),
    ];
    for (content, expected) in cases {
        assert_eq!(refused(content.to_vec()), expected);
    }
    let error = Gguf::open("/nowhere/m.gguf").unwrap_err().to_string();
    assert_eq!(error, "/nowhere/m.gguf: file not found; give the path of a .gguf file");
}

#[test]
fn other_versions_bad() {
    for (version, expected) in [
        (1, "expected GGUF version 2 or 3, found 1; convert the model again with llama.cpp"),
        (4, "expected GGUF version 2 or 3, found 4; convert the model again with llama.cpp"),
        (0x0300_0000, "is big-endian, expected little-endian; convert the model again for this machine"),
    ] {
        assert_eq!(File { version, ..File::rich() }.refused(), expected);
    }
}

#[test]
fn lying_metadata_bad() {
    let again = "truncated or damaged; download the file again";
    let deep = (0..9).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    for (metadata, expected) in [
        (value("k", 13, &[]), "metadata `k`: expected a value type from 0 to 12, found 13".to_owned()),
        (value("k", 7, &[2]), "metadata `k`: expected 0 or 1 as truth value, found 2".into()),
        (value("k", 9, &array(7, 2, &[1, 3])), "metadata `k`: expected 0 or 1 as truth value, found 3".into()),
        (value("k", 8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xC3, 0x28]), "metadata `k`: byte 45: expected UTF-8: ".into()),
        (
            value("k", 8, &u64::MAX.to_le_bytes()),
            format!("metadata `k`: byte 45: expected 18446744073709551615 bytes to follow, found 0: {again}"),
        ),
        (
            value("k", 9, &array(6, 1 << 61, &[0; 8])),
            format!("metadata `k`: byte 49: expected 9223372036854775808 bytes to follow, found 8: {again}"),
        ),
        (
            value("k", 9, &array(10, u64::MAX, &[0; 8])),
            format!("metadata `k`: byte 49: expected 18446744073709551615 bytes to follow, found 8: {again}"),
        ),
        (
            value("k", 9, &array(8, u64::MAX, &text("a"))),
            format!(
                "metadata `k`: element 1 of 18446744073709551615: byte 58: expected 8 bytes to follow, found 0: {again}"
            ),
        ),
        (value("k", 9, &array(9, u64::MAX, &[])), "metadata `k`: byte 49: expected 4 bytes to follow".into()),
        (value("k", 9, &deep), "metadata `k`: expected arrays within arrays at most 8 deep, found more".into()),
    ] {
        let error = File::new().with(metadata).refused();
        assert!(error.starts_with(&expected), "{error}");
    }
    let twice = value("k", 0, &[1]);
    let error = File::new().with(twice.clone()).with(twice).refused();
    assert_eq!(error, "metadata `k` is there twice; download the file again");
    let long = "x".repeat(100_000);
    assert!(File::new().with(value(&long, 99, &[])).refused().len() < 200, "a message quotes the start of a key");
}

#[test]
fn absurd_counts_bad() {
    for at in [8, 16] {
        let mut content = File::new().bytes();
        content[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        let size = content.len();
        let error = refused(content);
        assert!(error.contains("announces ") && error.contains("18446744073709551615 "), "{error}");
        let advice = format!("more than {size} bytes can hold: truncated or damaged; download the file again");
        assert!(error.ends_with(&advice), "{error}");
    }
}

#[test]
fn lying_tensors_bad() {
    let missing = "truncated; download the file again";
    for (second, expected) in [
        (
            tensor("b", &[3], 4, 0),
            "tensor `b`: type 4 is unknown: withdrawn from ggml, or newer than this program; convert the model again"
                .to_owned(),
        ),
        (tensor("b", &[1, 1, 1, 1, 1], 0, 0), "tensor `b`: expected at most 4 axes, found 5".into()),
        (tensor("b", &[31], 2, 0), "tensor `b`: Q4_0[31]: expected rows of a multiple of 32 elements".into()),
        (
            tensor("b", &[1 << 40, 1 << 40], 0, 0),
            "tensor `b`: F32[1099511627776, 1099511627776] has more elements than fit any memory".into(),
        ),
        (tensor("b", &[3], 0, 16), "tensor `b`: expected an offset that is a multiple of 32, found 16".into()),
        (tensor("b", &[3], 0, 64), "tensors `b` and `w` overlap at byte 64 of the data".into()),
        (tensor("b", &[20], 0, 0), "tensors `b` and `w` overlap at byte 64 of the data".into()),
        (
            tensor("b", &[3], 0, 128),
            format!("tensor `b`: F32[3] takes 12 bytes from byte 128 of the data, of which there are 100: {missing}"),
        ),
        (
            tensor("b", &[3], 0, u64::MAX - 31),
            format!(
                "tensor `b`: F32[3] takes 12 bytes from byte 18446744073709551584 of the data, of which there are \
                 100: {missing}"
            ),
        ),
        (tensor("w", &[3], 0, 0), "tensor `w` is there twice; download the file again".into()),
    ] {
        let mut file = File::rich();
        file.tensors[1] = second;
        assert_eq!(file.refused(), expected);
    }
}

#[test]
fn odd_alignments_bad() {
    for (value_type, content, found) in
        [(4, &[0, 0, 0, 0][..], "u32 0"), (4, &[48, 0, 0, 0], "u32 48"), (6, &[0, 0, 0, 0], "f32 0")]
    {
        let error = File::rich().with(value("general.alignment", value_type, content)).refused();
        assert_eq!(error, format!("metadata `general.alignment`: expected a power of two, found {found}"));
    }
    let error = File::rich().with(value("general.alignment", 10, &(1u64 << 63).to_le_bytes())).refused();
    assert!(error.contains("from byte 0 of the data, of which there are 0: truncated"), "{error}");
}

#[test]
fn a_vocabulary_without_tensors_ends_early_ugly() {
    let file = File { tensors: Vec::new(), data: 0, ..File::rich() };
    assert_eq!(file.read().unwrap().tensors().count(), 0);
    let empty = vec![tensor("none", &[0, 7], 0, 0), tensor("scalar", &[], 24, 0)];
    let gguf = File { tensors: empty, data: 1, ..File::new() }.read().unwrap();
    assert_eq!((gguf.get("none").unwrap().bytes(), gguf.get("scalar").unwrap().describe().as_str()), (0, "I8[]"));
}

/// Reads a file of this content, and everything in it.
fn read_any(content: Vec<u8>) {
    let Ok(gguf) = Gguf::read("m.gguf".into(), content.into()) else { return };
    for (_, tensor) in gguf.tensors() {
        assert!(tensor.describe().len() < 200 && tensor.content().len() == tensor.bytes());
    }
    for (_, value) in gguf.metadata().iter() {
        assert!(value.to_string().len() < 400);
        if let Value::Array(array) = value {
            assert_eq!(array.iter().count(), array.len());
            assert!(array.texts().is_none_or(|texts| texts.count() == array.len()));
        }
    }
}

proptest! {
    #[test]
    fn any_truncation_ugly(length in 0usize..900) {
        let mut content = File::rich().bytes();
        let whole = content.len();
        prop_assert!(whole < 900);
        content.truncate(length);
        prop_assert_eq!(Gguf::read("m.gguf".into(), content.into()).is_ok(), length >= whole);
    }

    #[test]
    fn any_bit_flips_ugly(flips in prop::collection::vec((0usize..900, 0u32..8), 1..8)) {
        let mut content = File::rich().bytes();
        for (at, bit) in flips {
            let at = at % content.len();
            content[at] ^= 1 << bit;
        }
        read_any(content);
    }

    #[test]
    fn any_numbers_ugly(changes in prop::collection::vec((0usize..900, any::<u64>()), 1..4)) {
        let mut content = File::rich().bytes();
        for (at, number) in changes {
            let at = at % (content.len() - 8);
            content[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        read_any(content);
    }

    #[test]
    fn any_bytes_ugly(mut content in prop::collection::vec(any::<u8>(), 0..200)) {
        content.splice(0..content.len().min(8), *b"GGUF\x03\0\0\0");
        read_any(content);
    }
}
