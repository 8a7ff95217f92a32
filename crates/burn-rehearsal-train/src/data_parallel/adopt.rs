//! At the start of a run every rank becomes a copy of rank 0: parameters, parameter ids, optimiser state and schedule.
//!
//! Ids matter because optimiser records are keyed by them: with rank 0's ids everywhere, a record that rank 0 wrote fits every rank. Because
//! the state comes along, it is enough that rank 0 restores a checkpoint.

use std::sync::{Arc, Mutex, PoisonError};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use burn::train::checkpoint::{AsyncCheckpointer, Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy};
use burn::train::metric::store::EventStoreClient;
use burn::train::{Learner, LearnerModel, LearningCheckpointer};
use burn_rehearsal_collective::Collective;

use super::agree::{broadcast, gather};
use super::error::DataParallelError;
use super::norm;
use crate::schedule::WarmupSchedule;

use super::params::{ParamInfo, Role, check_equal_structure};

/// Compares the settings that all ranks must share, in pairs of name and value.
pub(crate) fn check_settings<const K: usize>(
    settings: [(&'static str, u64); K],
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let own = settings.map(|(_, value)| value);
    for (rank, theirs) in gather(collective, own)?.into_iter().enumerate() {
        if let Some(i) = (0..K).find(|i| theirs[*i] != own[*i]) {
            return Err(DataParallelError::DifferentSettings { setting: settings[i].0, rank, ours: own[i], theirs: theirs[i] });
        }
    }
    Ok(())
}

/// Makes the learner a copy of rank 0's; `params` is the list of its model's parameters.
pub(crate) fn adopt<M: LearnerModel>(
    learner: &mut Learner<M>,
    params: &[ParamInfo],
    store: &EventStoreClient,
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    check_equal_structure(params, collective)?;

    let root = collective.rank() == 0;
    let written = if root { write(learner, store) } else { Ok([Vec::new(), Vec::new(), Vec::new()]) };
    // A rank 0 that cannot write its records must not leave the others waiting for them.
    let failed = gather(collective, [u64::from(written.is_err())])?[0][0] != 0;
    let [model, optimizer, scheduler] = match written {
        Ok(records) if !failed => records,
        Ok(_) => return Err(DataParallelError::Record("rank 0 could not write its records".to_owned())),
        Err(error) => return Err(error),
    };
    let model = broadcast(collective, 0, model)?;
    let optimizer = broadcast(collective, 0, optimizer)?;
    let scheduler = broadcast(collective, 0, scheduler)?;

    let statistics = params.iter().any(|param| param.role == Role::RunningStatistic);
    if statistics {
        norm::check_not_shared(&learner.model(), collective)?;
    }
    // Rank 0 keeps what it has, except for the running statistics that the check overwrote.
    if !root || statistics {
        learner.load_model(ModuleRecord::from_bytes(Bytes::from_bytes_vec(model)).map_err(record)?);
    }
    if !root {
        learner.load_optim(OptimizerRecord::from_bytes(Bytes::from_bytes_vec(optimizer)).map_err(record)?);
        learner.load_scheduler(LrSchedulerRecord::from_bytes(Bytes::from_bytes_vec(scheduler)).map_err(record)?);
    }
    Ok(())
}

/// Puts what [`write`] gave in a learner of the same network and optimiser, which goes on with its own schedule or begins with `schedule`.
pub(crate) fn read<M: LearnerModel>(
    model: M,
    optimizer: ModuleOptimizer,
    schedule: &WarmupSchedule,
    [parameters, state, rates]: [Vec<u8>; 3],
    keep_schedule: bool,
) -> Result<Learner<M>, DataParallelError> {
    let parameters = ModuleRecord::from_bytes(Bytes::from_bytes_vec(parameters)).map_err(record)?;
    let state = OptimizerRecord::from_bytes(Bytes::from_bytes_vec(state)).map_err(record)?;
    let mut learner = Learner::new(model.try_load_record(parameters).map_err(record)?, optimizer, schedule.clone());
    learner.load_optim(state);
    if keep_schedule {
        learner.load_scheduler(LrSchedulerRecord::from_bytes(Bytes::from_bytes_vec(rates)).map_err(record)?);
    }
    Ok(learner)
}

fn record(error: impl std::fmt::Display) -> DataParallelError {
    DataParallelError::Record(error.to_string())
}

/// The records of a learner's parameters, optimiser and schedule, as bytes. The parameters' ids are among them, so that the three fit together.
pub(super) fn write<M: LearnerModel>(learner: &Learner<M>, store: &EventStoreClient) -> Result<[Vec<u8>; 3], DataParallelError> {
    let (optimizer, scheduler) = optimizer_and_schedule(learner, store)?;
    Ok([
        learner.model().into_record().into_bytes().map_err(record)?.to_vec(),
        optimizer.into_bytes().map_err(record)?.to_vec(),
        scheduler.into_bytes().map_err(record)?.to_vec(),
    ])
}

/// The records of a learner's optimiser and schedule.
///
/// A learner keeps both private and hands them only to checkpointers, so this is a checkpoint into memory.
fn optimizer_and_schedule<M: LearnerModel>(
    learner: &Learner<M>,
    store: &EventStoreClient,
) -> Result<(OptimizerRecord, LrSchedulerRecord), DataParallelError> {
    let (optimizer, scheduler) = (Slot::default(), Slot::default());
    let mut checkpointer = LearningCheckpointer::new(
        AsyncCheckpointer::new(Slot::<ModuleRecord>::default()),
        AsyncCheckpointer::new(optimizer.clone()),
        AsyncCheckpointer::new(scheduler.clone()),
        Box::new(SaveNow),
    );
    checkpointer.checkpoint(learner, 0, store);
    // Dropping it waits for its threads, and so for the records.
    drop(checkpointer);
    let missing = || record("Burn's checkpointer saved nothing");
    Ok((optimizer.take().ok_or_else(missing)?, scheduler.take().ok_or_else(missing)?))
}

/// A checkpointer that keeps the last record.
struct Slot<R>(Arc<Mutex<Option<R>>>);

impl<R> Slot<R> {
    fn take(&self) -> Option<R> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<R> Default for Slot<R> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<R> Clone for Slot<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Checkpoint> Checkpointer<R> for Slot<R> {
    fn save(&self, _epoch: usize, record: R) -> Result<(), CheckpointerError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
        Ok(())
    }

    fn delete(&self, _epoch: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown(format!("nothing to restore for epoch {epoch}")))
    }
}

struct SaveNow;

impl CheckpointingStrategy for SaveNow {
    fn checkpointing(&mut self, _epoch: usize, _collector: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}
