//! Crop, flip, resize and erase.

use super::super::axis::Axis;
use super::super::geometry::{Window, center_crop, random_crop, resized_crop};
use super::*;

/// A pixel of `window` scaled to `size`, by the definition of bilinear interpolation.
fn bilinear(
    images: &Images,
    [row, channel]: [usize; 2],
    window: Window,
    size: Size,
    y: i64,
    x: i64,
) -> f32 {
    let position = |output: i64, len: usize, size: usize| {
        let position = ((output as f64 + 0.5) * len as f64 / size as f64 - 0.5).max(0.0);
        let below = position.floor() as i64;
        (below, (below + 1).min(len as i64 - 1), position - below as f64)
    };
    let (y0, y1, wy) = position(y, window.size.height, size.height);
    let (x0, x1, wx) = position(x, window.size.width, size.width);
    let at = |y: i64, x: i64| f64::from(images.at(row, channel, window.top + y, window.left + x));
    let (above, below) =
        (at(y0, x0) * (1.0 - wx) + at(y0, x1) * wx, at(y1, x0) * (1.0 - wx) + at(y1, x1) * wx);
    (above * (1.0 - wy) + below * wy) as f32
}

#[test]
fn random_crops_and_flips_move_pixels_exactly() {
    for (shape, size, padding) in [
        ([9, 3, 8, 8], Size::from(8), 2),
        ([5, 1, 7, 10], [5, 12].into(), 3),
        ([4, 3, 6, 6], 6.into(), 0),
    ] {
        let images = Images::random(shape);
        let mut random = streams(shape[0]);
        let drawn: Vec<_> = random
            .iter_mut()
            .map(|random| {
                (random_crop(images.size(), size, padding, random), random.unit_f64() < 0.5)
            })
            .collect();
        let expected = images.build(size, |row, channel, y, x| {
            let (window, flip) = drawn[row];
            let x = if flip { size.width as i64 - 1 - x } else { x };
            images.at(row, channel, window.top + y, window.left + x)
        });
        assert!(drawn.iter().any(|(_, flip)| *flip) && drawn.iter().any(|(_, flip)| !*flip));
        assert_eq!(
            images.apply(&augment().random_crop(size, padding).horizontal_flip(0.5)),
            expected
        );
    }
}

#[test]
fn flips_with_probability_0_and_1_are_deterministic() {
    let images = Images::random([6, 3, 4, 5]);
    assert_eq!(images.apply(&augment().horizontal_flip(0.0)), images);
    let mirrored =
        images.build(images.size(), |row, channel, y, x| images.at(row, channel, y, 4 - x));
    assert_eq!(images.apply(&augment().horizontal_flip(1.0)), mirrored);
}

#[test]
fn a_random_resized_crop_interpolates_within_its_window() {
    for (shape, size) in
        [([8, 3, 12, 9], Size::from(6)), ([8, 3, 5, 7], [11, 16].into()), ([3, 1, 1, 1], 4.into())]
    {
        let images = Images::random(shape);
        let windows: Vec<_> = streams(shape[0])
            .iter_mut()
            .map(|random| {
                resized_crop(images.size(), RESIZED_CROP_SCALE, RESIZED_CROP_RATIO, random)
            })
            .collect();
        let expected = images.build(size, |row, channel, y, x| {
            bilinear(&images, [row, channel], windows[row], size, y, x)
        });
        images
            .apply(&augment().random_resized_crop(size, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO))
            .assert_close(&expected);
    }
}

#[test]
fn a_resized_crop_that_never_fits_is_the_largest_centered_one() {
    let mut random = Stream::new(1, Purpose::Augment, 0, 0);
    let mut crop =
        |image: [usize; 2], ratio| resized_crop(image.into(), [1.0, 1.0], ratio, &mut random);
    // The area of a long image with a ratio of about 1 never fits.
    assert_eq!(
        crop([10, 40], [0.75, 4.0 / 3.0]),
        Window { top: 0, left: 13, size: [10, 13].into() }
    );
    assert_eq!(
        crop([40, 10], [0.75, 4.0 / 3.0]),
        Window { top: 13, left: 0, size: [13, 10].into() }
    );
    assert_eq!(crop([1, 1], [3.0, 4.0]), Window { top: 0, left: 0, size: 1.into() });
    // The ratio of the image is allowed, but rounded windows never fit.
    assert_eq!(crop([2, 3], [1.1, 9.0]).size, [2, 3].into());
}

#[test]
fn resize_and_center_crop_match_their_definitions() {
    let images = Images::random([3, 3, 9, 14]);
    for size in [Size::from(5), [9, 14].into(), [20, 3].into()] {
        let whole = Window { top: 0, left: 0, size: images.size() };
        let expected = images
            .build(size, |row, channel, y, x| bilinear(&images, [row, channel], whole, size, y, x));
        images.apply(&augment().resize(size)).assert_close(&expected);
    }
    for (size, top, left) in [
        (Size::from(4), 2, 5),
        ([7, 20].into(), 1, -3),
        ([13, 1].into(), -2, 6),
        ([9, 14].into(), 0, 0),
    ] {
        assert_eq!(center_crop(images.size(), size), Window { top, left, size }, "{size}");
        let expected =
            images.build(size, |row, channel, y, x| images.at(row, channel, top + y, left + x));
        assert_eq!(images.apply(&augment().center_crop(size)), expected, "{size}");
    }
}

#[test]
fn bilinear_interpolation_has_the_values_of_pytorch() {
    // torch.nn.functional.interpolate(torch.arange(4.), size, mode="linear", align_corners=False)
    let line = Images { shape: [1, 1, 1, 4], values: vec![0.0, 1.0, 2.0, 3.0] };
    for (size, expected) in [
        (2, vec![0.5, 2.5]),
        (8, vec![0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]),
        (1, vec![1.5]),
    ] {
        let expected = Images { shape: [1, 1, 1, size], values: expected };
        line.apply(&augment().resize([1, size])).assert_close(&expected);
    }
}

#[test]
fn combined_tables_have_the_combined_effect() {
    let tables = [
        Axis::window(7, -2, 7),
        Axis::window(7, 3, 7),
        Axis::reversed(7),
        Axis::identity(7),
        Axis::linear(1, 5, 7),
        Axis::linear(0, 7, 7),
    ];
    let values = [3.0f32, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0];
    let look_up = |axis: &Axis, values: &[f32]| -> Vec<f32> {
        let value = |taps: &Vec<super::super::axis::Tap>, at: usize| {
            values[taps[at].index] * taps[at].weight
        };
        (0..axis.len())
            .map(|at| value(&axis.near, at) + axis.far.as_ref().map_or(0.0, |far| value(far, at)))
            .collect()
    };
    for first in &tables {
        for second in &tables {
            match first.then(second) {
                Some(both) => {
                    assert_eq!(look_up(&both, &values), look_up(second, &look_up(first, &values)))
                }
                None => assert!(first.far.is_some() && second.far.is_some()),
            }
        }
    }
    assert!(
        Axis::identity(7).is_identity(7)
            && !Axis::window(7, 1, 7).is_identity(7)
            && !Axis::window(7, 0, 6).is_identity(7)
    );
}

#[test]
fn erasing_sets_a_rectangle_only() {
    let images = Images::random([40, 3, 12, 10]);
    for value in [0.0, 0.7] {
        let erase = Erase { probability: 0.6, scale: ERASING_SCALE, ratio: ERASING_RATIO, value };
        let windows: Vec<_> =
            streams(40).iter_mut().map(|random| erase.draw(images.size(), random)).collect();
        let expected = images.build(images.size(), |row, channel, y, x| match windows[row] {
            Some(Window { top, left, size })
                if (top..top + size.height as i64).contains(&y)
                    && (left..left + size.width as i64).contains(&x) =>
            {
                value
            }
            _ => images.at(row, channel, y, x),
        });
        assert_ne!(expected, images);
        assert_eq!(
            images.apply(&augment().random_erasing(0.6, ERASING_SCALE, ERASING_RATIO, value)),
            expected
        );
        assert_eq!(
            images.apply(&augment().random_erasing(0.0, ERASING_SCALE, ERASING_RATIO, value)),
            images
        );
    }
}
