// SPDX-License-Identifier: EUPL-1.2
//! A record as a picture: the loss over the steps.

use std::ops::ControlFlow;
use std::path::PathBuf;

use ingle_nn::output::Part;

use super::{json, png, svg};
use crate::{Event, Observer, Result};

/// Draws the training and the validation loss as `loss.svg` and `loss.png` in a folder, at each checkpoint.
#[derive(Debug)]
pub struct LossCurve {
    folder: PathBuf,
    /// Where a [`JsonLog`](super::JsonLog) has what was before a resumption.
    log: PathBuf,
    plot: Plot,
}

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plot {
    pub training: Vec<(f64, f64)>,
    pub validation: Vec<(f64, f64)>,
}

impl LossCurve {
    /// Pictures in `folder`, of a training whose record is in the file `log`.
    pub fn new(folder: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        LossCurve { folder: folder.into(), log: log.into(), plot: Plot::default() }
    }

    fn draw(&self) -> Result<()> {
        let Some(frame) = Frame::of(&self.plot) else { return Ok(()) };
        let svg = svg::draw(&self.plot, &frame);
        let png = png::draw(&self.plot, &frame);
        for (name, content) in [("loss.svg", svg.into_bytes()), ("loss.png", png)] {
            let (part, mut file) = Part::file(&self.folder.join(name))?;
            file.write(&content)?;
            file.finish()?;
            part.finish()?;
        }
        Ok(())
    }
}

impl Observer for LossCurve {
    fn observe(&mut self, event: &Event) -> Result<ControlFlow<()>> {
        match event {
            Event::Begun(beginning) => {
                self.plot = Plot::default();
                for line in json::lines(&self.log)? {
                    if let (Some(step), Some(loss)) = (line["step"].as_u64(), line["loss"].as_f64())
                        && step <= beginning.step
                    {
                        let point = (step as f64, loss);
                        match line["event"].as_str() {
                            Some("validation") => self.plot.validation.push(point),
                            _ => self.plot.training.push(point),
                        }
                    }
                }
            }
            Event::Step(step) => self.plot.training.push((step.step as f64, step.loss.into())),
            Event::Validated(validation) => {
                self.plot.validation.push((validation.step as f64, validation.loss.into()));
            }
            Event::Saved(_) => self.draw()?,
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Pixels of the picture.
pub(super) const SIZE: (f64, f64) = (880.0, 480.0);

/// Pixels around what is drawn: left, top, right, bottom.
pub(super) const MARGIN: [f64; 4] = [64.0, 36.0, 24.0, 44.0];

/// Red, green and blue of the training's line, the validation's, of lines and of words.
pub(super) const TRAINING: [u8; 3] = [0x9a, 0xb8, 0xd6];
pub(super) const VALIDATION: [u8; 3] = [0xc2, 0x4b, 0x1e];
pub(super) const GRID: [u8; 3] = [0xdd, 0xdd, 0xdd];
pub(super) const INK: [u8; 3] = [0x33, 0x33, 0x33];

/// The part of the plane that is shown, and the numbers beside it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    pub x_ticks: Vec<f64>,
    pub y_ticks: Vec<f64>,
}

impl Frame {
    /// A frame around all points; none if there are none.
    fn of(plot: &Plot) -> Option<Frame> {
        let points = || plot.training.iter().chain(&plot.validation);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let wider = |(low, high): (f64, f64), x: f64| (low.min(x), high.max(x));
            points().map(of).filter(|x| x.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), wider)
        };
        let (x, y) = (range(|point| point.0), range(|point| point.1));
        if !(x.0 <= x.1 && y.0 <= y.1) {
            return None;
        }
        let (x, y) = ((0.0, x.1.max(1.0)), widened(y));
        Some(Frame { x_ticks: ticks(x), y_ticks: ticks(y), x, y })
    }

    /// Where a point stands in the picture.
    pub fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        let [left, top, right, bottom] = MARGIN;
        let (width, height) = (SIZE.0 - left - right, SIZE.1 - top - bottom);
        let across = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (y - self.y.0) / (self.y.1 - self.y.0);
        (left + across * width, top + (1.0 - up) * height)
    }
}

/// Some room above and below.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-6);
    (low - room, high + room)
}

/// Round numbers within a range, some five of them.
fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    (first..first + 12).map(|i| i as f64 * step).take_while(|tick| *tick <= high + step * 1e-9).collect()
}

/// A tick's number, without digits that only rounding has made.
pub(super) fn label(tick: f64) -> String {
    let text = format!("{tick:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_good() {
        assert_eq!(ticks((0.0, 100.0)), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        let labels: Vec<String> = ticks((1.93, 2.41)).into_iter().map(label).collect();
        assert_eq!(labels, ["2", "2.1", "2.2", "2.3", "2.4"]);
    }

    #[test]
    fn pictures_are_what_they_are_called_good() {
        let training: Vec<(f64, f64)> = (1..=200).map(|i| (f64::from(i), 3.0 - f64::from(i) / 100.0)).collect();
        let plot = Plot { validation: vec![(100.0, 2.2), (200.0, 1.4)], training };
        let frame = Frame::of(&plot).unwrap();
        let svg = svg::draw(&plot, &frame);
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n") && svg.contains("validation"));
        let png = png::draw(&plot, &frame);
        let mut reader = ::png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!((reader.info().width, reader.info().height), (SIZE.0 as u32, SIZE.1 as u32));
        let count = |colour: [u8; 3]| pixels.chunks_exact(3).filter(|pixel| **pixel == colour).count();
        assert!(count(TRAINING) > 500 && count(VALIDATION) > 200 && count(INK) > 500);
    }

    #[test]
    fn little_or_nothing_to_show_ugly() {
        assert_eq!(Frame::of(&Plot::default()), None);
        assert_eq!(Frame::of(&Plot { training: vec![(1.0, f64::NAN)], validation: vec![] }), None);
        let one = Plot { training: vec![(1.0, 0.0)], validation: vec![] };
        let frame = Frame::of(&one).unwrap();
        let (x, y) = frame.place((1.0, 0.0));
        assert!(x.is_finite() && y.is_finite() && !frame.y_ticks.is_empty());
        assert!(svg::draw(&one, &frame).contains("<polyline"));
    }
}
