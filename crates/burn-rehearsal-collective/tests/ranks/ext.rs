//! `CollectiveExt`: flags, words and messages of any length.

use burn_rehearsal_collective::{
    Collective, CollectiveError, CollectiveExt, Incoming, Outgoing, Ranks, ReduceOp, Solo,
};

#[test]
fn messages_of_any_length_arrive_in_rank_order() {
    for size in [1, 2, 5] {
        let message = |rank: usize| (0..3 * (rank as u8 % 3)).collect::<Vec<_>>();
        let expected: Vec<_> = (0..size).map(message).collect();
        let gathered = Ranks::threads(size).run(|rank| {
            let mut ranks = rank.collective()?;
            assert_eq!(
                ranks.gather_words([rank.rank() as u64, 7])?,
                (0..size as u64).map(|rank| [rank, 7]).collect::<Vec<_>>()
            );
            assert_eq!(ranks.broadcast_bytes(message(rank.rank()), size - 1)?, message(size - 1));
            assert!(ranks.gather_bytes(&[])?.iter().all(Vec::is_empty));
            ranks.gather_bytes(&message(rank.rank()))
        });
        assert_eq!(gathered.unwrap(), vec![expected; size]);
    }
}

#[test]
fn flags_name_the_lowest_rank() {
    let found = Ranks::threads(4).run(|rank| {
        let mut ranks = rank.collective()?;
        Ok::<_, CollectiveError>((
            ranks.first_true(rank.rank() > 1)?,
            ranks.any(rank.rank() == 3)?,
            ranks.any(false)?,
        ))
    });
    assert_eq!(found.unwrap(), [(Some(2), true, false); 4]);
}

#[test]
fn a_root_that_does_not_exist_is_an_error() {
    assert!(matches!(
        Solo::new().broadcast_bytes(vec![1], 1),
        Err(CollectiveError::InvalidArgument(_))
    ));
}

const MESSAGE: &[u8] = b"twelve bytes";

/// Rank 0 of two ranks. Its peer sends the same messages, and one bit of one of them is flipped.
#[derive(Debug)]
struct Echo {
    /// The number of the operation whose message is damaged.
    damaged: usize,
}

impl Collective for Echo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn set_step(&mut self, _: u64) {}

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&mut self, data: &mut [u8], _: usize) -> Result<(), CollectiveError> {
        // The announcement of the message is this rank's own.
        if data.len() == MESSAGE.len() {
            data.copy_from_slice(MESSAGE);
        }
        data[3] ^= u8::from(self.damaged == 0);
        self.damaged = self.damaged.wrapping_sub(1);
        Ok(())
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        let (own, peer) = recv.split_at_mut(send.len());
        own.copy_from_slice(send);
        peer.copy_from_slice(send);
        if self.damaged == 0 {
            peer[send.len() / 2] ^= 4;
        }
        self.damaged = self.damaged.wrapping_sub(1);
        Ok(())
    }

    fn all_reduce(&mut self, _: &mut [f32], _: ReduceOp) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn exchange(
        &mut self,
        _: &[Outgoing<'_>],
        _: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        Ok(Box::new(Self { damaged: self.damaged }))
    }
}

#[test]
fn damaged_messages_are_detected() {
    let damaged = Err(CollectiveError::Damaged { rank: 1 });
    assert_eq!(Echo { damaged: 0 }.gather_words([1, 2]), damaged);
    let damaged = Err(CollectiveError::Damaged { rank: 1 });
    assert_eq!(Echo { damaged: 0 }.gather_bytes(MESSAGE), damaged, "its length");
    assert_eq!(Echo { damaged: 1 }.gather_bytes(MESSAGE), damaged, "its bytes");
    assert_eq!(Echo { damaged: 2 }.gather_bytes(MESSAGE).map(|all| all.len()), Ok(2));
    let damaged = Err(CollectiveError::Damaged { rank: 1 });
    let broadcast = |damaged| Echo { damaged }.broadcast_bytes(MESSAGE.to_vec(), 1);
    assert_eq!(broadcast(0), damaged, "its length");
    assert_eq!(broadcast(1), damaged, "its bytes");
    assert_eq!(broadcast(2).as_deref(), Ok(MESSAGE));
}
