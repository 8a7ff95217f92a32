//! Thumbnails of the images in a rehearsal buffer, for the report of a run.

use crate::ImageBatch;
use burn_rehearsal::RehearsalBuffer;
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal_train::report::schema::Picture;
use image::{ImageFormat, Rgba, RgbaImage, imageops};
use std::collections::HashSet;
use std::io::Cursor;

/// File name of the picture of stored images.
pub const STORED: &str = "stored.png";
/// File name of the picture of a draw.
pub const DRAWN: &str = "drawn.png";

/// Maximum number of thumbnails in a row, of rows of stored images, and of rows of a draw.
const COLUMNS: usize = 12;
const ROWS: usize = 20;
const DRAWN_ROWS: usize = 4;
/// Minimum and maximum of the longer side of a thumbnail in pixels. Other images are scaled.
const SIDES: [usize; 2] = [32, 48];
/// Transparent pixels between thumbnails.
const GAP: u32 = 2;
/// Maximum size in bytes of the images that are drawn for the picture of stored images.
const MAX_BYTES: usize = 32 << 20;

/// A class and an image of it.
type Thumbnail = (usize, RgbaImage);

/// Draws pictures of a buffer at the end of a run: [stored images](STORED), with a row per class
/// or, for many classes, per task; and [one draw](DRAWN) of `representatives` images, as in a
/// mini-batch of rank 0.
///
/// `tasks` are the classes of each task, and `per_class` is the number of stored images of each
/// class.
///
/// Collective. Every rank calls it after its last step, because it begins another task. Images are
/// drawn from the shards of all ranks with [`RehearsalBuffer::sample`], which does not affect the
/// draws of steps. Only rank 0 returns pictures, and no rank does if the buffer is empty, or if
/// images have neither one nor three channels.
///
/// # Errors
///
/// Those of [`RehearsalBuffer::sample`].
///
/// ```
/// use burn_rehearsal::{Capacity, RehearsalConfig};
/// use burn_rehearsal_vision::{ImageBatch, thumbnails};
///
/// let config = RehearsalConfig::new(Capacity::Samples(100)).with_late_fields(false);
/// let buffer = config.init::<ImageBatch>()?;
/// // … train on two tasks of one class each …
/// let tasks: [&[usize]; 2] = [&[0], &[1]];
/// for picture in thumbnails::pictures(&buffer, &tasks, &[50, 50], 8)? {
///     std::fs::write(picture.file, picture.png)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn pictures(
    buffer: &RehearsalBuffer<ImageBatch>,
    tasks: &[&[usize]],
    per_class: &[u64],
    representatives: usize,
) -> Result<Vec<Picture>, RehearsalError> {
    let draw = |rows: usize| buffer.sample(if buffer.rank() == 0 { rows } else { 0 });
    let drawn = draw(representatives)?;
    // A sampling rule may exclude the current task. In a new task, no row is excluded.
    buffer.begin_task(tasks.len())?;
    let bytes: usize = drawn.as_ref().map_or(1, |drawn| drawn.images.dims()[1..].iter().product());
    let stored = draw((MAX_BYTES / bytes.max(1)).clamp(4 * COLUMNS, 2 * ROWS * COLUMNS))?;
    let (Some(drawn), Some(stored)) = (drawn.and_then(thumbnails), stored.and_then(thumbnails))
    else {
        return Ok(Vec::new());
    };

    let rows = rows(tasks, per_class).into_iter().map(|(label, classes)| {
        let of_row = stored.iter().filter(|(class, _)| classes.contains(class));
        (label, of_row.take(COLUMNS).collect::<Vec<_>>())
    });
    let rows: Vec<_> = rows.filter(|(_, thumbnails)| !thumbnails.is_empty()).collect();
    let each = if per_class.len() <= ROWS { "class" } else { "task" };
    let title = format!("Stored samples at the end of the run, up to {COLUMNS} of each {each}");
    let stored = picture(STORED, title, rows);

    let shown = drawn.len().min(DRAWN_ROWS * COLUMNS);
    let title = match drawn.len() {
        all if all == shown => format!("Representatives of one draw ({all})"),
        all => format!("Representatives of one draw (the first {shown} of {all})"),
    };
    let rows = drawn[..shown].chunks(COLUMNS).map(|row| (String::new(), row.iter().collect()));
    let drawn = picture(DRAWN, title, rows.collect());
    Ok([stored, drawn].into_iter().flatten().collect())
}

/// The label and the classes of each row of the picture, in the order of tasks.
fn rows(tasks: &[&[usize]], per_class: &[u64]) -> Vec<(String, Vec<usize>)> {
    let mut seen = HashSet::new();
    let mut rows = Vec::new();
    for (task, classes) in (1..).zip(tasks) {
        // Tasks may share classes.
        let new: Vec<usize> = classes.iter().copied().filter(|&class| seen.insert(class)).collect();
        if per_class.len() <= ROWS {
            rows.extend(new.into_iter().map(|class| (format!("class {class}"), vec![class])));
        } else if !new.is_empty() {
            rows.push((format!("task {task}"), new));
        }
    }
    let every = rows.len().div_ceil(ROWS).max(1);
    let label = |(name, classes): (String, Vec<usize>)| {
        let stored: u64 = classes.iter().filter_map(|&class| per_class.get(class)).sum();
        (format!("{name}: {stored} stored"), classes)
    };
    rows.into_iter().step_by(every).map(label).collect()
}

/// The thumbnails of a mini-batch, all of one size; `None` for an unsupported number of channels.
fn thumbnails(batch: ImageBatch) -> Option<Vec<Thumbnail>> {
    let [_, channels, height, width] = batch.images.dims();
    let classes = batch.targets.try_into_data_as::<i64>().ok()?.try_into_vec::<i64>().ok()?;
    let pixels = batch.images.try_into_data_as::<u8>().ok()?.try_into_vec::<u8>().ok()?;
    let area = height * width;
    let offsets = match channels {
        1 => [0, 0, 0],
        3 => [0, area, 2 * area],
        _ => return None,
    };
    let side = height.max(width).max(1);
    // Large images are reduced afterwards.
    let factor = (SIDES[0] / side).max(1);
    let thumbnail = |(class, pixels): (&i64, &[u8])| {
        let image =
            RgbaImage::from_fn((width * factor) as u32, (height * factor) as u32, |x, y| {
                let pixel = y as usize / factor * width + x as usize / factor;
                let [red, green, blue] = offsets.map(|offset| pixels[offset + pixel]);
                Rgba([red, green, blue, u8::MAX])
            });
        let reduced = |length: usize| (length * SIDES[1] / side).max(1) as u32;
        let image = match side > SIDES[1] {
            true => imageops::thumbnail(&image, reduced(width), reduced(height)),
            false => image,
        };
        (*class as usize, image)
    };
    Some(classes.iter().zip(pixels.chunks_exact((channels * area).max(1))).map(thumbnail).collect())
}

/// A picture of labeled rows of thumbnails; `None` without rows.
fn picture(file: &str, title: String, rows: Vec<(String, Vec<&Thumbnail>)>) -> Option<Picture> {
    let (width, height) = rows.first()?.1.first()?.1.dimensions();
    let columns = rows.iter().map(|(_, row)| row.len()).max()?;
    let (wide, high) = (width + GAP, height + GAP);
    let mut canvas = RgbaImage::new(columns as u32 * wide, rows.len() as u32 * high);
    for (y, (_, row)) in rows.iter().enumerate() {
        for (x, (_, thumbnail)) in row.iter().enumerate() {
            let (x, y) = (x as u32 * wide, y as u32 * high);
            imageops::replace(&mut canvas, thumbnail, x.into(), y.into());
        }
    }
    let mut png = Cursor::new(Vec::new());
    canvas.write_to(&mut png, ImageFormat::Png).ok()?;
    let rows = rows.into_iter().map(|(label, _)| label).collect();
    Some(Picture { file: file.into(), title, rows, png: png.into_inner() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageBatcher;
    use crate::data::{Image, ImageShape};
    use burn::data::dataloader::batcher::Batcher;
    use burn::tensor::Device;
    use burn_rehearsal::{Capacity, RehearsalConfig, SamplingKind};

    const SHAPE: ImageShape = ImageShape { channels: 3, height: 1, width: 2 };

    /// A buffer with two images of each of two classes, in two tasks. The pixels of an image are
    /// its class and 9, as red; green is 5, blue 7.
    fn buffer() -> RehearsalBuffer<ImageBatch> {
        let config = RehearsalConfig::new(Capacity::Samples(4))
            .with_sampling(SamplingKind::ExcludeCurrent)
            .with_late_fields(false);
        let buffer = config.init::<ImageBatch>().unwrap();
        for class in [0, 1] {
            buffer.begin_task(class).unwrap();
            let image = |index| Image {
                pixels: vec![class as u8, 9, 5, 5, 7, 7].into(),
                class,
                index: 2 * class + index,
            };
            let batcher = ImageBatcher { shape: SHAPE, room: 0 };
            let batch = batcher.batch([0, 1].map(image).into(), &Device::flex());
            assert_eq!(buffer.fill([Ok(batch)]).unwrap(), 2);
        }
        buffer
    }

    fn decode(picture: &Picture) -> RgbaImage {
        image::load_from_memory(&picture.png).unwrap().into_rgba8()
    }

    #[test]
    fn stored_images_have_rows_by_class_and_draws_follow_the_sampling_rule() {
        let pictures = pictures(&buffer(), &[&[0], &[1]], &[2, 2], 1).unwrap();
        let [stored, drawn] = &pictures[..] else { panic!("{} pictures", pictures.len()) };
        assert_eq!((stored.file.as_str(), drawn.file.as_str()), (STORED, DRAWN));
        assert_eq!(stored.rows, ["class 0: 2 stored", "class 1: 2 stored"]);
        assert_eq!(
            (drawn.title.as_str(), drawn.rows.len()),
            ("Representatives of one draw (1)", 1)
        );

        // Two columns and two rows of images that are magnified 16 times.
        let image = decode(stored);
        assert_eq!(image.dimensions(), (2 * (32 + GAP), 2 * (16 + GAP)));
        for (row, class) in [(0, 0), (18, 1)] {
            for column in [0, 34] {
                assert_eq!(image.get_pixel(column, row).0, [class, 5, 7, 255]);
                assert_eq!(image.get_pixel(column + 31, row + 15).0, [9, 5, 7, 255]);
                assert_eq!(image.get_pixel(column + 32, row).0[3], 0, "the gap is transparent");
            }
        }
        let image = decode(drawn);
        assert_eq!(image.dimensions(), (32 + GAP, 16 + GAP));
        assert_eq!(image.get_pixel(0, 0).0[0], 0, "drawn from the first task");
    }

    #[test]
    fn an_empty_buffer_has_no_pictures() {
        let buffer = RehearsalConfig::new(Capacity::Samples(4))
            .with_late_fields(false)
            .init::<ImageBatch>()
            .unwrap();
        assert_eq!(pictures(&buffer, &[&[0]], &[0], 1).unwrap(), []);
    }

    #[test]
    fn many_classes_share_the_row_of_their_task() {
        let classes: Vec<usize> = (0..40).collect();
        let tasks = [&classes[..30], &classes[30..]];
        let rows = rows(&tasks, &[3; 40]);
        let labels: Vec<_> = rows.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["task 1: 90 stored", "task 2: 30 stored"]);
        assert_eq!(rows[1].1, &classes[30..]);
    }

    #[test]
    fn large_images_are_reduced() {
        let shape = ImageShape::square(1, 96);
        let image = Image { pixels: vec![200; 96 * 96].into(), class: 3, index: 0 };
        let batch = ImageBatcher { shape, room: 0 }.batch(vec![image], &Device::flex());
        let thumbnails = thumbnails(batch).unwrap();
        let [(class, image)] = &thumbnails[..] else { panic!("{} images", thumbnails.len()) };
        assert_eq!((*class, image.dimensions()), (3, (48, 48)));
        assert_eq!(image.get_pixel(20, 20).0, [200, 200, 200, 255], "gray");
    }
}
