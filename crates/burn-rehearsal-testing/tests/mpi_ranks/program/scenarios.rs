//! The scenarios of the tests.

use std::error::Error;
use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use burn_rehearsal_collective::{
    Asked, Asker, Collective, CollectiveError, Incoming, Mpi, Outgoing, ReduceOp,
};
use burn_rehearsal_testing::reference::{
    check_all_gather, check_all_reduce, check_broadcast, check_exchange, digest_of_sums,
};
use burn_rehearsal_testing::seeded;
use rand::RngExt;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

pub(crate) fn run(scenario: &str, mut ranks: Mpi) -> Outcome {
    let rank = ranks.rank();
    ranks.set_step(7);
    match scenario {
        "operations" | "pieces" => every_operation(&mut ranks)?,
        "digest" => digest(&mut ranks)?,
        "fast" => fast(&mut ranks)?,
        "duplicates" => duplicates(ranks)?,
        "panic" if rank == 1 => panic!("row 5 is missing"),
        "error" if rank == 1 => return Err("cannot read shard 3".into()),
        "named-error" if rank == 1 => return Err("rank 1: cannot read shard 3".into()),
        "invalid" if rank == 1 => return Ok(ranks.broadcast(&mut [], 9)?),
        "leave" if rank == 1 => {
            drop(ranks);
            thread::sleep(Duration::from_secs(20));
        }
        "panic" | "error" | "named-error" | "invalid" | "leave" => {
            forever(|| ranks.all_reduce(&mut [1.0; 10], ReduceOp::Sum))?
        }
        "calls" if rank == 1 => ranks.barrier()?,
        "calls" => ranks.all_gather(&[1; 5], &mut vec![0; 5 * ranks.size()])?,
        "lengths" => {
            ranks.all_gather(&vec![1; 4 + rank], &mut vec![0; (4 + rank) * ranks.size()])?
        }
        "missing" => missing(&mut ranks)?,
        "stall" if rank == 1 => thread::sleep(Duration::from_secs(20)),
        "stall" => ranks.barrier()?,
        "slow" => {
            // Longer than the limit of silence. A rank that computes is slow, but not silent.
            thread::sleep(Duration::from_secs(if rank == 1 { 5 } else { 0 }));
            ranks.barrier()?;
        }
        "deadlock" => deadlock(ranks, rank == 0)?,
        "deadlock-broadcast" => {
            let mut second = ranks.duplicate()?;
            if rank == 0 { second.barrier()? } else { ranks.broadcast(&mut [0; 8], 0)? }
        }
        "deadlock-none" => deadlock(ranks, false)?,
        "slow-engine" => slow_engine(ranks)?,
        "signal-exchange" => signalled(&mut ranks, |ranks| ring(ranks, 200_000))?,
        "signal-reduce" => signalled(&mut ranks, |ranks| {
            ranks.all_reduce(&mut vec![1.0; 3_000_000], ReduceOp::Mean)
        })?,
        "signal-between" => signalled(&mut ranks, |ranks| {
            thread::sleep(Duration::from_millis(200));
            ranks.barrier()
        })?,
        "time" | "fast-time" => time(&mut ranks)?,
        "nothing" => {}
        other => return Err(format!("unknown scenario {other:?}").into()),
    }
    if rank == 0 {
        println!("done");
    }
    Ok(())
}

fn forever(
    mut operation: impl FnMut() -> Result<(), CollectiveError>,
) -> Result<(), CollectiveError> {
    loop {
        operation()?;
    }
}

/// The checks of the thread ranks.
fn every_operation(ranks: &mut Mpi) -> Result<(), CollectiveError> {
    let size = ranks.size();
    for len in [0, 1, size - 1, size, size + 1, 7, 1000, 4095 * size + 3, (2 << 20) + 3] {
        check_all_reduce(ranks, len, len, ReduceOp::Sum)?;
        check_all_reduce(ranks, len, len, ReduceOp::Mean)?;
    }
    for len in [0, 1, 8, 1000, 70_000, 500_000] {
        check_all_gather(ranks, len, len)?;
        for root in 0..size {
            check_broadcast(ranks, len, len, root)?;
        }
    }
    check_exchange(ranks, 1, |_, _| None)?;
    check_exchange(ranks, 2, |_, _| Some(0))?;
    check_exchange(ranks, 3, |from, to| Some(100 * from + to))?;
    check_exchange(ranks, 4, |from, to| (to == (from + 1) % size).then_some(500_000))?;
    check_exchange(ranks, 5, |from, _| (from == 0).then_some(17))?;
    check_exchange(ranks, 6, |_, to| (to == 0).then_some(17))?;
    // A random sequence of operations, the same on all ranks.
    let mut random = seeded(&[12]);
    for key in 1000..1100 {
        let len = random.random_range(0..5000);
        match random.random_range(0..5) {
            0 => ranks.barrier()?,
            1 => check_broadcast(ranks, key, len, random.random_range(..size))?,
            2 => check_all_gather(ranks, key, len)?,
            3 => check_all_reduce(ranks, key, len, ReduceOp::Sum)?,
            _ => check_exchange(ranks, key, |from, to| {
                seeded(&[key, from, to]).random_bool(0.7).then_some(from * 1000 + to)
            })?,
        }
    }
    Ok(())
}

/// Prints a digest of sums, which the test compares with that of threads.
fn digest(ranks: &mut Mpi) -> Result<(), CollectiveError> {
    let digest = digest_of_sums(ranks)?;
    // One write, because the launcher interleaves the writes of different ranks.
    let _ = writeln!(std::io::stdout(), "digest {digest:016x}");
    Ok(())
}

/// The sums of the library are correct up to rounding.
fn fast(ranks: &mut Mpi) -> Result<(), CollectiveError> {
    for op in [ReduceOp::Sum, ReduceOp::Mean] {
        let mut data: Vec<f32> =
            (0..3_000_000).map(|index| (index % 1000) as f32 + ranks.rank() as f32).collect();
        ranks.all_reduce(&mut data, op)?;
        let size = ranks.size() as f32;
        let factor = if op == ReduceOp::Sum { size } else { 1.0 };
        let expected = |index: usize| ((index % 1000) as f32 + (size - 1.0) / 2.0) * factor;
        assert!(
            data.iter().enumerate().all(
                |(index, sum)| (sum - expected(index)).abs() <= 1e-3 * expected(index).max(1.0)
            )
        );
    }
    Ok(())
}

/// Prints the duration of operations. No test uses it.
fn time(ranks: &mut Mpi) -> Result<(), CollectiveError> {
    let mut gradients = vec![1.0; 11_000_000];
    let mut all = vec![0; 16 * ranks.size()];
    // Warm-up.
    ranks.all_reduce(&mut gradients, ReduceOp::Mean)?;
    let first = ranks.rank() == 0;
    let report = |name: &str, start: Instant, rounds: u32| {
        if first {
            println!("{name}: {:?}", start.elapsed() / rounds);
        }
    };
    let start = Instant::now();
    for _ in 0..10 {
        ranks.all_reduce(&mut gradients, ReduceOp::Mean)?;
    }
    report("all_reduce of 11 M values", start, 10);
    let start = Instant::now();
    for _ in 0..2000 {
        ranks.all_gather(&[0; 16], &mut all)?;
    }
    report("all_gather of 16 bytes each", start, 2000);
    let start = Instant::now();
    for _ in 0..1000 {
        ring(ranks, 7 * 12_288)?;
    }
    report("exchange of 7 rows of 12 KiB with the next rank", start, 1000);
    Ok(())
}

/// Two threads use one handle each, and start their operations in opposite order on different
/// ranks. A third handle is made from the first in the meantime.
fn duplicates(mut gradients: Mpi) -> Outcome {
    let mut rows = gradients.duplicate()?;
    let engine = thread::spawn(move || -> Result<Box<dyn Collective>, CollectiveError> {
        for key in 0..100 {
            if rows.rank() == 0 && key % 50 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
            check_all_gather(rows.as_mut(), key, 24)?;
            check_exchange(rows.as_mut(), key, |from, to| Some(3000 + from * 10 + to))?;
        }
        Ok(rows)
    });
    for key in 0..15 {
        if gradients.rank() == 1 && key % 10 == 0 {
            thread::sleep(Duration::from_millis(30));
        }
        check_all_reduce(&mut gradients, key, 200_003, ReduceOp::Mean)?;
    }
    let mut third = gradients.duplicate()?;
    drop(gradients);
    check_broadcast(third.as_mut(), 3, 1000, 1)?;
    let mut rows = engine.join().map_err(|_| "the engine panicked")??;
    rows.barrier()?;
    // The handle outlives the function, like that of a thread which has not ended yet.
    std::mem::forget(third);
    Ok(())
}

/// A thread that gathers on request. Each request has a pause before the operation.
struct Engine {
    asker: Asker,
    requests: Sender<(Duration, Asked)>,
    answers: Receiver<Result<(), CollectiveError>>,
}

impl Engine {
    fn new(ranks: &mut Mpi) -> Result<Self, CollectiveError> {
        let mut handle = ranks.duplicate()?;
        handle.set_purpose("rows");
        handle.set_step(7);
        let (asker, answerer) = handle.answer_requests();
        let (requests, inbox) = channel::<(Duration, Asked)>();
        let (outbox, answers) = channel();
        thread::spawn(move || {
            let mut all = vec![0; 3 * handle.size()];
            for (pause, asked) in inbox {
                thread::sleep(pause);
                let _ = outbox.send(handle.all_gather(&[1; 3], &mut all));
                drop(asked);
            }
            drop(handle);
            drop(answerer);
        });
        Ok(Self { asker, requests, answers })
    }

    fn ask(&mut self, pause: Duration) {
        let asked = self.asker.ask();
        self.requests.send((pause, asked)).unwrap();
    }

    fn wait(&mut self) -> Result<(), CollectiveError> {
        let Self { asker, answers, .. } = self;
        asker.wait(|| answers.try_recv().ok(), || answers.recv().unwrap())
    }
}

/// Steps with an engine, as with a buffer. After ten steps, rank 0 leaves out its rounds if
/// `leaves_out` is set.
fn deadlock(mut gradients: Mpi, leaves_out: bool) -> Result<(), CollectiveError> {
    gradients.set_purpose("gradients");
    let mut engine = Engine::new(&mut gradients)?;
    let mut values = vec![1.0; 100];
    for step in 0..20 {
        if step >= 10 && leaves_out {
            gradients.all_reduce(&mut values, ReduceOp::Mean)?;
            continue;
        }
        engine.ask(Duration::ZERO);
        engine.wait()?;
        gradients.all_reduce(&mut values, ReduceOp::Mean)?;
    }
    Ok(())
}

/// All ranks wait for rank 1, which is slow in every possible place, for longer than the detection
/// of a deadlock takes.
fn slow_engine(mut gradients: Mpi) -> Result<(), CollectiveError> {
    let slow = Duration::from_secs(if gradients.rank() == 1 { 5 } else { 0 });
    let mut engine = Engine::new(&mut gradients)?;
    engine.ask(slow);
    let mut second = gradients.duplicate()?;
    if gradients.rank() == 1 {
        gradients.barrier()?;
        engine.wait()?;
    } else {
        engine.wait()?;
        gradients.barrier()?;
    }
    // A handle that moves to another thread.
    thread::scope(|scope| {
        let late = scope.spawn(|| {
            thread::sleep(slow);
            second.barrier()
        });
        if gradients.rank() == 0 {
            late.join().unwrap()?;
            return gradients.barrier();
        }
        gradients.barrier()?;
        late.join().unwrap()
    })?;
    thread::sleep(slow);
    gradients.barrier()
}

/// Rank 0 expects a message that rank 1 never sends.
fn missing(ranks: &mut Mpi) -> Result<(), CollectiveError> {
    let mut room = [0; 10];
    let mut incoming = Vec::new();
    if ranks.rank() == 0 {
        incoming.push(Incoming { peer: 1, bytes: &mut room });
    }
    ranks.exchange(&[], &mut incoming)?;
    // The other ranks stay, so that rank 0 does not get `PeerFailed`.
    ranks.barrier()
}

/// Every rank sends to the next one.
fn ring(ranks: &mut Mpi, len: usize) -> Result<(), CollectiveError> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let (sent, mut received) = (vec![rank as u8; len], vec![0; len]);
    let mut incoming = [Incoming { peer: (rank + size - 1) % size, bytes: &mut received }];
    ranks.exchange(&[Outgoing { peer: (rank + 1) % size, bytes: &sent }], &mut incoming)
}

/// Prints the process ids of all ranks, and runs until a signal of the test ends it.
fn signalled(
    ranks: &mut Mpi,
    mut operation: impl FnMut(&mut Mpi) -> Result<(), CollectiveError>,
) -> Result<(), CollectiveError> {
    let mut all = vec![0; 4 * ranks.size()];
    ranks.all_gather(&std::process::id().to_le_bytes(), &mut all)?;
    for step in 0.. {
        ranks.set_step(step);
        operation(ranks)?;
        if step == 2 && ranks.rank() == 0 {
            let pids: Vec<_> = all
                .chunks_exact(4)
                .map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]).to_string())
                .collect();
            println!("pids {}", pids.join(" "));
        }
    }
    Ok(())
}
