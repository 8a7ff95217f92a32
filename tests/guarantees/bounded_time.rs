//! Guarantee 5 of docs/ARCHITECTURE.md: queues are bounded, and the training thread runs at most
//! `lag` steps ahead of the engine.

use crate::tracked::Tracked;
use burn_rehearsal::{Execution, RehearsalBuffer};
use burn_rehearsal_collective::Solo;
use burn_rehearsal_testing::{Mixed, assert_augmented, batch, config, watchdog};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

struct Bench {
    buffer: RehearsalBuffer<Mixed>,
    tokens: Sender<()>,
    /// The number of all-gathers that have begun.
    begun: Arc<AtomicUsize>,
    /// The number of all-gathers that received a token.
    passed: Arc<AtomicUsize>,
    /// Disconnected when the engine drops its collective.
    alive: Receiver<()>,
}

/// A buffer of one rank whose engine waits for a token of the test before every all-gather. After
/// the sender of tokens is dropped, it no longer waits.
fn bench(lag: usize) -> Bench {
    let (tokens, gate) = channel();
    let (begun, passed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (collective, alive) = Tracked::around(Solo::new(), {
        let (begun, passed) = (begun.clone(), passed.clone());
        move || {
            begun.fetch_add(1, Ordering::SeqCst);
            let _ = gate.recv();
            passed.fetch_add(1, Ordering::SeqCst);
        }
    });
    let config = config(50, 2, 3).with_lag(lag).with_execution(Execution::Background);
    let buffer = RehearsalBuffer::new(&config, collective).unwrap();
    Bench { buffer, tokens, begun, passed, alive }
}

fn ids(step: usize) -> Vec<i64> {
    vec![step as i64, 100 + step as i64]
}

#[test]
fn training_runs_at_most_lag_steps_ahead_of_a_blocked_engine() {
    let _watchdog = watchdog();
    for lag in [0, 1, 2, 5] {
        let Bench { buffer, tokens, begun, passed, .. } = bench(lag);
        let (done, steps) = channel();
        let training = std::thread::spawn({
            let (buffer, passed) = (buffer.clone(), passed.clone());
            move || {
                for step in 0..20 {
                    let drawn =
                        assert_augmented(&ids(step), &buffer.rehearse(batch(&ids(step))).unwrap());
                    let rounds = passed.load(Ordering::SeqCst);
                    assert!(
                        rounds + lag > step,
                        "step {step} ended after {rounds} rounds with lag {lag}"
                    );
                    assert_eq!(
                        drawn.len(),
                        if step < lag { 0 } else { (2 * (step + 1 - lag)).min(3) }
                    );
                    done.send(step).unwrap();
                }
            }
        });
        // The first `lag` steps need no result of the engine and end although it is blocked.
        (0..lag).for_each(|step| assert_eq!(steps.recv(), Ok(step)));
        for step in lag..20 {
            // The next step waits. The assertion in the training thread checks this without a
            // race.
            assert_eq!(
                steps.recv_timeout(Duration::from_millis(2)),
                Err(RecvTimeoutError::Timeout),
                "lag {lag}"
            );
            tokens.send(()).unwrap();
            assert_eq!(steps.recv(), Ok(step), "one round lets exactly one step through");
        }
        training.join().unwrap();
        assert!(
            begun.load(Ordering::SeqCst) <= 20 - lag + 1,
            "the engine is in at most one round at a time"
        );
    }
}

#[test]
fn dropping_a_buffer_does_not_wait_for_a_blocked_engine() {
    let _watchdog = watchdog();
    for lag in [1, 3] {
        let Bench { buffer, tokens, begun, alive, .. } = bench(lag);
        for step in 0..lag {
            buffer.rehearse(batch(&ids(step))).unwrap();
        }
        while begun.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(buffer);
        assert_eq!(
            alive.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Empty),
            "the engine must still be in its round"
        );
        drop(tokens);
        assert!(alive.recv().is_err(), "the engine must have dropped its collective");
    }
}

#[test]
fn a_failure_is_reported_while_the_engine_is_blocked() {
    let _watchdog = watchdog();
    let Bench { buffer, tokens, alive, .. } = bench(3);
    for step in 0..3 {
        buffer.rehearse(batch(&ids(step))).unwrap();
    }
    let error = burn_rehearsal::error::RehearsalError::Data("gone".into());
    buffer.abort(error.clone());
    assert_eq!(buffer.rehearse(batch(&ids(3))).unwrap_err(), error);
    drop((buffer, tokens));
    assert!(alive.recv().is_err());
}

#[test]
fn several_threads_may_use_handles_of_one_buffer() {
    let _watchdog = watchdog();
    let buffer: RehearsalBuffer<Mixed> = config(500, 2, 3).init().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let buffer = buffer.clone();
            scope.spawn(move || {
                for step in 0..25 {
                    assert_augmented(
                        &ids(thread * 1000 + step),
                        &buffer.rehearse(batch(&ids(thread * 1000 + step))).unwrap(),
                    );
                    buffer.inspect().unwrap();
                }
            });
        }
    });
    let inspection = buffer.inspect().unwrap();
    assert_eq!((inspection.len, inspection.steps), (200, 100));
}
