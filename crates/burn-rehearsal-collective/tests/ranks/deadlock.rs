//! Ranks that wait in different operations get a deadlock at once. Slow ranks do not cause one.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use burn_rehearsal_collective::{
    Asked, Asker, Collective, CollectiveError, RankFailure, ReduceOp, Threads, WaitingRank,
    run_threads,
};

use burn_rehearsal_testing::reference::some;
use burn_rehearsal_testing::{guarded, seeded};
use rand::RngExt;

type Answer = Result<(), CollectiveError>;

/// A thread that gathers on request, as the engine of a buffer does.
struct Engine {
    asker: Asker,
    /// `None` while it is dropped.
    requests: Option<Sender<(Duration, Asked)>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    fn new(ranks: &mut dyn Collective) -> Result<Self, CollectiveError> {
        let mut handle = ranks.duplicate()?;
        handle.set_purpose("rows");
        let (asker, answerer) = handle.answer_requests();
        let (requests, inbox) = channel::<(Duration, Asked)>();
        let (outbox, answers) = channel();
        let thread = thread::spawn(move || {
            let mut all = vec![0; 3 * handle.size()];
            for (pause, asked) in inbox {
                thread::sleep(pause);
                // The receiver may be gone.
                let _ = outbox.send(handle.all_gather(&[1; 3], &mut all));
                drop(asked);
            }
            drop(handle);
            drop(answerer);
        });
        Ok(Self { asker, requests: Some(requests), answers, thread: Some(thread) })
    }

    /// Requests a round, which the engine begins after a pause.
    fn ask(&mut self, pause: Duration) {
        let asked = self.asker.ask();
        self.requests.as_ref().unwrap().send((pause, asked)).unwrap();
    }

    fn wait(&mut self) -> Answer {
        let Self { asker, answers, .. } = self;
        let poll = || match answers.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("the engine has ended"),
        };
        asker.wait(poll, || answers.recv().unwrap())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.requests = None;
        // The thread must not outlive the test.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Asserts that all ranks have returned the same deadlock, and returns it.
fn deadlock(results: Vec<Result<(), RankFailure<CollectiveError>>>) -> Vec<WaitingRank> {
    let mut found = None;
    for (rank, result) in results.into_iter().enumerate() {
        let Err(RankFailure::Error {
            error: CollectiveError::Deadlock { waiting, step: 4 }, ..
        }) = result
        else {
            panic!("rank {rank}: {result:?}")
        };
        assert_eq!(*found.get_or_insert_with(|| waiting.clone()), waiting, "rank {rank}");
    }
    found.unwrap()
}

fn words(waiting: &[WaitingRank]) -> Vec<String> {
    waiting.iter().map(ToString::to_string).collect()
}

fn all_reduce(ranks: &mut dyn Collective) -> Answer {
    ranks.all_reduce(&mut [1.0; 9], ReduceOp::Mean)
}

#[test]
fn a_deadlock_names_ranks_operations_and_handles() {
    guarded(|| {
        for size in [2, 3, 5] {
            let waiting = deadlock(run_threads(size, |mut gradients| {
                let mut rows = gradients.duplicate()?;
                gradients.set_purpose("gradients");
                gradients.set_step(4);
                rows.set_step(4);
                all_reduce(&mut gradients)?;
                match gradients.rank() {
                    1 => rows.all_gather(&[1; 3], &mut vec![0; 3 * size]),
                    _ => all_reduce(&mut gradients),
                }
            }));
            assert_eq!(waiting.len(), size);
            let others = ["rank 0", "ranks 0, 2", "", "ranks 0, 2, 3, 4"][size - 2];
            let expected = [
                "rank 0 waits in all_reduce to the mean of 9 values (operation 2 of the handle \
                 `gradients`) for rank 1"
                    .to_owned(),
                format!(
                    "rank 1 waits in all_gather of 3 bytes each (operation 0 of the handle `1`) \
                     for {others}"
                ),
            ];
            assert_eq!(words(&waiting[..2]), expected);
        }
    });
}

#[test]
fn an_engine_without_requests_is_part_of_a_deadlock() {
    guarded(|| {
        for (size, culprit) in [(2, 0), (2, 1), (3, 2)] {
            let results = run_threads(size, |mut gradients| {
                let mut engine = Engine::new(&mut gradients)?;
                gradients.set_purpose("gradients");
                gradients.set_step(4);
                for step in 0..6 {
                    // The answer of a round is awaited one step later.
                    if gradients.rank() != culprit || step < 3 {
                        engine.ask(Duration::ZERO);
                    }
                    if step > 0 && (gradients.rank() != culprit || step < 4) {
                        engine.wait()?;
                    }
                    all_reduce(&mut gradients)?;
                }
                Ok(())
            });
            for (rank, result) in results.into_iter().enumerate() {
                let Err(RankFailure::Error {
                    error: CollectiveError::Deadlock { waiting, .. },
                    ..
                }) = result
                else {
                    panic!("rank {rank}: {result:?}")
                };
                let reduces = waiting.iter().find(|wait| wait.rank == culprit).unwrap();
                assert_eq!(
                    (reduces.handle.as_str(), &reduces.missing),
                    ("gradients", &(0..size).filter(|rank| *rank != culprit).collect())
                );
                let gathers: Vec<_> = waiting.iter().filter(|wait| wait.handle == "rows").collect();
                assert_eq!(
                    gathers.iter().map(|wait| wait.rank).collect::<Vec<_>>(),
                    reduces.missing,
                    "{waiting:?}"
                );
                assert!(gathers.iter().all(|wait| wait.missing == [culprit]), "{waiting:?}");
            }
        }
    });
}

#[test]
fn an_unused_handle_does_not_hide_a_deadlock() {
    guarded(|| {
        let waiting = deadlock(run_threads(2, |mut ranks| {
            ranks.set_step(4);
            let mut gradients = ranks.duplicate()?;
            let mut rows = ranks.duplicate()?;
            if ranks.rank() == 0 { all_reduce(&mut *gradients) } else { rows.barrier() }
        }));
        assert_eq!(waiting.iter().map(|wait| wait.handle.as_str()).collect::<Vec<_>>(), ["1", "2"]);
    });
}

#[test]
fn later_operations_on_all_handles_return_the_deadlock() {
    guarded(|| {
        let results = run_threads(2, |mut ranks| {
            let mut second = ranks.duplicate()?;
            let mut third = ranks.duplicate()?;
            let error =
                if ranks.rank() == 0 { ranks.barrier() } else { second.barrier() }.unwrap_err();
            assert!(matches!(error, CollectiveError::Deadlock { .. }), "{error}");
            for handle in [&mut third, &mut second] {
                assert_eq!(handle.barrier(), Err(error.clone()));
            }
            Ok::<_, CollectiveError>(())
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}

const SLOW: Duration = Duration::from_secs(if cfg!(miri) { 0 } else { 3 });

/// Asserts that `rank` succeeds on two ranks.
fn succeeds(rank: impl Fn(Threads, usize) -> Answer + Send + Sync + 'static) {
    guarded(move || {
        let results = run_threads(2, |ranks| {
            let number = ranks.rank();
            rank(ranks, number)
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}

#[test]
fn a_rank_that_is_slow_between_operations_is_no_deadlock() {
    succeeds(|mut gradients, rank| {
        let mut engine = Engine::new(&mut gradients)?;
        if rank == 0 {
            thread::sleep(SLOW);
        }
        engine.ask(Duration::ZERO);
        if rank == 1 {
            engine.wait()?;
        }
        all_reduce(&mut gradients)?;
        if rank == 0 { engine.wait() } else { Ok(()) }
    });
}

#[test]
fn a_slow_engine_is_no_deadlock() {
    succeeds(|mut gradients, rank| {
        let mut engine = Engine::new(&mut gradients)?;
        engine.ask(if rank == 0 { SLOW } else { Duration::ZERO });
        engine.ask(Duration::ZERO);
        if rank == 0 {
            all_reduce(&mut gradients)?
        } else {
            engine.wait()?
        }
        if rank == 1 {
            all_reduce(&mut gradients)?
        } else {
            engine.wait()?
        }
        engine.wait()
    });
}

#[test]
fn a_handle_that_moves_to_another_thread_is_no_deadlock() {
    succeeds(|mut gradients, rank| {
        let mut rows = gradients.duplicate()?;
        // No thread has used the handle when the other rank waits for it, and this thread waits,
        // too.
        let slow = thread::spawn(move || {
            thread::sleep(if rank == 0 { SLOW } else { Duration::ZERO });
            rows.barrier()
        });
        if rank == 1 {
            slow.join().unwrap()?;
            return all_reduce(&mut gradients);
        }
        all_reduce(&mut gradients)?;
        slow.join().unwrap()
    });
}

#[test]
fn an_engine_whose_rank_returns_early_has_left() {
    guarded(|| {
        for _ in 0..some(200) {
            let results = run_threads(2, |mut gradients| {
                let mut engine = Engine::new(&mut gradients)?;
                if gradients.rank() == 1 {
                    return Ok(());
                }
                engine.ask(Duration::ZERO);
                engine.wait()
            });
            assert_eq!(results[1], Ok(()));
            let error = CollectiveError::PeerFailed { rank: 1, step: 0 };
            assert_eq!(results[0], Err(RankFailure::Error { rank: 0, error }));
        }
    });
}

/// Runs random rounds and sums. Answers are awaited up to two steps later. One rank may leave out a
/// round.
fn random_steps(
    size: usize,
    seed: usize,
    left_out: Option<(usize, usize)>,
) -> Vec<Result<(), RankFailure<CollectiveError>>> {
    run_threads(size, |mut gradients| {
        let rank = gradients.rank();
        let mut random = seeded(&[seed, rank]);
        let mut engine = Engine::new(&mut gradients)?;
        let lag = seed % 3;
        let mut open = 0;
        for step in 0..some(60) {
            if left_out != Some((rank, step)) {
                let pause = if random.random_bool(1.0 / 3.0) { 30 } else { 0 };
                engine.ask(Duration::from_micros(pause));
                open += 1;
            }
            while open > lag {
                engine.wait()?;
                open -= 1;
            }
            if random.random_bool(1.0 / 8.0) {
                thread::sleep(Duration::from_micros(random.random_range(0..80)));
            }
            all_reduce(&mut gradients)?;
        }
        (0..open).try_for_each(|_| engine.wait())
    })
}

#[test]
fn random_steps_deadlock_only_if_a_rank_leaves_out_a_round() {
    guarded(|| {
        for seed in 0..some(100) {
            let size = 2 + seed % 3;
            let results = random_steps(size, seed, None);
            assert!(results.iter().all(Result::is_ok), "seed {seed}: {results:?}");
            let culprit = seed % size;
            let results = random_steps(size, seed, Some((culprit, some(30))));
            for (rank, result) in results.iter().enumerate() {
                // The culprit succeeds if the other ranks never wait for its last round.
                let deadlock = matches!(
                    result,
                    Err(RankFailure::Error { error: CollectiveError::Deadlock { .. }, .. })
                );
                let left = matches!(
                    result,
                    Err(RankFailure::Error { error: CollectiveError::PeerFailed { .. }, .. })
                );
                assert!(
                    deadlock || (rank == culprit && result.is_ok()) || (rank != culprit && left),
                    "seed {seed}: {results:?}"
                );
            }
        }
    });
}
