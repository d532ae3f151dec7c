// SPDX-License-Identifier: EUPL-1.2
//! What is read of a step's logits. A vocabulary's row is long: where a token or a few numbers are all that is
//! wanted of it, the device finds them, and they alone are moved to the host.

use ingle_tensor::{DeviceHandle, Tensor};

use crate::sampler::LogSoftmax;
use crate::{Error, Result};

/// What is wanted of one row of logits.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Want {
    /// The likeliest token and its logit.
    Likeliest,
    /// The likeliest token and its log-probability.
    Top,
    /// The log-probabilities of these tokens.
    Logprobs(Vec<u32>),
    /// All of it.
    Row,
}

/// What was wanted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// To [`Want::Likeliest`]. The logit is NaN if any of the row is.
    Likeliest { token: u32, logit: f32 },
    /// To [`Want::Top`].
    Top { token: u32, logprob: f32 },
    /// To [`Want::Logprobs`].
    Logprobs(Vec<f32>),
    /// To [`Want::Row`].
    Row(Vec<f32>),
}

/// What a step's logits were asked, perhaps not answered yet.
#[derive(Debug)]
pub(crate) struct Readout {
    wants: Vec<Want>,
    /// `i32[n]` and `f32[n]`.
    likeliest: Option<[Tensor; 2]>,
    /// `i32[n]` and minus the log-probabilities, `f32[n]`.
    tops: Option<[Tensor; 2]>,
    logprobs: Option<Logprobs>,
    /// `f32[n, V]`.
    rows: Option<Tensor>,
}

/// Log-probabilities as the device finds them.
#[derive(Debug)]
struct Logprobs {
    /// Minus those of the first token of each row, `f32[n]`.
    first: Tensor,
    /// The logits of all tokens of each row, one row after the other.
    logits: Tensor,
}

impl Readout {
    /// Asks the device for what is wanted of each row of `logits [R, V]`.
    pub fn new(logits: &Tensor, wants: Vec<Want>) -> Result<Self> {
        let rows = |is: fn(&Want) -> bool| -> Result<Option<Tensor>> {
            let chosen: Vec<i32> = (0..).zip(&wants).filter(|(_, want)| is(want)).map(|(row, _)| row).collect();
            match chosen.len() {
                0 => Ok(None),
                all if all == wants.len() => Ok(Some(logits.clone())),
                _ => Ok(Some(logits.take_rows(&index(logits.device(), &chosen)?)?)),
            }
        };
        let likeliest = match rows(|want| *want == Want::Likeliest)? {
            Some(rows) => Some([flat(rows.argmax(1)?)?, flat(rows.max_axis(1)?)?]),
            None => None,
        };
        let tops = match rows(|want| *want == Want::Top)? {
            Some(rows) => {
                let tokens = flat(rows.argmax(1)?)?;
                let loss = rows.cross_entropy(&tokens)?;
                Some([tokens, loss])
            }
            None => None,
        };
        let logprobs = match rows(|want| matches!(want, Want::Logprobs(_)))? {
            Some(rows) => Some(Logprobs::new(&rows, &wants)?),
            None => None,
        };
        let rows = rows(|want| *want == Want::Row)?;
        Ok(Readout { likeliest, tops, logprobs, rows, wants })
    }

    /// The token that follows each row, `i32[R]`, if the likeliest is all that is wanted of each.
    pub fn tokens(&self) -> Option<&Tensor> {
        let whole = self.wants.iter().all(|want| *want == Want::Likeliest);
        self.likeliest.as_ref().filter(|_| whole).map(|[tokens, _]| tokens)
    }

    /// Waits for the answers, one for each row.
    pub fn read(self) -> Result<Vec<Found>> {
        let mut likeliest = pairs(self.likeliest)?;
        let mut tops = pairs(self.tops)?;
        let mut logprobs = match self.logprobs {
            Some(logprobs) => logprobs.read(&self.wants)?.into_iter(),
            None => Vec::new().into_iter(),
        };
        let width = self.rows.as_ref().map_or(0, |rows| rows.shape()[1]);
        let rows = match self.rows {
            Some(rows) => rows.to_vec::<f32>()?,
            None => Vec::new(),
        };
        let mut rows = rows.chunks_exact(width.max(1));
        let mut answer = |want: &Want| match want {
            Want::Likeliest => likeliest.next().map(|(token, logit)| Found::Likeliest { token, logit }),
            Want::Top => tops.next().map(|(token, loss)| Found::Top { token, logprob: -loss }),
            Want::Logprobs(_) => logprobs.next().map(Found::Logprobs),
            Want::Row => rows.next().map(|row| Found::Row(row.to_vec())),
        };
        let short = || Error::Request { message: "model: gave fewer rows of logits than it was asked for".into() };
        self.wants.iter().map(|want| answer(want).ok_or_else(short)).collect()
    }
}

impl Logprobs {
    /// Of rows `[n, V]`, one for each of the wants that are log-probabilities.
    fn new(rows: &Tensor, wants: &[Want]) -> Result<Self> {
        let (device, width) = (rows.device(), rows.shape()[1]);
        let mut first = Vec::new();
        let mut places = Vec::new();
        let wanted = wants.iter().filter_map(|want| match want {
            Want::Logprobs(tokens) => Some(tokens),
            _ => None,
        });
        for (row, tokens) in wanted.enumerate() {
            first.push(tokens.first().map_or(0, |&token| token as i32));
            for &token in tokens {
                let place = i32::try_from(row * width + token as usize);
                places.push(place.map_err(|_| Error::Request {
                    message: "more logits in a step than 32 bits can number; lower logits_bytes".into(),
                })?);
            }
        }
        let all = rows.reshape([rows.shape().elements(), 1])?;
        let logits = all.take_rows(&index(device, &places)?)?;
        Ok(Logprobs { first: rows.cross_entropy(&index(device, &first)?)?, logits })
    }

    fn read(self, wants: &[Want]) -> Result<Vec<Vec<f32>>> {
        let first = self.first.to_vec::<f32>()?;
        let logits = self.logits.to_vec::<f32>()?;
        let mut rest = logits.as_slice();
        let wanted = wants.iter().filter_map(|want| match want {
            Want::Logprobs(tokens) => Some(tokens.len()),
            _ => None,
        });
        let of_row = |(count, loss): (usize, f32)| {
            let (own, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            // In a row, log-probabilities differ as logits do.
            own.iter().map(|logit| (logit - own[0]) - loss).collect()
        };
        Ok(wanted.zip(first).map(of_row).collect())
    }
}

/// The `count` likeliest tokens of a row with their log-probabilities, likeliest first; ties go to the lower id.
pub(crate) fn top(row: &[f32], count: usize) -> Vec<(u32, f32)> {
    let logprobs = LogSoftmax::new(row);
    let mut order: Vec<u32> = (0..).take(row.len()).collect();
    let by_logit = |&a: &u32, &b: &u32| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b));
    if count < order.len() {
        order.select_nth_unstable_by(count, by_logit);
        order.truncate(count);
    }
    order.sort_unstable_by(by_logit);
    order.into_iter().map(|id| (id, logprobs.of(id))).collect()
}

/// Tokens, each with its number.
fn pairs(found: Option<[Tensor; 2]>) -> Result<impl Iterator<Item = (u32, f32)>> {
    let (tokens, numbers) = match found {
        Some([tokens, numbers]) => (tokens.to_vec::<i32>()?, numbers.to_vec::<f32>()?),
        None => Default::default(),
    };
    Ok(tokens.into_iter().map(i32::cast_unsigned).zip(numbers))
}

fn flat(column: Tensor) -> Result<Tensor> {
    Ok(column.reshape([column.shape().elements()])?)
}

fn index(device: &DeviceHandle, numbers: &[i32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(device, numbers, [numbers.len()])?)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ingle_cpu::{CpuDevice, CpuOptions};

    use super::*;

    fn logits(rows: &[&[f32]]) -> Tensor {
        let device: DeviceHandle = Arc::new(CpuDevice::new(CpuOptions::default()).expect("a CPU"));
        Tensor::from_slice(&device, &rows.concat(), [rows.len(), rows[0].len()]).expect("logits")
    }

    #[test]
    fn each_row_gives_what_is_wanted_of_it_good() -> Result<()> {
        let row: &[f32] = &[0.5, -1.0, 3.0, 2.0];
        let logits = logits(&[row, row, row, row, row]);
        let wants = vec![Want::Row, Want::Likeliest, Want::Logprobs(vec![3, 0]), Want::Top, Want::Likeliest];
        let readout = Readout::new(&logits, wants)?;
        assert!(readout.tokens().is_none());
        let found = readout.read()?;
        assert_eq!(found[0], Found::Row(row.to_vec()));
        assert_eq!(found[1], Found::Likeliest { token: 2, logit: 3.0 });
        assert_eq!(found[4], found[1]);
        let sum = row.iter().map(|x| x.exp()).sum::<f32>().ln();
        let Found::Logprobs(logprobs) = &found[2] else { panic!("{found:?}") };
        for (found, expected) in logprobs.iter().zip([2.0 - sum, 0.5 - sum]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        let Found::Top { token: 2, logprob } = found[3] else { panic!("{found:?}") };
        assert!((logprob - (3.0 - sum)).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn the_first_of_equals_is_the_likeliest_ugly() -> Result<()> {
        let logits = logits(&[&[1.0, 7.0, 7.0], &[f32::NEG_INFINITY, f32::NEG_INFINITY, -5.0]]);
        let readout = Readout::new(&logits, vec![Want::Likeliest, Want::Likeliest])?;
        assert_eq!(readout.tokens().map(|tokens| tokens.to_vec::<i32>()).transpose()?, Some(vec![1, 2]));
        let found = readout.read()?;
        let expected = [Found::Likeliest { token: 1, logit: 7.0 }, Found::Likeliest { token: 2, logit: -5.0 }];
        assert_eq!(found, expected);
        assert_eq!(top(&[1.0, 7.0, 7.0], 2).iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
        Ok(())
    }

    #[test]
    fn not_a_number_shows_in_the_likeliest_ugly() -> Result<()> {
        let readout = Readout::new(&logits(&[&[1.0, f32::NAN, 2.0]]), vec![Want::Likeliest])?;
        let [Found::Likeliest { logit, .. }] = readout.read()?[..] else { panic!("one token") };
        assert!(logit.is_nan());
        Ok(())
    }
}
