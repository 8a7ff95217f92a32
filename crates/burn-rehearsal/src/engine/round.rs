//! The header that the engines exchange in every round.

use crate::batch::first_u64;
use crate::error::RehearsalError;
use crate::sampling::ClassCounts;
use burn_rehearsal_collective::{Collective, CollectiveError, checksum};
use serde_json::{Map, Value};

/// The reason why a rank leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailCode {
    /// Its loader failed.
    Data,
    /// Its mini-batch was refused.
    Batch,
}

/// The work of a rank in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// The rank trains on a mini-batch.
    Rows,
    /// The rank has no rows at this step.
    NoRows,
    /// The rank begins a task.
    Task,
    /// The rank writes or reads a checkpoint.
    Checkpoint,
    /// The rank has filled its shard outside of a step.
    Fill,
    /// The rank draws rows outside of a step.
    Sample,
    /// The rank leaves.
    Failed(FailCode),
}

impl Status {
    fn word(self) -> u64 {
        match self {
            Status::Rows => 0,
            Status::NoRows => 1,
            Status::Task => 2,
            Status::Failed(FailCode::Data) => 3,
            Status::Failed(FailCode::Batch) => 4,
            Status::Checkpoint => 5,
            Status::Fill => 6,
            Status::Sample => 7,
        }
    }

    fn of(word: u64) -> Status {
        match word {
            0 => Status::Rows,
            1 => Status::NoRows,
            2 => Status::Task,
            3 => Status::Failed(FailCode::Data),
            5 => Status::Checkpoint,
            6 => Status::Fill,
            7 => Status::Sample,
            _ => Status::Failed(FailCode::Batch),
        }
    }
}

/// One rank's state in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundHeader {
    pub(super) round: u64,
    pub(super) step: u64,
    pub(super) config: u64,
    /// The digest of the layout of rows. 0 before the first mini-batch of this rank.
    pub(super) schema: u64,
    pub(super) status: Status,
    pub(super) task: u32,
    /// The rows of this rank's last mini-batch.
    pub(super) rows: u64,
    pub(super) fill: u64,
    pub(super) from_earlier_tasks: u64,
    /// The number of changes of class counts that follow.
    pub(super) changes: u64,
    /// The checksum of the changes.
    pub(super) changes_check: u64,
}

/// The words of a header, including its checksum.
const WORDS: usize = 12;

impl RoundHeader {
    fn words(&self) -> [u64; WORDS] {
        let mut words = [
            self.round,
            self.step,
            self.config,
            self.schema,
            self.status.word(),
            u64::from(self.task),
            self.rows,
            self.fill,
            self.from_earlier_tasks,
            self.changes,
            self.changes_check,
            0,
        ];
        words[WORDS - 1] = checksum(words[..WORDS - 1].iter().copied());
        words
    }

    /// `None` if these are not the words of a header.
    fn of(words: &[u64]) -> Option<Self> {
        let mut rest = words.iter().copied();
        let mut next = || rest.next();
        let header = Self {
            round: next()?,
            step: next()?,
            config: next()?,
            schema: next()?,
            status: Status::of(next()?),
            task: next()? as u32,
            rows: next()?,
            fill: next()?,
            from_earlier_tasks: next()?,
            changes: next()?,
            changes_check: next()?,
        };
        (next()? == checksum(words[..WORDS - 1].iter().copied())).then_some(header)
    }
}

/// A change of a class count as a word.
fn change_word(&(class, delta): &(u32, i32)) -> u64 {
    u64::from(class) | u64::from(delta as u32) << 32
}

/// The checksum of changes, for the header.
pub(super) fn check_changes(changes: &[(u32, i32)]) -> u64 {
    checksum(changes.iter().map(change_word))
}

/// A number that all ranks must agree on. It differs if the world size differs, or an option that
/// can change a result.
pub(super) fn config_digest(agreed: &Map<String, Value>, size: usize) -> u64 {
    first_u64(&blake3::hash(format!("{size} {agreed:?}").as_bytes()))
}

/// Exchanges headers. `words` is scratch space. `headers` receives one header per rank.
pub(super) fn all_gather(
    collective: &mut dyn Collective,
    mine: &RoundHeader,
    words: &mut Vec<u64>,
    headers: &mut Vec<RoundHeader>,
) -> Result<(), RehearsalError> {
    words.clear();
    words.resize(WORDS * collective.size(), 0);
    collective.all_gather(bytemuck::cast_slice(&mine.words()), bytemuck::cast_slice_mut(words))?;
    headers.clear();
    for (rank, words) in words.chunks_exact(WORDS).enumerate() {
        headers.push(RoundHeader::of(words).ok_or(CollectiveError::Damaged { rank })?);
    }
    Ok(())
}

/// Whether the ranks have different configurations and none leaves. All ranks then compare their
/// configurations, to find the difference.
pub(super) fn configured_differently(headers: &[RoundHeader]) -> bool {
    let leaves = |header: &RoundHeader| matches!(header.status, Status::Failed(_));
    headers.windows(2).any(|pair| pair[0].config != pair[1].config) && !headers.iter().any(leaves)
}

/// Checks that no rank leaves and that all ranks do the same. The headers are the same on all
/// ranks, and so is the result.
pub(super) fn check(headers: &[RoundHeader], this_rank: usize) -> Result<(), RehearsalError> {
    let mine = headers[this_rank];
    for (rank, header) in headers.iter().enumerate() {
        if let Status::Failed(code) = header.status
            && rank != this_rank
        {
            let reason = match code {
                FailCode::Data => "data",
                FailCode::Batch => "batch",
            };
            return Err(RehearsalError::peer_failed(rank, header.step, reason));
        }
    }
    if matches!(mine.status, Status::Failed(_)) {
        return Ok(());
    }
    for (rank, header) in headers.iter().enumerate() {
        let differs = |status| (header.status == status) != (mine.status == status);
        let task = |header: &RoundHeader| match header.status {
            Status::Task => format!("begins task {}", header.task),
            _ => format!("trains on task {}", header.task),
        };
        let detail = if header.config != mine.config {
            "configuration or world size".into()
        } else if header.round != mine.round || header.step != mine.step {
            "step".into()
        } else if header.schema != mine.schema && header.schema != 0 && mine.schema != 0 {
            "shapes or element types of the mini-batch".into()
        } else if differs(Status::Task) || header.task != mine.task {
            format!("rank {rank} {}, rank {this_rank} {}", task(header), task(&mine))
        } else if differs(Status::Checkpoint) {
            "checkpoint".into()
        } else if differs(Status::Fill) {
            "fill".into()
        } else if differs(Status::Sample) {
            "sample".into()
        } else {
            continue;
        };
        return Err(RehearsalError::Disagreement { rank, this_rank, detail });
    }
    Ok(())
}

/// Exchanges the changes of class counts, and applies those of all ranks in rank order.
pub(super) fn gather_changes(
    collective: &mut dyn Collective,
    mine: &[(u32, i32)],
    headers: &[RoundHeader],
    words: &mut Vec<u64>,
    classes: &mut ClassCounts,
) -> Result<(), RehearsalError> {
    let most = headers.iter().map(|header| header.changes).max().unwrap_or(0) as usize;
    if most == 0 {
        return Ok(());
    }
    // One word per change: this rank's changes to send, then room for those of all ranks.
    words.clear();
    words.resize(most * (1 + headers.len()), 0);
    let (send, all) = words.split_at_mut(most);
    send.iter_mut().zip(mine).for_each(|(word, change)| *word = change_word(change));
    collective.all_gather(bytemuck::cast_slice(send), bytemuck::cast_slice_mut(all))?;
    for (rank, (header, words)) in headers.iter().zip(all.chunks_exact(most)).enumerate() {
        let words = &words[..header.changes as usize];
        if checksum(words.iter().copied()) != header.changes_check {
            return Err(CollectiveError::Damaged { rank }.into());
        }
        for &word in words {
            classes.change(rank, word as u32, (word >> 32) as i32);
        }
    }
    Ok(())
}
