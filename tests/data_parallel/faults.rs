//! The learner on a network that disturbs its ranks: delays and reordering change no bit, and whatever else happens ends on every rank with an error that says
//! what and where. A failure names the seed that repeats it.

use std::sync::Arc;
use std::time::Duration;

use burn_rehearsal_collective::{CollectiveError, Disturbance, Fault, FaultKind, RankFailure, run_simulated};
use burn_rehearsal_tests::watchdog;
use burn_rehearsal_train::data_parallel::DataParallelError;

use crate::equivalent::steps;
use crate::harness::*;

type Learned = (Option<DataParallelError>, Vec<(String, Vec<f32>)>);

/// One launch of `epochs` epochs on every rank of a network.
fn learn(size: usize, epochs: usize, disturbance: &Disturbance) -> Vec<Result<Learned, RankFailure<()>>> {
    let _watchdog = watchdog();
    let scripts = deal(&steps(), size);
    run_simulated(size, disturbance, |link| {
        let script = &scripts[burn_rehearsal_collective::Collective::rank(&link)];
        let outcome = launch(&Arc::new(strategy_on(Box::new(link))), training(script, Vec::new()).num_epochs(epochs), learner(1));
        let values = outcome.values();
        Ok((outcome.error, values))
    })
}

#[test]
fn delays_and_reordering_change_no_bit_of_what_is_learned() {
    const EPOCHS: usize = 25;
    for size in [2, 3, 5] {
        let outcomes = train(&deal(&steps(), size), |_| learner(1), |_, training| training.num_epochs(EPOCHS));
        for seed in 0..2 {
            let disturbance = Disturbance { seed, delay: Duration::from_micros(60), fault: None };
            for (disturbed, expected) in learn(size, EPOCHS, &disturbance).into_iter().zip(&outcomes) {
                assert_eq!(disturbed, Ok((None, expected.values())), "seed {seed}, {size} ranks");
            }
        }
    }
}

/// The ranks that an error names.
fn named(error: &DataParallelError) -> Vec<usize> {
    use DataParallelError as E;
    match error {
        E::RankFailed { rank, .. } | E::OutOfStep { rank, .. } | E::DifferentSettings { rank, .. } => vec![*rank],
        // These say who differs from rank 0.
        E::DifferentModels { rank, .. } | E::ParametersDiffer { rank, .. } => vec![*rank, 0],
        E::Collective(CollectiveError::PeerFailed { rank, .. } | CollectiveError::Damaged { rank }) => vec![*rank],
        E::Collective(CollectiveError::Mismatch { reason, .. } | CollectiveError::Transport { reason, .. }) => {
            let words = reason.split("rank ").skip(1);
            words.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
        }
        _ => Vec::new(),
    }
}

#[test]
fn a_rank_that_stalls_dies_panics_or_sends_wrong_messages_ends_every_rank_with_an_error_that_names_another() {
    for seed in 0..70_u64 {
        let size = 2 + seed as usize % 4;
        let kind = FaultKind::ALL[seed as usize % 7];
        let fault = Fault { rank: (seed as usize / 3) % size, handle: 0, operation: (seed * 13) % 40, kind };
        let disturbance = Disturbance { seed, delay: Duration::from_micros(20), fault: Some(fault) };
        let ends = learn(size, 4, &disturbance);
        let context = format!("seed {seed}, {size} ranks, {fault:?}");
        let errors: Vec<_> = ends.iter().map(|end| end.as_ref().map(|(error, _)| error)).collect();
        for (rank, end) in errors.iter().enumerate().filter(|(rank, _)| *rank != fault.rank) {
            let Ok(Some(error)) = end else { panic!("{context}: rank {rank} has no error: {errors:?}") };
            assert!(named(error).iter().any(|named| *named != rank), "{context}: rank {rank} names no other: {errors:?}");
        }
        match errors[fault.rank] {
            Ok(Some(_)) => {}
            Err(RankFailure::Panic { .. }) if kind == FaultKind::Panic => {}
            _ => panic!("{context}: the culprit has no error: {errors:?}"),
        }
    }
}
