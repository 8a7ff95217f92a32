//! Color jitter and normalization.

use super::super::color;
use super::*;

type Rgb = [f32; 3];

fn gray([red, green, blue]: Rgb) -> f32 {
    0.2989 * red + 0.587 * green + 0.114 * blue
}

fn blend(a: f32, b: f32, factor: f32) -> f32 {
    (factor * a + (1.0 - factor) * b).clamp(0.0, 1.0)
}

/// Shifts the hue by conversion to hue, saturation and value and back, with case distinctions as in
/// textbooks.
fn turn([red, green, blue]: Rgb, turn: f32) -> Rgb {
    let (largest, smallest) = (red.max(green).max(blue), red.min(green).min(blue));
    let chroma = largest - smallest;
    if chroma == 0.0 {
        return [red, green, blue];
    }
    let sixths = if largest == red {
        (green - blue) / chroma
    } else if largest == green {
        (blue - red) / chroma + 2.0
    } else {
        (red - green) / chroma + 4.0
    };
    let hue = (sixths / 6.0 + turn).rem_euclid(1.0) * 6.0;
    let (saturation, sector, part) = (chroma / largest, hue.floor(), hue - hue.floor());
    let p = largest * (1.0 - saturation);
    let q = largest * (1.0 - saturation * part);
    let t = largest * (1.0 - saturation * (1.0 - part));
    match sector as usize % 6 {
        0 => [largest, t, p],
        1 => [q, largest, p],
        2 => [p, largest, t],
        3 => [p, q, largest],
        4 => [t, p, largest],
        _ => [largest, p, q],
    }
}

/// The expected pixels of a row.
fn jitter(
    mut colors: Vec<Rgb>,
    factors: [f32; 4],
    order: [usize; 4],
    jitter: &ColorJitter,
) -> Vec<Rgb> {
    let strengths = [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue];
    for which in order.into_iter().filter(|&which| strengths[which] > 0.0) {
        let factor = factors[which];
        let mean = (colors.iter().map(|&color| f64::from(gray(color))).sum::<f64>()
            / colors.len() as f64) as f32;
        for color in &mut colors {
            *color = match which {
                0 => color.map(|value| (value * factor).clamp(0.0, 1.0)),
                1 => color.map(|value| blend(value, mean, factor)),
                2 => color.map(|value| blend(value, gray(*color), factor)),
                _ => turn(*color, factor),
            };
        }
    }
    colors
}

fn check(images: &Images, strengths: ColorJitter) {
    let [rows, _, height, width] = images.shape;
    let order = color::order(&mut Stream::new(SEED, Purpose::Augment, STEP, RANK as u32));
    let mut random = streams(rows);
    let expected: Vec<Vec<Rgb>> = (0..rows)
        .map(|row| {
            let pixel = |at: usize| {
                [0, 1, 2].map(|channel| {
                    images.at(row, channel, (at / width) as i64, (at % width) as i64)
                })
            };
            jitter(
                (0..height * width).map(pixel).collect(),
                strengths.draw(&mut random[row]),
                order,
                &strengths,
            )
        })
        .collect();
    let expected = images.build(images.size(), |row, channel, y, x| {
        expected[row][y as usize * width + x as usize][channel]
    });
    assert_ne!(expected, *images);
    images.apply(&augment().color_jitter(strengths)).assert_close(&expected);
}

#[test]
fn color_jitter_matches_the_reference() {
    let images = Images::random([6, 3, 7, 5]);
    check(&images, ColorJitter { brightness: 0.6, ..ColorJitter::default() });
    check(&images, ColorJitter { contrast: 2.0, ..ColorJitter::default() });
    check(&images, ColorJitter { saturation: 0.9, ..ColorJitter::default() });
    check(&images, ColorJitter { hue: 0.5, ..ColorJitter::default() });
    check(&images, ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 });
    assert_eq!(images.apply(&augment().color_jitter(ColorJitter::default())), images);
}

#[test]
fn all_hue_sectors_match_the_reference() {
    let levels = [0.0, 0.25, 0.5, 1.0];
    let colors: Vec<Rgb> = levels
        .iter()
        .flat_map(|&r| levels.iter().flat_map(move |&g| levels.map(|b| [r, g, b])))
        .collect();
    let values = (0..16 * 3 * 64).map(|at| colors[at % 64][at / 64 % 3]).collect();
    check(
        &Images { shape: [16, 3, 8, 8], values },
        ColorJitter { hue: 0.5, ..ColorJitter::default() },
    );
}

#[test]
fn gray_images_change_in_brightness_and_contrast_only() {
    let images = Images::random([4, 1, 6, 6]);
    let of = |jitter| images.apply(&augment().color_jitter(jitter));
    assert_eq!(of(ColorJitter { saturation: 0.9, hue: 0.5, ..ColorJitter::default() }), images);
    let factors: Vec<_> = streams(4)
        .iter_mut()
        .map(|random| ColorJitter { contrast: 0.9, ..ColorJitter::default() }.draw(random)[1])
        .collect();
    let mean = |row: usize| images.values[row * 36..][..36].iter().sum::<f32>() / 36.0;
    let expected = images.build(images.size(), |row, channel, y, x| {
        blend(images.at(row, channel, y, x), mean(row), factors[row])
    });
    of(ColorJitter { contrast: 0.9, ..ColorJitter::default() }).assert_close(&expected);
}

#[test]
fn normalization_is_per_channel_and_bytes_are_scaled() {
    let images = Images::random([2, 3, 4, 4]);
    let (mean, std) = ([0.1, 0.5, 0.9], [0.2, 1.0, 3.0]);
    let expected = images.build(images.size(), |row, channel, y, x| {
        (images.at(row, channel, y, x) - mean[channel]) / std[channel]
    });
    images.apply(&augment().normalize(&mean, &std)).assert_close(&expected);

    let bytes: Vec<u8> = (0..=255).collect();
    let device = Device::default();
    let tensor =
        Tensor::<4, Int>::from_data(TensorData::new(bytes.clone(), [1, 1, 16, 16]), &device);
    let ours = Images::download(augment().apply_bytes(tensor, STEP, RANK).unwrap());
    ours.assert_close(&Images {
        shape: [1, 1, 16, 16],
        values: bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect(),
    });
}
