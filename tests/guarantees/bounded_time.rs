//! Guarantee 4.5: queues are bounded, and the training thread waits only if the engine is later
//! than one training step.

use burn_rehearsal::{Execution, RehearsalBuffer};
use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp, Solo};
use burn_rehearsal_testing::{Mixed, assert_augmented, batch, config, watchdog};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// A world of one whose all-gather waits for a token of the test; without a sender of tokens it
/// goes on freely.
struct Gated {
    inner: Solo,
    tokens: Receiver<()>,
    /// All-gathers that have begun and that have been let through.
    begun: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
    /// Says, by being dropped, that the engine is gone.
    _alive: Sender<()>,
}

impl Collective for Gated {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn set_step(&mut self, step: u64) {
        self.inner.set_step(step);
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.inner.barrier()
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.inner.broadcast(data, root)
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let _ = self.tokens.recv();
        self.passed.fetch_add(1, Ordering::SeqCst);
        self.inner.all_gather(send, recv)
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        self.inner.all_reduce(data, op)
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.inner.exchange(outgoing, incoming)
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.inner.duplicate()
    }
}

struct Bench {
    buffer: RehearsalBuffer<Mixed>,
    tokens: Sender<()>,
    begun: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
    alive: Receiver<()>,
}

fn bench(lag: usize) -> Bench {
    let (tokens, gate) = channel();
    let (_alive, alive) = channel();
    let (begun, passed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let collective = Gated {
        inner: Solo::new(),
        tokens: gate,
        begun: begun.clone(),
        passed: passed.clone(),
        _alive,
    };
    let config = config(50, 2, 3).with_lag(lag).with_execution(Execution::Background);
    Bench {
        buffer: RehearsalBuffer::new(&config, Box::new(collective)).unwrap(),
        tokens,
        begun,
        passed,
        alive,
    }
}

fn ids(step: usize) -> Vec<i64> {
    vec![step as i64, 100 + step as i64]
}

#[test]
fn training_runs_at_most_lag_steps_ahead_of_a_blocked_engine_then_waits_and_goes_on_when_it_is_released()
 {
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
                        "step {step} has ended after {rounds} rounds with lag {lag}"
                    );
                    assert_eq!(
                        drawn.len(),
                        if step < lag { 0 } else { (2 * (step + 1 - lag)).min(3) }
                    );
                    done.send(step).unwrap();
                }
            }
        });
        // The first `lag` steps need nothing of the engine: they end although it is blocked.
        (0..lag).for_each(|step| assert_eq!(steps.recv(), Ok(step)));
        for step in lag..20 {
            // The next one waits. (A wrong one is caught for certain by the assertion in the
            // training thread.)
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
fn dropping_a_buffer_whose_engine_is_blocked_does_not_wait_and_the_engine_ends_when_it_is_released()
{
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
            "the engine is still in its round"
        );
        drop(tokens);
        assert!(alive.recv().is_err(), "the engine and its collective are gone");
    }
}

#[test]
fn a_failure_is_reported_at_once_although_the_engine_is_blocked() {
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
fn handles_of_one_buffer_may_be_used_from_several_threads() {
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
