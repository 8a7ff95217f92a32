//! The hand-over between handles and engine, under stress: handles on many threads, and ranks that
//! end at any moment.
//!
//! The hand-over consists of the standard library's bounded channels, one lock, and an engine that
//! parks for a limited time. Only the channels wait without a limit, and a lost wake-up would cost
//! time but no progress. There is therefore no interleaving to model, and no loom test.

use crate::tracked::Tracked;
use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Execution, RehearsalBuffer};
use burn_rehearsal_collective::{Solo, Threads};
use burn_rehearsal_testing::{
    CLASS, Mixed, assert_augmented, batch, buffer, config, fresh, watchdog,
};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Waits until the engine has ended, which drops the sender.
fn assert_ends(engine: &Receiver<()>, context: &str) {
    assert!(
        engine
            .recv_timeout(Duration::from_secs(60))
            .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected),
        "{context}"
    );
}

#[test]
fn the_engine_serves_many_threads_and_ends_with_the_last_handle() {
    let _watchdog = watchdog();
    for lag in [0, 1, 3] {
        let (ranks, engine) = Tracked::around(Solo::new(), || {});
        let shared = buffer(&config(1000, 2, 3).with_lag(lag), ranks);
        std::thread::scope(|scope| {
            for thread in 0..5 {
                let handle = shared.clone();
                scope.spawn(move || {
                    for step in 0..40 {
                        let ids = fresh(lag as u64, thread, step, 3, 4);
                        assert_augmented(&ids, &handle.rehearse(batch(&ids)).unwrap());
                        match (step + thread) % 8 {
                            0 => drop(handle.inspect().unwrap()),
                            1 => drop(handle.report().unwrap()),
                            2 => handle.begin_task(0).unwrap(),
                            3 => assert_eq!(handle.check(), Ok(())),
                            _ => drop(handle.clone()),
                        }
                    }
                });
            }
        });
        let inspection = shared.inspect().unwrap();
        assert_eq!((inspection.steps, inspection.len), (200, 400));
        assert!(
            engine.try_recv().is_err_and(|error| error == std::sync::mpsc::TryRecvError::Empty),
            "the engine lives as long as a handle"
        );
        drop(shared);
        assert_ends(&engine, "the engine outlives its handles");
    }
}

/// The way in which a rank ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Drop,
    BadShape,
    BadClass,
    Data,
}

fn end(handle: RehearsalBuffer<Mixed>, how: End) {
    let wrong_class = batch(&[900 * CLASS, 901 * CLASS, 902 * CLASS]);
    let error = match how {
        End::Drop => return,
        End::BadShape => {
            let wrong = Mixed {
                feature: burn::tensor::Tensor::zeros([9, 2], &burn_rehearsal_testing::device()),
                ..wrong_class
            };
            handle.rehearse(wrong).unwrap_err()
        }
        // The engine finds it in one of the next steps.
        End::BadClass => (0..9).find_map(|_| handle.rehearse(wrong_class.clone()).err()).unwrap(),
        End::Data => {
            handle.abort(RehearsalError::Data("no more".into()));
            handle.check().unwrap_err()
        }
    };
    assert_eq!(handle.check(), Err(error.clone()));
    assert_eq!(handle.clone().inspect(), Err(error));
}

#[test]
fn engines_end_with_their_ranks_at_any_moment() {
    let _watchdog = watchdog();
    for seed in 0..60 {
        let mut rng = Stream::new(seed, Purpose::TaskStream, 2, 0);
        let (size, lag) = (1 + rng.below(4) as usize, rng.below(4) as usize);
        let execution = if rng.below(4) == 0 { Execution::Inline } else { Execution::Background };
        let config = config(40, 3, 2).with_classes(Some(5)).with_lag(lag).with_execution(execution);
        let group = Threads::group(size).unwrap();
        let ranks: Vec<_> = group.into_iter().map(|ranks| Tracked::around(ranks, || {})).collect();
        let context = format!("seed {seed}: {size} ranks, lag {lag}, {execution:?}");
        std::thread::scope(|scope| {
            for (rank, (ranks, engine)) in ranks.into_iter().enumerate() {
                let how =
                    [End::Drop, End::BadShape, End::BadClass, End::Data][rng.below(4) as usize];
                let steps = rng.below(12) as usize;
                let (config, context) = (&config, &context);
                scope.spawn(move || {
                    let handle = buffer(config, ranks);
                    // Other ranks may have ended before.
                    let result = (0..steps).try_for_each(|step| {
                        handle.rehearse(batch(&fresh(seed, rank, step, 4, 5))).map(drop)
                    });
                    match result {
                        Ok(()) => end(handle, how),
                        Err(error) => {
                            assert!(size > 1 && handle.check() == Err(error), "{context}")
                        }
                    }
                    assert_ends(&engine, context);
                });
            }
        });
    }
}
