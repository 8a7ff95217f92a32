//! A horizontal bar chart of figures as SVG. Its colors can be read on light and dark pages.

use std::fmt::Write;

use super::Row;
use super::tables::number;

/// Pixels: a bar with its gap, labels to the left of the bars, the longest bar, texts to the right.
const BAR: usize = 18;
const LABELS: usize = 470;
const BARS: usize = 240;
const VALUES: usize = 160;
/// Ink of texts and lines, and the colors of bars (Okabe & Ito): met, missed, without a target.
const INK: &str = "#7B7B7B";
const MET: &str = "#009E73";
const MISSED: &str = "#D55E00";
const PLAIN: &str = "#0072B2";

/// A chart of the rows with a target, whose bars are shares of it. Without any target, all rows are
/// shown, and bars are shares of the largest value of their quantity.
pub(super) fn chart(rows: &[Row]) -> String {
    let judged: Vec<&Row> = rows.iter().filter(|row| row.target.is_some()).collect();
    let shown = if judged.is_empty() { rows.iter().collect() } else { judged };
    let whole = |row: &Row| match row.target {
        Some(target) => target.bound(),
        None => {
            let same = rows.iter().filter(|other| other.quantity == row.quantity);
            same.map(|other| other.value).fold(0.0, f64::max)
        }
    };
    // Bars are cut off at twice the target. Their values are printed next to them.
    let has_target = shown.iter().any(|row| row.target.is_some());
    let longest = if has_target { 2.0 } else { 1.0 };
    let (width, height) = (LABELS + BARS + VALUES, (shown.len() + 1) * BAR);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\" fill=\"{INK}\">\n"
    );
    let text = |x: usize, y: usize, anchor: &str, text: &str| {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        format!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>\n")
    };
    for (at, row) in shown.iter().enumerate() {
        let y = at * BAR;
        let share = (row.value / whole(row) / longest).clamp(0.0, 1.0);
        let bar = if share.is_finite() { share * BARS as f64 } else { 0.0 };
        let color = match row.met {
            Some(true) => MET,
            Some(false) => MISSED,
            None => PLAIN,
        };
        let target = row.target.map_or_else(String::new, |target| format!(" ({target})"));
        let label = format!("{}: {}", row.case, row.quantity).replace('`', "");
        let value = format!("{} {}{target}", number(row.value), row.unit);
        svg += &text(LABELS - 6, y + 13, "end", &label);
        let _ = writeln!(
            svg,
            "<rect x=\"{LABELS}\" y=\"{}\" width=\"{bar:.0}\" height=\"12\" fill=\"{color}\"/>",
            y + 3
        );
        svg += &text(LABELS + BARS + 6, y + 13, "start", &value);
    }
    if has_target {
        let (x, end) = (LABELS + BARS / 2, shown.len() * BAR);
        let _ = writeln!(svg, "<path d=\"M{x} 0V{end}\" stroke=\"{INK}\" stroke-width=\"1.5\"/>");
        svg += &text(x, end + 13, "middle", "target");
    }
    svg + "</svg>\n"
}
