//! Half precision: the network computes in it, and nothing that lasts is kept in it.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::DType;
use burn::train::Learner;
use burn_rehearsal_train::data_parallel::{DataParallelError, LossScale, Precision};

use crate::equivalent::{steps, two_epochs};
use crate::harness::*;

/// One launch on every script's rank, and the factor of the loss afterwards.
fn train_in(
    precision: Precision,
    scripts: &[Script],
    scale: f32,
    net: impl Fn() -> Net + Sync,
) -> Vec<(Outcome, Option<LossScale>)> {
    let ranks = on_ranks(scripts.len(), |rank, link| {
        let scale = LossScale { factor: scale, ..LossScale::default() };
        let strategy = Arc::new(strategy(link).with_precision(precision).with_loss_scale(scale));
        let outcome = launch(
            &strategy,
            two_epochs(rank, training(&scripts[rank], Vec::new())),
            Learner::new(net(), sgd(), 0.1),
        );
        (outcome, strategy.loss_scale())
    });
    ranks.into_iter().map(|rank| rank.unwrap()).collect()
}

/// The sum of the differences of all parameters.
fn distance(a: &Net, b: &Net) -> f32 {
    values(a)
        .iter()
        .zip(&values(b))
        .flat_map(|((_, a), (_, b))| a.iter().zip(b))
        .map(|(a, b)| (a - b).abs())
        .sum()
}

#[test]
fn half_precision_learns_what_f32_learns_up_to_rounding_and_keeps_its_parameters_in_f32() {
    for norm in [false, true] {
        for ranks in [1, 2] {
            // Without the last step: batch norm over a single row would turn rounding into noise.
            let scripts = deal(&steps()[..5], ranks);
            let learned = |precision| train_in(precision, &scripts, 1024.0, || Net::new(1, norm));
            let reference = learned(Precision::F32);
            assert_eq!(reference[0].1, None, "in f32 nothing is scaled");
            let way = distance(&reference[0].0.model, &Net::new(1, norm));
            // 8 and 11 significant bits; rounding adds up over ten steps.
            for (precision, share) in [(Precision::Bf16, 0.2), (Precision::F16, 0.04)] {
                let outcomes = learned(precision);
                for (outcome, scale) in &outcomes {
                    assert_eq!(outcome.error, None, "{precision}");
                    let off = distance(&outcome.model, &reference[0].0.model);
                    assert!(off > 0.0, "{precision} was not used");
                    assert!(
                        off < share * way,
                        "{precision}, {ranks} ranks, batch norm {norm}: {off} off after a way of {way}"
                    );
                    assert_eq!(
                        outcome.values(),
                        outcomes[0].0.values(),
                        "all ranks have the same bits"
                    );
                    assert_eq!(outcome.model.hidden.weight.val().dtype(), DType::F32);
                    assert_eq!(
                        scale.map(|scale| (scale.factor, scale.skipped)),
                        (precision == Precision::F16).then_some((1024.0, 0))
                    );
                }
            }
        }
    }
}

#[test]
fn an_update_whose_gradients_are_not_finite_is_left_out_on_all_ranks_and_halves_the_factor() {
    for ranks in [1, 2] {
        let good = steps();
        // Beyond the largest number of f16, 65504, in one row of the last rank.
        let mut bad = rows(20, 12);
        bad[11].x[0] = 1e6;
        let with_bad: Vec<Vec<Row>> = std::iter::once(bad).chain(good.clone()).collect();
        let learned = |steps: &[Vec<Row>], factor: f32| {
            train_in(Precision::F16, &deal(steps, ranks), factor, || Net::new(1, false))
        };
        let outcomes = learned(&with_bad, 4096.0);
        for (outcome, scale) in &outcomes {
            assert_eq!(outcome.error, None);
            // Once in each of two epochs.
            let scale = scale.unwrap();
            assert_eq!((scale.factor, scale.skipped, scale.good as usize), (1024.0, 2, good.len()));
            assert_eq!(outcome.values(), outcomes[0].0.values());
        }
        let without = learned(&good, 1024.0);
        assert_close(&outcomes[0].0.values(), &without[0].0.values(), 0.01);
        assert!(
            outcomes[0]
                .0
                .values()
                .iter()
                .all(|(_, values)| values.iter().all(|value| value.is_finite()))
        );
    }
}

#[test]
fn a_network_that_does_not_scale_its_loss_is_refused_in_f16_and_no_other_precision() {
    let forgetful = || Net { scales: false, ..Net::new(1, false) };
    for (precision, refused) in
        [(Precision::F16, true), (Precision::Bf16, false), (Precision::F32, false)]
    {
        for (outcome, _) in train_in(precision, &deal(&steps(), 2), 1.0, forgetful) {
            match outcome.error {
                Some(error) => assert!(
                    refused && error == DataParallelError::LossNotScaled { step: 1 },
                    "{precision}: {error}"
                ),
                None => assert!(!refused, "{precision}"),
            }
        }
    }
}

#[test]
fn ranks_that_choose_different_precisions_are_told_so() {
    let script = deal(&steps(), 2);
    let ranks = on_ranks(2, |rank, link| {
        let precision = [Precision::F32, Precision::Bf16][rank];
        launch(
            &Arc::new(strategy(link).with_precision(precision)),
            training(&script[rank], Vec::new()),
            learner(1),
        )
        .error
    });
    for error in ranks {
        let error = error.unwrap().unwrap();
        assert!(
            matches!(error, DataParallelError::DifferentSettings { setting: "the precision", .. }),
            "{error}"
        );
    }
}

#[test]
fn a_parameter_that_is_not_trained_is_cast_as_well() {
    let frozen = || {
        let mut net = Net::new(1, false);
        net.hidden.weight = Param::initialized(
            net.hidden.weight.id,
            net.hidden.weight.val().set_require_grad(false),
        );
        net
    };
    let before = values(&frozen());
    let (outcome, _) = train_in(Precision::Bf16, &deal(&steps(), 1), 1.0, frozen).remove(0);
    let after = outcome.values();
    assert_eq!((outcome.error, &after[0]), (None, &before[0]));
    assert_ne!(after[2], before[2], "the rest learns");
}
