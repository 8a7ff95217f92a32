//! Data-parallel training: N ranks train one model, and no rank hangs.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "data_parallel/derpp.rs"]
mod derpp;
#[path = "data_parallel/equivalent.rs"]
mod equivalent;
#[path = "data_parallel/experiment.rs"]
mod experiment;
#[path = "data_parallel/faults.rs"]
mod faults;
#[path = "data_parallel/harness.rs"]
mod harness;
#[path = "data_parallel/methods.rs"]
mod methods;
#[path = "data_parallel/paired.rs"]
mod paired;
#[path = "data_parallel/precision.rs"]
mod precision;
#[path = "data_parallel/projection.rs"]
mod projection;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::tensor::{DType, Device, Tensor};
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy,
};
use burn::train::metric::store::EventStoreClient;
use burn::train::{EarlyStoppingStrategy, Interrupter, Learner, SupervisedTraining};
use burn_rehearsal_collective::{CollectiveError, Solo, Threads};
use burn_rehearsal_train::data_parallel::{DataParallelError, without_renderer};
use burn_rehearsal_train::epoch::Epoch;
use burn_rehearsal_train::evaluate::{Evaluation, evaluate, evaluate_task};
use burn_rehearsal_train::phases::{Phase, PhaseTimer};
use burn_rehearsal_train::schedule::WarmupSchedule;

use equivalent::{steps, two_epochs};
use harness::*;

#[test]
fn a_run_repeats_bit_for_bit() {
    let run = || train(&deal(&steps(), 3), |_| learner(1), two_epochs).remove(0).values();
    assert_eq!(run(), run());
}

#[test]
fn one_rank_equals_burns_single_device_training_bit_for_bit() {
    for accumulation in [None, Some(4)] {
        let configure = |_: usize, training: Training| match accumulation {
            Some(accumulation) => training.num_epochs(2).grads_accumulation(accumulation),
            None => training.num_epochs(2),
        };
        let script = deal(&steps(), 1).remove(0);
        let burn = single_device(configure(0, training(&script, vec![rows(5, 4)])), learner(1));
        let ours = train(&[script], |_| learner(1), configure).remove(0);
        assert_eq!(ours.values(), values(&burn), "accumulation {accumulation:?}");
    }
}

#[test]
fn a_missing_gradient_on_one_rank_counts_as_zeros() {
    // Only the rows of rank 0 use the extra branch.
    let steps: Vec<Vec<Row>> = (0..4)
        .map(|step| {
            rows(step, 8)
                .into_iter()
                .enumerate()
                .map(|(i, row)| Row { extra: i < 4, ..row })
                .collect()
        })
        .collect();
    let reference = train(&deal(&steps, 1), |_| learner(1), two_epochs).remove(0);
    let outcomes = train(&deal(&steps, 2), |_| learner(1), two_epochs);
    assert_close(&outcomes[0].values(), &reference.values(), 1e-5);
    assert_eq!(outcomes[0].values(), outcomes[1].values());
    assert_ne!(
        values(&outcomes[0].model)[4],
        values(&Net::new(1, false))[4],
        "the branch must learn"
    );
}

#[test]
fn a_parameter_without_any_gradient_gets_no_weight_decay() {
    let decaying = |_| {
        let optimizer = SgdConfig::new()
            .with_weight_decay(Some(burn::optim::decay::WeightDecayConfig::new(0.5)))
            .init();
        Learner::new(Net::new(1, false), optimizer, 0.1)
    };
    let outcomes = train(&deal(&steps(), 2), decaying, two_epochs);
    let before = values(&Net::new(1, false));
    for outcome in &outcomes {
        let after = outcome.values();
        assert_eq!(after[4..], before[4..], "the extra branch must not change");
        assert_ne!(after[0], before[0]);
    }
}

struct Halve;

impl ModuleMapper for Halve {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            Tensor::from_data(tensor.to_data(), (&tensor.device(), DType::F16)).require_grad()
        })
    }
}

#[test]
fn half_precision_parameters_are_reduced_in_f32_and_stay_half() {
    let half = |_| Learner::new(Net::new(1, false).map(&mut Halve), sgd(), 0.05);
    let reference = train(&deal(&steps(), 1), half, two_epochs).remove(0);
    let outcomes = train(&deal(&steps(), 3), half, two_epochs);
    for outcome in &outcomes {
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.model.hidden.weight.val().dtype(), DType::F16);
        assert_eq!(outcome.values(), outcomes[0].values());
        assert_close(&outcome.values(), &reference.values(), 0.01);
    }
}

#[test]
fn ranks_that_start_differently_adopt_the_parameters_of_rank_0() {
    let reference = train(&deal(&steps(), 2), |_| learner(1), two_epochs).remove(0);
    let outcomes = train(&deal(&steps(), 2), |rank| learner(1 + rank as u64), two_epochs);
    for outcome in &outcomes {
        assert_eq!(outcome.values(), reference.values());
        assert_eq!(
            ids(&outcome.model),
            ids(&outcomes[0].model),
            "optimizer records of rank 0 must fit on every rank"
        );
    }
}

#[test]
fn a_second_launch_continues_with_the_optimizer_of_the_first() {
    let run = |ranks: usize| {
        let scripts = deal(&steps(), ranks);
        let mut outcomes = on_ranks(ranks, |rank, link| {
            let strategy = Arc::new(strategy(link));
            let schedule = WarmupSchedule::new(0.05, 2, 2.0, 3).unwrap();
            let learner = Learner::new(Net::new(1, false), sgd(), schedule.clone());
            let mut learner =
                launch(&strategy, training(&scripts[rank], Vec::new()), learner).learner.unwrap();
            learner.load_scheduler(schedule.restart_record());
            launch(&strategy, training(&scripts[rank], Vec::new()), learner)
        });
        outcomes.remove(0).unwrap().values()
    };
    assert_close(&run(2), &run(1), 1e-5);
}

#[test]
fn all_ranks_adopt_the_optimizer_state_of_rank_0() {
    let scripts = deal(&steps(), 1);
    let trained = || train(&scripts, |_| learner(1), two_epochs).remove(0).learner.unwrap();
    let outcomes = train(
        &deal(&steps(), 2),
        |rank| if rank == 0 { trained() } else { learner(2) },
        two_epochs,
    );
    assert_eq!((&outcomes[0].error, &outcomes[1].error), (&None, &None));
    let reference = train(&scripts, |_| trained(), two_epochs).remove(0);
    assert_close(&outcomes[1].values(), &reference.values(), 1e-5);
}

#[test]
fn a_stop_on_one_rank_ends_all_ranks_after_the_same_step() {
    let interrupter = Interrupter::new();
    let mut scripts = deal(&steps(), 3);
    scripts[1] = scripts[1].clone().with_incident(2, Incident::Stop(interrupter.clone()));
    let configure = |rank: usize, training: Training| match rank {
        1 => training.num_epochs(2).with_interrupter(interrupter.clone()),
        _ => training.num_epochs(2),
    };
    let outcomes = train(&scripts, |_| learner(1), configure);
    for (outcome, script) in outcomes.iter().zip(&scripts) {
        assert_eq!(outcome.error, None);
        assert!(outcome.interrupted.is_some(), "Burn's result must report the interruption");
        assert_eq!(script.calls.load(Ordering::Relaxed), 3, "three steps on every rank");
        assert_eq!(outcome.values(), outcomes[0].values());
    }
    let three = train(&deal(&steps()[..3], 1), |_| learner(1), |_, training| training).remove(0);
    assert_close(&outcomes[0].values(), &three.values(), 1e-5);
}

#[test]
fn every_rank_calls_its_loader_equally_often() {
    let scripts = deal(&steps(), 4);
    train(&scripts, |_| learner(1), |_, training| training);
    let calls: Vec<usize> =
        scripts.iter().map(|script| script.calls.load(Ordering::Relaxed)).collect();
    assert_eq!(
        calls, [7; 4],
        "six steps and one call without rows, also on ranks with five mini-batches"
    );
}

#[test]
fn a_loader_error_on_one_rank_is_an_error_on_all() {
    let mut scripts = deal(&steps(), 3);
    scripts[2] = scripts[2].clone().with_incident(3, Incident::Fail);
    let outcomes = train(&scripts, |_| learner(1), two_epochs);
    let expected = DataParallelError::RankFailed {
        rank: 2,
        step: 4,
        reason: "Dataset error: sample 17 is unreadable".to_owned(),
    };
    for outcome in &outcomes {
        assert_eq!(outcome.error.as_ref(), Some(&expected));
        assert!(
            outcome
                .result_error
                .as_ref()
                .is_some_and(|error| error.contains("sample 17 is unreadable")),
            "{:?}",
            outcome.result_error
        );
        assert_eq!(
            outcome.values(),
            outcomes[0].values(),
            "all ranks must have learned the same before the error"
        );
    }
}

#[test]
fn a_strategy_refuses_a_launch_after_a_failed_run() {
    let script = deal(&steps(), 1).remove(0).with_incident(0, Incident::Fail);
    let strategy = Arc::new(strategy(Threads::group(1).unwrap().remove(0)));
    let first = launch(&strategy, training(&script, Vec::new()), learner(1));
    assert!(matches!(first.error, Some(DataParallelError::RankFailed { rank: 0, step: 1, .. })));
    let second = launch(&strategy, training(&script, Vec::new()), learner(1));
    assert_eq!(second.error, Some(DataParallelError::Unavailable));
    assert!(second.result_error.is_some());
}

#[test]
fn a_panicking_model_is_an_error_on_the_other_ranks() {
    let mut steps = steps();
    steps[2][0].y = -1;
    let scripts = deal(&steps, 3);
    let outcomes = on_ranks(3, |rank, link| {
        launch(&Arc::new(strategy(link)), training(&scripts[rank], Vec::new()), learner(1)).error
    });
    assert!(outcomes[0].is_err(), "rank 0 has the bad sample");
    for outcome in &outcomes[1..] {
        let error = outcome.as_ref().unwrap().clone();
        assert_eq!(
            error,
            Some(DataParallelError::Collective(CollectiveError::PeerFailed { rank: 0, step: 3 }))
        );
    }
}

#[test]
fn ranks_without_a_renderer_write_no_files() {
    let home = tempfile::tempdir().unwrap();
    let scripts = deal(&steps(), 2);
    let outcomes = on_ranks(2, |rank, link| {
        let directory = home.path().join(format!("rank-{rank}"));
        let training = SupervisedTraining::new(
            &directory,
            Arc::new(scripts[rank].clone()),
            Arc::new(Script::new(vec![rows(3, 4)])),
        );
        let training = without_renderer(
            training.metrics((burn::train::metric::LossMetric::new(),)).num_epochs(2),
        );
        launch(&Arc::new(strategy(link)), training, learner(1)).error
    });
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().is_none()));
    assert_eq!(
        std::fs::read_dir(home.path()).unwrap().count(),
        0,
        "not even a directory may be created"
    );
}

#[test]
fn batch_norm_statistics_are_averaged_over_ranks_by_default() {
    // Each rank has half of the rows of a step. With a tiny learning rate, only the statistics
    // change.
    let scripts = deal(&[rows(1, 8), rows(2, 8)], 2);
    let statistics = |average: bool| {
        let outcomes = on_ranks(2, |rank, link| {
            let strategy = Arc::new(strategy(link).with_averaged_statistics(average));
            let learner = Learner::new(Net::new(1, true), SgdConfig::new().init(), 1e-30);
            launch(&strategy, training(&scripts[rank], Vec::new()), learner)
        });
        outcomes
            .into_iter()
            .map(|outcome| {
                let outcome = outcome.unwrap();
                assert_eq!(outcome.error, None);
                let norm = outcome.model.norm.unwrap();
                [norm.running_mean.value(), norm.running_var.value()]
                    .map(|value| value.into_data().try_into_vec::<f32>().unwrap())
            })
            .collect::<Vec<_>>()
    };
    let (own, averaged) = (statistics(false), statistics(true));
    assert_ne!(own[0], own[1]);
    assert_eq!(averaged[0], averaged[1]);
    for kind in 0..2 {
        for (i, mean) in averaged[0][kind].iter().enumerate() {
            assert!((mean - (own[0][kind][i] + own[1][kind][i]) / 2.0).abs() < 1e-6);
        }
    }
    assert_ne!(
        averaged[0][0],
        vec![0.0; 8],
        "the pending update of the last step must be included"
    );
}

#[test]
fn clones_that_share_batch_norm_statistics_are_refused() {
    let net = Net::new(1, true);
    let outcomes = train(&deal(&steps(), 2), |_| Learner::new(net.clone(), sgd(), 0.1), two_epochs);
    for outcome in outcomes {
        assert!(
            matches!(outcome.error, Some(DataParallelError::SharedRunningStatistics(_))),
            "{:?}",
            outcome.error
        );
    }
    let separate = |_| Learner::new(net.valid().train(), sgd(), 0.1);
    assert!(
        train(&deal(&steps(), 2), separate, two_epochs)
            .iter()
            .all(|outcome| outcome.error.is_none())
    );
}

#[test]
fn ranks_with_different_models_or_settings_are_errors() {
    let outcomes = train(
        &deal(&steps(), 2),
        |rank| Learner::new(Net::new(1, rank == 1), sgd(), 0.1),
        two_epochs,
    );
    for outcome in &outcomes {
        let Some(DataParallelError::DifferentModels { rank: 1, detail }) = &outcome.error else {
            panic!("{:?}", outcome.error)
        };
        assert!(
            detail.starts_with("it has norm.gamma")
                && detail.contains("where rank 0 has output.weight"),
            "{detail}"
        );
    }
    let outcomes =
        train(&deal(&steps(), 2), |_| learner(1), |rank, training| training.num_epochs(2 + rank));
    assert_eq!(
        outcomes[0].error,
        Some(DataParallelError::DifferentSettings {
            setting: "the number of epochs",
            rank: 1,
            ours: 2,
            theirs: 3
        })
    );
}

#[test]
fn diverging_parameters_of_ranks_are_an_error() {
    // The ranks have different optimizers, which no setting shows.
    let outcomes = on_ranks(2, |rank, link| {
        let strategy = Arc::new(strategy(link));
        let scripts = deal(&steps(), 2);
        let interfere = rank == 1;
        launch(
            &strategy,
            training(&scripts[rank], Vec::new()).num_epochs(3),
            Learner::new(Net::new(1, false), drifting(interfere), 0.1),
        )
        .error
    });
    for outcome in outcomes {
        let error = outcome.unwrap();
        assert!(
            matches!(
                &error,
                Some(DataParallelError::ParametersDiffer { rank: 1, epoch: Epoch::FIRST, .. })
            ),
            "{error:?}"
        );
    }
}

/// An optimizer that differs between ranks. Only its effect can be compared.
fn drifting(interfere: bool) -> ModuleOptimizer {
    if interfere { SgdConfig::new().init() } else { sgd() }
}

#[derive(Clone)]
struct StopAfter(usize);

impl EarlyStoppingStrategy for StopAfter {
    fn should_stop(&mut self, epoch: usize, _store: &EventStoreClient) -> bool {
        epoch >= self.0
    }
}

#[test]
fn early_stopping_of_rank_0_ends_all_ranks_without_an_interruption() {
    let scripts = deal(&steps(), 2);
    // Rank 1 would stop after one epoch, but only rank 0 decides.
    let configure = |rank: usize, training: Training| {
        training.num_epochs(5).early_stopping(StopAfter(if rank == 0 { 2 } else { 1 }))
    };
    let outcomes = train(&scripts, |_| learner(1), configure);
    for (outcome, script) in outcomes.iter().zip(&scripts) {
        assert_eq!((&outcome.error, &outcome.interrupted), (&None, &None));
        assert_eq!(script.calls.load(Ordering::Relaxed), 14, "two epochs");
    }
}

#[derive(Clone, Copy)]
enum Disk {
    Fine,
    Full,
    Panics,
}

impl<R: Checkpoint> Checkpointer<R> for Disk {
    fn save(&self, _epoch: usize, _record: R) -> Result<(), CheckpointerError> {
        match self {
            Self::Fine => Ok(()),
            Self::Full => Err(CheckpointerError::Unknown("the disk is full".to_owned())),
            Self::Panics => panic!("the checkpointer panics on purpose"),
        }
    }

    fn delete(&self, _epoch: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, _epoch: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown("nothing here".to_owned()))
    }
}

struct Always;

impl CheckpointingStrategy for Always {
    fn checkpointing(
        &mut self,
        _epoch: usize,
        _store: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_an_error_on_all_ranks() {
    for (disk, epochs) in [(Disk::Full, 3), (Disk::Full, 1), (Disk::Panics, 3), (Disk::Panics, 1)] {
        // Only the checkpointers of rank 0 are used.
        let configure = |_: usize, training: Training| {
            let training = training.num_epochs(epochs).with_checkpointing_strategy(Always);
            training.with_custom_checkpointers(disk, Disk::Fine, Disk::Fine)
        };
        for outcome in train(&deal(&steps(), 2), |_| learner(1), configure) {
            let Some(DataParallelError::RankFailed { rank: 0, reason, .. }) = &outcome.error else {
                panic!("{:?}", outcome.error)
            };
            assert!(reason.contains("heckpoint"), "{reason}");
            assert!(outcome.result_error.is_some());
        }
    }
}

#[test]
fn evaluation_counts_every_row_of_uneven_shards_once() {
    let net = Net::new(3, false).valid();
    let all = rows(11, 23);
    let batches = |rows: &[Row]| Script::new(rows.chunks(4).map(<[Row]>::to_vec).collect());
    let task = [2];
    let whole = evaluate_task(&net, &batches(&all), &task, &mut Solo::new()).unwrap();
    assert_eq!((whole.rows, whole.top5), (23, 23), "top-5 of three classes counts every row");
    assert!(whole.top1 > 0 && whole.top1 < 23);
    let of_class = all.iter().filter(|row| row.y == 2).count() as u64;
    assert_eq!(whole.task_il, of_class, "the only class of a task always has its highest score");
    assert_eq!(
        evaluate(&net, &batches(&all), &mut Solo::new()).unwrap(),
        Evaluation { task_il: whole.top1, ..whole }
    );
    // Shards of 15, 8 and 0 rows.
    let parts = [&all[..15], &all[15..], &all[..0]];
    let shards: Vec<Evaluation> = on_ranks(3, |rank, mut link| {
        let net = Net::new(3, false).valid();
        evaluate_task(&net, &batches(parts[rank]), &task, &mut link).unwrap()
    })
    .into_iter()
    .map(|shard| shard.unwrap())
    .collect();
    assert_eq!(shards, vec![whole; 3]);
}

#[test]
fn an_evaluation_that_fails_on_one_rank_fails_on_all_ranks() {
    let errors = on_ranks(2, |rank, mut link| {
        let script = Script::new(vec![rows(1, 3), rows(2, 3)]);
        let script = if rank == 1 { script.with_incident(1, Incident::Fail) } else { script };
        evaluate(&Net::new(3, false).valid(), &script, &mut link).unwrap_err().to_string()
    });
    let errors: Vec<String> = errors.into_iter().map(|error| error.unwrap()).collect();
    assert_eq!(errors[0], "the evaluation failed on rank 1");
    assert_eq!(errors[1], "the evaluation data could not be loaded: sample 17 is unreadable");
}

#[test]
fn the_phases_of_a_step_are_timed() {
    let timer = PhaseTimer::new();
    let strategy =
        Arc::new(strategy(Threads::group(1).unwrap().remove(0)).with_timer(timer.clone()));
    timer.add(Phase::Wait, Duration::from_millis(6));
    launch(&strategy, training(&deal(&steps(), 1)[0], Vec::new()), learner(1));
    let report = timer.report(None);
    assert_eq!((report.steps, report.ms(Phase::Wait)), (6, Some(1.0)));
    let parts: f64 = Phase::ALL
        .iter()
        .filter(|phase| **phase != Phase::Wait)
        .filter_map(|phase| report.ms(*phase))
        .sum();
    assert!(report.step_ms >= 0.99 * parts, "{report:?}");
    assert_eq!(report.exact, Device::default() == Device::flex());
    for phase in [Phase::Load, Phase::ForwardBackward, Phase::Optimizer] {
        assert!(report.ms(phase).map_or(!report.exact, |ms| ms > 0.0), "{report:?}");
    }
}
