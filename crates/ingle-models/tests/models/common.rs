// SPDX-License-Identifier: EUPL-1.2
//! The fixtures, and a session that feeds tokens to a model through its cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingle_cpu::{CpuDevice, CpuOptions};
use ingle_models::{LoadOptions, Model, load};
use ingle_nn::{Activations, AdapterId, Batch, BlockTable, KvCache, ModelFiles, Routes};
use ingle_tensor::{DType, DeviceHandle, Tensor};
use safetensors::SafeTensors;

/// Small, so that every fixture's prompt spans many blocks.
const BLOCK_SIZE: usize = 4;

/// A folder of random weights with the logits that transformers computes.
pub struct Fixture {
    pub name: String,
    pub path: PathBuf,
    pub tokens: Vec<i32>,
    /// `[tokens, vocab]`, in float32.
    pub logits_f32: Rows,
    /// `[tokens, vocab]`, in bfloat16.
    pub logits_bf16: Rows,
}

impl Fixture {
    /// Every fixture, by name.
    pub fn all() -> Vec<Fixture> {
        let folders = folders("models");
        assert!(folders.len() >= 20, "expected 20 fixtures or more, found {}", folders.len());
        folders.into_iter().map(Fixture::read).collect()
    }

    /// The fixture of this name.
    pub fn named(name: &str) -> Fixture {
        Fixture::all().into_iter().find(|fixture| fixture.name == name).unwrap_or_else(|| panic!("no fixture {name}"))
    }

    fn read(path: PathBuf) -> Fixture {
        let expected = Expected::read(&path);
        Fixture {
            name: name_of(&path),
            tokens: expected.tokens(),
            logits_f32: expected.rows("logits_f32"),
            logits_bf16: expected.rows("logits_bf16"),
            path,
        }
    }

    /// The fixture's files.
    pub fn files(&self) -> ModelFiles {
        ModelFiles::directory(&self.path).unwrap()
    }

    /// The model, with its weights as `dtype`.
    pub fn load(&self, device: &DeviceHandle, dtype: DType) -> Box<dyn Model> {
        load(&self.files(), device, &LoadOptions { dtype: Some(dtype) }, &mut |_| {}).unwrap()
    }
}

/// The folders of `fixtures/<kind>`, sorted.
pub fn folders(kind: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(kind);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// A folder's own name.
pub fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// What a folder's `expected.safetensors` holds.
pub struct Expected(Vec<u8>);

impl Expected {
    pub fn read(folder: &Path) -> Expected {
        Expected(std::fs::read(folder.join("expected.safetensors")).unwrap())
    }

    fn words(&self, name: &str) -> (Vec<usize>, Vec<[u8; 4]>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let words = tensor.data().chunks_exact(4).map(|word| word.try_into().unwrap()).collect();
        (tensor.shape().to_vec(), words)
    }

    pub fn tokens(&self) -> Vec<i32> {
        self.words("tokens").1.into_iter().map(i32::from_le_bytes).collect()
    }

    pub fn rows(&self, name: &str) -> Rows {
        let (shape, words) = self.words(name);
        Rows { width: shape[1], values: words.into_iter().map(f32::from_le_bytes).collect() }
    }
}

/// Rows of logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub width: usize,
    pub values: Vec<f32>,
}

impl Rows {
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    /// The largest magnitude.
    pub fn largest(&self) -> f32 {
        self.values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
    }

    /// The largest difference.
    pub fn difference(&self, other: &Rows) -> f32 {
        assert_eq!((self.width, self.values.len()), (other.width, other.values.len()));
        let differences = self.values.iter().zip(&other.values).map(|(a, b)| (a - b).abs());
        // NaN would vanish in a maximum.
        differences.fold(0.0, |largest, difference| if difference <= largest { largest } else { difference })
    }

    fn bits(&self) -> Vec<u32> {
        self.values.iter().map(|value| value.to_bits()).collect()
    }

    /// Fails unless both are the same to the last bit.
    pub fn assert_bit_equal(&self, other: &Rows, what: &str) {
        let differs = self.bits().iter().zip(other.bits()).filter(|(a, b)| **a != *b).count();
        let sizes = (self.values.len(), other.values.len());
        assert!(sizes.0 == sizes.1 && differs == 0, "{what}: {differs} of {} logits differ", sizes.0);
    }
}

/// The CPU with this many threads.
pub fn cpu(threads: usize) -> DeviceHandle {
    Arc::new(CpuDevice::new(CpuOptions { threads: Some(threads), ..Default::default() }).unwrap())
}

/// Every device there is to compare: the CPU, and MLX where this was built with it.
pub fn devices() -> Vec<DeviceHandle> {
    std::iter::once(cpu(2)).chain(ingle_mlx::device().map(Result::unwrap)).collect()
}

/// Tokens of one sequence, to be fed in one step.
pub struct Part<'a> {
    pub sequence: usize,
    pub tokens: &'a [i32],
}

/// A model with a cache that has room for some sequences.
pub struct Session<'a> {
    model: &'a dyn Model,
    cache: KvCache,
    /// Tokens each sequence has so far.
    lengths: Vec<usize>,
    /// Blocks each sequence may have.
    blocks: usize,
    /// What is kept for the way back.
    pub activations: Activations,
    /// The adapter that each sequence goes through, if any.
    pub adapters: Vec<Option<AdapterId>>,
}

impl<'a> Session<'a> {
    /// Room for `sequences` sequences of up to `length` tokens, keys and values kept as `dtype`.
    pub fn new(model: &'a dyn Model, [sequences, length]: [usize; 2], dtype: DType) -> Self {
        let mut cache = KvCache::new(model.device(), &model.cache_layers(), BLOCK_SIZE, dtype).unwrap();
        let blocks = length.div_ceil(BLOCK_SIZE);
        for group in 0..cache.groups().len() {
            cache.grow(group, sequences * blocks).unwrap();
        }
        let (lengths, adapters) = (vec![0; sequences], vec![None; sequences]);
        Session { model, cache, lengths, blocks, activations: Activations::Kept, adapters }
    }

    /// The block that holds a sequence's `index`-th block of positions: neither in order nor beside each other.
    fn block(&self, sequence: usize, index: usize) -> usize {
        (self.blocks - 1 - index) * self.lengths.len() + sequence
    }

    /// One forward pass over `parts`: the logits of all their tokens, in order.
    pub fn step(&mut self, parts: &[Part<'_>]) -> Rows {
        let logits = self.forward(parts);
        Rows { width: logits.shape()[1], values: logits.to_vec().unwrap() }
    }

    /// [`Session::step`], on the device.
    pub fn forward(&mut self, parts: &[Part<'_>]) -> Tensor {
        let (mut tokens, mut positions, mut sequences, mut slots) = (vec![], vec![], vec![], vec![]);
        for &Part { sequence, tokens: new } in parts {
            for (position, token) in (self.lengths[sequence]..).zip(new) {
                assert!(position < self.blocks * BLOCK_SIZE, "the session has no room for so many tokens");
                tokens.push(*token);
                positions.push(position as i32);
                sequences.push(sequence as i32);
                let block = self.block(sequence, position / BLOCK_SIZE);
                slots.push((block * BLOCK_SIZE + position % BLOCK_SIZE) as i32);
            }
            self.lengths[sequence] += new.len();
        }
        let rows = 0..self.lengths.len();
        let blocks: Vec<i32> =
            rows.flat_map(|s| (0..self.blocks).map(move |i| (s, i))).map(|(s, i)| self.block(s, i) as i32).collect();

        let device = self.model.device();
        let list = |values: &[i32]| Tensor::from_slice(device, values, [values.len()]).unwrap();
        let table = || BlockTable {
            blocks: Tensor::from_slice(device, &blocks, [self.lengths.len(), self.blocks]).unwrap(),
            slots: list(&slots),
        };
        let adapters: Vec<_> = sequences.iter().map(|sequence| self.adapters[*sequence as usize]).collect();
        let routes = Routes::new(device, &adapters).unwrap();
        let batch = Batch {
            tokens: list(&tokens),
            positions: list(&positions),
            sequences: list(&sequences),
            tables: self.cache.groups().iter().map(|_| table()).collect(),
            outputs: list(&(0..tokens.len() as i32).collect::<Vec<_>>()),
            output_routes: routes.clone(),
            routes,
            activations: self.activations,
            hidden: None,
            dropout: None,
        };
        let logits = self.model.forward(&batch, &mut self.cache).unwrap();
        assert_eq!(logits.dtype(), DType::F32);
        assert_eq!(**logits.shape(), [tokens.len(), self.model.summary().vocab_size]);
        logits
    }
}

/// The logits of `tokens`, alone in a cache of its own, fed `chunk` tokens at a time.
pub fn logits_alone(model: &dyn Model, tokens: &[i32], chunk: usize, cache: DType) -> Rows {
    let mut session = Session::new(model, [1, tokens.len()], cache);
    let mut rows = Rows { width: model.summary().vocab_size, values: Vec::new() };
    for tokens in tokens.chunks(chunk) {
        rows.values.extend(session.step(&[Part { sequence: 0, tokens }]).values);
    }
    rows
}
