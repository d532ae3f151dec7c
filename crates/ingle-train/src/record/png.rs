// SPDX-License-Identifier: EUPL-1.2
//! The loss curve as PNG, with letters of its own: no font need be installed.

use super::curve::{Frame, GRID, INK, MARGIN, Plot, SIZE, TRAINING, VALIDATION, label};

/// The picture's bytes; empty if it could not be encoded, which a picture in memory always can.
pub(super) fn draw(plot: &Plot, frame: &Frame) -> Vec<u8> {
    let mut canvas = Canvas::new();
    let (width, height) = SIZE;
    let [left, top, right, bottom] = MARGIN;
    for &tick in &frame.y_ticks {
        let (_, y) = frame.place((0.0, tick));
        canvas.line((left, y), (width - right, y), GRID);
        let text = label(tick);
        canvas.text((left - 8.0 - Canvas::width(&text), y - 5.0), &text, INK);
    }
    for &tick in &frame.x_ticks {
        let (x, _) = frame.place((tick, 0.0));
        canvas.line((x, top), (x, height - bottom), GRID);
        let text = label(tick);
        canvas.text((x - Canvas::width(&text) / 2.0, height - bottom + 8.0), &text, INK);
    }
    canvas.text((left, 12.0), "loss (nats per token)", INK);
    canvas.text((width - right - Canvas::width("step"), height - 16.0), "step", INK);
    for (name, points, colour, at) in [
        ("training", &plot.training, TRAINING, width - right - 230.0),
        ("validation", &plot.validation, VALIDATION, width - right - 120.0),
    ] {
        if points.is_empty() {
            continue;
        }
        let places: Vec<(f64, f64)> =
            points.iter().filter(|point| point.1.is_finite()).map(|&point| frame.place(point)).collect();
        for pair in places.windows(2) {
            for down in [0.0, 1.0] {
                canvas.line((pair[0].0, pair[0].1 + down), (pair[1].0, pair[1].1 + down), colour);
            }
        }
        canvas.text((at, 12.0), name, colour);
    }
    canvas.encode().unwrap_or_default()
}

struct Canvas {
    /// Red, green and blue, row by row.
    pixels: Vec<u8>,
}

impl Canvas {
    fn new() -> Self {
        Canvas { pixels: vec![0xff; SIZE.0 as usize * SIZE.1 as usize * 3] }
    }

    fn dot(&mut self, x: f64, y: f64, colour: [u8; 3]) {
        let (width, height) = (SIZE.0 as i64, SIZE.1 as i64);
        let (x, y) = (x.round() as i64, y.round() as i64);
        if (0..width).contains(&x) && (0..height).contains(&y) {
            let at = 3 * (y * width + x) as usize;
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    fn line(&mut self, (x, y): (f64, f64), (to_x, to_y): (f64, f64), colour: [u8; 3]) {
        let steps = (to_x - x).abs().max((to_y - y).abs()).ceil().max(1.0);
        for step in 0..=steps as usize {
            let part = step as f64 / steps;
            self.dot(x + part * (to_x - x), y + part * (to_y - y), colour);
        }
    }

    /// A pixel of a letter is of two by two.
    const SCALE: f64 = 2.0;

    fn width(text: &str) -> f64 {
        text.chars().count() as f64 * 4.0 * Self::SCALE
    }

    fn text(&mut self, (x, y): (f64, f64), text: &str, colour: [u8; 3]) {
        for (index, letter) in text.chars().enumerate() {
            let left = x + index as f64 * 4.0 * Self::SCALE;
            for (row, bits) in glyph(letter).into_iter().enumerate() {
                for column in (0..3).filter(|column| bits >> (2 - column) & 1 == 1) {
                    for (right, down) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
                        let (across, along) = (f64::from(column) * Self::SCALE, row as f64 * Self::SCALE);
                        self.dot(left + across + right, y + along + down, colour);
                    }
                }
            }
        }
    }

    fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, SIZE.0 as u32, SIZE.1 as u32);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(file)
    }
}

/// The rows of a letter, three pixels each.
fn glyph(letter: char) -> [u8; 5] {
    match letter {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '2' => [0b111, 0b001, 0b111, 0b100, 0b111],
        '3' => [0b111, 0b001, 0b111, 0b001, 0b111],
        '4' => [0b101, 0b101, 0b111, 0b001, 0b001],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '6' => [0b111, 0b100, 0b111, 0b101, 0b111],
        '7' => [0b111, 0b001, 0b010, 0b010, 0b010],
        '8' => [0b111, 0b101, 0b111, 0b101, 0b111],
        '9' => [0b111, 0b101, 0b111, 0b001, 0b111],
        '.' => [0b000, 0b000, 0b000, 0b000, 0b010],
        '-' => [0b000, 0b000, 0b111, 0b000, 0b000],
        '(' => [0b001, 0b010, 0b010, 0b010, 0b001],
        ')' => [0b100, 0b010, 0b010, 0b010, 0b100],
        'a' => [0b000, 0b011, 0b101, 0b101, 0b011],
        'd' => [0b001, 0b011, 0b101, 0b101, 0b011],
        'e' => [0b000, 0b111, 0b111, 0b100, 0b111],
        'g' => [0b011, 0b101, 0b011, 0b001, 0b110],
        'i' => [0b010, 0b000, 0b010, 0b010, 0b010],
        'k' => [0b100, 0b101, 0b110, 0b101, 0b101],
        'l' => [0b010, 0b010, 0b010, 0b010, 0b010],
        'n' => [0b000, 0b110, 0b101, 0b101, 0b101],
        'o' => [0b000, 0b111, 0b101, 0b101, 0b111],
        'p' => [0b110, 0b101, 0b110, 0b100, 0b100],
        'r' => [0b000, 0b111, 0b100, 0b100, 0b100],
        's' => [0b000, 0b111, 0b100, 0b011, 0b111],
        't' => [0b010, 0b111, 0b010, 0b010, 0b011],
        'v' => [0b000, 0b101, 0b101, 0b101, 0b010],
        _ => [0; 5],
    }
}
