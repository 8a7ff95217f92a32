//! What the figures share: a canvas in pixels, colours, and an estimate of how wide a text will be.
//!
//! The SVG backend writes text as `<text>`: no font is needed to build or run, but nobody knows the exact width of a text either. So every
//! place is made for [`text_width`], which errs on the wide side, and axes are drawn here instead of by plotters' charts.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::{FigureError, Group};
use burn_rehearsal_train::report::schema::Method;

/// Ink of texts and axes.
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
/// Ink of notes.
pub(super) const FAINT: RGBColor = RGBColor(110, 110, 110);
/// Grid lines and empty cells.
pub(super) const GRID: RGBColor = RGBColor(225, 225, 225);

/// The eight colours of Okabe & Ito, "Color Universal Design" (2008), that can be told apart with any colour vision; black is a dark grey here.
pub(super) mod palette {
    use plotters::style::RGBColor;

    pub(crate) const ORANGE: RGBColor = RGBColor(230, 159, 0);
    pub(crate) const SKY: RGBColor = RGBColor(86, 180, 233);
    pub(crate) const GREEN: RGBColor = RGBColor(0, 158, 115);
    pub(crate) const YELLOW: RGBColor = RGBColor(240, 228, 66);
    pub(crate) const BLUE: RGBColor = RGBColor(0, 114, 178);
    pub(crate) const VERMILION: RGBColor = RGBColor(213, 94, 0);
    pub(crate) const PURPLE: RGBColor = RGBColor(204, 121, 167);
    pub(crate) const BLACK: RGBColor = RGBColor(60, 60, 60);
}

/// Where a text stands relative to its point, which is always in the middle of the line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// The text starts at the point.
    Start,
    /// The point is in the middle of the text.
    Middle,
    /// The text ends at the point.
    End,
}

/// A white sheet in pixels, from the upper left corner.
pub(super) struct Canvas<'a> {
    area: DrawingArea<SVGBackend<'a>, Shift>,
    figure: &'static str,
}

impl<'a> Canvas<'a> {
    /// A sheet whose SVG goes to `svg` when it is finished.
    pub(super) fn new(figure: &'static str, svg: &'a mut String, width: i32, height: i32) -> Result<Self, FigureError> {
        let size = (width.unsigned_abs(), height.unsigned_abs());
        let canvas = Self { area: SVGBackend::with_string(svg, size).into_drawing_area(), figure };
        canvas.area.fill(&WHITE).map_err(|error| canvas.error(&error))?;
        Ok(canvas)
    }

    /// A filled rectangle.
    pub(super) fn rectangle(&self, (x, y): (i32, i32), (width, height): (i32, i32), color: RGBColor) -> Result<(), FigureError> {
        let corners = [(x, y), (x + width, y + height)];
        self.area.draw(&Rectangle::new(corners, color.filled())).map_err(|error| self.error(&error))
    }

    /// A polyline, `width` pixels thick.
    pub(super) fn line(&self, points: Vec<(i32, i32)>, color: RGBColor, width: u32) -> Result<(), FigureError> {
        self.area.draw(&PathElement::new(points, color.stroke_width(width))).map_err(|error| self.error(&error))
    }

    /// A filled marker; `shape` is any number, the shapes repeat after four.
    pub(super) fn marker(&self, point: (i32, i32), shape: usize, color: RGBColor) -> Result<(), FigureError> {
        let (x, y) = point;
        let polygon = match shape % 4 {
            0 => return self.area.draw(&Circle::new(point, 5, color.filled())).map_err(|error| self.error(&error)),
            1 => vec![(x - 5, y - 5), (x + 5, y - 5), (x + 5, y + 5), (x - 5, y + 5)],
            2 => vec![(x, y - 6), (x + 6, y + 5), (x - 6, y + 5)],
            _ => vec![(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)],
        };
        self.area.draw(&Polygon::new(polygon, color.filled())).map_err(|error| self.error(&error))
    }

    /// One line of text, `size` pixels high.
    pub(super) fn text(&self, text: &str, point: (i32, i32), size: i32, align: Align, color: RGBColor) -> Result<(), FigureError> {
        let horizontal = match align {
            Align::Start => HPos::Left,
            Align::Middle => HPos::Center,
            Align::End => HPos::Right,
        };
        // The SVG backend divides sizes by 1.24.
        let font = ("sans-serif", f64::from(size) * 1.24).into_font();
        let style = font.color(&color).pos(Pos::new(horizontal, VPos::Center));
        self.area.draw(&Text::new(text.to_string(), point, style)).map_err(|error| self.error(&error))
    }

    /// Completes the SVG.
    pub(super) fn finish(self) -> Result<(), FigureError> {
        self.area.present().map_err(|error| self.error(&error))
    }

    fn error(&self, error: &dyn Display) -> FigureError {
        FigureError::Draw { figure: self.figure, reason: error.to_string() }
    }
}

/// An upper estimate of the width in pixels of a text `size` pixels high in a common sans-serif font.
pub(super) fn text_width(text: &str, size: i32) -> i32 {
    // DejaVu Sans, one of the widest, has 0.60 em per character in English words; figures have 0.64.
    to_pixels(text.chars().count() as f64 * f64::from(size) * 0.64)
}

/// The nearest pixel.
pub(super) fn to_pixels(value: f64) -> i32 {
    value.round() as i32
}

/// A small count as pixels or a factor of pixels; figures with more than two thousand million items do not occur.
pub(super) fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// A colour for each group: the first group of a method has the colour of the method in all figures, others have the remaining colours in turn.
pub(super) fn group_colors(groups: &[Group<'_>]) -> Vec<RGBColor> {
    let mut others = [palette::ORANGE, palette::PURPLE, palette::SKY, palette::BLACK].into_iter().cycle();
    let mut colors = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let first = groups[..index].iter().all(|earlier| earlier.method() != group.method());
        let of_method = match group.method() {
            Method::Incremental => palette::VERMILION,
            Method::Rehearsal => palette::BLUE,
            Method::Scratch => palette::GREEN,
        };
        colors.push(if first { of_method } else { others.next().unwrap_or(of_method) });
    }
    colors
}

/// A round distance of grid lines (1, 2 or 5 times a power of ten) such that about `lines` of them reach `maximum`.
pub(super) fn grid_step(maximum: f64, lines: f64) -> f64 {
    let rough = (maximum / lines).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&step| step >= rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grid_steps_are_round_and_neither_too_many_nor_too_few() {
        for (maximum, step) in [(1.0, 0.2), (10.0, 2.0), (12.3, 5.0), (0.07, 0.02), (480.0, 100.0)] {
            assert!((grid_step(maximum, 5.0) - step).abs() < 1e-12, "{maximum}: {}", grid_step(maximum, 5.0));
        }
        assert!(grid_step(0.0, 5.0) > 0.0);
    }

    #[test]
    fn text_is_written_as_text_of_the_size_asked_for_and_escaped() {
        let mut svg = String::new();
        let canvas = Canvas::new("test", &mut svg, 100, 50).unwrap();
        canvas.text("a < b & c", (10, 10), 12, Align::Middle, INK).unwrap();
        canvas.finish().unwrap();
        assert!(svg.contains("<text") && svg.contains("font-size=\"12\"") && svg.contains("a &lt; b &amp; c"), "{svg}");
        crate::fixtures::assert_well_formed(&svg);
    }
}
