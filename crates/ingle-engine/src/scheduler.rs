// SPDX-License-Identifier: EUPL-1.2
//! Which sequences the next step computes, and how many tokens of each.

use std::collections::VecDeque;

use crate::blocks::{BlockManager, Grow};
use crate::sequence::Sequence;
use crate::{Error, RequestId};

/// How much one step may take on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepLimits {
    /// Tokens computed. Sequences that need one more are always taken; prompts get what they leave, and at least
    /// one token.
    pub tokens: usize,
    /// Rows of logits.
    pub rows: usize,
    /// Sequences running at once.
    pub sequences: usize,
}

/// The sequences of an engine, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: StepLimits,
    pub blocks: BlockManager,
    pub waiting: VecDeque<Sequence>,
    /// Each has a lease on the cache.
    pub running: Vec<Sequence>,
    /// What happened since the engine last took note.
    pub begun: Begun,
    step: usize,
}

/// Requests that were begun, and begun again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begun {
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub preemptions: usize,
}

/// What is left of a step's limits.
struct Budget {
    tokens: usize,
    rows: usize,
}

impl Budget {
    /// How many tokens of a sequence it can pay for.
    fn affords(&self, sequence: &Sequence) -> usize {
        if sequence.awaits_its_end() {
            return 0;
        }
        let start = sequence.computed;
        let wanted = sequence.end().min(sequence.next_row() + self.rows) - start;
        wanted.min(self.tokens)
    }

    fn pay(&mut self, sequence: &Sequence) {
        self.tokens -= sequence.chunk;
        self.rows -= sequence.rows();
    }
}

impl Scheduler {
    pub fn new(limits: StepLimits, blocks: BlockManager) -> Self {
        Scheduler { limits, blocks, waiting: VecDeque::new(), running: Vec::new(), begun: Begun::default(), step: 0 }
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Sets the chunk of each running sequence for the next step: first one token of each that needs no more, as
    /// all that decode, then prompts that were begun, then new ones. Preempts the youngest when the pool is exhausted.
    ///
    /// Returns a sequence that cannot be computed though it has the pool to itself, with the reason.
    pub fn schedule(&mut self, storage: &mut impl Grow) -> Option<(Sequence, Error)> {
        self.step += 1;
        let ready = self.running.iter().filter(|sequence| sequence.is_ready()).count();
        let mut budget = Budget { tokens: self.limits.tokens.max(ready + 1), rows: self.limits.rows };
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        // Where there are fewer rows than sequences that are ready for one, they take turns.
        order.sort_by_key(|&index| match &self.running[index] {
            sequence if sequence.is_ready() => (0, sequence.last_step),
            _ => (1, 0),
        });
        for index in order {
            self.extend(index, &mut budget, storage);
        }
        self.requeue_preempted();
        self.admit(&mut budget, storage);
        self.stuck()
    }

    /// Gives a running sequence the chunk it can have.
    fn extend(&mut self, index: usize, budget: &mut Budget, storage: &mut impl Grow) {
        loop {
            let sequence = &mut self.running[index];
            let start = sequence.computed;
            let affordable = budget.affords(sequence);
            let Some(lease) = &mut sequence.lease else { return };
            if affordable == 0 {
                return;
            }
            let covered = self.blocks.reserve(lease, start, start + affordable, storage);
            if covered > start {
                sequence.chunk = covered.min(start + affordable) - start;
                sequence.last_step = self.step;
                self.blocks.register(lease, &sequence.tokens, sequence.known.min(start + sequence.chunk));
                budget.pay(sequence);
                return;
            }
            if !self.preempt_youngest_after(index) {
                return;
            }
        }
    }

    /// Makes room at the cost of the youngest sequence behind `index` that this step does not compute yet:
    /// one that it does may be shared from already.
    fn preempt_youngest_after(&mut self, index: usize) -> bool {
        let behind = self.running[index + 1..].iter_mut().rev();
        let victim = behind.filter(|sequence| sequence.chunk == 0).find_map(|sequence| {
            sequence.computed = 0;
            sequence.lease.take()
        });
        match victim {
            Some(lease) => {
                self.blocks.release(lease);
                self.begun.preemptions += 1;
                tracing::debug!("a sequence makes room, to be computed again");
                true
            }
            None => false,
        }
    }

    /// Puts the sequences that lost their lease before all that wait, in order.
    fn requeue_preempted(&mut self) {
        let preempted: Vec<Sequence> = self.running.extract_if(.., |sequence| sequence.lease.is_none()).collect();
        for sequence in preempted.into_iter().rev() {
            self.waiting.push_front(sequence);
        }
    }

    /// Begins waiting sequences, first come first, as far as there is room. Nobody is preempted for them.
    fn admit(&mut self, budget: &mut Budget, storage: &mut impl Grow) {
        while self.running.len() < self.limits.sequences && budget.tokens > 0 {
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            let (mut lease, cached) = self.blocks.admit(sequence.adapter, &sequence.tokens, sequence.next_row());
            sequence.computed = cached;
            let affordable = budget.affords(&sequence);
            let alone = self.running.is_empty();
            let fits = alone || self.blocks.has_room(&lease, sequence.tokens.len());
            let end = cached + affordable;
            let covered = if fits { self.blocks.reserve(&mut lease, cached, end, storage) } else { 0 };
            // One that is ready, while there is no row left, is begun all the same: its turn will come.
            let begins = fits && (covered > cached || affordable == 0);
            if !begins && !alone {
                self.blocks.release(lease);
                sequence.computed = 0;
                self.waiting.push_front(sequence);
                return;
            }
            if sequence.cached_tokens.is_none() {
                sequence.cached_tokens = Some(cached);
                self.begun.prompt_tokens += sequence.prompt_tokens;
                self.begun.cached_tokens += cached;
            }
            sequence.chunk = covered.min(end).saturating_sub(cached);
            if sequence.chunk > 0 {
                sequence.last_step = self.step;
            }
            self.blocks.register(&mut lease, &sequence.tokens, sequence.known.min(cached + sequence.chunk));
            sequence.lease = Some(lease);
            budget.pay(&sequence);
            self.running.push(sequence);
        }
    }

    /// Takes out the oldest running sequence if nothing at all can be computed.
    fn stuck(&mut self) -> Option<(Sequence, Error)> {
        let goes_on = |sequence: &Sequence| sequence.chunk > 0 || sequence.awaited.is_some();
        if self.running.is_empty() || self.running.iter().any(goes_on) {
            return None;
        }
        let sequence = self.take(0);
        let error = match self.blocks.take_refusal() {
            Some(error) => error.into(),
            None => Error::Request {
                message: format!(
                    "the key-value cache cannot hold the {} tokens of this request; allow it more memory",
                    sequence.tokens.len()
                ),
            },
        };
        Some((sequence, error))
    }

    /// Takes out a running sequence and gives its blocks back.
    pub fn take(&mut self, index: usize) -> Sequence {
        let mut sequence = self.running.remove(index);
        if let Some(lease) = sequence.lease.take() {
            self.blocks.release(lease);
        }
        sequence
    }

    /// Takes out the sequences that `ended` says, running ones first.
    pub fn take_where(&mut self, ended: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        let mut taken = Vec::new();
        let mut index = 0;
        while index < self.running.len() {
            if ended(&self.running[index]) {
                taken.push(self.take(index));
            } else {
                index += 1;
            }
        }
        if self.waiting.iter().any(&ended) {
            let (gone, waiting): (VecDeque<_>, _) = std::mem::take(&mut self.waiting).into_iter().partition(&ended);
            self.waiting = waiting;
            taken.extend(gone);
        }
        taken
    }

    /// A sequence, running or waiting.
    pub fn find(&mut self, id: RequestId) -> Option<&mut Sequence> {
        self.running.iter_mut().chain(&mut self.waiting).find(|sequence| sequence.id == id)
    }

    /// Takes out a sequence.
    pub fn take_id(&mut self, id: RequestId) -> Option<Sequence> {
        self.take_where(|sequence| sequence.id == id).pop()
    }

    /// After a failed step, whose cache is lost: takes out the running sequences that `failed` says. The others begin
    /// again.
    pub fn abandon(&mut self, failed: impl Fn(&Sequence) -> bool) -> Vec<Sequence> {
        let mut lost = Vec::new();
        for mut sequence in std::mem::take(&mut self.running).into_iter().rev() {
            sequence.lease = None;
            let failed = failed(&sequence);
            sequence.begin_again();
            match failed {
                true => lost.push(sequence),
                false => self.waiting.push_front(sequence),
            }
        }
        self.waiting.iter_mut().for_each(Sequence::begin_again);
        self.blocks.reset();
        lost.reverse();
        lost
    }
}
