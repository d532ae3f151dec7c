// SPDX-License-Identifier: EUPL-1.2
//! Learning-rate schedules.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the learning rate goes from its peak to the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// It stays.
    Constant,
    /// In a straight line.
    Linear,
    /// Along half a cosine (Loshchilov & Hutter 2017).
    #[default]
    Cosine,
}

/// A learning rate as a function of how much of the training is done: up in a straight line, then down.
///
/// ```
/// use ingle_train::{Decay, Schedule};
///
/// let schedule = Schedule { peak: 1e-3, warmup: 0.1, decay: Decay::Linear, floor: 0.0 };
/// assert_eq!(schedule.learning_rate(0.05), 5e-4);
/// assert_eq!(schedule.learning_rate(0.1), 1e-3);
/// assert_eq!(schedule.learning_rate(1.0), 0.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f64,
    /// The part of the training in which the rate rises to it, from 0 to 1.
    pub warmup: f64,
    /// How it goes on from there.
    pub decay: Decay,
    /// The part of the peak that is left at the end, from 0 to 1.
    pub floor: f64,
}

impl Schedule {
    /// One rate all the time.
    pub fn constant(learning_rate: f64) -> Self {
        Schedule { peak: learning_rate, warmup: 0.0, decay: Decay::Constant, floor: 1.0 }
    }

    /// The learning rate when `done` of the training is done, from 0 to 1.
    pub fn learning_rate(&self, done: f64) -> f64 {
        if done < self.warmup {
            return self.peak * done / self.warmup;
        }
        let rest = 1.0 - self.warmup;
        let down = if rest > 0.0 { ((done - self.warmup) / rest).min(1.0) } else { 1.0 };
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - down,
            Decay::Cosine => 0.5 * (1.0 + (PI * down).cos()),
        };
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Linear | Decay::Cosine => self.peak * (self.floor + (1.0 - self.floor) * left),
        }
    }

    /// Refuses what is no schedule.
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.peak.is_finite() && self.peak > 0.0) {
            return Err(Error::option("learning rate", "a number greater than 0", self.peak));
        }
        for (option, part) in [("warm-up", self.warmup), ("final learning rate", self.floor)] {
            if !(0.0..=1.0).contains(&part) {
                return Err(Error::option(option, "a part of the whole, from 0 to 1", part));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// transformers' `get_cosine_schedule_with_warmup(optimizer, 10, 50)` and its linear sister, at a rate of 1.
    #[test]
    fn schedules_are_those_of_transformers_good() {
        let rate = |decay, step: f64| Schedule { peak: 1.0, warmup: 0.2, decay, floor: 0.0 }.learning_rate(step / 50.0);
        for (step, wanted) in [(0.0, 0.0), (5.0, 0.5), (10.0, 1.0), (20.0, 0.853_553_390_593_273_8), (50.0, 0.0)] {
            assert!((rate(Decay::Cosine, step) - wanted).abs() < 1e-12, "{step}");
        }
        for (step, wanted) in [(0.0, 0.0), (10.0, 1.0), (20.0, 0.75), (40.0, 0.25), (50.0, 0.0)] {
            assert!((rate(Decay::Linear, step) - wanted).abs() < 1e-12, "{step}");
        }
        assert_eq!(Schedule::constant(0.5).learning_rate(0.7), 0.5);
    }

    #[test]
    fn no_schedule_bad() {
        let schedule = Schedule::constant(1e-3);
        assert!(schedule.check().is_ok());
        for wrong in [
            Schedule { peak: f64::NAN, ..schedule },
            Schedule { peak: 0.0, ..schedule },
            Schedule { warmup: 1.5, ..schedule },
            Schedule { floor: -0.1, ..schedule },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn all_warm_up_and_past_the_end_ugly() {
        let schedule = Schedule { peak: 2.0, warmup: 1.0, decay: Decay::Cosine, floor: 0.5 };
        assert_eq!((schedule.learning_rate(0.5), schedule.learning_rate(1.0)), (1.0, 1.0));
        assert_eq!(Schedule { warmup: 0.0, ..schedule }.learning_rate(7.0), 1.0);
    }
}
