//! Shared parts of the figures: an SVG canvas, its colors, legends, and an estimate of the width
//! of a text.
//!
//! Texts are SVG text in the viewer's sans-serif font, whose exact width is unknown. The layout
//! reserves [`text_width`] for them, which is an upper estimate.

use crate::html::escape;
use crate::{Comparison, Group};
use std::fmt::{self, Write};

/// A color of the figures: a class of their style sheet, with one value for light and one for dark
/// color schemes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Color(&'static str);

macro_rules! colors {
    ($($(#[$doc:meta])* $name:ident $class:literal $light:literal $dark:literal;)*) => {
        $($(#[$doc])* pub(crate) const $name: Color = Color($class);)*

        /// Class, color in light, color in dark.
        const COLORS: &[[&str; 3]] = &[$([$class, $light, $dark]),*];
    };
}

// The data have the eight colors of Okabe & Ito, "Color Universal Design" (2008), which can be
// distinguished with any color vision; they are lighter on a dark background.
colors! {
    /// The background.
    PAPER "paper" "#fff" "#16191d";
    /// Texts and axes.
    INK "ink" "#282828" "#e4e4e4";
    /// Notes.
    FAINT "faint" "#6a6a6a" "#a2a2a2";
    /// Grid lines and empty cells.
    GRID "grid" "#e1e1e1" "#383c42";
    /// Texts on light and on dark colors.
    ON_LIGHT "on-light" "#282828" "#111";
    ON_DARK "on-dark" "#fff" "#111";
    /// The cells of a heat map, by their opacity.
    LEVEL "level" "#084081" "#5aa9f0";
    ORANGE "orange" "#e69f00" "#f0b02a";
    SKY "sky" "#56b4e9" "#7cc6f0";
    GREEN "green" "#009e73" "#22c796";
    YELLOW "yellow" "#f0e442" "#f0e442";
    BLUE "blue" "#0072b2" "#4da6e8";
    VERMILION "vermilion" "#d55e00" "#f58743";
    PURPLE "purple" "#cc79a7" "#df9ac0";
    BLACK "black" "#3c3c3c" "#d2d2d2";
    BROWN "brown" "#785e3c" "#b8966a";
    GRAY "gray" "#969696" "#757575";
    SILVER "silver" "#bebebe" "#a0a0a0";
}

impl Color {
    /// The color of a text on this color.
    pub(crate) fn label(self) -> Self {
        if [ORANGE, SKY, YELLOW, SILVER].contains(&self) { ON_LIGHT } else { ON_DARK }
    }

    /// The style sheet of all colors.
    fn style() -> String {
        let rules = |scheme: usize| -> String {
            COLORS
                .iter()
                .map(|color| format!("svg .{} {{ color: {}; }}\n", color[0], color[scheme]))
                .collect()
        };
        format!(
            "<style>\n{}@media (prefers-color-scheme: dark) {{\n{}}}\n</style>",
            rules(1),
            rules(2)
        )
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class=\"{}\"", self.0)
    }
}

/// Usual width of a figure in pixels.
pub(crate) const WIDTH: i32 = 1000;
/// Pixels around the contents of a figure.
pub(crate) const MARGIN: i32 = 16;
/// Height of a line of a legend.
const LEGEND_LINE: i32 = 20;

/// The position of a text relative to its point, which is at half the height of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// The text starts at the point.
    Start,
    /// The point is in the middle of the text.
    Middle,
    /// The text ends at the point.
    End,
}

/// An SVG figure that needs no other file. Coordinates are pixels from the upper left corner.
pub(crate) struct Canvas {
    svg: String,
}

impl Canvas {
    /// An empty figure. Screen readers read its title and description. `name` is unique among the
    /// figures of a page.
    pub(crate) fn new(name: &str, title: &str, description: &str, size: (i32, i32)) -> Self {
        let (width, height) = size;
        let mut canvas = Self { svg: String::new() };
        canvas.element(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, sans-serif\" role=\"img\" \
             aria-labelledby=\"{name}-title {name}-text\">"
        ));
        let (title, description) = (escape(title), escape(description));
        canvas.element(format_args!("<title id=\"{name}-title\">{title}</title>"));
        canvas.element(format_args!("<desc id=\"{name}-text\">{description}</desc>"));
        canvas.element(format_args!("{}", Color::style()));
        canvas.rectangle((0, 0), size, PAPER);
        canvas
    }

    fn element(&mut self, element: fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.svg, "{element}");
    }

    pub(crate) fn rectangle(&mut self, corner: (i32, i32), size: (i32, i32), color: Color) {
        self.shade(corner, size, color, 1.0);
    }

    /// A filled rectangle of this opacity.
    pub(crate) fn shade(
        &mut self,
        (x, y): (i32, i32),
        (width, height): (i32, i32),
        color: Color,
        opacity: f64,
    ) {
        self.element(format_args!(
            "<rect {color} x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" \
             fill=\"currentColor\" fill-opacity=\"{opacity:.2}\"/>"
        ));
    }

    /// A polyline, `width` pixels thick.
    pub(crate) fn line(&mut self, points: &[(i32, i32)], color: Color, width: u32) {
        let points = coordinates(points);
        self.element(format_args!(
            "<polyline {color} fill=\"none\" stroke=\"currentColor\" stroke-width=\"{width}\" \
             points=\"{points}\"/>"
        ));
    }

    /// A filled marker. `shape` is any number; there are four shapes.
    pub(crate) fn marker(&mut self, (x, y): (i32, i32), shape: usize, color: Color) {
        let polygon = match shape % 4 {
            0 => {
                return self.element(format_args!(
                    "<circle {color} cx=\"{x}\" cy=\"{y}\" r=\"5\" fill=\"currentColor\"/>"
                ));
            }
            1 => coordinates(&[(x - 5, y - 5), (x + 5, y - 5), (x + 5, y + 5), (x - 5, y + 5)]),
            2 => coordinates(&[(x, y - 6), (x + 6, y + 5), (x - 6, y + 5)]),
            _ => coordinates(&[(x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)]),
        };
        self.element(format_args!("<polygon {color} fill=\"currentColor\" points=\"{polygon}\"/>"));
    }

    /// A PNG picture, as a data URI.
    pub(crate) fn image(
        &mut self,
        (x, y): (i32, i32),
        (width, height): (i32, i32),
        data_uri: &str,
    ) {
        self.element(format_args!(
            "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" href=\"{data_uri}\"/>"
        ));
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
        let text = escape(text);
        self.element(format_args!(
            "<text {color} x=\"{x}\" y=\"{y}\" dy=\"0.5ex\" font-size=\"{size}\" \
             text-anchor=\"{anchor}\" fill=\"currentColor\">{text}</text>"
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

/// The symbol in front of an entry of a [`Legend`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swatch {
    Line,
    /// A line with a marker, whose shape is the position of the entry.
    Marker,
    Square,
}

/// The meaning of each color, in as many lines as needed.
pub(crate) struct Legend {
    swatch: Swatch,
    /// Text, color, and pixels from the upper left corner.
    entries: Vec<(String, Color, (i32, i32))>,
    /// Height in pixels.
    pub(crate) height: i32,
}

impl Legend {
    /// A legend in a figure, or part of a figure, of this width.
    pub(crate) fn new(
        swatch: Swatch,
        width: i32,
        texts: impl IntoIterator<Item = (String, Color)>,
    ) -> Self {
        let mut legend = Self { swatch, entries: Vec::new(), height: 0 };
        let (mut x, mut y) = (MARGIN, 0);
        for (text, color) in texts {
            let entry = legend.indent() + text_width(&text, 12) + 16;
            if x > MARGIN && x + entry > width - MARGIN {
                (x, y) = (MARGIN, y + LEGEND_LINE);
            }
            legend.entries.push((text, color, (x, y)));
            legend.height = y + LEGEND_LINE;
            x += entry;
        }
        legend
    }

    /// Pixels from the start of an entry to its text.
    fn indent(&self) -> i32 {
        if self.swatch == Swatch::Square { 18 } else { 42 }
    }

    /// Draws the legend; the middle of its first line is at `top`.
    pub(crate) fn draw(&self, canvas: &mut Canvas, top: i32) {
        for (index, (text, color, (x, y))) in self.entries.iter().enumerate() {
            let y = top + y;
            match self.swatch {
                Swatch::Square => canvas.rectangle((*x, y - 6), (12, 12), *color),
                Swatch::Line | Swatch::Marker => {
                    canvas.line(&[(x + 4, y), (x + 34, y)], *color, 2);
                }
            }
            if self.swatch == Swatch::Marker {
                canvas.marker((x + 19, y), index, *color);
            }
            canvas.text(text, (x + self.indent(), y), 12, Align::Start, INK);
        }
    }
}

/// An upper estimate of the width in pixels of a text `size` pixels high in a common sans-serif
/// font.
pub(crate) fn text_width(text: &str, size: i32) -> i32 {
    // DejaVu Sans, one of the widest, has 0.60 em per character in English words; digits have 0.64.
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
    /// A color for each group. The first group of a built-in method has the color of the method
    /// in all figures; others have the remaining colors.
    pub(crate) fn colors(&self) -> Vec<Color> {
        let mut others =
            [ORANGE, PURPLE, SKY, BLACK, BROWN, GRAY, YELLOW, SILVER].into_iter().cycle();
        let color = |(index, group): (usize, &Group<'_>)| {
            let first =
                self.groups[..index].iter().all(|earlier| earlier.method() != group.method());
            let of_method = match group.method() {
                "incremental" => Some(VERMILION),
                "rehearsal" => Some(BLUE),
                "scratch" => Some(GREEN),
                _ => None,
            };
            of_method.filter(|_| first).or_else(|| others.next()).unwrap_or(INK)
        };
        self.groups.iter().enumerate().map(color).collect()
    }

    /// The legend of all groups.
    pub(crate) fn legend(&self, swatch: Swatch, width: i32) -> Legend {
        Legend::new(swatch, width, self.groups.iter().map(Group::title).zip(self.colors()))
    }
}

/// A round distance between grid lines (1, 2 or 5 times a power of ten), with which about `lines`
/// of them reach `maximum`.
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
    use crate::fixtures::assert_well_formed;

    #[test]
    fn grid_steps_are_round_and_of_a_suitable_number() {
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
    fn texts_titles_and_descriptions_are_escaped() {
        let mut canvas = Canvas::new("test", "x < y", "\"a\" & b", (100, 50));
        canvas.text("a < b & c", (10, 10), 12, Align::Middle, INK);
        let svg = canvas.finish();
        for part in
            [">a &lt; b &amp; c</text>", ">x &lt; y</title>", ">&quot;a&quot; &amp; b</desc>"]
        {
            assert!(svg.contains(part), "{part} is not in {svg}");
        }
        assert_well_formed(&svg);
    }

    #[test]
    fn a_figure_has_colors_for_light_and_dark_viewers() {
        let svg = Canvas::new("test", "", "", (100, 50)).finish();
        let (light, dark) = svg.split_once("@media (prefers-color-scheme: dark)").unwrap();
        for [class, in_light, in_dark] in COLORS {
            assert!(light.contains(&format!("svg .{class} {{ color: {in_light}; }}")), "{class}");
            assert!(dark.contains(&format!("svg .{class} {{ color: {in_dark}; }}")), "{class}");
        }
    }
}
