// SPDX-License-Identifier: EUPL-1.2
//! Batches ahead of the step that needs them.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::order::shuffled;
use super::{Example, Examples, PackedBatch, Position, Sequence};
use crate::{Error, Result};

/// Batches that wait at most.
const AHEAD: usize = 4;

/// Examples that are encoded together, for each thread.
const TOGETHER: usize = 32;

/// In which order examples come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they stand.
    Sequential,
    /// In another one for each pass, which depends on this seed alone.
    Shuffled(u64),
}

/// How a [`Loader`] packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Tokens of a batch at most.
    pub batch_tokens: usize,
    /// Tokens of a sequence at most.
    pub max_length: usize,
    /// The order of the examples.
    pub order: Order,
    /// How often to go through them; without end if `None`.
    pub epochs: Option<u64>,
}

/// Gives batches in order. Threads of its own encode and pack the next ones meanwhile.
///
/// The same examples, options and position give the same batches, however many threads there are.
#[derive(Debug)]
pub struct Loader {
    /// `None` only while dropping.
    batches: Option<Receiver<Result<PackedBatch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Begins to load at a position: that of an earlier batch's [`PackedBatch::next`], or the beginning.
    ///
    /// # Errors
    /// [`Error::Option`] if a sequence may be longer than a batch; [`Error::File`] if no thread can be started.
    pub fn start(examples: Arc<dyn Examples>, options: LoaderOptions, from: Position) -> Result<Self> {
        if options.max_length == 0 || options.batch_tokens < options.max_length {
            let expected = format!("at least the {} tokens of a sequence, and those at least 1", options.max_length);
            return Err(Error::option("batch tokens", expected, options.batch_tokens));
        }
        let (sender, batches) = sync_channel(AHEAD);
        let work = move || Work { examples, options, sender }.run(from);
        let thread = std::thread::Builder::new().name("ingle-data".into()).spawn(work);
        let thread = thread.map_err(|error| Error::file("ingle-data", error))?;
        Ok(Loader { batches: Some(batches), thread: Some(thread) })
    }
}

impl Iterator for Loader {
    type Item = Result<PackedBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // The thread ends when nobody takes its batches.
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // One that has panicked has said so, and has no more batches.
            let _ = thread.join();
        }
    }
}

struct Work {
    examples: Arc<dyn Examples>,
    options: LoaderOptions,
    sender: SyncSender<Result<PackedBatch>>,
}

/// Nobody wants more.
struct Hung;

impl Work {
    fn run(self, from: Position) {
        let mut batch = PackedBatch { next: from, ..PackedBatch::default() };
        let mut from = from;
        let mut learnt = false;
        loop {
            if self.options.epochs.is_some_and(|epochs| from.epoch >= epochs) {
                break;
            }
            match self.pass(from, &mut batch) {
                Ok(sequences) => learnt |= sequences > 0,
                Err(Hung) => return,
            }
            from = Position { epoch: from.epoch + 1, example: 0, sequence: 0 };
            batch.next = from;
            // A pass without a token to predict would be followed by others like it.
            if !learnt && from.epoch > 1 {
                break;
            }
        }
        if !batch.sequences.is_empty() {
            let _ = self.sender.send(Ok(batch));
        }
    }

    /// One pass over the data, or the rest of one. Gives how many sequences there were.
    fn pass(&self, from: Position, batch: &mut PackedBatch) -> Result<usize, Hung> {
        let count = self.examples.count(from.epoch);
        let order = match self.options.order {
            Order::Sequential => (0..count).collect(),
            Order::Shuffled(seed) => shuffled(count, seed, from.epoch),
        };
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut sequences = 0;
        let mut skip = from.sequence;
        for start in (from.example..count).step_by(TOGETHER * workers) {
            let numbers = &order[start..count.min(start + TOGETHER * workers)];
            for (offset, example) in self.encode(from.epoch, numbers).into_iter().enumerate() {
                let example = match example {
                    Ok(example) => example,
                    Err(error) => {
                        let _ = self.sender.send(Err(error));
                        return Err(Hung);
                    }
                };
                let cut = example.sequences(self.options.max_length);
                let all = cut.len();
                for (index, sequence) in cut.into_iter().enumerate().skip(std::mem::take(&mut skip)) {
                    sequences += 1;
                    let here = Position { epoch: from.epoch, example: start + offset, sequence: index };
                    self.add(batch, sequence, here)?;
                    batch.next = match index + 1 == all {
                        true => Position { example: start + offset + 1, sequence: 0, ..here },
                        false => Position { sequence: index + 1, ..here },
                    };
                }
            }
        }
        Ok(sequences)
    }

    /// Adds a sequence, once the batch is sent if it has no room for it.
    fn add(&self, batch: &mut PackedBatch, sequence: Sequence, here: Position) -> Result<(), Hung> {
        if batch.tokens() + sequence.tokens.len() > self.options.batch_tokens {
            let full = PackedBatch { sequences: std::mem::take(&mut batch.sequences), next: here };
            self.sender.send(Ok(full)).map_err(|_| Hung)?;
        }
        batch.sequences.push(sequence);
        Ok(())
    }

    /// Examples by number, each thread a part of them.
    fn encode(&self, epoch: u64, numbers: &[usize]) -> Vec<Result<Example>> {
        let encode = |numbers: &[usize]| -> Vec<_> {
            numbers.iter().map(|&number| self.examples.example(epoch, number)).collect()
        };
        std::thread::scope(|scope| {
            let parts: Vec<_> = numbers.chunks(TOGETHER).map(|part| scope.spawn(move || encode(part))).collect();
            let joined = |part: std::thread::ScopedJoinHandle<'_, Vec<Result<Example>>>| {
                part.join().unwrap_or_else(|_| vec![Err(Error::file("ingle-data", "encoding has failed; report it"))])
            };
            parts.into_iter().flat_map(joined).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Example `i` has `1 + i % 7` tokens to predict, all of them `i`.
    struct Numbers(usize);

    impl Examples for Numbers {
        fn count(&self, _epoch: u64) -> usize {
            self.0
        }

        fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
            Ok(Example::learnt(vec![index as u32; 2 + index % 7]))
        }
    }

    const OPTIONS: LoaderOptions =
        LoaderOptions { batch_tokens: 16, max_length: 5, order: Order::Shuffled(3), epochs: Some(2) };

    fn batches(count: usize, options: LoaderOptions, from: Position) -> Vec<PackedBatch> {
        Loader::start(Arc::new(Numbers(count)), options, from).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn every_example_comes_once_a_pass_and_batches_are_full_good() {
        let batches = batches(300, OPTIONS, Position::default());
        let mut targets = vec![0; 300];
        for batch in &batches {
            assert!(batch.tokens() <= 16);
            for sequence in &batch.sequences {
                assert!(sequence.tokens.len() <= 5);
                sequence.targets.iter().for_each(|&target| targets[target as usize] += 1);
            }
        }
        assert!((0..300).all(|i| targets[i] == 2 * (1 + i % 7)));
        let (last, others) = batches.split_last().unwrap();
        assert!(others.iter().all(|batch| batch.tokens() > 16 - 5));
        assert_eq!(last.next, Position { epoch: 2, example: 0, sequence: 0 });
    }

    #[test]
    fn a_pass_goes_on_where_it_was_left_good() {
        let whole = batches(200, OPTIONS, Position::default());
        for at in [0, 1, 7, 40, whole.len() - 2] {
            assert_eq!(batches(200, OPTIONS, whole[at].next), whole[at + 1..], "after batch {at}");
        }
    }

    #[test]
    fn a_loader_without_end_stops_when_it_is_dropped_good() {
        let options = LoaderOptions { epochs: None, ..OPTIONS };
        let mut loader = Loader::start(Arc::new(Numbers(9)), options, Position::default()).unwrap();
        let last = loader.by_ref().take(100).last().unwrap().unwrap();
        assert!(last.next.epoch > 10);
    }

    #[test]
    fn a_batch_shorter_than_a_sequence_bad() {
        let options = LoaderOptions { batch_tokens: 4, ..OPTIONS };
        let refused = Loader::start(Arc::new(Numbers(9)), options, Position::default()).unwrap_err();
        let words = "batch tokens: expected at least the 5 tokens of a sequence, and those at least 1, found 4";
        assert_eq!(refused.to_string(), words);
    }

    #[test]
    fn an_example_that_fails_ends_the_loading_bad() {
        struct Failing;
        impl Examples for Failing {
            fn count(&self, _epoch: u64) -> usize {
                90
            }

            fn example(&self, _epoch: u64, index: usize) -> Result<Example> {
                match index {
                    50 => Err(Error::file("data", "is broken")),
                    _ => Ok(Example::learnt(vec![1, 2])),
                }
            }
        }
        let options = LoaderOptions { order: Order::Sequential, ..OPTIONS };
        let loaded: Vec<_> = Loader::start(Arc::new(Failing), options, Position::default()).unwrap().collect();
        let (last, others) = loaded.split_last().unwrap();
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(last.as_ref().unwrap_err().to_string(), "data: is broken");
    }

    #[test]
    fn nothing_to_learn_ends_ugly() {
        struct Empty(usize);
        impl Examples for Empty {
            fn count(&self, _epoch: u64) -> usize {
                self.0
            }

            fn example(&self, _epoch: u64, _index: usize) -> Result<Example> {
                Ok(Example::learnt(vec![1]))
            }
        }
        for count in [0, 5] {
            let options = LoaderOptions { epochs: None, ..OPTIONS };
            assert_eq!(Loader::start(Arc::new(Empty(count)), options, Position::default()).unwrap().count(), 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_the_sizes_every_target_comes_once_ugly(
            count in 0usize..150, max_length in 1usize..9, room in 0usize..20, seed: u64,
        ) {
            let options = LoaderOptions {
                batch_tokens: max_length + room, max_length, order: Order::Shuffled(seed), epochs: Some(1),
            };
            let batches = batches(count, options, Position::default());
            let mut targets = vec![0; count];
            for batch in &batches {
                prop_assert!(batch.tokens() <= max_length + room && batch.targets() > 0);
                let all = batch.sequences.iter().flat_map(|sequence| &sequence.targets);
                all.for_each(|&target| targets[target as usize] += 1);
            }
            prop_assert!((0..count).all(|i| targets[i] == 1 + i % 7));
        }
    }
}
