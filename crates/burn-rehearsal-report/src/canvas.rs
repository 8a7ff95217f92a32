//! Shared parts of the figures: an SVG canvas in pixels, colours, legends, and an estimate of the
//! width of a text.
//!
//! Texts are SVG text in the viewer's sans-serif font, whose exact width is unknown. All room is
//! therefore made for [`text_width`], which errs on the wide side.

use crate::html::escape;
use crate::{Comparison, Group};
use std::fmt::{self, Write};

/// An RGB colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Color(pub(crate) u8, pub(crate) u8, pub(crate) u8);

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02X}{:02X}{:02X}", self.0, self.1, self.2)
    }
}

pub(crate) const WHITE: Color = Color(255, 255, 255);
/// Ink of texts and axes.
pub(crate) const INK: Color = Color(40, 40, 40);
/// Ink of notes.
pub(crate) const FAINT: Color = Color(110, 110, 110);
/// Grid lines and empty cells.
pub(crate) const GRID: Color = Color(225, 225, 225);

/// Usual width of a figure in pixels.
pub(crate) const WIDTH: i32 = 1000;
/// Pixels around the contents of a figure.
pub(crate) const MARGIN: i32 = 16;
/// Height of a line of a legend.
pub(crate) const LEGEND_LINE: i32 = 20;

/// The eight colours of Okabe & Ito, "Color Universal Design" (2008), which can be distinguished
/// with any colour vision. Black is a dark grey here.
pub(crate) mod palette {
    use super::Color;

    pub(crate) const ORANGE: Color = Color(230, 159, 0);
    pub(crate) const SKY: Color = Color(86, 180, 233);
    pub(crate) const GREEN: Color = Color(0, 158, 115);
    pub(crate) const YELLOW: Color = Color(240, 228, 66);
    pub(crate) const BLUE: Color = Color(0, 114, 178);
    pub(crate) const VERMILION: Color = Color(213, 94, 0);
    pub(crate) const PURPLE: Color = Color(204, 121, 167);
    pub(crate) const BLACK: Color = Color(60, 60, 60);
}

/// Where a text stands relative to its point, which is at half the height of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// The text starts at the point.
    Start,
    /// The point is in the middle of the text.
    Middle,
    /// The text ends at the point.
    End,
}

/// A white SVG canvas. Coordinates are pixels from the upper left corner.
pub(crate) struct Canvas {
    svg: String,
}

impl Canvas {
    pub(crate) fn new(width: i32, height: i32) -> Self {
        let head =
            format!("<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\"");
        let mut canvas = Self { svg: format!("{head} xmlns=\"http://www.w3.org/2000/svg\">\n") };
        canvas.rectangle((0, 0), (width, height), WHITE);
        canvas
    }

    fn element(&mut self, element: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.svg, "{element}");
    }

    /// A filled rectangle.
    pub(crate) fn rectangle(
        &mut self,
        (x, y): (i32, i32),
        (width, height): (i32, i32),
        color: Color,
    ) {
        self.element(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{color}\"/>"
        ));
    }

    /// A polyline, `width` pixels thick.
    pub(crate) fn line(&mut self, points: &[(i32, i32)], color: Color, width: u32) {
        let points = coordinates(points);
        self.element(format_args!("<polyline fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" points=\"{points}\"/>"));
    }

    /// A filled marker. `shape` is any number; there are four shapes.
    pub(crate) fn marker(&mut self, (x, y): (i32, i32), shape: usize, color: Color) {
        let polygon = match shape % 4 {
            0 => {
                return self.element(format_args!(
                    "<circle cx=\"{x}\" cy=\"{y}\" r=\"5\" fill=\"{color}\"/>"
                ));
            }
            1 => coordinates(&[(x - 5, y - 5), (x + 5, y - 5), (x + 5, y + 5), (x - 5, y + 5)]),
            2 => coordinates(&[(x, y - 6), (x + 6, y + 5), (x - 6, y + 5)]),
            _ => coordinates(&[(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)]),
        };
        self.element(format_args!("<polygon fill=\"{color}\" points=\"{polygon}\"/>"));
    }

    /// One line of text, `size` pixels high.
    pub(crate) fn text(
        &mut self,
        text: &str,
        (x, y): (i32, i32),
        size: i32,
        align: Align,
        color: Color,
    ) {
        let anchor = match align {
            Align::Start => "start",
            Align::Middle => "middle",
            Align::End => "end",
        };
        let font = format_args!(
            "font-family=\"sans-serif\" font-size=\"{size}\" text-anchor=\"{anchor}\""
        );
        self.element(format_args!(
            "<text x=\"{x}\" y=\"{y}\" dy=\"0.5ex\" {font} fill=\"{color}\">\n{}\n</text>",
            escape(text)
        ));
    }

    /// The complete SVG.
    pub(crate) fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

fn coordinates(points: &[(i32, i32)]) -> String {
    points.iter().map(|(x, y)| format!("{x},{y}")).collect::<Vec<_>>().join(" ")
}

/// What stands in front of an entry of a [`Legend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swatch {
    Line,
    Square,
}

/// Which colour means what, in as many lines as it takes.
pub(crate) struct Legend {
    swatch: Swatch,
    /// Text, colour, pixels from the left of the figure, and line.
    entries: Vec<(String, Color, i32, i32)>,
    /// Height in pixels.
    pub(crate) height: i32,
}

impl Legend {
    pub(crate) fn new(swatch: Swatch, texts: impl IntoIterator<Item = (String, Color)>) -> Self {
        let (mut x, mut row) = (MARGIN, 0);
        let mut entries = Vec::new();
        for (text, color) in texts {
            let width = Self::indent(swatch) + text_width(&text, 12) + 16;
            if x > MARGIN && x + width > WIDTH - MARGIN {
                (x, row) = (MARGIN, row + 1);
            }
            entries.push((text, color, x, row));
            x += width;
        }
        let height = if entries.is_empty() { 0 } else { (row + 1) * LEGEND_LINE };
        Self { swatch, entries, height }
    }

    /// Pixels from the start of an entry to its text.
    fn indent(swatch: Swatch) -> i32 {
        match swatch {
            Swatch::Line => 42,
            Swatch::Square => 18,
        }
    }

    /// Draws the legend; the middle of its first line is at `top`.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: i32) {
        for (text, color, x, row) in &self.entries {
            let y = top + row * LEGEND_LINE;
            match self.swatch {
                Swatch::Line => canvas.line(&[(x + 4, y), (x + 34, y)], *color, 2),
                Swatch::Square => canvas.rectangle((*x, y - 6), (12, 12), *color),
            }
            canvas.text(text, (x + Self::indent(self.swatch), y), 12, Align::Start, INK);
        }
    }
}

/// An upper estimate of the width in pixels of a text `size` pixels high in a common sans-serif
/// font.
pub(crate) fn text_width(text: &str, size: i32) -> i32 {
    // DejaVu Sans, one of the widest, has 0.60 em per character in English words; figures have
    // 0.64.
    to_pixels(text.chars().count() as f64 * f64::from(size) * 0.64)
}

/// The nearest pixel.
pub(crate) fn to_pixels(value: f64) -> i32 {
    value.round() as i32
}

/// A count as a number of pixels; saturates.
pub(crate) fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

impl Comparison<'_> {
    /// A colour for each group. The first group of a built-in method has the colour of the method
    /// in all figures; others have the remaining colours.
    pub(crate) fn colors(&self) -> Vec<Color> {
        let mut others =
            [palette::ORANGE, palette::PURPLE, palette::SKY, palette::BLACK].into_iter().cycle();
        let color = |(index, group): (usize, &Group<'_>)| {
            let first =
                self.groups[..index].iter().all(|earlier| earlier.method() != group.method());
            let of_method = match group.method() {
                "incremental" => Some(palette::VERMILION),
                "rehearsal" => Some(palette::BLUE),
                "scratch" => Some(palette::GREEN),
                _ => None,
            };
            of_method.filter(|_| first).or_else(|| others.next()).unwrap_or(INK)
        };
        self.groups.iter().enumerate().map(color).collect()
    }
}

/// A round distance of grid lines (1, 2 or 5 times a power of ten) such that about `lines` of them
/// reach `maximum`.
pub(crate) fn grid_step(maximum: f64, lines: f64) -> f64 {
    let rough = (maximum / lines).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= rough)
        .unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_steps_are_round_and_neither_too_many_nor_too_few() {
        for (maximum, step) in [(1.0, 0.2), (10.0, 2.0), (12.3, 5.0), (0.07, 0.02), (480.0, 100.0)]
        {
            assert!(
                (grid_step(maximum, 5.0) - step).abs() < 1e-12,
                "{maximum}: {}",
                grid_step(maximum, 5.0)
            );
        }
        assert!(grid_step(0.0, 5.0) > 0.0);
    }

    #[test]
    fn text_is_written_as_text_of_the_size_asked_for_and_escaped() {
        let mut canvas = Canvas::new(100, 50);
        canvas.text("a < b & c", (10, 10), 12, Align::Middle, INK);
        let svg = canvas.finish();
        assert!(
            svg.contains("<text")
                && svg.contains("font-size=\"12\"")
                && svg.contains("a &lt; b &amp; c"),
            "{svg}"
        );
        crate::fixtures::assert_well_formed(&svg);
    }
}
