//! Copies the learner of rank 0 to all ranks at the start of a launch: parameters, parameter ids,
//! optimizer state and schedule.
//!
//! Optimizer records are keyed by parameter ids. With the ids of rank 0 everywhere, a record of
//! rank 0 fits every rank. Since the state is copied as well, only rank 0 has to restore a
//! checkpoint.

use burn::lr_scheduler::LrSchedulerRecord;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use burn::train::metric::store::EventStoreClient;
use burn::train::{Learner, LearnerModel};
use burn_rehearsal_collective::{Collective, CollectiveExt};

use super::error::DataParallelError;
use super::norm;
use super::recorder::{LearnerRecord, Recorder, record};
use crate::schedule::WarmupSchedule;

use super::params::{ParamInfo, Role, check_equal_structure};

/// Compares the settings that all ranks must share, as pairs of a name and a value. Collective.
pub(crate) fn check_settings<const K: usize>(
    settings: [(&'static str, u64); K],
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let own = settings.map(|(_, value)| value);
    for (rank, theirs) in collective.gather_words(own)?.into_iter().enumerate() {
        if let Some(i) = (0..K).find(|i| theirs[*i] != own[*i]) {
            return Err(DataParallelError::DifferentSettings {
                setting: settings[i].0,
                rank,
                ours: own[i],
                theirs: theirs[i],
            });
        }
    }
    Ok(())
}

/// Makes `learner` a copy of the learner of rank 0, which `recorder` reads. `params` lists the
/// parameters of its model. Collective.
pub(super) fn copy_from_rank0<M: LearnerModel>(
    learner: &mut Learner<M>,
    params: &[ParamInfo],
    recorder: &mut Option<Recorder<M>>,
    store: &EventStoreClient,
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    check_equal_structure(params, collective)?;

    let root = collective.rank() == 0;
    let written = if root {
        recorder
            .get_or_insert_with(Recorder::new)
            .take(learner, store)
            .and_then(LearnerRecord::into_bytes)
    } else {
        Ok(Default::default())
    };
    // If rank 0 cannot write its records, the other ranks must not wait for them.
    let failed = collective.any(written.is_err())?;
    let mut records = written?;
    if failed {
        return Err(DataParallelError::Record("rank 0 could not write its records".to_owned()));
    }
    for bytes in &mut records {
        *bytes = collective.broadcast_bytes(std::mem::take(bytes), 0)?;
    }
    let [model, optimizer, schedule] = records;

    let statistics = params.iter().any(|param| param.role == Role::RunningStatistic);
    if statistics {
        norm::check_not_shared(&learner.model(), collective)?;
    }
    // Rank 0 keeps its state, except for the running statistics, which the check has overwritten.
    if !root || statistics {
        learner.load_model(parse(ModuleRecord::from_bytes, model)?);
    }
    if !root {
        learner.load_optim(parse(OptimizerRecord::from_bytes, optimizer)?);
        learner.load_scheduler(parse(LrSchedulerRecord::from_bytes, schedule)?);
    }
    Ok(())
}

fn parse<R, E: std::fmt::Display>(
    from_bytes: impl FnOnce(Bytes) -> Result<R, E>,
    bytes: Vec<u8>,
) -> Result<R, DataParallelError> {
    from_bytes(Bytes::from_bytes_vec(bytes)).map_err(record)
}

/// Loads the bytes of a [`LearnerRecord`] into a learner of the same network and optimizer. The
/// learner continues the recorded schedule if `keep_schedule`, and starts with `schedule`
/// otherwise.
pub(crate) fn read<M: LearnerModel>(
    model: M,
    optimizer: ModuleOptimizer,
    schedule: &WarmupSchedule,
    [parameters, state, rates]: [Vec<u8>; 3],
    keep_schedule: bool,
) -> Result<Learner<M>, DataParallelError> {
    let parameters = parse(ModuleRecord::from_bytes, parameters)?;
    let model = model.try_load_record(parameters).map_err(record)?;
    let mut learner = Learner::new(model, optimizer, schedule.clone());
    learner.load_optim(parse(OptimizerRecord::from_bytes, state)?);
    if keep_schedule {
        learner.load_scheduler(parse(LrSchedulerRecord::from_bytes, rates)?);
    }
    Ok(learner)
}
