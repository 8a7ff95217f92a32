//! Pictures of stored samples, embedded in a page.

use crate::Comparison;
use crate::canvas::{Align, Canvas, INK, MARGIN, WIDTH, count, text_width, to_pixels};
use burn_rehearsal_train::report::schema::Picture;

/// Space above a picture, for its title.
const ABOVE: i32 = 40;

impl Comparison<'_> {
    /// The pictures of each group, of the first of its runs that has any, as SVG figures.
    pub(crate) fn pictures(&self) -> String {
        let mut figures = Vec::new();
        for group in &self.groups {
            let before = figures.len();
            for report in &group.reports {
                if figures.len() > before {
                    break;
                }
                for picture in report.buffer.iter().flat_map(|buffer| &buffer.pictures) {
                    let name = format!("picture-{}", figures.len() + 1);
                    let title = match group.reports.len() {
                        1 => format!("{}: {}", group.label, picture.title),
                        _ => format!("{} seed {}: {}", group.label, report.seed, picture.title),
                    };
                    figures.extend(figure(&name, &title, picture));
                }
            }
        }
        figures.concat()
    }
}

/// A picture with its labels. `None` if its file is missing or is no PNG.
fn figure(name: &str, title: &str, picture: &Picture) -> Option<String> {
    let (width, height) = png_size(&picture.png)?;
    let label = picture.rows.iter().map(|label| text_width(label, 12)).max().unwrap_or(0);
    let left = MARGIN + label + if label > 0 { 12 } else { 0 };
    // Large pictures are scaled down.
    let scale = (f64::from(WIDTH - left - MARGIN) / f64::from(width)).min(1.0);
    let [width, height] = [width, height].map(|pixels| (f64::from(pixels) * scale).max(1.0));
    let rows = count(picture.rows.len()).max(1);
    let row = height / f64::from(rows);

    let description = match picture.rows.join("; ") {
        labels if label > 0 => format!("Rows of pictures: {labels}."),
        _ => format!("{rows} rows of pictures without labels."),
    };
    let size = (WIDTH, ABOVE + to_pixels(height) + MARGIN);
    let mut canvas = Canvas::new(name, title, &description, size);
    canvas.text(title, (MARGIN, 20), 14, Align::Start, INK);
    for (index, label) in picture.rows.iter().enumerate() {
        let middle = f64::from(ABOVE) + (index as f64 + 0.5) * row;
        canvas.text(label, (left - 12, to_pixels(middle)), 12, Align::End, INK);
    }
    let data_uri = format!("data:image/png;base64,{}", base64(&picture.png));
    canvas.image((left, ABOVE), (to_pixels(width), to_pixels(height)), &data_uri);
    Some(canvas.finish())
}

/// Width and height in the header of a PNG file, both at least 1.
fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")?;
    let (width, rest) = header.split_first_chunk()?;
    let size = (u32::from_be_bytes(*width), u32::from_be_bytes(*rest.first_chunk()?));
    (size.0 > 0 && size.1 > 0).then_some(size)
}

/// Base64 with padding (RFC 4648, section 4).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let quad = |chunk: &[u8]| {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        std::array::from_fn::<char, 4, _>(|digit| match digit > chunk.len() {
            true => '=',
            false => char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize % 64]),
        })
    };
    bytes.chunks(3).flat_map(quad).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{PNG, assert_well_formed, compare, report, texts};

    #[test]
    fn base64_gives_the_test_vectors_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn a_picture_is_embedded_with_its_title_and_labels() {
        let mut run = report("rehearsal", 2, 0);
        let picture = &mut run.buffer.as_mut().unwrap().pictures[0];
        picture.png = PNG.to_vec();
        let figure = compare(&[run]).pictures();
        assert_well_formed(&figure);
        assert_eq!(texts(&figure), ["rehearsal: Stored samples", "class 0", "class 1"]);
        let data = figure.split("href=\"data:image/png;base64,").nth(1).unwrap();
        assert!(data.starts_with("iVBORw0KGgoAAAANSUhEUgAAAAIAAAAE"), "{data}");
        assert!(figure.contains("width=\"2\" height=\"4\" href"), "{figure}");
    }

    #[test]
    fn the_first_seed_that_has_pictures_shows_them() {
        let mut reports: Vec<_> = (0..3).map(|seed| report("rehearsal", 2, seed)).collect();
        for report in &mut reports[1..] {
            report.buffer.as_mut().unwrap().pictures[0].png = PNG.to_vec();
        }
        let figures = compare(&reports).pictures();
        assert_eq!(figures.matches("<image").count(), 1);
        assert!(figures.contains("rehearsal seed 1: Stored samples"), "{figures}");
    }

    #[test]
    fn a_missing_or_damaged_picture_is_left_out() {
        let mut empty = PNG.to_vec();
        empty[16..24].fill(0);
        for png in [Vec::new(), b"not a PNG".to_vec(), PNG[..20].to_vec(), empty] {
            let mut run = report("rehearsal", 2, 0);
            run.buffer.as_mut().unwrap().pictures[0].png = png;
            assert_eq!(compare(&[run]).pictures(), "");
        }
        assert_eq!(compare(&[report("scratch", 2, 0)]).pictures(), "");
    }
}
