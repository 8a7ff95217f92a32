//! Distributions of random parameters: χ² tests with fixed seeds, p above 10⁻³.

use super::super::color;
use super::super::geometry::{random_crop, resized_crop};
use super::*;
use statrs::distribution::{ChiSquared, ContinuousCDF};

/// The random streams of rows in many steps.
fn all() -> impl Iterator<Item = Stream> {
    (0..600).flat_map(|step| {
        (0..40).map(move |row| Stream::for_row(SEED, Purpose::Augment, step, 0, row))
    })
}

#[track_caller]
fn equally_often(cells: usize, drawn: impl Iterator<Item = usize>) {
    let mut counts = vec![0.0; cells];
    drawn.for_each(|cell| counts[cell] += 1.0);
    let expected = counts.iter().sum::<f64>() / cells as f64;
    assert!(expected > 20.0, "{expected} per cell");
    let chi2 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    let p = ChiSquared::new(cells as f64 - 1.0).unwrap().sf(chi2);
    assert!(p > 1e-3, "p = {p} for {counts:?}");
}

/// The tenth of a range that contains a value.
fn tenth(value: f64, [low, high]: [f64; 2]) -> usize {
    let part = (value - low) / (high - low);
    assert!((-1e-3..=1.001).contains(&part), "{value} is outside {low}..{high}");
    ((part * 10.0) as usize).min(9)
}

#[test]
fn positions_of_crops_are_uniform() {
    // 3 × 5 positions, with and without padding.
    let place = |image: [usize; 2], padding: usize| {
        move |mut random: Stream| {
            let window = random_crop(image.into(), [6, 6].into(), padding, &mut random);
            let (top, left) = (window.top + padding as i64, window.left + padding as i64);
            (top * 5 + left) as usize
        }
    };
    equally_often(15, all().map(place([8, 10], 0)));
    equally_often(15, all().map(place([4, 6], 2)));
}

#[test]
fn flips_have_their_probability() {
    let cell = |mut random: Stream| (random.unit_f64() < 0.5) as usize;
    equally_often(2, all().map(cell));
    // Through the pipeline, a quarter of the rows of two pixels are flipped.
    let images = Images { shape: [4000, 1, 1, 2], values: [0.0, 1.0].repeat(4000) };
    let flipped = images.apply(&augment().horizontal_flip(0.25));
    let count = flipped.values.chunks_exact(2).filter(|pair| pair[0] == 1.0).count() as f64;
    // Binomial: 1,000 ± 3.29 standard deviations of 27.4.
    assert!((count - 1000.0).abs() < 90.1, "{count} of 4,000");
}

#[test]
fn areas_and_logarithms_of_ratios_are_uniform() {
    // In large images with small windows, every first attempt fits, and rounding is negligible.
    let (image, scale, ratio) = (Size::from(4000), [0.05, 0.25], [0.5, 2.0]);
    let drawn: Vec<Size> =
        all().map(|mut random| resized_crop(image, scale, ratio, &mut random).size).collect();
    equally_often(10, drawn.iter().map(|size| tenth(size.area() / image.area(), scale)));
    equally_often(
        10,
        drawn
            .iter()
            .map(|size| tenth((size.width as f64 / size.height as f64).ln(), ratio.map(f64::ln))),
    );
    let left =
        all().map(|mut random| resized_crop(image, [0.25, 0.25], [1.0, 1.0], &mut random).left);
    equally_often(10, left.map(|left| tenth(left as f64, [0.0, 2000.0])));

    let erase = Erase { probability: 0.5, scale, ratio, value: 0.0 };
    let drawn: Vec<_> = all().map(|mut random| erase.draw(image, &mut random)).collect();
    equally_often(2, drawn.iter().map(|window| usize::from(window.is_some())));
    let sizes = || drawn.iter().flatten().map(|window| window.size);
    equally_often(10, sizes().map(|size| tenth(size.area() / image.area(), scale)));
    equally_often(
        10,
        sizes()
            .map(|size| tenth((size.height as f64 / size.width as f64).ln(), ratio.map(f64::ln))),
    );
}

#[test]
fn color_factors_and_their_orders_are_uniform() {
    let jitter = ColorJitter { brightness: 0.4, contrast: 1.5, saturation: 0.2, hue: 0.1 };
    let ranges = [[0.6, 1.4], [0.0, 2.5], [0.8, 1.2], [-0.1, 0.1]];
    for (which, range) in ranges.into_iter().enumerate() {
        equally_often(
            10,
            all().map(|mut random| tenth(f64::from(jitter.draw(&mut random)[which]), range)),
        );
    }
    let number = |order: [usize; 4]| {
        order.iter().enumerate().map(|(at, &value)| value * 4usize.pow(at as u32)).sum::<usize>()
    };
    let orders: Vec<usize> = (0..6000)
        .map(|step| number(color::order(&mut Stream::new(SEED, Purpose::Augment, step, 0))))
        .collect();
    let mut distinct = orders.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 24);
    equally_often(24, orders.iter().map(|order| distinct.binary_search(order).unwrap()));
}
