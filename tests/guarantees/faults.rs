//! Guarantees 4 and 9 of docs/ARCHITECTURE.md on a simulated network with faults: delays and
//! reordering change no bit, and every other fault is an error on every rank that names its cause.
//! A failed test prints the seed that repeats it.

use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    Execution, OnRepeat, PolicyKind, RehearsalBuffer, RehearsalConfig, SamplingKind,
};
use burn_rehearsal_collective::{CollectiveError, RankFailure};
use burn_rehearsal_testing::{
    Disturbance, Fault, FaultKind, Mixed, batch, buffer, config, fresh, read, run_simulated,
    watchdog, world,
};
use std::time::Duration;

/// The results of a rank: the rows of all its mini-batches, and the digests of all reports.
type Seen = (Vec<i64>, Vec<String>);

/// Runs tasks with uneven mini-batches, some of them empty, and takes reports.
fn live(buffer: &RehearsalBuffer<Mixed>, seed: u64, steps: usize) -> Result<Seen, RehearsalError> {
    let (mut rows, mut digests) = (Vec::new(), Vec::new());
    for step in 0..steps {
        if step % 40 == 0 {
            buffer.begin_task(step / 40)?;
        }
        let ids = fresh(
            seed,
            buffer.rank(),
            step,
            [5, 3, 0, 7, 1][(step * 3 + buffer.rank()) % 5],
            2 + step as u64 / 40,
        );
        if ids.is_empty() {
            buffer.skip_step()?;
        } else {
            rows.extend(read(&buffer.rehearse(batch(&ids))?).iter().map(|row| row.id));
        }
        if step % 25 == 24 {
            let report = buffer.report()?;
            digests.extend([report.contents_digest, report.draws_digest]);
        }
    }
    Ok((rows, digests))
}

/// A random configuration.
fn random_config(rng: &mut Stream, size: usize) -> RehearsalConfig {
    let mut one_of = |count: usize| rng.below(count as u64) as usize;
    let policy = PolicyKind::ALL[one_of(PolicyKind::ALL.len())];
    let sampling = SamplingKind::ALL[one_of(SamplingKind::ALL.len())];
    config(8 * size + one_of(9), 3, 4)
        .with_policy(policy)
        .with_sampling(sampling)
        .with_lag(one_of(4))
        .with_on_repeat([OnRepeat::KeepBoth, OnRepeat::SkipIfStored][one_of(2)])
        .with_execution(
            [Execution::Background, Execution::Background, Execution::Inline][one_of(3)],
        )
}

#[test]
fn delays_and_reordering_change_no_bit_in_thousands_of_steps() {
    for seed in 0..12 {
        let mut rng = Stream::new(seed, Purpose::TaskStream, 0, 0);
        let size = 2 + seed as usize % 4;
        let config = random_config(&mut rng, size);
        let expected = world(size, |threads| live(&buffer(&config, threads), seed, 300).unwrap());
        let _watchdog = watchdog();
        let disturbance = Disturbance { seed, delay: Duration::from_micros(60), fault: None };
        let disturbed = run_simulated(size, &disturbance, |ranks| {
            live(&buffer(&config, Box::new(ranks)), seed, 300)
        });
        for (rank, (disturbed, expected)) in disturbed.into_iter().zip(expected).enumerate() {
            assert_eq!(
                disturbed,
                Ok(expected),
                "seed {seed}: rank {rank} of {size} has other results"
            );
        }
    }
}

/// The ranks that an error names.
fn named(error: &RehearsalError) -> Vec<usize> {
    let of_words = |reason: &str| {
        let words = reason.split("rank ").skip(1);
        words
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
            .collect()
    };
    match error {
        RehearsalError::PeerFailed { rank, .. } | RehearsalError::Disagreement { rank, .. } => {
            vec![*rank]
        }
        RehearsalError::Collective(
            CollectiveError::PeerFailed { rank, .. } | CollectiveError::Damaged { rank },
        ) => vec![*rank],
        RehearsalError::Collective(
            CollectiveError::Mismatch { reason, .. } | CollectiveError::Transport { reason, .. },
        ) => of_words(reason),
        _ => Vec::new(),
    }
}

/// Runs on a network with a random fault.
fn survive(seed: u64) {
    let mut rng = Stream::new(seed, Purpose::TaskStream, 1, 0);
    let size = 2 + rng.below(4) as usize;
    let config = random_config(&mut rng, size);
    let kind = FaultKind::ALL[rng.below(FaultKind::ALL.len() as u64) as usize];
    let fault =
        Fault { rank: rng.below(size as u64) as usize, handle: 0, operation: rng.below(90), kind };
    let context = format!("seed {seed}, {size} ranks, {fault:?}");
    let _watchdog = watchdog();
    let disturbance = Disturbance { seed, delay: Duration::from_micros(20), fault: Some(fault) };
    let ends = run_simulated(size, &disturbance, |ranks| {
        live(&buffer(&config, Box::new(ranks)), seed, 75)
    });
    if matches!(kind, FaultKind::Corrupt | FaultKind::Stale) && ends.iter().all(Result::is_ok) {
        // The fault may have hit the padding of a message.
        let expected = world(size, |threads| live(&buffer(&config, threads), seed, 75).unwrap());
        return assert_eq!(
            ends.into_iter().map(Result::unwrap).collect::<Vec<_>>(),
            expected,
            "{context}: the fault changed the results, but is not an error"
        );
    }
    let mut culprit_is_named = false;
    for (rank, end) in ends.iter().enumerate() {
        let error = match end {
            Err(RankFailure::Error { error, .. }) => error,
            // An inline engine panics on the rank's own thread.
            Err(RankFailure::Panic { .. }) if (rank, FaultKind::Panic) == (fault.rank, kind) => {
                continue;
            }
            _ => panic!("{context}: rank {rank} has no error"),
        };
        if rank != fault.rank {
            let named = named(error);
            assert!(
                named.iter().any(|named| *named != rank),
                "{context}: rank {rank} names no other rank: {error}"
            );
            culprit_is_named |= named.contains(&fault.rank);
        }
    }
    // A stale length is valid in itself. The rank that received it then differs from the others.
    let may_be_unnamed = kind == FaultKind::Stale;
    assert!(culprit_is_named || may_be_unnamed, "{context}: no rank names the culprit: {ends:?}");
}

#[test]
fn a_faulty_rank_is_named_by_the_errors_of_the_others() {
    // `FAULT_SEED=17` repeats a failed seed.
    match std::env::var("FAULT_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => survive(seed),
        None => (0..150).for_each(survive),
    }
}
