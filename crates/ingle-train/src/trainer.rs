// SPDX-License-Identifier: EUPL-1.2
//! The loop: batches, gradients, a step, and now and then a validation and a checkpoint.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ingle_models::Model;

use crate::data::{Examples, Loader, LoaderOptions, Order, PackedBatch};
use crate::event::{Beginning, Event, Observer, Step, Validation};
use crate::learner::{Learner, Rates};
use crate::state::{Best, Checkpoints, Progress};
use crate::{Error, Result, TrainOptions, Trained, Until};

/// Trains a model on examples. The model's own forward pass is the trainer's, and its attention goes through a paged
/// cache as it does when text is generated.
pub struct Trainer {
    learner: Learner,
    options: TrainOptions,
    training: Arc<dyn Examples>,
    validation: Option<Arc<dyn Examples>>,
    checkpoints: Option<Checkpoints>,
    progress: Progress,
}

/// Why a training has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was as long as it should be.
    Done,
    /// The validation loss did not fall any more.
    Stalled,
    /// An observer asked for it. It can go on later.
    Stopped,
}

/// What a training has come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Steps made, those before a resumption included.
    pub steps: u64,
    /// Why it has ended.
    pub ending: Ending,
    /// The lowest validation loss, in nats per token, and the step after which it was found.
    pub best: Option<(u64, f32)>,
}

impl Trainer {
    /// A trainer of `model`, or of an adapter that it has, in the dtype in which the weights are: beside those of half
    /// width the optimiser keeps exact ones.
    ///
    /// # Errors
    /// [`Error::Option`] for options that cannot be met, or if the weights of a quantised model are to be trained; past
    /// the device's memory.
    pub fn new(
        model: Box<dyn Model>,
        trained: Trained,
        training: Arc<dyn Examples>,
        options: TrainOptions,
    ) -> Result<Self> {
        options.check()?;
        let learner = Learner::new(model, trained, &options)?;
        let progress = Progress::default();
        Ok(Trainer { learner, options, training, validation: None, checkpoints: None, progress })
    }

    /// The same, with examples on which the loss is measured now and then: see [`TrainOptions::validate_every`]. It is
    /// at the end in any case.
    #[must_use]
    pub fn with_validation(self, examples: Arc<dyn Examples>) -> Self {
        Trainer { validation: Some(examples), ..self }
    }

    /// The same, with a folder for checkpoints.
    #[must_use]
    pub fn with_checkpoints(self, folder: impl Into<PathBuf>) -> Self {
        Trainer { checkpoints: Some(Checkpoints::new(folder)), ..self }
    }

    /// Goes on from the newest checkpoint in the folder. Gives the step it was written after; `None`, and begins at the
    /// beginning, if there is none.
    ///
    /// # Errors
    /// [`Error::Option`] if it is one of another training; what is wrong with its files.
    pub fn resume(&mut self) -> Result<Option<u64>> {
        let newest = match &self.checkpoints {
            Some(checkpoints) => checkpoints.newest()?,
            None => None,
        };
        let Some(path) = newest else { return Ok(None) };
        let examples = self.training.count(0);
        self.progress = Checkpoints::load(&path, self.learner.parameters_mut(), &self.options, examples)?;
        Ok(Some(self.progress.step))
    }

    /// Trains until it is done, the validation loss stalls or an observer asks to stop; and writes a checkpoint then.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if the loss is no number any more: the step is not made, and the last checkpoint stays.
    /// What is wrong with the data, the disk or the device; the last checkpoint stays then, too.
    pub fn run(&mut self, observer: &mut dyn Observer) -> Result<Outcome> {
        let begun = observer.observe(&Event::Begun(Beginning {
            step: self.progress.step,
            trained: self.learner.trained_elements(),
            parameters: self.learner.model().summary().parameters,
            examples: self.training.count(0),
        }))?;
        let ending = match begun {
            ControlFlow::Break(()) => Ending::Stopped,
            ControlFlow::Continue(()) => {
                // Every step needs the same memory, and fresh pages take longer than many an operation.
                let device = self.learner.model().device().clone();
                device.set_cache_limit(Some(usize::MAX));
                let ending = self.steps(observer);
                device.set_cache_limit(None);
                ending?
            }
        };
        let best = self.progress.best.map(|Best { step, loss }| (step, loss));
        Ok(Outcome { steps: self.progress.step, ending, best })
    }

    /// The model as it is after the validation with the lowest loss, if there is a folder in which it was kept, or else
    /// as it is now.
    ///
    /// # Errors
    /// Those of reading what was kept.
    pub fn into_model(mut self) -> Result<Box<dyn Model>> {
        if let (Some(checkpoints), Some(best)) = (&self.checkpoints, &self.progress.best) {
            checkpoints.load_best(best, self.learner.parameters_mut())?;
        }
        self.learner.into_model()
    }

    fn steps(&mut self, observer: &mut dyn Observer) -> Result<Ending> {
        let mut loader = self.load()?;
        let (began, done_before) = (Instant::now(), self.done());
        let mut saved = self.progress.step;
        let ending = loop {
            if self.stalled() {
                break Ending::Stalled;
            }
            if self.done() >= 1.0 {
                break Ending::Done;
            }
            let clock = Instant::now();
            let batches: Vec<PackedBatch> = loader.by_ref().take(self.options.accumulate).collect::<Result<_>>()?;
            if batches.is_empty() {
                break Ending::Done;
            }
            let step = self.step(&batches, clock)?;
            let (done, seconds) = (self.done(), began.elapsed().as_secs_f64());
            let seconds_left = seconds * (1.0 - done) / (done - done_before).max(f64::EPSILON);
            let mut flow = observer.observe(&Event::Step(Step { done, seconds_left, ..step }))?;
            if due(self.options.validate_every, self.progress.step) {
                flow = both(flow, self.validate(observer)?);
            }
            if due(self.options.checkpoint_every, self.progress.step) {
                flow = both(flow, self.save(observer)?);
                saved = self.progress.step;
            }
            if flow.is_break() {
                break Ending::Stopped;
            }
        };
        if self.progress.step == 0 {
            let expected = "examples with tokens to predict within the length of a sequence";
            return Err(Error::option("data", expected, "none"));
        }
        // One that is only interrupted is validated where it would have been.
        let mut flow = ControlFlow::Continue(());
        if ending != Ending::Stopped && self.progress.validated != Some(self.progress.step) {
            flow = self.validate(observer)?;
        }
        if saved != self.progress.step || ending != Ending::Stopped {
            flow = both(flow, self.save(observer)?);
        }
        // Whoever asks to stop now is too late.
        let _ = flow;
        Ok(ending)
    }

    fn load(&self) -> Result<Loader> {
        let epochs = match self.options.until {
            Until::Steps(_) => None,
            Until::Epochs(epochs) => Some(epochs),
        };
        let options = LoaderOptions {
            batch_tokens: self.options.batch_tokens,
            max_length: self.options.max_length,
            order: self.options.order,
            epochs,
        };
        Loader::start(self.training.clone(), options, self.progress.position)
    }

    /// How often the data were gone through.
    fn epoch(&self) -> f64 {
        let position = self.progress.position;
        position.epoch as f64 + position.example as f64 / self.training.count(position.epoch).max(1) as f64
    }

    /// How much of the training is done, from 0 to 1.
    fn done(&self) -> f64 {
        match self.options.until {
            Until::Steps(steps) => self.progress.step as f64 / steps as f64,
            Until::Epochs(epochs) => self.epoch() / epochs as f64,
        }
    }

    fn stalled(&self) -> bool {
        self.options.patience.is_some_and(|patience| self.progress.validations_since >= patience)
    }

    /// One step. `clock` runs since its batches were asked for.
    fn step(&mut self, batches: &[PackedBatch], clock: Instant) -> Result<Step> {
        let learning_rate = self.options.schedule.learning_rate(self.done());
        let number = self.progress.step + 1;
        let targets: usize = batches.iter().map(PackedBatch::targets).sum();
        let tokens: usize = batches.iter().map(PackedBatch::tokens).sum();
        let (loss, gradients) = self.learner.gradients(batches, self.progress.step * self.options.accumulate as u64)?;
        let gradient_norm = gradients.norm()?;
        for (what, value) in [("loss", loss), ("norm of the gradient", gradient_norm)] {
            if !value.is_finite() {
                return Err(Error::NotFinite { step: number, what, value, advice: self.advice()? });
            }
        }
        let factor = match self.options.clip_norm {
            Some(clip) => (clip / (f64::from(gradient_norm) + 1e-6)).min(1.0),
            None => 1.0,
        };
        self.learner.step(gradients, Rates { step: number, learning_rate, factor })?;
        self.progress.step = number;
        self.progress.tokens += tokens as u64;
        if let Some(last) = batches.last() {
            self.progress.position = last.next;
        }
        Ok(Step {
            step: number,
            loss,
            learning_rate,
            gradient_norm,
            epoch: self.epoch(),
            targets,
            tokens,
            tokens_per_second: tokens as f64 / clock.elapsed().as_secs_f64(),
            peak_bytes: self.learner.model().device().memory().peak,
            done: 0.0,
            seconds_left: 0.0,
        })
    }

    fn advice(&self) -> Result<String> {
        let kept = match &self.checkpoints {
            Some(checkpoints) => checkpoints.newest()?,
            None => None,
        };
        Ok(match kept {
            Some(path) => format!("{} is kept; go on from it with a lower learning rate", path.display()),
            None => "nothing was saved before; try a lower learning rate".into(),
        })
    }

    /// The loss on the validation data, if there are any; the weights are kept if it is the lowest so far.
    fn validate(&mut self, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        let Some(examples) = self.validation.clone() else { return Ok(ControlFlow::Continue(())) };
        let options = LoaderOptions {
            batch_tokens: self.options.batch_tokens,
            max_length: self.options.max_length,
            order: Order::Sequential,
            epochs: Some(1),
        };
        let characters = examples.characters();
        let batches = Loader::start(examples, options, crate::data::Position::default())?;
        let (loss, targets) = self.learner.loss(batches)?;
        let step = self.progress.step;
        let bits = f64::from(loss) * targets as f64 / std::f64::consts::LN_2;
        let bits_per_character = characters.map(|characters| (bits / characters as f64) as f32);
        let best = self.progress.best.is_none_or(|best| loss < best.loss);
        self.progress.validated = Some(step);
        if best {
            self.progress.best = Some(Best { step, loss });
            self.progress.validations_since = 0;
            if let Some(checkpoints) = &self.checkpoints {
                checkpoints.save_best(step, self.learner.parameters())?;
            }
        } else {
            self.progress.validations_since += 1;
        }
        observer.observe(&Event::Validated(Validation { step, loss, bits_per_character, targets, best }))
    }

    fn save(&mut self, observer: &mut dyn Observer) -> Result<ControlFlow<()>> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(ControlFlow::Continue(())) };
        let examples = self.training.count(0);
        let path = checkpoints.save(self.learner.parameters(), &self.progress, &self.options, examples)?;
        observer.observe(&Event::Saved(path))
    }
}

fn due(every: Option<u64>, step: u64) -> bool {
    every.is_some_and(|every| step.is_multiple_of(every))
}

fn both(one: ControlFlow<()>, other: ControlFlow<()>) -> ControlFlow<()> {
    if one.is_break() { one } else { other }
}
