//! Matrices computed by hand, and properties of random ones.

use burn_rehearsal::random::{Purpose, Stream};

use super::*;

fn matrix(rows: &[&[f64]]) -> AccuracyMatrix {
    let mut matrix = AccuracyMatrix::new(rows[0].len());
    for row in rows {
        matrix.push_row(&row.iter().copied().map(Some).collect::<Vec<_>>()).unwrap();
    }
    matrix
}

/// Three tasks. Task 0 is best after task 1, so that forgetting and backward transfer differ.
fn three_tasks() -> AccuracyMatrix {
    matrix(&[&[0.8, 0.2, 0.1], &[0.9, 0.7, 0.3], &[0.5, 0.6, 1.0]])
}

#[track_caller]
fn assert_close(found: Option<f64>, expected: f64) {
    let found = found.unwrap();
    assert!((found - expected).abs() < 1e-12, "found {found}, expected {expected}");
}

#[test]
fn a_matrix_of_three_tasks_has_the_values_computed_by_hand() {
    let matrix = three_tasks();
    assert_eq!(matrix.learned(), 3);
    assert_close(matrix.average(), (0.5 + 0.6 + 1.0) / 3.0);
    assert_close(matrix.average_after(1), (0.9 + 0.7) / 2.0);
    assert_close(matrix.forgetting(), ((0.9 - 0.5) + (0.7 - 0.6)) / 2.0);
    assert_close(matrix.backward_transfer(), ((0.5 - 0.8) + (0.6 - 0.7)) / 2.0);
    assert_close(matrix.forward_transfer(&[0.5, 0.1, 0.05]), ((0.2 - 0.1) + (0.3 - 0.05)) / 2.0);
}

#[test]
fn complete_forgetting_of_two_tasks_is_one() {
    let matrix = matrix(&[&[1.0, 0.0], &[0.0, 1.0]]);
    assert_close(matrix.forgetting(), 1.0);
    assert_close(matrix.backward_transfer(), -1.0);
    assert_close(matrix.average(), 0.5);
    assert_close(matrix.forward_transfer(&[0.5, 0.5]), -0.5);
}

#[test]
fn forgetting_is_negative_when_the_last_task_improves_the_earlier_ones() {
    let matrix = matrix(&[&[0.5, 0.0], &[0.75, 1.0]]);
    assert_close(matrix.forgetting(), -0.25);
    assert_close(matrix.backward_transfer(), 0.25);
}

#[test]
fn accuracy_before_a_task_was_learned_does_not_count_as_forgetting() {
    // The accuracy 0.9 on task 1 was measured before the task was learned. The maximum from row j
    // on ignores it.
    let matrix = matrix(&[&[1.0, 0.9, 0.0], &[1.0, 0.6, 0.0], &[1.0, 0.6, 1.0]]);
    assert_close(matrix.forgetting(), 0.0);
}

#[test]
fn one_task_has_only_an_average_and_zero_tasks_no_metric() {
    let one = matrix(&[&[0.9]]);
    assert_close(one.average(), 0.9);
    assert_eq!(
        (one.forgetting(), one.backward_transfer(), one.forward_transfer(&[0.1])),
        (None, None, None)
    );
    for empty in [AccuracyMatrix::new(0), AccuracyMatrix::new(3)] {
        assert_eq!(
            (empty.learned(), empty.average(), empty.forgetting(), empty.backward_transfer()),
            (0, None, None, None)
        );
        assert_eq!(empty.forward_transfer(&[0.1; 3]), None);
    }
}

#[test]
fn an_interrupted_run_has_the_metrics_of_the_tasks_it_finished() {
    let mut run = AccuracyMatrix::new(3);
    run.push_row(&[Some(0.8), Some(0.2), None]).unwrap();
    run.push_row(&[Some(0.4), Some(0.9)]).unwrap();
    // The evaluation after task 2 was stopped before its last test set.
    run.push_row(&[Some(0.1), Some(0.1), Some(f64::NAN)]).unwrap();
    assert_eq!(run.learned(), 2);
    assert_close(run.average(), 0.65);
    assert_close(run.forgetting(), 0.4);
    assert_close(run.backward_transfer(), -0.4);
    assert_close(run.forward_transfer(&[0.1, 0.1, 0.1]), 0.1);
}

#[test]
fn a_missing_entry_affects_only_the_metrics_that_need_it() {
    let mut run = AccuracyMatrix::new(3);
    run.push_row(&[]).unwrap();
    run.push_row(&[Some(0.7), Some(0.9)]).unwrap();
    run.push_row(&[Some(0.5), Some(0.8), Some(1.0)]).unwrap();
    assert_close(run.forgetting(), (0.2 + 0.1) / 2.0);
    assert_eq!(run.backward_transfer(), None, "a[0][0] is missing");
    assert_eq!(run.forward_transfer(&[0.1; 3]), None, "a[0][1] is missing");
    assert_eq!(three_tasks().forward_transfer(&[0.1; 2]), None, "the baseline is too short");
    assert_eq!(three_tasks().forward_transfer(&[0.1, f64::NAN, 0.1]), None);
}

#[test]
fn rows_that_do_not_fit_leave_the_matrix_unchanged() {
    let mut run = AccuracyMatrix::new(1);
    assert_eq!(
        run.push_row(&[Some(0.1), None]),
        Err(MetricsError::RowLength { row: 0, len: 2, tasks: 1 })
    );
    assert_eq!(
        run.push_row(&[Some(97.0)]),
        Err(MetricsError::NotAFraction { row: 0, column: 0, value: 97.0 })
    );
    assert_eq!(run, AccuracyMatrix::new(1));
    run.push_row(&[Some(0.97)]).unwrap();
    assert_eq!(run.push_row(&[Some(0.97)]), Err(MetricsError::Full { tasks: 1 }));
}

#[test]
fn a_padded_matrix_keeps_its_rows_and_has_room_for_the_others() {
    let mut run = AccuracyMatrix::new(2);
    run.push_row(&[Some(0.5), Some(0.25)]).unwrap();
    assert_eq!(run.padded(2, 1).unwrap(), run);
    let mut padded = AccuracyMatrix::default().padded(2, 1).unwrap();
    padded.push_row(&[Some(0.25), Some(0.75)]).unwrap();
    assert_eq!(padded.rows(), [[None, None], [Some(0.25), Some(0.75)]]);
    assert_eq!((padded.average(), padded.forgetting()), (Some(0.5), None));
    assert_eq!(run.padded(1, 1), Err(MetricsError::RowLength { row: 0, len: 2, tasks: 1 }));
    assert_eq!(run.padded(2, 3), Err(MetricsError::Full { tasks: 2 }));
}

#[test]
fn json_is_a_square_of_numbers_and_nulls() {
    let mut run = AccuracyMatrix::new(2);
    run.push_row(&[Some(0.5), Some(f64::NAN)]).unwrap();
    let json = serde_json::to_string(&run).unwrap();
    assert_eq!(json, "[[0.5,null],[null,null]]");
    let mut back: AccuracyMatrix = serde_json::from_str(&json).unwrap();
    assert_eq!(back, run);
    back.push_row(&[Some(0.25), Some(1.0)]).unwrap();
    assert_close(back.average(), 0.625);
    for damaged in ["[[0.5]", "[[0.5,0.5]]", "[[2.0]]", "[[0.5],[0.5]]"] {
        assert!(serde_json::from_str::<AccuracyMatrix>(damaged).is_err(), "{damaged}");
    }
}

#[test]
fn metrics_of_random_matrices_stay_in_their_range() {
    let mut random = Stream::new(1, Purpose::TaskStream, 0, 0);
    for _ in 0..500 {
        let tasks = 2 + random.below(8) as usize;
        let mut run = AccuracyMatrix::new(tasks);
        for _ in 0..tasks {
            let row: Vec<_> = (0..tasks).map(|_| Some(random.unit_f64())).collect();
            run.push_row(&row).unwrap();
        }
        let (forgetting, bwt) = (run.forgetting().unwrap(), run.backward_transfer().unwrap());
        assert!((0.0..=1.0).contains(&run.average().unwrap()));
        assert!((-1.0..=1.0).contains(&forgetting) && (-1.0..=1.0).contains(&bwt));
        // The maximum is at least the diagonal, so F ≥ −BWT. With two tasks they are equal.
        assert!(forgetting >= -bwt - 1e-12);
        assert!(tasks > 2 || (forgetting + bwt).abs() < 1e-12);
    }
}

#[test]
fn mean_and_sample_standard_deviation_match_the_textbook() {
    let MeanSd { mean, sd, n } = mean_sd(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
    assert_eq!((mean, n), (5.0, 8));
    assert_close(sd, (32.0f64 / 7.0).sqrt());
    assert_eq!(mean_sd(&[3.0]), Some(MeanSd { mean: 3.0, sd: None, n: 1 }));
    assert_eq!(mean_sd(&[]), None);
}

#[test]
fn a_mean_shows_its_spread_only_if_there_is_one() {
    assert_eq!(mean_sd(&[0.9, 0.92]).unwrap().to_string(), "0.910 ± 0.014");
    assert_eq!(format!("{:.1}", mean_sd(&[2.25]).unwrap()), "2.2");
}
