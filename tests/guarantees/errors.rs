//! Guarantee 9 of docs/ARCHITECTURE.md: a typed error that names the thing and the value on every
//! live rank, and no hang.

use burn::tensor::{DType, Int, Tensor, TensorData};
use burn_rehearsal::error::{BatchError, ConfigError, RehearsalError};
use burn_rehearsal::{
    Capacity, Execution, MAX_CLASSES, MAX_LAG, OnRepeat, RehearsalBatch, RehearsalBuffer,
    RehearsalConfig, SamplingKind,
};
use burn_rehearsal_collective::{CollectiveError, ReduceOp, Solo, WaitingRank, run_threads};
use burn_rehearsal_testing::{CLASS, Mixed, batch, buffer, config, device, fresh, watchdog, world};

/// The step that fails on rank [`CULPRIT`].
const AT: usize = 3;
const CULPRIT: usize = 1;

/// A mini-batch with `i64` images, which can hold values out of the range of bytes.
fn wide(ids: &[i64]) -> Mixed {
    let batch = batch(ids);
    Mixed { image: batch.image.cast(DType::I64), ..batch }
}

fn images(values: [i64; 16]) -> Tensor<4, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [4, 1, 2, 2]), (&device(), DType::I64))
}

fn with_class(batch: Mixed, class: i64) -> Mixed {
    Mixed {
        class: Tensor::from_data(
            TensorData::new(vec![0, class, 1, 2], [4]),
            (&device(), DType::I64),
        ),
        ..batch
    }
}

struct Case {
    spoil: fn(Mixed) -> Mixed,
    is: fn(&BatchError) -> bool,
    /// The words that the message must contain: the field and the value.
    says: &'static [&'static str],
    /// Whether the engine finds the error, because values must be read.
    by_engine: bool,
}

const CASES: [Case; 11] = [
    Case {
        spoil: |batch| Mixed { feature: Tensor::zeros([5, 2], &device()), ..batch },
        is: |error| {
            matches!(
                error,
                BatchError::Rows { field: "feature", found: 5, first: "image", expected: 4 }
            )
        },
        says: &["`feature`", "5 rows", "`image`", "4"],
        by_engine: false,
    },
    Case {
        spoil: |batch| Mixed { replayed: batch.replayed.slice(0..3), ..batch },
        is: |error| matches!(error, BatchError::Rows { field: "replayed", found: 3, .. }),
        says: &["`replayed`", "3 rows"],
        by_engine: false,
    },
    Case {
        spoil: |batch| Mixed { feature: Tensor::zeros([4, 3], &device()), ..batch },
        is: |error| matches!(error, BatchError::Changed { field: "feature", .. }),
        says: &["`feature`", "[2]", "[3]"],
        by_engine: false,
    },
    Case {
        spoil: |batch| Mixed { image: batch.image.reshape([4, 2, 2, 1]), ..batch },
        is: |error| matches!(error, BatchError::Changed { field: "image", .. }),
        says: &["`image`", "[1, 2, 2]", "[2, 2, 1]"],
        by_engine: false,
    },
    Case {
        spoil: |batch| Mixed { class: batch.class.cast(DType::I32), ..batch },
        is: |error| matches!(error, BatchError::Changed { field: "class", .. }),
        says: &["`class`", "I64", "I32"],
        by_engine: false,
    },
    Case {
        spoil: |batch| Mixed { feature: batch.feature.cast(DType::F64), ..batch },
        is: |error| matches!(error, BatchError::Changed { field: "feature", .. }),
        says: &["`feature`", "F32", "F64"],
        by_engine: false,
    },
    Case {
        spoil: |batch| Mixed {
            feature: Tensor::from_data(
                TensorData::new(Vec::<f32>::new(), [0, 2]),
                (&device(), DType::F32),
            ),
            ..batch
        },
        is: |error| match error {
            BatchError::EmptyField { field, shape } => *field == "feature" && shape[..] == [0, 2],
            _ => false,
        },
        says: &["`feature`", "[0, 2]"],
        by_engine: false,
    },
    Case {
        spoil: |batch| with_class(batch, -1),
        is: |error| {
            matches!(error, BatchError::ClassRange { field: "class", class: -1, classes: 6 })
        },
        says: &["`class`", "-1", "0..6"],
        by_engine: true,
    },
    Case {
        spoil: |batch| with_class(batch, 6),
        is: |error| {
            matches!(error, BatchError::ClassRange { field: "class", class: 6, classes: 6 })
        },
        says: &["`class`", "6", "0..6"],
        by_engine: true,
    },
    Case {
        spoil: |batch| Mixed {
            image: images([0, 1, 2, 3, 4, 5, -1, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
            ..batch
        },
        is: |error| matches!(error, BatchError::ByteRange { field: "image", value: -1 }),
        says: &["`image`", "-1", "0..=255"],
        by_engine: true,
    },
    Case {
        spoil: |batch| Mixed {
            image: images([255, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11, 12, 13, 14, 256]),
            ..batch
        },
        is: |error| matches!(error, BatchError::ByteRange { field: "image", value: 256 }),
        says: &["`image`", "256", "0..=255"],
        by_engine: true,
    },
];

/// Runs until the first error, after which the buffer must be poisoned. Returns the step and the
/// error.
fn until_error(
    buffer: &RehearsalBuffer<Mixed>,
    mut make: impl FnMut(usize) -> Mixed,
) -> (usize, RehearsalError) {
    for step in 0..AT + 12 {
        if let Err(error) = buffer.rehearse(make(step)) {
            assert_eq!(buffer.check(), Err(error.clone()));
            assert_eq!(buffer.check(), Err(error.clone()));
            for later in [
                buffer.rehearse(make(0)).err(),
                buffer.skip_step().err(),
                buffer.begin_task(1).err(),
                buffer.inspect().err(),
                buffer.report().err(),
            ] {
                assert_eq!(later, Some(error.clone()), "a poisoned buffer must repeat its error");
            }
            return (step, error);
        }
        assert_eq!(buffer.check(), Ok(()));
    }
    panic!("no error on rank {}", buffer.rank());
}

#[test]
fn a_bad_mini_batch_is_an_error_on_every_rank() {
    for (number, case) in CASES.iter().enumerate() {
        for (size, lag, execution) in [
            (3, 1, Execution::Background),
            (3, 0, Execution::Background),
            (2, 1, Execution::Inline),
            (4, 3, Execution::Background),
        ] {
            let config =
                config(50, 4, 3).with_classes(Some(6)).with_lag(lag).with_execution(execution);
            let outcomes = world(size, |threads| {
                let buffer = buffer(&config, threads);
                let rank = buffer.rank();
                until_error(&buffer, |step| {
                    let batch = wide(&fresh(0, rank, step, 4, 6));
                    if rank == CULPRIT && step == AT { (case.spoil)(batch) } else { batch }
                })
            });
            let context =
                format!("case {number} on {size} ranks, lag {lag}, {execution:?}: {outcomes:?}");
            for (rank, (step, error)) in outcomes.iter().enumerate() {
                match error {
                    RehearsalError::Batch(error) if rank == CULPRIT => {
                        assert!((case.is)(error), "{context}");
                        let message = error.to_string();
                        assert!(
                            case.says.iter().all(|word| message.contains(word)),
                            "`{message}` does not contain {:?}",
                            case.says
                        );
                        // Wrong shapes are found at once, wrong values when the engine reads
                        // them.
                        assert_eq!(*step, if case.by_engine { AT + lag } else { AT }, "{context}");
                    }
                    RehearsalError::PeerFailed {
                        rank: CULPRIT,
                        step: failed,
                        reason: "batch",
                        ..
                    } if rank != CULPRIT => {
                        assert_eq!(*failed, AT as u64, "{context}");
                        assert_eq!(*step, AT + lag, "{context}");
                    }
                    _ => panic!("rank {rank}: {context}"),
                }
            }
        }
    }
}

#[test]
fn a_bad_first_mini_batch_is_an_error() {
    for (number, case) in CASES.iter().enumerate() {
        let buffer: RehearsalBuffer<Mixed> =
            config(50, 4, 3).with_classes(Some(6)).with_lag(0).init().unwrap();
        let result = buffer.rehearse((case.spoil)(wide(&fresh(0, 0, 0, 4, 6))));
        match result {
            Err(RehearsalError::Batch(error)) => {
                assert!((case.is)(&error), "case {number}: {error}")
            }
            // The first mini-batch cannot differ from an earlier one, so these cases are valid.
            Ok(_) => assert!((2..=5).contains(&number), "case {number}"),
            Err(error) => panic!("case {number}: {error}"),
        }
    }
}

#[test]
fn without_configured_classes_an_impossible_class_is_an_error() {
    for class in [-1, MAX_CLASSES as i64, i64::MAX] {
        let buffer: RehearsalBuffer<Mixed> = config(50, 4, 3).with_lag(0).init().unwrap();
        let error = buffer.rehearse(with_class(batch(&[1, 2, 3, 4]), class)).unwrap_err();
        assert_eq!(
            error,
            RehearsalError::Batch(BatchError::ClassRange {
                field: "class",
                class,
                classes: MAX_CLASSES
            })
        );
    }
}

#[test]
fn invalid_configurations_are_refused_before_the_first_mini_batch() {
    let good = || config(10, 4, 3);
    let refused = |config: RehearsalConfig, size: usize, says: &[&str]| {
        let error = config.validate(size).unwrap_err();
        let message = error.to_string();
        assert!(
            says.iter().all(|word| message.contains(word)),
            "`{message}` does not contain {says:?}"
        );
        if size == 1 {
            // Messages are compared, because a NaN is not equal to itself.
            let found = config.init::<Mixed>().unwrap_err();
            assert!(
                matches!(found, RehearsalError::Config(_)) && found.to_string() == message,
                "{found}"
            );
        }
    };
    refused(good().with_representatives(11), 1, &["11 representatives", "10 samples"]);
    refused(config(0, 4, 0), 1, &["0 samples"]);
    refused(config(3, 4, 2), 4, &["3 samples", "world size 4"]);
    refused(good().with_classes(Some(0)), 1, &["0 classes"]);
    refused(good().with_lag(MAX_LAG + 1), 1, &["1025 steps", "1024"]);
    refused(good().with_classes(Some(MAX_CLASSES + 1)), 1, &["1048577 classes"]);
    let with = |capacity| RehearsalConfig { capacity, ..good() };
    refused(with(Capacity::Bytes(0)), 1, &["0 bytes"]);
    refused(with(Capacity::Fraction(0.5)), 1, &["0.5", "size of the data set"]);
    for fraction in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        refused(
            with(Capacity::Fraction(fraction)).with_dataset_len(Some(100)),
            1,
            &[&fraction.to_string()],
        );
    }
    refused(with(Capacity::Fraction(0.001)).with_dataset_len(Some(100)), 1, &["0.001"]);
    refused(
        with(Capacity::Fraction(0.02)).with_dataset_len(Some(100)),
        1,
        &["3 representatives", "2 samples"],
    );
    assert_eq!(good().validate(10), Ok(()));
    // `fill` can store rows without candidates.
    assert_eq!(config(10, 0, 3).validate(1), Ok(()));
    assert_eq!(good().validate_batch_size(4), Ok(()));
    assert_eq!(
        good().validate_batch_size(3),
        Err(ConfigError::CandidatesBeyondBatch { candidates: 4, batch_size: 3 })
    );
}

#[derive(RehearsalBatch, Clone, Debug)]
struct Plain {
    value: Tensor<2>,
}

#[test]
fn skip_if_stored_without_an_id_is_refused_at_once() {
    let config = config(10, 4, 3).with_on_repeat(OnRepeat::SkipIfStored);
    assert_eq!(config.init::<Plain>().unwrap_err(), RehearsalError::Config(ConfigError::NoId));
    assert!(config.init::<Mixed>().is_ok());
}

#[test]
fn a_too_small_capacity_in_bytes_is_an_error() {
    // A row has 4 + 8 + 8 + 8 bytes.
    for (bytes, says) in
        [(27, "27 bytes"), (60, "3 representatives per step do not fit in a buffer of 2 samples")]
    {
        let config =
            RehearsalConfig { capacity: Capacity::Bytes(bytes), ..config(10, 4, 3).with_lag(0) };
        let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
        let error = buffer.rehearse(batch(&[1, 2])).unwrap_err();
        assert!(
            matches!(error, RehearsalError::Config(_)) && error.to_string().contains(says),
            "{error}"
        );
    }
    let config = RehearsalConfig { capacity: Capacity::Bytes(60), ..config(10, 4, 1).with_lag(0) };
    for error in world(3, |threads| buffer(&config, threads).rehearse(batch(&[1])).unwrap_err()) {
        assert!(error.to_string().contains("world size 3"), "{error}");
    }
}

#[test]
fn ranks_with_different_configurations_disagree_on_every_rank() {
    let base = config(30, 4, 3);
    let others = [
        (base.clone().with_seed(1), "seed is "),
        (
            base.clone().with_representatives(4),
            "representatives is 3 on ranks 0, 2 and 4 on rank 1",
        ),
        (base.clone().with_candidates(3), "candidates is "),
        (base.clone().with_sampling(SamplingKind::ClassBalanced), "sampling is uniform on "),
        (base.clone().with_lag(2), "lag is "),
        (config(31, 4, 3), "capacity is {\"samples\":30} on "),
    ];
    for (other, words) in others {
        let errors = world(3, |threads| {
            let own = if threads.rank() == CULPRIT { &other } else { &base };
            let buffer = buffer(own, threads);
            let rank = buffer.rank();
            until_error(&buffer, |step| batch(&fresh(0, rank, step, 4, 3))).1
        });
        for (rank, error) in errors.iter().enumerate() {
            assert!(matches!(error, RehearsalError::Configuration(_)), "rank {rank}: {error}");
            assert!(error.to_string().contains(words), "rank {rank}: {error}");
            assert_eq!(error, &errors[0]);
        }
    }
}

#[test]
fn ranks_with_different_batch_types_or_shapes_disagree_on_every_rank() {
    let is_disagreement = |error: &RehearsalError| match error {
        RehearsalError::Disagreement { detail, .. } => detail.contains("shapes"),
        _ => false,
    };
    let types = world(3, |threads| {
        let config = config(30, 2, 3);
        if threads.rank() == CULPRIT {
            let buffer: RehearsalBuffer<Plain> = RehearsalBuffer::new(&config, threads).unwrap();
            (0..9)
                .find_map(|_| {
                    buffer.rehearse(Plain { value: Tensor::zeros([2, 2], &device()) }).err()
                })
                .unwrap()
        } else {
            until_error(&buffer(&config, threads), |_| batch(&[1, 2])).1
        }
    });
    assert!(types.iter().all(is_disagreement), "{types:?}");
    let shapes = world(3, |threads| {
        let buffer = buffer(&config(30, 2, 3), threads);
        let features = if buffer.rank() == CULPRIT { 3 } else { 2 };
        until_error(&buffer, |_| Mixed {
            feature: Tensor::zeros([2, features], &device()),
            ..batch(&[1, 2])
        })
        .1
    });
    assert!(shapes.iter().all(is_disagreement), "{shapes:?}");
    // A rank whose first rows come late is detected then.
    let late = world(3, |threads| {
        let buffer = buffer(&config(30, 2, 3), threads);
        if buffer.rank() == CULPRIT {
            (0..4).for_each(|_| buffer.skip_step().unwrap());
            return until_error(&buffer, |_| wide(&[1, 2])).1;
        }
        until_error(&buffer, |_| batch(&[1, 2])).1
    });
    assert!(late.iter().all(is_disagreement), "{late:?}");
}

/// Whether an error names [`CULPRIT`] as the rank that left.
fn names_the_culprit(error: &RehearsalError) -> bool {
    match error {
        RehearsalError::PeerFailed { rank, .. }
        | RehearsalError::Collective(CollectiveError::PeerFailed { rank, .. }) => *rank == CULPRIT,
        _ => false,
    }
}

#[test]
fn a_rank_that_panics_or_leaves_is_named_by_all_others() {
    let _watchdog = watchdog();
    for (lag, execution) in [
        (0, Execution::Background),
        (1, Execution::Background),
        (3, Execution::Background),
        (1, Execution::Inline),
    ] {
        for panics in [true, false] {
            let config = config(30, 4, 3).with_lag(lag).with_execution(execution);
            let outcomes = run_threads(4, |threads| {
                let buffer = buffer(&config, Box::new(threads));
                let rank = buffer.rank();
                if rank != CULPRIT {
                    return Ok(Some(until_error(&buffer, |step| {
                        batch(&fresh(0, rank, step, 4, 3))
                    })));
                }
                for step in 0..AT {
                    buffer.rehearse(batch(&fresh(0, rank, step, 4, 3)))?;
                }
                assert!(!panics, "this rank fails on purpose");
                Ok::<_, RehearsalError>(None)
            });
            for (rank, outcome) in
                outcomes.into_iter().enumerate().filter(|(rank, _)| *rank != CULPRIT)
            {
                // Its submitted steps count, so no rank fails before the step at which it left.
                match outcome {
                    Ok(Some((step, error))) => assert!(
                        step == AT + lag && names_the_culprit(&error),
                        "lag {lag}, step {step}: {error}"
                    ),
                    other => panic!("rank {rank}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_rank_whose_data_fails_gives_the_reason_to_all_others() {
    for lag in [0, 1, 3] {
        let errors = world(3, |threads| {
            let buffer = buffer(&config(30, 4, 3).with_lag(lag), threads);
            let rank = buffer.rank();
            if rank != CULPRIT {
                return until_error(&buffer, |step| batch(&fresh(0, rank, step, 4, 3)));
            }
            for step in 0..AT {
                buffer.rehearse(batch(&fresh(0, rank, step, 4, 3))).unwrap();
            }
            buffer.abort(RehearsalError::Data("no such file".into()));
            buffer.abort(RehearsalError::Data("a later one".into()));
            (AT, buffer.check().unwrap_err())
        });
        assert_eq!(errors[CULPRIT].1, RehearsalError::Data("no such file".into()));
        for rank in [0, 2] {
            assert_eq!(
                errors[rank],
                (AT + lag, RehearsalError::peer_failed(CULPRIT, AT as u64, "data"))
            );
        }
    }
}

#[test]
fn steps_of_a_rank_before_it_leaves_count_for_the_others() {
    // Rank 0 drops its buffer right after its last step, while its rounds are still pending. The
    // others inspect their buffers later.
    for lag in [0, 1, 3] {
        for _ in 0..20 {
            let lengths = world(3, |threads| {
                let buffer = buffer(&config(300, 4, 3).with_lag(lag), threads);
                let rank = buffer.rank();
                for step in 0..5 {
                    buffer.rehearse(batch(&fresh(0, rank, step, 4, 3))).unwrap();
                }
                if rank == 0 { 20 } else { buffer.inspect().unwrap().len }
            });
            assert_eq!(lengths, [20; 3]);
        }
    }
}

#[test]
fn the_class_of_a_row_is_checked_only_if_it_is_offered() {
    // Only candidates are read, so that no step reads a whole mini-batch back from a device.
    let buffer: RehearsalBuffer<Mixed> =
        config(10, 1, 1).with_classes(Some(2)).with_lag(0).init().unwrap();
    let mut refused = false;
    for step in 0..30 {
        let ids = [step, step + 100, 7 * CLASS + step];
        refused |= buffer.rehearse(batch(&ids)).is_err();
    }
    assert!(refused, "an offered class out of range must be an error");
}

#[test]
fn an_unused_buffer_is_dropped_without_a_hang() {
    let _watchdog = watchdog();
    for execution in [Execution::Background, Execution::Inline] {
        let config = config(10, 1, 1).with_execution(execution);
        drop(RehearsalBuffer::<Mixed>::new(&config, Box::new(Solo::new())).unwrap());
        world(3, |threads| drop(buffer(&config, threads)));
    }
}

/// The ranks that wait in an operation of the named handle.
fn waiting<'a>(waiting: &'a [WaitingRank], handle: &str) -> Vec<&'a WaitingRank> {
    waiting.iter().filter(|wait| wait.handle == handle).collect()
}

/// The waiting ranks of a deadlock error.
fn deadlock(error: RehearsalError) -> Vec<WaitingRank> {
    let RehearsalError::Collective(CollectiveError::Deadlock { waiting, .. }) = error else {
        panic!("{error}")
    };
    waiting
}

#[test]
fn a_rank_that_skips_rounds_but_reduces_gradients_is_a_deadlock_error() {
    for (size, lag, execution) in [
        (2, 0, Execution::Background),
        (2, 1, Execution::Background),
        (3, 1, Execution::Background),
        (3, 3, Execution::Background),
        (2, 0, Execution::Inline),
        (3, 1, Execution::Inline),
    ] {
        let config = config(30, 4, 3).with_lag(lag).with_execution(execution);
        let errors = world(size, |mut gradients| {
            let buffer = buffer(&config, gradients.duplicate().unwrap());
            gradients.set_purpose("gradients");
            let rank = buffer.rank();
            let step = |step| -> Result<(), RehearsalError> {
                if rank != CULPRIT || step < AT {
                    buffer.rehearse(batch(&fresh(0, rank, step, 4, 3)))?;
                }
                Ok(gradients.all_reduce(&mut [1.0; 3], ReduceOp::Mean)?)
            };
            // The ranks continue until one waits for a round that the culprit has not begun.
            (0..AT + 12).map(step).find_map(Result::err).unwrap()
        });
        let found = deadlock(errors[0].clone());
        for error in errors {
            assert_eq!(deadlock(error), found, "{size} ranks, lag {lag}, {execution:?}");
        }
        let (rounds, sums) = (waiting(&found, "rehearsal"), waiting(&found, "gradients"));
        assert!(!rounds.is_empty() && !sums.is_empty(), "{found:?}");
        assert!(
            rounds.iter().all(|wait| wait.rank != CULPRIT && wait.missing.contains(&CULPRIT)),
            "{found:?}"
        );
        assert!(sums.iter().any(|wait| wait.rank == CULPRIT), "{found:?}");
    }
}

#[test]
fn waiting_for_a_checkpoint_that_another_rank_never_begins_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for execution in [Execution::Background, Execution::Inline] {
        let config = config(30, 4, 3).with_execution(execution);
        let errors = world(2, |mut gradients| {
            let buffer = buffer(&config, gradients.duplicate().unwrap());
            let rank = buffer.rank();
            buffer.rehearse(batch(&fresh(0, rank, 0, 4, 3))).unwrap();
            if rank == CULPRIT {
                return RehearsalError::from(gradients.barrier().unwrap_err());
            }
            buffer
                .begin_checkpoint(directory.path())
                .and_then(|checkpoint| checkpoint.wait())
                .unwrap_err()
        });
        let found = deadlock(errors[0].clone());
        assert_eq!(deadlock(errors[1].clone()), found);
        assert_eq!(found.iter().map(|wait| wait.rank).collect::<Vec<_>>(), [0, 1]);
    }
}

#[test]
fn a_slow_rank_is_not_an_error() {
    let directory = tempfile::tempdir().unwrap();
    for execution in [Execution::Background, Execution::Inline] {
        let config = config(30, 4, 3).with_execution(execution);
        world(2, |mut gradients| {
            let buffer = buffer(&config, gradients.duplicate().unwrap());
            let rank = buffer.rank();
            for step in 0..12 {
                if rank == CULPRIT && step == 5 {
                    std::thread::sleep(std::time::Duration::from_secs(3));
                }
                buffer.rehearse(batch(&fresh(0, rank, step, 4, 3))).unwrap();
                if step % 4 == 3 {
                    // Some checkpoints are still being written during the next steps.
                    let checkpoint = buffer.begin_checkpoint(directory.path()).unwrap();
                    if step == 7 {
                        checkpoint.wait().unwrap();
                    }
                }
                gradients.all_reduce(&mut [1.0; 3], ReduceOp::Mean).unwrap();
            }
            buffer.report().unwrap().len
        });
    }
}
