// SPDX-License-Identifier: EUPL-1.2
//! The loss curve as SVG.

use std::fmt::Write;

use super::curve::{Frame, GRID, INK, MARGIN, Plot, SIZE, TRAINING, VALIDATION, label};

pub(super) fn draw(plot: &Plot, frame: &Frame) -> String {
    let (width, height) = SIZE;
    let [left, top, right, bottom] = MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"{}\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n",
        colour(INK)
    );
    let mut add = |element: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        let _ = writeln!(svg, "{element}");
    };
    let grid = colour(GRID);
    for &tick in &frame.y_ticks {
        let (_, y) = frame.place((0.0, tick));
        let (end, text) = (width - right, left - 8.0);
        add(format_args!("<line x1=\"{left}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"{grid}\"/>"));
        add(format_args!("<text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", y + 4.0, label(tick)));
    }
    for &tick in &frame.x_ticks {
        let (x, _) = frame.place((tick, 0.0));
        let end = height - bottom;
        add(format_args!("<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{end}\" stroke=\"{grid}\"/>"));
        add(format_args!("<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", end + 18.0, label(tick)));
    }
    add(format_args!("<text x=\"{left}\" y=\"22\">loss (nats per token)</text>"));
    add(format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">step</text>", width - right, height - 8.0));
    for (name, points, rgb, at) in [
        ("training", &plot.training, TRAINING, width - right - 190.0),
        ("validation", &plot.validation, VALIDATION, width - right - 90.0),
    ] {
        if points.is_empty() {
            continue;
        }
        let colour = colour(rgb);
        let places = points.iter().filter(|point| point.1.is_finite()).map(|&point| frame.place(point));
        let list = places.map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ");
        add(format_args!("<polyline points=\"{list}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"));
        add(format_args!("<text x=\"{at}\" y=\"22\" fill=\"{colour}\">{name}</text>"));
    }
    svg.push_str("</svg>\n");
    svg
}

fn colour([red, green, blue]: [u8; 3]) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}
