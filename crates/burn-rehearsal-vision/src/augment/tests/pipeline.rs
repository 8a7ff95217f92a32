//! Whole pipelines: combinations, randomness, errors.

use super::*;

fn everything() -> Augment {
    augment()
        .random_crop(10, 2)
        .horizontal_flip(0.5)
        .random_resized_crop(8, [0.3, 1.0], RESIZED_CROP_RATIO)
        .color_jitter(ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 })
        .normalize(&[0.5; 3], &[0.25; 3])
        .random_erasing(0.5, ERASING_SCALE, ERASING_RATIO, 0.0)
}

#[test]
fn combined_operations_equal_separate_ones() {
    let images = Images::random([8, 3, 10, 9]);
    // Without randomness, so that the operations can be applied separately.
    let operations: [fn(Augment) -> Augment; 5] = [
        |a| a.center_crop([12, 8]),
        |a| a.horizontal_flip(1.0),
        |a| a.resize([7, 11]),
        |a| a.center_crop([8, 6]),
        |a| a.resize(9),
    ];
    let apart = operations
        .iter()
        .fold(images.clone(), |images, operation| images.apply(&operation(augment())));
    let together = operations.iter().fold(augment(), |augment, operation| operation(augment));
    images.apply(&together).assert_close(&apart);
    assert_eq!(together.output_shape([3, 10, 9]), Ok([3, 9, 9]));
    assert_eq!(images.apply(&augment()), images);
}

#[test]
fn results_depend_on_seed_step_and_rank_only() {
    let images = Images::random([6, 3, 10, 10]);
    let of = |augment: &Augment, step, rank| {
        Images::download(augment.apply(images.upload(), step, rank).unwrap())
    };
    let first = of(&everything(), 5, 1);
    Device::default().seed(1234);
    assert_eq!(of(&everything(), 5, 1), first);
    assert_ne!(of(&everything(), 6, 1), first);
    assert_ne!(of(&everything(), 5 | 1 << 40, 1), first);
    assert_ne!(of(&everything(), 5, 0), first);
    let other = Augment { seed: SEED + 1, ..everything() };
    assert_ne!(of(&other, 5, 1), first);
}

#[test]
fn equal_rows_are_augmented_differently() {
    let one = Images::random([1, 3, 10, 10]);
    let images = Images { shape: [12, 3, 10, 10], values: one.values.repeat(12) };
    let augmented = images.apply(&everything());
    let rows: Vec<&[f32]> = augmented.values.chunks_exact(3 * 64).collect();
    for (at, row) in rows.iter().enumerate() {
        assert!(!rows[..at].contains(row), "row {at} equals an earlier one");
    }
}

#[test]
fn a_row_does_not_depend_on_other_rows() {
    let images = Images::random([13, 3, 10, 10]);
    let all = images.apply(&everything());
    for rows in [1, 2, 7] {
        let few = Images { shape: [rows, 3, 10, 10], values: images.values[..rows * 300].to_vec() }
            .apply(&everything());
        assert_eq!(few.values, all.values[..rows * 192], "{rows} rows");
    }
    let mut others = images.clone();
    others.values[300..].fill(0.25);
    assert_eq!(others.apply(&everything()).values[..192], all.values[..192]);
}

#[test]
fn an_empty_mini_batch_has_the_output_shape() {
    let none = Tensor::<4>::zeros([0, 3, 10, 10], &Device::default());
    assert_eq!(everything().apply(none, 0, 0).unwrap().dims(), [0, 3, 8, 8]);
}

#[test]
fn invalid_operations_are_refused_by_name() {
    let refused = |augment: Augment, words: &[&str]| {
        let message = augment.output_shape([3, 8, 8]).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(message.contains(word), "no {word:?} in {message:?}"));
        let images = Tensor::<4>::zeros([2, 3, 8, 8], &Device::default());
        assert_eq!(augment.apply(images, 0, 0).unwrap_err().to_string(), message);
    };
    refused(augment().random_crop(13, 2), &["random_crop", "13×13", "8×8", "2 pixels"]);
    refused(augment().random_crop([0, 4], 2), &["random_crop", "0×4"]);
    refused(augment().center_crop([4, 0]), &["center_crop", "4×0"]);
    refused(augment().resize(0), &["resize", "0×0"]);
    refused(
        augment().random_resized_crop(0, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO),
        &["random_resized_crop", "0×0"],
    );
    for scale in [[0.5, 0.2], [-0.1, 1.0], [0.5, 1.5], [0.0, 0.0], [f64::NAN, 1.0]] {
        refused(
            augment().random_resized_crop(8, scale, RESIZED_CROP_RATIO),
            &["random_resized_crop", "scale", "between 0 and 1"],
        );
        refused(
            augment().random_erasing(0.5, scale, ERASING_RATIO, 0.0),
            &["random_erasing", "scale"],
        );
    }
    for ratio in [[2.0, 1.0], [0.0, 1.0], [1.0, f64::INFINITY], [1.0, f64::NAN]] {
        refused(
            augment().random_resized_crop(8, RESIZED_CROP_SCALE, ratio),
            &["random_resized_crop", "ratio", "above 0"],
        );
        refused(
            augment().random_erasing(0.5, ERASING_SCALE, ratio, 0.0),
            &["random_erasing", "ratio"],
        );
    }
    for probability in [-0.1, 1.1, f64::NAN] {
        refused(augment().horizontal_flip(probability), &["horizontal_flip", "between 0 and 1"]);
        refused(
            augment().random_erasing(probability, ERASING_SCALE, ERASING_RATIO, 0.0),
            &["random_erasing", "between 0 and 1"],
        );
    }
    refused(
        augment().random_erasing(0.5, ERASING_SCALE, ERASING_RATIO, f32::NAN),
        &["random_erasing", "NaN"],
    );
    refused(augment().normalize(&[0.5], &[0.5]), &["normalize", "1 channels", "have 3"]);
    refused(
        augment().normalize(&[0.5; 3], &[0.5, 0.0, 1.0]),
        &["normalize", "0 is not a valid standard deviation"],
    );
    refused(augment().normalize(&[f32::INFINITY; 3], &[0.5; 3]), &["normalize", "mean"]);
    refused(
        augment().color_jitter(ColorJitter { contrast: -1.0, ..ColorJitter::default() }),
        &["contrast", "-1"],
    );
    refused(
        augment().color_jitter(ColorJitter { hue: 0.6, ..ColorJitter::default() }),
        &["hue", "0.6"],
    );
    // The second crop applies to the result of the first.
    refused(augment().random_crop(4, 0).random_crop(6, 0), &["6×6", "4×4"]);
    let jitter = augment().color_jitter(ColorJitter { hue: 0.5, ..ColorJitter::default() });
    assert!(matches!(jitter.output_shape([2, 8, 8]), Err(AugmentError::Channels { found: 2, .. })));
    assert!(matches!(augment().output_shape([3, 0, 8]), Err(AugmentError::Empty { .. })));
}
