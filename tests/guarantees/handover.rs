//! The hand-over between handles and engine. It consists of the standard library's bounded
//! channels, one lock, and an engine that parks for a limited time: all waiting without a limit is
//! the channels' own, and a wake-up that were lost would cost time and no progress. So no
//! interleaving of our own is left to model: it is stressed instead, with handles on many threads,
//! and with ends at any moment.

use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Execution, RehearsalBuffer};
use burn_rehearsal_collective::{
    Collective, CollectiveError, Incoming, Outgoing, ReduceOp, Solo, Threads,
};
use burn_rehearsal_testing::{
    CLASS, Mixed, assert_augmented, batch, buffer, config, fresh, watchdog,
};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// A collective that tells when its engine lets go of it.
struct Told {
    ranks: Box<dyn Collective>,
    _gone: Sender<()>,
}

impl Told {
    fn around(ranks: impl Collective + 'static) -> (Box<dyn Collective>, Receiver<()>) {
        let (gone, told) = channel();
        (Box::new(Self { ranks: Box::new(ranks), _gone: gone }), told)
    }
}

impl Collective for Told {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn set_step(&mut self, step: u64) {
        self.ranks.set_step(step);
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.ranks.barrier()
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.ranks.broadcast(data, root)
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        self.ranks.all_gather(send, recv)
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        self.ranks.all_reduce(data, op)
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.ranks.exchange(outgoing, incoming)
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.ranks.duplicate()
    }
}

/// Waits until the engine is gone; the sender is dropped with it.
fn assert_ends(told: &Receiver<()>, context: &str) {
    assert!(
        told.recv_timeout(Duration::from_secs(60))
            .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected),
        "{context}"
    );
}

#[test]
fn handles_on_many_threads_take_turns_and_the_engine_ends_with_the_last_of_them() {
    let _watchdog = watchdog();
    for lag in [0, 1, 3] {
        let (ranks, told) = Told::around(Solo::new());
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
            told.try_recv().is_err_and(|error| error == std::sync::mpsc::TryRecvError::Empty),
            "the engine lives as long as a handle"
        );
        drop(shared);
        assert_ends(&told, "the engine outlives its handles");
    }
}

/// How a rank ends.
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
        // Found by the engine, sooner or later.
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
fn ranks_that_end_in_any_way_at_any_moment_leave_no_engine_behind() {
    let _watchdog = watchdog();
    for seed in 0..60 {
        let mut rng = Stream::new(seed, Purpose::TaskStream, 2, 0);
        let (size, lag) = (1 + rng.below(4) as usize, rng.below(4) as usize);
        let execution = if rng.below(4) == 0 { Execution::Inline } else { Execution::Background };
        let config = config(40, 3, 2).with_classes(Some(5)).with_lag(lag).with_execution(execution);
        let ranks: Vec<_> = Threads::group(size).unwrap().into_iter().map(Told::around).collect();
        let context = format!("seed {seed}: {size} ranks, lag {lag}, {execution:?}");
        std::thread::scope(|scope| {
            for (rank, (ranks, told)) in ranks.into_iter().enumerate() {
                let how =
                    [End::Drop, End::BadShape, End::BadClass, End::Data][rng.below(4) as usize];
                let steps = rng.below(12) as usize;
                let (config, context) = (&config, &context);
                scope.spawn(move || {
                    let handle = buffer(config, ranks);
                    // Others may have ended before.
                    let lived = (0..steps).try_for_each(|step| {
                        handle.rehearse(batch(&fresh(seed, rank, step, 4, 5))).map(drop)
                    });
                    match lived {
                        Ok(()) => end(handle, how),
                        Err(error) => {
                            assert!(size > 1 && handle.check() == Err(error), "{context}")
                        }
                    }
                    assert_ends(&told, context);
                });
            }
        });
    }
}
