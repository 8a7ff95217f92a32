//! Records of a learner.
//!
//! A learner keeps its optimizer and its schedule private and passes them only to checkpointers.
//! Therefore the recorder writes a checkpoint into memory.

use std::sync::mpsc::{Receiver, Sender, channel};

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::OptimizerRecord;
use burn::store::ModuleRecord;
use burn::train::checkpoint::{
    AsyncCheckpointer, Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction,
    CheckpointingStrategy,
};
use burn::train::metric::store::EventStoreClient;
use burn::train::{Learner, LearnerModel, LearningCheckpointer};

use super::error::DataParallelError;

/// Parameters, optimizer and schedule of a learner at one moment. The ids of the parameters are
/// included, so that the three fit together.
pub(crate) struct LearnerRecord {
    model: ModuleRecord,
    optimizer: OptimizerRecord,
    schedule: LrSchedulerRecord,
}

impl LearnerRecord {
    /// The three records as bytes, for a file or a message.
    pub(crate) fn into_bytes(self) -> Result<[Vec<u8>; 3], DataParallelError> {
        Ok([
            self.model.into_bytes().map_err(record)?.to_vec(),
            self.optimizer.into_bytes().map_err(record)?.to_vec(),
            self.schedule.into_bytes().map_err(record)?.to_vec(),
        ])
    }
}

pub(super) fn record(error: impl std::fmt::Display) -> DataParallelError {
    DataParallelError::Record(error.to_string())
}

/// Takes records of learners. Burn's checkpointers are threads. They live as long as the recorder,
/// since starting them takes longer than a step of a small network.
pub(super) struct Recorder<M: LearnerModel> {
    checkpointer: LearningCheckpointer<M>,
    model: Receiver<ModuleRecord>,
    optimizer: Receiver<OptimizerRecord>,
    schedule: Receiver<LrSchedulerRecord>,
}

impl<M: LearnerModel> Recorder<M> {
    pub(super) fn new() -> Self {
        let ((to_model, model), (to_optimizer, optimizer), (to_schedule, schedule)) =
            (channel(), channel(), channel());
        let checkpointer = LearningCheckpointer::new(
            AsyncCheckpointer::new(PassOn(to_model)),
            AsyncCheckpointer::new(PassOn(to_optimizer)),
            AsyncCheckpointer::new(PassOn(to_schedule)),
            Box::new(SaveNow),
        );
        Self { checkpointer, model, optimizer, schedule }
    }

    /// Takes a record of the learner.
    pub(super) fn take(
        &mut self,
        learner: &Learner<M>,
        store: &EventStoreClient,
    ) -> Result<LearnerRecord, DataParallelError> {
        self.checkpointer.checkpoint(learner, 0, store);
        let nothing = |_| record("Burn's checkpointer saved no record");
        Ok(LearnerRecord {
            model: self.model.recv().map_err(nothing)?,
            optimizer: self.optimizer.recv().map_err(nothing)?,
            schedule: self.schedule.recv().map_err(nothing)?,
        })
    }
}

/// A checkpointer that sends records to a channel.
struct PassOn<R>(Sender<R>);

impl<R: Checkpoint> Checkpointer<R> for PassOn<R> {
    fn save(&self, _epoch: usize, record: R) -> Result<(), CheckpointerError> {
        self.0
            .send(record)
            .map_err(|_| CheckpointerError::Unknown("no receiver waits for the record".into()))
    }

    fn delete(&self, _epoch: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, epoch: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown(format!("no record to restore for epoch {epoch}")))
    }
}

struct SaveNow;

impl CheckpointingStrategy for SaveNow {
    fn checkpointing(
        &mut self,
        _epoch: usize,
        _collector: &EventStoreClient,
    ) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}
