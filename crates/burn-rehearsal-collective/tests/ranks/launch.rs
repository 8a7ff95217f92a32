//! `Ranks`: values of all ranks, and the failures that are shown.

use std::error::Error;

use burn_rehearsal_collective::{CollectiveError, Rank, RankFailure, Ranks, ReduceOp};

/// An error of a higher layer.
#[derive(Debug, thiserror::Error)]
enum AppError {
    #[error("no more data")]
    Data,
    #[error("{0}")]
    Collective(#[from] CollectiveError),
    #[error("the gradients are gone: {0}")]
    Wrapped(#[source] CollectiveError),
}

fn shown<E: Into<Box<dyn Error + Send + Sync>> + Send>(
    f: impl Fn(Rank) -> Result<(), E> + Sync,
) -> String {
    Ranks::threads(3).run(f).unwrap_err().to_string()
}

#[test]
fn values_are_in_rank_order() {
    let values = Ranks::threads(3).run(|rank| {
        let (mut gradients, mut rows) = (rank.collective()?, rank.collective()?);
        let mut sum = [rank.rank() as f32];
        gradients.all_reduce(&mut sum, ReduceOp::Sum)?;
        rows.barrier()?;
        assert_eq!(
            (rank.local_rank(), rank.local_size(), rank.is_root()),
            (rank.rank(), rank.size(), rank.rank() == 0)
        );
        Ok::<_, CollectiveError>((rank.rank(), sum[0]))
    });
    assert_eq!(values.unwrap(), [(0, 3.0), (1, 3.0), (2, 3.0)]);
    assert!(Ranks::threads(0).run(|_| Ok::<_, CollectiveError>(())).unwrap().is_empty());
}

#[test]
fn a_rank_can_be_shared_by_threads() {
    let values = Ranks::threads(2).run(|rank| {
        std::thread::scope(|scope| scope.spawn(|| rank.collective()?.barrier()).join().unwrap())
            .map(|()| rank.size())
    });
    assert_eq!(values.unwrap(), [2, 2]);
}

#[test]
fn the_cause_is_shown_and_not_the_ranks_that_waited() {
    let plain = shown(|rank| {
        if rank.rank() == 1 { Err(AppError::Data) } else { Ok(rank.collective()?.barrier()?) }
    });
    assert_eq!(plain, "rank 1 failed: no more data");
    let wrapped = shown(|rank| match rank.rank() {
        2 => Err(AppError::Data),
        _ => rank.collective().map(drop).map_err(AppError::Wrapped),
    });
    assert_eq!(wrapped, "rank 2 failed: no more data");
    let boxed = shown(|rank| -> Result<(), Box<dyn Error + Send + Sync>> {
        match rank.rank() {
            1 => Err("no more data".into()),
            _ => Ok(rank.collective()?.barrier()?),
        }
    });
    assert_eq!(boxed, "rank 1 failed: no more data");
    let panic =
        shown(
            |rank| {
                if rank.rank() == 2 { panic!("no more data") } else { rank.collective().map(drop) }
            },
        );
    assert_eq!(panic, "rank 2 panicked: no more data");
}

#[test]
fn equal_failures_are_shown_once() {
    let different = shown(|rank| Err(format!("disk {} is full", rank.rank() / 2)));
    assert_eq!(different, "rank 0 failed: disk 0 is full\nrank 2 failed: disk 1 is full");
    let agreed = Ranks::threads(3)
        .run(|_| Err::<(), _>("the ranks were configured differently"))
        .unwrap_err();
    assert_eq!(agreed.to_string(), "rank 0 failed: the ranks were configured differently");
    assert_eq!(agreed.failures().iter().map(RankFailure::rank).collect::<Vec<_>>(), [0, 1, 2]);
    let gone = shown(|rank| if rank.rank() == 0 { Ok(()) } else { rank.collective().map(drop) });
    assert_eq!(gone, "rank 1 failed: rank 0 failed or left the run at step 0");
}
