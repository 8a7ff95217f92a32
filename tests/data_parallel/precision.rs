//! Half precision: the network computes in `bf16` or `f16`, but parameters stay in `f32`.

use std::sync::Arc;

use burn::module::Param;
use burn::tensor::DType;
use burn::train::Learner;
use burn_rehearsal_train::data_parallel::{DataParallelError, LossScale, Precision};

use crate::equivalent::{steps, two_epochs};
use crate::harness::*;

/// Launches a training on the rank of every script. Returns the outcome and the loss scale.
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
fn half_precision_learns_the_same_as_f32_up_to_rounding() {
    for norm in [false, true] {
        for ranks in [1, 2] {
            // The last step is omitted, because batch norm over a single row amplifies rounding.
            let scripts = deal(&steps()[..5], ranks);
            let learned = |precision| train_in(precision, &scripts, 1024.0, || Net::new(1, norm));
            let reference = learned(Precision::F32);
            assert_eq!(reference[0].1, None, "f32 must not scale the loss");
            let way = distance(&reference[0].0.model, &Net::new(1, norm));
            // bf16 has 8 significant bits and f16 has 11. Rounding adds up over ten steps.
            for (precision, share) in [(Precision::Bf16, 0.2), (Precision::F16, 0.04)] {
                let outcomes = learned(precision);
                for (outcome, scale) in &outcomes {
                    assert_eq!(outcome.error, None, "{precision}");
                    let off = distance(&outcome.model, &reference[0].0.model);
                    assert!(off > 0.0, "{precision} was not used");
                    assert!(
                        off < share * way,
                        "{precision}, {ranks} ranks, batch norm {norm}: \
                         off by {off} after a distance of {way}"
                    );
                    assert_eq!(
                        outcome.values(),
                        outcomes[0].0.values(),
                        "all ranks must have the same bits"
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
fn non_finite_gradients_skip_the_update_and_halve_the_loss_scale() {
    for ranks in [1, 2] {
        let good = steps();
        // One row of the last rank exceeds 65504, the largest number of f16.
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
fn only_f16_requires_a_scaled_loss() {
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
fn ranks_with_different_precisions_are_an_error() {
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
fn a_frozen_parameter_is_cast_too() {
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
    assert_ne!(after[2], before[2], "the other parameters must learn");
}
