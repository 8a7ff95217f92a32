//! Guarantee 7 of docs/ARCHITECTURE.md: many ranks learn the same as one rank with all rows.

use std::sync::Arc;

use burn::optim::{AdamConfig, ModuleOptimizer};
use burn::train::Learner;
use burn_rehearsal_testing::world;

use crate::harness::{
    Net, Row, Training, assert_close, deal, launch, rows, sgd, strategy_on, training, values,
};

/// Five steps of 12 rows and a last one of 2, in which some of three or four ranks have no row.
pub(crate) fn steps() -> Vec<Vec<Row>> {
    let mut steps: Vec<Vec<Row>> = (0..5).map(|step| rows(step, 12)).collect();
    steps.push(rows(9, 2));
    steps
}

pub(crate) fn two_epochs(_rank: usize, training: Training) -> Training {
    training.num_epochs(2)
}

/// Trains with SGD and momentum, with Adam, and with gradient accumulation over a partial group.
pub(crate) fn many_ranks_learn_what_one_rank_learns(ranks: usize) {
    equal_to_one_rank(ranks, sgd, 0.1, two_epochs, 1e-5);
    equal_to_one_rank(ranks, || AdamConfig::new().init(), 0.01, two_epochs, 1e-4);
    // An epoch of six steps in groups of four ends with a group of two steps.
    equal_to_one_rank(
        ranks,
        sgd,
        0.02,
        |_, training| training.num_epochs(2).grads_accumulation(4),
        1e-5,
    );
}

fn equal_to_one_rank(
    ranks: usize,
    optimizer: impl Fn() -> ModuleOptimizer + Sync,
    lr: f64,
    configure: fn(usize, Training) -> Training,
    tolerance: f32,
) {
    // The parameters of every rank.
    let learned = |ranks: usize| {
        let scripts = deal(&steps(), ranks);
        world(ranks, |link| {
            let rank = link.rank();
            let learner = Learner::new(Net::new(1, false), optimizer(), lr);
            let outcome = launch(
                &Arc::new(strategy_on(link)),
                configure(rank, training(&scripts[rank], Vec::new())),
                learner,
            );
            assert_eq!(outcome.error, None);
            outcome.values()
        })
    };
    let reference = learned(1).remove(0);
    let start = values(&Net::new(1, false));
    assert!(
        start[0].1.iter().zip(&reference[0].1).any(|(a, b)| (a - b).abs() > 100.0 * tolerance),
        "the parameters must change"
    );
    let outcomes = learned(ranks);
    for outcome in &outcomes {
        assert_eq!(outcome, &outcomes[0], "all ranks must have the same bits");
        assert_close(outcome, &reference, tolerance);
    }
}

#[test]
fn several_ranks_learn_the_same_as_one() {
    [2, 3, 4].into_iter().for_each(many_ranks_learn_what_one_rank_learns);
}
