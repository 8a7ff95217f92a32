//! Guarantee 8 of docs/ARCHITECTURE.md: a checkpoint is complete or absent, a restored buffer
//! continues bit for bit, and another number of ranks keeps every sample once.

use crate::deterministic::configurations;
use burn::tensor::{Int, Tensor, TensorData};
use burn_rehearsal::checkpoint::{CheckpointError, check_shared};
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    Execution, OnRepeat, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig,
    SamplingKind, StorePreference,
};
use burn_rehearsal_collective::{Collective, run_threads};
use burn_rehearsal_testing::{
    CLASS, Mixed, Row, assert_augmented, batch, buffer, byte_type, config, device, fresh,
    label_type, read, uniform_p, watchdog, world,
};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use tempfile::TempDir;

const STEPS: usize = 24;

/// Runs some steps of three tasks with mini-batches of different sizes, some of them empty. Returns
/// the augmented mini-batches.
fn steps(buffer: &RehearsalBuffer<Mixed>, steps: Range<usize>) -> Vec<Vec<Row>> {
    let mut batches = Vec::new();
    for step in steps {
        if step % 8 == 0 {
            buffer.begin_task(step / 8).unwrap();
        }
        let rows = [5, 3, 0, 7, 1][(step * 3 + buffer.rank()) % 5];
        let ids = fresh(31, buffer.rank(), step, rows, 2 + step as u64 / 8);
        if rows == 0 {
            buffer.skip_step().unwrap();
            continue;
        }
        let augmented = buffer.rehearse(batch(&ids)).unwrap();
        assert_augmented(&ids, &augmented);
        batches.push(read(&augmented));
    }
    batches
}

/// Slot, generation, class, task and id of a stored row.
type Stored = (u32, u32, usize, usize, Option<i64>);

/// The digests of contents and draws, and the stored rows.
fn end(buffer: &RehearsalBuffer<Mixed>) -> (String, String, Vec<Stored>) {
    let report = buffer.report().unwrap();
    let snapshot = buffer.snapshot().unwrap();
    let rows = snapshot
        .samples()
        .iter()
        .map(|s| (s.handle.slot, s.handle.generation, s.class, s.task, s.id))
        .collect();
    (report.contents_digest, report.draws_digest, rows)
}

#[test]
fn a_restored_buffer_continues_bit_for_bit() {
    for size in [1, 2, 3, 4] {
        for (number, config) in configurations(size).into_iter().enumerate() {
            let whole = world(size, |threads| {
                let buffer = buffer(&config, threads);
                (steps(&buffer, 0..STEPS), end(&buffer))
            });
            for cut in
                [0, 1, 3, 8, 13, 23].into_iter().filter(|cut| size < 3 || (cut + number) % 2 == 1)
            {
                let directory = TempDir::new().unwrap();
                // The store differs before and after the cut.
                let (before, after) =
                    (config.clone(), config.clone().with_store(StorePreference::Host));
                let first = world(size, |threads| {
                    let buffer = buffer(&before, threads);
                    let batches = steps(&buffer, 0..cut);
                    assert!(buffer.checkpoint(directory.path()).unwrap().bytes > 0);
                    batches
                });
                let rest = world(size, |threads| {
                    let buffer = buffer(&after, threads);
                    let restored = buffer.restore(directory.path(), &device()).unwrap();
                    assert_eq!(restored.world_size, size);
                    (steps(&buffer, cut..STEPS), end(&buffer))
                });
                for (rank, ((batches, end), (first, (rest, rest_end)))) in
                    whole.iter().zip(first.iter().zip(&rest)).enumerate()
                {
                    let joined: Vec<_> = first.iter().chain(rest).collect();
                    assert_eq!(
                        batches.iter().collect::<Vec<_>>(),
                        joined,
                        "rank {rank} of {size}, configuration {number}, cut at {cut}"
                    );
                    assert_eq!(
                        end, rest_end,
                        "rank {rank} of {size}, configuration {number}, cut at {cut}"
                    );
                }
            }
        }
    }
}

#[test]
fn writing_a_checkpoint_does_not_change_the_run() {
    let directory = TempDir::new().unwrap();
    for config in configurations(2) {
        let run = |every: usize| {
            world(2, |threads| {
                let buffer = buffer(&config, threads);
                let mut batches = Vec::new();
                for step in 0..STEPS {
                    batches.extend(steps(&buffer, step..step + 1));
                    if step % every == every - 1 {
                        buffer.checkpoint(directory.path()).unwrap();
                    }
                }
                (batches, end(&buffer))
            })
        };
        assert_eq!(run(100), run(5));
    }
}

/// A mini-batch of rows that are large enough for a shard of several pieces. All values of a row
/// are its number.
#[derive(RehearsalBatch, Clone, Debug)]
struct Large {
    #[rehearsal(bytes)]
    image: Tensor<2, Int>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
}

impl Large {
    const PIXELS: usize = 150_000;

    fn of(step: usize, rank: usize) -> Self {
        let rows: Vec<i64> = (0..4).map(|row| (step * 8 + rank * 4 + row) as i64).collect();
        let (bytes, labels) = (byte_type(&device()), label_type(&device()));
        let images: Vec<u8> =
            rows.iter().flat_map(|&row| std::iter::repeat_n(row as u8, Self::PIXELS)).collect();
        let classes: Vec<i64> = rows.iter().map(|row| row % 3).collect();
        Self {
            image: Tensor::from_data(
                TensorData::new(images, [4, Self::PIXELS]).convert_dtype(bytes),
                (&device(), bytes),
            ),
            class: Tensor::from_data(
                TensorData::new(classes, [4]).convert_dtype(labels),
                (&device(), labels),
            ),
        }
    }
}

#[test]
fn a_checkpoint_keeps_the_state_of_its_beginning_during_later_steps() {
    // Every step overwrites a tenth of the rows.
    let base =
        config(40, 4, 3).with_policy(PolicyKind::Fifo).with_sampling(SamplingKind::ClassBalanced);
    for (store, execution) in [
        (StorePreference::Host, Execution::Background),
        (StorePreference::Device, Execution::Background),
        (StorePreference::Host, Execution::Inline),
    ] {
        let config = base.clone().with_store(store).with_execution(execution);
        for size in [1, 2] {
            let directory = TempDir::new().unwrap();
            let place = |number: usize| directory.path().join(number.to_string());
            let end = |buffer: &RehearsalBuffer<Large>| {
                let report = buffer.report().unwrap();
                (report.contents_digest, report.draws_digest)
            };
            let run = |buffer: &RehearsalBuffer<Large>, steps: Range<usize>| {
                steps.for_each(|step| {
                    drop(buffer.rehearse(Large::of(step, buffer.rank())).unwrap())
                });
            };
            // Some begin before the previous one is complete, and only the last one is waited for.
            let whole = world(size, |threads| {
                let buffer = RehearsalBuffer::<Large>::new(&config, threads).unwrap();
                let mut last = None;
                for (number, cut) in [9, 10, 13].into_iter().enumerate() {
                    run(&buffer, if number == 0 { 0..9 } else { [9, 10][number - 1]..cut });
                    last = Some(buffer.begin_checkpoint(place(cut)).unwrap());
                }
                run(&buffer, 13..24);
                assert!(last.unwrap().wait().unwrap().bytes > 5_000_000);
                end(&buffer)
            });
            for cut in [9, 10, 13] {
                let resumed = world(size, |threads| {
                    let buffer = RehearsalBuffer::<Large>::new(&config, threads).unwrap();
                    assert_eq!(buffer.restore(place(cut), &device()).unwrap().steps as usize, cut);
                    run(&buffer, cut..24);
                    end(&buffer)
                });
                assert_eq!(whole, resumed, "{store:?}, {execution:?}, {size} ranks, cut at {cut}");
            }
        }
    }
}

#[test]
fn beginning_a_checkpoint_does_not_wait_for_other_ranks() {
    let directory = TempDir::new().unwrap();
    let config = config(30, 4, 3);
    let (begun, others_begin) = std::sync::mpsc::sync_channel(0);
    let others_begin = std::sync::Mutex::new(others_begin);
    let saved = world_of_pending(2, |threads| {
        let buffer = buffer(&config, threads);
        buffer.rehearse(batch(&fresh(8, buffer.rank(), 0, 5, 4))).unwrap();
        if buffer.rank() == 1 {
            others_begin.lock().unwrap().recv().unwrap();
        }
        let pending = buffer.begin_checkpoint(directory.path()).unwrap();
        if buffer.rank() == 0 {
            begun.send(()).unwrap();
        }
        // A step runs before the outcome of the checkpoint is known.
        buffer.rehearse(batch(&fresh(8, buffer.rank(), 1, 5, 4))).unwrap();
        pending.wait().unwrap()
    });
    world(2, |threads| {
        let buffer = buffer(&config, threads);
        assert_eq!(buffer.restore(directory.path(), &device()).unwrap().steps, 1);
    });
    assert!(saved[0].bytes > 0 && saved[0] == saved[1]);
}

#[test]
fn a_rank_that_fails_during_a_checkpoint_still_saves_its_rows() {
    let directory = TempDir::new().unwrap();
    let config = config(40, 4, 3).with_policy(PolicyKind::Fifo).with_lag(0);
    let saved = world_of_pending(2, |threads| {
        let buffer = RehearsalBuffer::<Large>::new(&config, threads).unwrap();
        (0..10).for_each(|step| drop(buffer.rehearse(Large::of(step, buffer.rank())).unwrap()));
        let pending = buffer.begin_checkpoint(directory.path()).unwrap();
        // As many rounds as possible are pending, and no thread receives their answers.
        buffer.skip_step().unwrap();
        if buffer.rank() == 1 {
            buffer.abort(RehearsalError::Misuse("the data ended"));
        }
        pending.wait().unwrap()
    });
    assert!(saved[0].bytes > 5_000_000 && saved[0] == saved[1]);
}

#[test]
fn waiting_for_a_checkpoint_fails_if_another_rank_leaves() {
    let directory = TempDir::new().unwrap();
    let config = config(30, 4, 3);
    let _watchdog = watchdog();
    let results = run_threads(2, |threads| {
        let buffer = buffer(&config, Box::new(threads));
        if buffer.rank() == 1 {
            return Ok::<_, std::convert::Infallible>(None);
        }
        let waited = buffer.begin_checkpoint(directory.path()).unwrap().wait();
        // The first mini-batch does not wait for the engine.
        buffer.rehearse(batch(&fresh(8, 0, 0, 5, 4))).unwrap();
        Ok(Some((waited, buffer.rehearse(batch(&fresh(8, 0, 1, 5, 4))))))
    });
    let (waited, step) = results.into_iter().next().unwrap().unwrap().unwrap();
    assert!(matches!(waited, Err(RehearsalError::Collective(_))), "{waited:?}");
    assert_eq!(waited.unwrap_err(), step.unwrap_err());
    assert!(!directory.path().join(burn_rehearsal::checkpoint::MANIFEST).exists());
}

#[test]
fn a_begun_checkpoint_is_completed_after_the_buffer_is_dropped() {
    let directory = TempDir::new().unwrap();
    let config = config(30, 4, 3);
    for steps in [3, 7] {
        let pending = world_of_pending(2, |threads| {
            let buffer = buffer(&config, threads);
            for step in 0..steps {
                buffer.rehearse(batch(&fresh(8, buffer.rank(), step, 5, 4))).unwrap();
            }
            buffer.begin_checkpoint(directory.path()).unwrap()
        });
        pending.into_iter().for_each(|pending| assert!(pending.wait().unwrap().bytes > 0));
        world(2, |threads| {
            let buffer = buffer(&config, threads);
            assert_eq!(buffer.restore(directory.path(), &device()).unwrap().steps as usize, steps);
        });
    }
}

/// Like [`world`], for results that cannot be compared.
fn world_of_pending<T: Send>(size: usize, f: impl Fn(Box<dyn Collective>) -> T + Sync) -> Vec<T> {
    let _watchdog = watchdog();
    let results =
        run_threads(size, |threads| Ok::<T, std::convert::Infallible>(f(Box::new(threads))));
    results.into_iter().map(|result| result.unwrap_or_else(|failure| panic!("{failure}"))).collect()
}

/// Writes a checkpoint of a full buffer of 20 rows of 4 classes on one rank.
fn written(directory: &Path, config: &RehearsalConfig) {
    let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
    for step in 0..12 {
        buffer.rehearse(batch(&fresh(4, 0, step, 6, 4))).unwrap();
    }
    buffer.checkpoint(directory).unwrap();
}

fn restore(
    directory: &Path,
    config: &RehearsalConfig,
) -> Result<RehearsalBuffer<Mixed>, RehearsalError> {
    let buffer: RehearsalBuffer<Mixed> = config.init()?;
    buffer.restore(directory, &device())?;
    Ok(buffer)
}

fn refused(directory: &Path, config: &RehearsalConfig) -> CheckpointError {
    match restore(directory, config) {
        Err(RehearsalError::Checkpoint(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flipped_bit_is_detected_and_its_file_named() {
    let directory = TempDir::new().unwrap();
    let config = config(20, 4, 3).with_sampling(SamplingKind::ClassBalanced);
    written(directory.path(), &config);
    restore(directory.path(), &config).unwrap();
    for name in ["rank-00000.safetensors", "manifest.json"] {
        let path = directory.path().join(name);
        let good = std::fs::read(&path).unwrap();
        let header = if name.ends_with("json") {
            good.len()
        } else {
            8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize
        };
        let mut rng = Stream::new(1, Purpose::TaskStream, 0, 0);
        let body = (0..1000)
            .filter(|_| header < good.len())
            .map(|_| header as u64 + rng.below((good.len() - header) as u64));
        let mut places: Vec<usize> = (0..header).collect();
        places.extend(body.collect::<Vec<_>>().into_iter().map(|place| place as usize));
        for place in places {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            std::fs::write(&path, &bad).unwrap();
            let error = refused(directory.path(), &config);
            assert!(error.to_string().contains(name), "byte {place} of {name}: {error}");
        }
        for length in [0, 1, 7, 8, 9, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(
                refused(directory.path(), &config).to_string().contains(name),
                "{length} bytes of {name}"
            );
        }
        std::fs::write(&path, [&good[..], b"\0"].concat()).unwrap();
        assert!(
            refused(directory.path(), &config).to_string().contains(name),
            "{name} with an additional byte"
        );
        std::fs::write(&path, &good).unwrap();
    }
    restore(directory.path(), &config).unwrap();
}

#[test]
fn a_checkpoint_in_different_directories_is_an_error() {
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let config = config(20, 4, 3);
    let own = |rank: usize| directories[usize::from(rank == 1)].path();
    let errors = world(3, |threads| {
        let buffer = buffer(&config, threads);
        steps(&buffer, 0..4);
        let error = buffer.checkpoint(own(buffer.rank())).unwrap_err();
        steps(&buffer, 4..6);
        error
    });
    let RehearsalError::Checkpoint(CheckpointError::NotShared { path, rank: 1 }) = &errors[0]
    else {
        panic!("{errors:?}")
    };
    assert!(path.ends_with("rank-00001.safetensors"), "{errors:?}");
    assert!(
        errors[1..].iter().all(|error| *error == CheckpointError::Rank(0).into()),
        "{errors:?}"
    );
    assert!(!own(0).join("manifest.json").exists());
    // Another file at the path of a rank's file does not count as that file.
    std::fs::write(own(0).join("rank-00001.safetensors"), "an earlier one").unwrap();
    let error = world(3, |threads| {
        let buffer = buffer(&config, threads);
        buffer.checkpoint(own(buffer.rank())).unwrap_err()
    })
    .swap_remove(0);
    assert!(
        matches!(error, RehearsalError::Checkpoint(CheckpointError::NotShared { rank: 1, .. })),
        "{error}"
    );
}

#[test]
fn directories_that_are_not_shared_are_detected_before_writing() {
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let check = |apart: bool| {
        world(3, |mut threads| {
            // The directory need not exist, and its path may be spelled differently.
            let path = directories[usize::from(apart && threads.rank() == 2)].path();
            let path = if threads.rank() == 1 {
                path.join(".").join("deep/checkpoints")
            } else {
                path.join("deep/checkpoints")
            };
            check_shared(&path, threads.as_mut())
        })
    };
    assert!(check(false).into_iter().all(|result| result.is_ok()));
    for error in check(true) {
        let Err(RehearsalError::Checkpoint(CheckpointError::NotShared { path, rank: 2 })) = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(path, directories[0].path().join("deep/checkpoints"));
    }
    assert!(
        directories.iter().all(|directory| directory.path().read_dir().unwrap().next().is_none())
    );
}

#[test]
fn a_directory_without_a_manifest_is_not_a_checkpoint() {
    let directory = TempDir::new().unwrap();
    let config = config(20, 4, 3);
    written(directory.path(), &config);
    std::fs::remove_file(directory.path().join("manifest.json")).unwrap();
    let buffer: RehearsalBuffer<Mixed> = config.init().unwrap();
    let error = buffer.restore(directory.path(), &device()).unwrap_err();
    let RehearsalError::Checkpoint(CheckpointError::Io { path, .. }) = &error else {
        panic!("{error}")
    };
    assert!(path.ends_with("manifest.json"), "{error}");
    assert_eq!(buffer.inspect().unwrap().len, 0);
    buffer.rehearse(batch(&[1, 2, 3])).unwrap();
    assert!(matches!(buffer.restore(directory.path(), &device()), Err(RehearsalError::Misuse(_))));
}

#[test]
fn a_checkpoint_of_another_version_configuration_or_type_is_refused() {
    #[derive(RehearsalBatch, Clone, Debug)]
    struct Other {
        value: Tensor<2>,
        #[rehearsal(class)]
        class: Tensor<1, Int>,
    }
    let directory = TempDir::new().unwrap();
    let config = config(20, 4, 3);
    written(directory.path(), &config);
    let error =
        refused(directory.path(), &config.clone().with_seed(8).with_policy(PolicyKind::Fifo))
            .to_string();
    assert!(
        error.contains("seed was 0 and is 8")
            && error.contains("policy was")
            && !error.contains("lag"),
        "{error}"
    );
    let other: RehearsalBuffer<Other> = config.init().unwrap();
    let error = other.restore(directory.path(), &device()).unwrap_err();
    assert!(
        matches!(&error, RehearsalError::Checkpoint(CheckpointError::Foreign { .. })),
        "{error}"
    );
    let path = directory.path().join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"version\":2", "\"version\":7", 1)).unwrap();
    let error = refused(directory.path(), &config);
    assert_eq!(error, CheckpointError::Version { path, found: 7, supported: 2 });
}

#[test]
fn a_failed_write_is_an_error_and_the_buffer_continues() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    world(3, |threads| {
        let buffer = buffer(&config(30, 4, 3), threads);
        steps(&buffer, 0..4);
        // Rank 1 alone cannot write.
        let place = if buffer.rank() == 1 {
            directory.path().join("file/below")
        } else {
            directory.path().join("good")
        };
        let error = buffer.checkpoint(&place).unwrap_err();
        match (buffer.rank(), error) {
            (1, RehearsalError::Checkpoint(CheckpointError::Io { path, .. })) => {
                assert!(path.ends_with("file/below"), "{path:?}")
            }
            (_, error) => assert_eq!(error, CheckpointError::Rank(1).into()),
        }
        steps(&buffer, 4..9);
        buffer.checkpoint(directory.path().join("good")).unwrap();
    });
    assert!(directory.path().join("good/manifest.json").is_file());
}

/// The stored samples of all ranks by ID, with class and task.
fn stored(shards: &[Vec<Stored>]) -> BTreeMap<i64, (usize, usize)> {
    let rows = shards.iter().flatten().map(|&(_, _, class, task, id)| (id.unwrap(), (class, task)));
    let map: BTreeMap<_, _> = rows.collect();
    assert_eq!(map.len(), shards.iter().map(Vec::len).sum::<usize>(), "a sample is stored twice");
    map
}

#[test]
fn another_number_of_ranks_keeps_every_sample_once() {
    for &policy in PolicyKind::ALL {
        for (capacity, steps_before) in [(61, 20), (400, 9)] {
            let config = config(capacity, 5, 4)
                .with_policy(policy)
                .with_sampling(SamplingKind::ClassBalanced)
                .with_lag(2);
            let config = config.with_on_repeat(OnRepeat::SkipIfStored);
            let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
            let shards = |threads, from: Option<&Path>, to: Option<&Path>, range: Range<usize>| {
                let buffer = buffer(&config, threads);
                if let Some(from) = from {
                    let restored = buffer.restore(from, &device()).unwrap();
                    assert_eq!(restored.steps as usize, range.start);
                }
                for step in range {
                    let ids = fresh(6, buffer.rank(), step, 6, 4);
                    assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
                }
                if let Some(to) = to {
                    buffer.checkpoint(to).unwrap();
                }
                end(&buffer).2
            };
            let (first, second) = (directories[0].path(), directories[1].path());
            let four = world(4, |threads| shards(threads, None, Some(first), 0..steps_before));
            let two = world(2, |threads| {
                shards(threads, Some(first), Some(second), steps_before..steps_before)
            });
            let three =
                world(3, |threads| shards(threads, Some(second), None, steps_before..steps_before));
            assert_eq!(stored(&four), stored(&two), "{policy:?}");
            assert_eq!(stored(&four), stored(&three), "{policy:?}");
            for shards in [&two, &three] {
                let sizes: Vec<_> = shards.iter().map(Vec::len).collect();
                assert!(
                    sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1,
                    "{sizes:?}"
                );
                if matches!(policy, PolicyKind::ClassBalanced | PolicyKind::RandomReplacement) {
                    for class in 0..4 {
                        let counts: Vec<_> = shards
                            .iter()
                            .map(|rows| rows.iter().filter(|row| row.2 == class).count())
                            .collect();
                        assert!(
                            counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
                            "class {class}: {counts:?}"
                        );
                    }
                }
            }
            // Training continues within the same capacity.
            let later = world(3, |threads| {
                shards(threads, Some(second), None, steps_before..steps_before + 30)
            });
            assert!(stored(&later).len() <= capacity);
        }
    }
}

#[test]
fn draws_are_uniform_after_a_change_of_the_world_size() {
    let directory = TempDir::new().unwrap();
    let config = config(40, 16, 3).with_on_repeat(OnRepeat::SkipIfStored).with_seed(5);
    // Shards of unequal length, none of which is full.
    world(4, |threads| {
        let buffer = buffer(&config, threads);
        let rank = buffer.rank() as i64;
        let ids: Vec<i64> = (0..=2 * rank).map(|row| row % 3 * CLASS + 100 * rank + row).collect();
        buffer.rehearse(batch(&ids)).unwrap();
        buffer.checkpoint(directory.path()).unwrap();
    });
    // From four ranks to two, and later to three.
    let second = TempDir::new().unwrap();
    world(2, |threads| {
        let buffer = buffer(&config, threads);
        buffer.restore(directory.path(), &device()).unwrap();
        buffer.checkpoint(second.path()).unwrap();
    });
    for (size, from) in [(1, &directory), (2, &directory), (3, &second), (5, &directory)] {
        let trials = 1200 / size;
        let drawn = world(size, |threads| {
            let buffer = buffer(&config, threads);
            buffer.restore(from.path(), &device()).unwrap();
            let own = buffer.snapshot().unwrap().samples()[0].id.unwrap();
            let draw = |_| assert_augmented(&[own], &buffer.rehearse(batch(&[own])).unwrap());
            (0..trials).flat_map(draw).collect::<Vec<_>>()
        });
        let mut counts = BTreeMap::new();
        drawn.into_iter().flatten().for_each(|id| *counts.entry(id).or_insert(0u64) += 1);
        let counts: Vec<u64> = counts.into_values().collect();
        assert_eq!(counts.len(), 16, "{size} ranks");
        let p = uniform_p(&counts, (trials * size) as u64, 3);
        assert!(p > 1e-3, "{size} ranks: {counts:?}: p = {p:e}");
    }
}
