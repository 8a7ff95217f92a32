//! Common mistakes with Burn's learner and with custom loops. Each is detected and costs no stored
//! row.

use crate::learner::{Net, Pair, ToPair};
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::InMemDataset;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::{LearningResult, SupervisedTraining};
use burn_rehearsal::checkpoint::RehearsalCheckpointing;
use burn_rehearsal::error::{BatchError, ConfigError, RehearsalError};
use burn_rehearsal::{
    Capacity, RehearsalBatch, RehearsalBatcher, RehearsalBuffer, RehearsalConfig, RehearsalLoader,
    RowCount, SamplingKind, ShardedLoader,
};
use burn_rehearsal_testing::{
    CLASS, assert_augmented, batch, buffer, config, device, fresh, read, watchdog, world,
};
use burn_rehearsal_train::data_parallel::without_renderer;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Samples of class 0, except `odd`, which gives the number and the class of one sample.
fn samples(count: usize, odd: Option<(usize, i64)>) -> InMemDataset<(f32, i64)> {
    InMemDataset::new(
        (0..count)
            .map(|i| (i as f32, odd.filter(|(at, _)| *at == i).map_or(0, |(_, class)| class)))
            .collect(),
    )
}

fn pairs() -> RehearsalBuffer<Pair> {
    RehearsalConfig::new(Capacity::Samples(64)).with_classes(Some(2)).init().unwrap()
}

type Loader = Arc<dyn DataLoader<Pair>>;

/// Runs two epochs of Burn's learner.
fn learn(train: Loader, valid: Loader) -> LearningResult<Net> {
    let directory = TempDir::new().unwrap();
    without_renderer(SupervisedTraining::new(directory.path(), train, valid))
        .num_epochs(2)
        .launch(Net::learner())
}

fn loader(
    batcher: impl Batcher<(f32, i64), Pair> + 'static,
    data: InMemDataset<(f32, i64)>,
) -> Loader {
    DataLoaderBuilder::new(batcher).batch_size(4).build(data)
}

/// Whether [`output_of`] started this process to make a mistake.
fn is_child() -> bool {
    std::env::var_os("MISTAKE").is_some()
}

/// Runs the test `name` of this module in a process of its own, and returns its standard error.
fn output_of(name: &str) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command
        .args(["--exact", &format!("mistakes::{name}"), "--nocapture"])
        .env("MISTAKE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Checks that exactly one line of `text` is a message of burn-rehearsal, and that it contains
/// `parts`.
#[track_caller]
fn assert_one_line(text: &str, parts: &[&str]) {
    let ours: Vec<_> = text.lines().filter(|line| line.starts_with("burn-rehearsal: ")).collect();
    assert!(
        ours.len() == 1 && parts.iter().all(|part| ours[0].contains(part)),
        "{parts:?} in {text}"
    );
}

#[test]
fn a_poisoned_batcher_warns_once_and_check_returns_the_error() {
    if !is_child() {
        let text = output_of("a_poisoned_batcher_warns_once_and_check_returns_the_error");
        return assert_one_line(&text, &["rehearsal has stopped", "class 2", "0..2"]);
    }
    let buffer = pairs();
    let batcher = RehearsalBatcher::new(ToPair, buffer.clone()).unwrap();
    // The network has one class more than the buffer.
    let result = learn(
        loader(batcher.clone(), samples(16, Some((5, 2)))),
        loader(batcher.valid(), samples(4, None)),
    );
    assert!(result.error.is_none(), "a batcher cannot return an error");
    assert!(matches!(
        buffer.check(),
        Err(RehearsalError::Batch(BatchError::ClassRange { class: 2, .. }))
    ));
}

#[test]
fn check_finds_an_error_in_the_very_last_mini_batch() {
    let _watchdog = watchdog();
    let buffer = pairs();
    let batcher = RehearsalBatcher::new(ToPair, buffer.clone()).unwrap();
    batcher.batch(vec![(0.0, 0); 4], &device());
    batcher.batch(vec![(0.0, 2); 4], &device());
    assert!(matches!(
        buffer.check(),
        Err(RehearsalError::Batch(BatchError::ClassRange { class: 2, .. }))
    ));
}

#[test]
fn validation_data_in_a_shared_batcher_is_an_error_and_never_stored() {
    let _watchdog = watchdog();
    let buffer = pairs();
    let batcher = RehearsalBatcher::new(ToPair, buffer.clone()).unwrap();
    let valid = InMemDataset::new((0..4).map(|i| (1000.0 + i as f32, 1)).collect());
    learn(loader(batcher.clone(), samples(8, None)), loader(batcher, valid));
    assert_eq!(
        buffer.check(),
        Err(RehearsalError::Batch(BatchError::Autodiff { autodiff: false }))
    );
    let stored = buffer.snapshot().unwrap();
    assert_eq!(stored.samples().len(), 8);
    assert!(stored.samples().iter().all(|sample| sample.class == 0), "a validation row is stored");
}

#[test]
fn validation_data_in_a_shared_loader_ends_training_with_a_reason() {
    let _watchdog = watchdog();
    let buffer = pairs();
    let shared: Loader =
        Arc::new(RehearsalLoader::new(loader(ToPair, samples(8, None)), buffer.clone()));
    let result = learn(shared.clone(), shared);
    let error = result.error.expect("an error").to_string();
    assert!(error.contains("validation"), "{error}");
    assert_eq!(buffer.snapshot().unwrap().samples().len(), 8);
}

#[test]
fn custom_loops_may_train_without_autodiff() {
    let buffer = pairs();
    for _ in 0..3 {
        buffer.rehearse(ToPair.batch(vec![(1.0, 0), (2.0, 1)], &device())).unwrap();
    }
    assert_eq!(buffer.inspect().unwrap().len, 6);
}

#[test]
fn a_full_buffer_without_draws_explains_it_once() {
    if !is_child() {
        let text = output_of("a_full_buffer_without_draws_explains_it_once");
        return assert_one_line(&text, &["exclude-current", "begin_task"]);
    }
    for begin in [true, false] {
        let buffer = buffer(
            &config(8, 4, 2).with_sampling(SamplingKind::ExcludeCurrent),
            Box::new(burn_rehearsal_collective::Solo::new()),
        );
        if begin {
            buffer.begin_task(0).unwrap();
        }
        for step in 0..5 {
            assert!(
                assert_augmented(&[step], &buffer.rehearse(batch(&[step])).unwrap()).is_empty()
            );
            buffer.rehearse(batch(&fresh(0, 0, step as usize, 4, 2))).unwrap();
        }
    }
}

#[test]
fn a_separate_buffer_on_each_of_several_ranks_is_a_warning() {
    if !is_child() {
        let text = output_of("a_separate_buffer_on_each_of_several_ranks_is_a_warning");
        return assert_one_line(
            &text,
            &["of 2", "`RehearsalConfig::init`", "`RehearsalConfig::init_on"],
        );
    }
    drop(pairs());
    world(2, |_| drop(pairs()));
}

fn sharded(
    batch_size: usize,
    shard: Option<(usize, usize)>,
) -> Arc<ShardedLoader<(f32, i64), Pair>> {
    let builder = ShardedLoader::builder(ToPair).batch_size(batch_size).set_device(device());
    let builder = match shard {
        Some((rank, size)) => builder.shard_of(rank, size),
        None => builder,
    };
    builder.build(samples(8, None))
}

#[test]
fn a_loader_without_a_shard_on_several_ranks_is_a_warning() {
    if !is_child() {
        let text = output_of("a_loader_without_a_shard_on_several_ranks_is_a_warning");
        return assert_one_line(&text, &["of 2", ".shard(&rank)"]);
    }
    for sharding in [false, true] {
        world(2, |threads| {
            let shard = sharding.then(|| (threads.rank(), threads.size()));
            let buffer: RehearsalBuffer<Pair> =
                RehearsalBuffer::new(&RehearsalConfig::new(Capacity::Samples(8)), threads).unwrap();
            // A loader for validation has no buffer and may read the whole data set.
            assert_eq!(sharded(4, None).iter().count(), 2);
            let loader = RehearsalLoader::new(sharded(4, shard), buffer);
            assert!(loader.iter().all(|batch| batch.is_ok()));
        });
    }
}

#[test]
fn a_loader_and_a_buffer_of_different_ranks_are_an_error() {
    world(2, |threads| {
        let other = (1 - threads.rank(), 2);
        let buffer: RehearsalBuffer<Pair> =
            RehearsalBuffer::new(&RehearsalConfig::new(Capacity::Samples(8)), threads).unwrap();
        let loader = RehearsalLoader::new(sharded(4, Some(other)), buffer);
        let mut iterator = loader.iter();
        assert!(iterator.next().unwrap().unwrap_err().to_string().contains("another rank"));
        assert!(iterator.next().is_none());
    });
}

#[test]
fn a_misuse_on_one_rank_is_an_error_on_all_ranks() {
    let errors = world(3, |mut ranks| {
        let rank = ranks.rank();
        let config = RehearsalConfig::new(Capacity::Samples(8));
        let buffer: RehearsalBuffer<Pair> =
            RehearsalBuffer::new(&config, ranks.duplicate().unwrap()).unwrap();
        let shard = if rank == 1 { 0 } else { rank };
        let loader = RehearsalLoader::new(sharded(1, Some((shard, 3))), buffer.clone());
        let error = loader.iter().find_map(Result::err).map(|error| error.to_string());
        // No rank drops its buffer before all have their error.
        ranks.barrier().unwrap();
        (error, buffer.check().unwrap_err())
    });
    for (rank, (error, poisoned)) in errors.into_iter().enumerate() {
        assert_eq!(error, Some(poisoned.to_string()), "rank {rank}");
        match poisoned {
            RehearsalError::Misuse(reason) if rank == 1 => assert!(reason.contains("another rank")),
            RehearsalError::PeerFailed { rank: 1, step: 0, .. } if rank != 1 => {}
            error => panic!("rank {rank}: {error}"),
        }
    }
}

#[test]
fn separate_buffers_of_ranks_work_with_sharded_loaders() {
    world(2, |threads| {
        let buffer: RehearsalBuffer<Pair> =
            RehearsalConfig::new(Capacity::Samples(8)).init().unwrap();
        let loader = RehearsalLoader::new(sharded(4, Some((threads.rank(), 2))), buffer);
        assert!(loader.iter().all(|batch| batch.is_ok()));
    });
}

#[test]
fn burns_checkpointing_strategy_refuses_several_ranks() {
    world(2, |threads| {
        let buffer: RehearsalBuffer<Pair> =
            RehearsalBuffer::new(&RehearsalConfig::new(Capacity::Samples(8)), threads).unwrap();
        let error = RehearsalCheckpointing::new(KeepLastNCheckpoints::new(1), buffer, "nowhere")
            .err()
            .unwrap();
        assert_eq!(error, RehearsalError::Config(ConfigError::CheckpointingWorld(2)));
    });
}

#[test]
fn after_a_bad_mini_batch_stored_rows_can_be_saved_and_resumed() {
    let _watchdog = watchdog();
    for (lag, representatives) in
        [(0, RowCount::Count(3)), (1, RowCount::Ratio(0.75)), (3, RowCount::Count(3))]
    {
        let config = config(40, 4, 3)
            .with_representatives(representatives)
            .with_classes(Some(4))
            .with_lag(lag)
            .with_seed(3);
        let good = |step: usize| batch(&fresh(3, 0, step, 4, 4));
        let alone = || buffer(&config, Box::new(burn_rehearsal_collective::Solo::new()));
        // The handle finds the first at once, the engine finds the second while the step runs.
        let mut torn = good(6);
        torn.feature = torn.feature.slice(0..3);
        for bad in [torn, batch(&[9 * CLASS])] {
            let buffer = alone();
            (0..6).for_each(|step| drop(buffer.rehearse(good(step)).unwrap()));
            let expected = buffer.snapshot().unwrap();
            let error =
                (0..=lag + 1).find_map(|_| buffer.rehearse(bad.clone()).err()).expect("an error");
            assert_eq!(buffer.check(), Err(error.clone()));
            assert_eq!(
                buffer.snapshot().unwrap().samples(),
                expected.samples(),
                "lag {lag}: {error}"
            );
            let directory = TempDir::new().unwrap();
            buffer.checkpoint(directory.path()).unwrap();
            assert_eq!(buffer.rehearse(good(7)).err(), Some(error), "the buffer stays poisoned");

            let resumed = alone();
            assert_eq!(resumed.restore(directory.path(), &device()).unwrap().steps, 6);
            assert_eq!(resumed.snapshot().unwrap().samples(), expected.samples());
            for step in 6..12 {
                let drawn = read(&resumed.rehearse(good(step)).unwrap());
                assert_eq!(drawn.len(), 7, "the first step must have representatives");
                drawn.iter().for_each(|row| row.assert_whole());
            }
        }
    }
}

#[test]
fn after_a_bad_mini_batch_every_rank_can_take_a_snapshot() {
    world(3, |threads| {
        let buffer = buffer(&config(120, 4, 3).with_classes(Some(4)), threads);
        let rank = buffer.rank();
        (0..5).for_each(|step| drop(buffer.rehearse(batch(&fresh(3, rank, step, 4, 4))).unwrap()));
        let expected = buffer.snapshot().unwrap();
        let bad =
            |step| if rank == 1 { batch(&[9 * CLASS]) } else { batch(&fresh(3, rank, step, 1, 4)) };
        (5..9).find_map(|step| buffer.rehearse(bad(step)).err()).expect("an error");
        let stored = buffer.snapshot().unwrap();
        // The other ranks may have stored rows of the failed step.
        assert!(stored.samples().starts_with(expected.samples()), "rank {rank}");
        assert!(
            buffer.checkpoint(TempDir::new().unwrap().path()).is_err(),
            "the other ranks have left"
        );
    });
}

/// Sequences of tokens with a title each.
#[derive(RehearsalBatch, Clone, Debug)]
struct Sequences {
    tokens: Tensor<2, Int>,
    #[rehearsal(skip, fill = untitled)]
    titles: Vec<String>,
    #[rehearsal(skip)]
    source: String,
}

fn untitled(titles: &mut Vec<String>, representatives: usize) {
    titles.extend((0..representatives).map(|_| "replayed".to_owned()));
}

fn sequences(rows: usize, length: usize) -> Sequences {
    let tokens = Tensor::from_data(
        TensorData::new(vec![1i32; rows * length], [rows, length]),
        (&device(), burn::tensor::DType::I32),
    );
    Sequences {
        tokens,
        titles: (0..rows).map(|row| format!("text {row}")).collect(),
        source: "corpus".into(),
    }
}

#[test]
fn sequences_of_another_length_are_refused_with_advice_to_pad() {
    let buffer: RehearsalBuffer<Sequences> =
        RehearsalConfig::new(Capacity::Samples(10)).with_representatives(3).init().unwrap();
    assert_eq!(buffer.rehearse(sequences(2, 5)).unwrap().titles, ["text 0", "text 1"]);
    let second = buffer.rehearse(sequences(1, 5)).unwrap();
    assert_eq!(
        (second.titles, second.source),
        (vec!["text 0".to_owned(), "replayed".into(), "replayed".into()], "corpus".to_owned())
    );
    assert_eq!(second.tokens.dims(), [3, 5]);
    let error = buffer.rehearse(sequences(2, 6)).unwrap_err().to_string();
    assert!(error.contains("tokens") && error.contains("pad"), "{error}");
}

#[test]
fn burns_learner_saves_and_removes_checkpoints_of_the_buffer() {
    let _watchdog = watchdog();
    let directory = TempDir::new().unwrap();
    let path = |epoch| RehearsalCheckpointing::path(directory.path().join("buffer"), epoch);
    let train = |buffer: &RehearsalBuffer<Pair>, epochs: usize, from: Option<usize>| {
        let train: Loader = Arc::new(RehearsalLoader::new(
            loader(ToPair, samples(8, Some((3, 1)))),
            buffer.clone(),
        ));
        let strategy = RehearsalCheckpointing::new(
            KeepLastNCheckpoints::new(2),
            buffer.clone(),
            directory.path().join("buffer"),
        )
        .unwrap();
        let training = without_renderer(SupervisedTraining::new(
            directory.path(),
            train,
            loader(ToPair, samples(4, None)),
        ))
        .num_epochs(epochs)
        .with_default_checkpointers()
        .with_checkpointing_strategy(strategy);
        let training = match from {
            Some(epoch) => training.checkpoint(epoch),
            None => training,
        };
        assert!(training.launch(Net::learner()).error.is_none());
    };
    let buffer = pairs();
    train(&buffer, 3, None);
    assert_eq!([1, 2, 3].map(|epoch| path(epoch).exists()), [false, true, true]);
    let expected = buffer.snapshot().unwrap();

    let resumed = pairs();
    assert_eq!(resumed.restore(path(3), &Device::flex()).unwrap().steps, 6);
    assert_eq!(resumed.snapshot().unwrap().samples(), expected.samples());
    train(&resumed, 4, Some(3));
    assert_eq!(resumed.inspect().unwrap().steps, 8);
    assert!(path(4).exists() && !path(2).exists());
}
