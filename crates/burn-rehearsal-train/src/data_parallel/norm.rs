//! Batch-norm running statistics: averaged over the ranks, and never shared between them.
//!
//! Burn keeps a running mean or variance in a `RunningState`, one value behind an `Arc`, with the
//! last update of each thread pending. Mapping a module changes this value in place for every clone
//! of the module. Statistics can therefore be set through a clone of the learner's model. For the
//! same reason, ranks of one process must not train clones of one model.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use burn_rehearsal_collective::{Collective, CollectiveError, CollectiveExt, ReduceOp};

use super::error::DataParallelError;
use super::params::{ModulePath, Role, track_path, visit_floats};

/// Replaces every running statistic by its mean over all ranks, with equal weights. Collective.
pub(crate) fn average<M: Module>(
    model: &M,
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let mut values = read(model);
    if !values.is_empty() {
        collective.all_reduce(&mut values, ReduceOp::Mean)?;
        write(model, values);
    }
    Ok(())
}

/// Finds ranks that share their running statistics. Overwrites the statistics, so the caller must
/// set them afterwards. Collective.
pub(crate) fn check_not_shared<M: Module>(
    model: &M,
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let count = read(model).len();
    // No rank may write before all ranks have read.
    collective.barrier()?;
    let mark = -1.0 - collective.rank() as f32;
    write(model, vec![mark; count]);
    collective.barrier()?;
    let disturbed = read(model).iter().any(|value| *value != mark);
    match collective.first_true(disturbed)? {
        Some(rank) => Err(DataParallelError::SharedRunningStatistics(rank)),
        None => Ok(()),
    }
}

/// Returns the statistics of all ranks as bytes, or nothing if they are the same everywhere.
/// Collective.
pub(crate) fn gather<M: Module>(
    model: &M,
    collective: &mut dyn Collective,
) -> Result<Vec<Vec<u8>>, CollectiveError> {
    let own: Vec<u8> = read(model).into_iter().flat_map(f32::to_le_bytes).collect();
    if own.is_empty() || collective.size() == 1 {
        return Ok(Vec::new());
    }
    let mut all = vec![0; own.len() * collective.size()];
    collective.all_gather(&own, &mut all)?;
    let ranks: Vec<_> = all.chunks_exact(own.len()).map(<[u8]>::to_vec).collect();
    Ok(if ranks.iter().all(|rank| *rank == ranks[0]) { Vec::new() } else { ranks })
}

/// Selects the statistics of `rank` from the result of [`gather`], or their mean if the number of
/// ranks has changed. `None` if all ranks have the statistics of rank 0.
pub(crate) fn of_rank(all: &[Vec<u8>], rank: usize, size: usize) -> Option<Vec<f32>> {
    let values = |bytes: &[u8]| {
        bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect::<Vec<_>>()
    };
    if all.len() == size {
        return Some(values(&all[rank]));
    }
    let mut sum = values(all.first()?);
    for other in &all[1..] {
        sum.iter_mut().zip(values(other)).for_each(|(sum, value)| *sum += value);
    }
    Some(sum.into_iter().map(|sum| sum / all.len() as f32).collect())
}

/// Replaces the running statistics.
///
/// # Errors
///
/// [`DataParallelError::Record`] if their number does not fit the network.
pub(crate) fn set<M: Module>(model: &M, values: Vec<f32>) -> Result<(), DataParallelError> {
    let (found, expected) = (values.len(), read(model).len());
    if found != expected {
        return Err(DataParallelError::Record(format!(
            "{found} running statistics for a network that has {expected}"
        )));
    }
    write(model, values);
    Ok(())
}

fn read<M: Module>(model: &M) -> Vec<f32> {
    // The switch to validation writes every pending update into its value. `visit` alone would miss
    // the updates.
    drop(model.valid());
    let mut all = Vec::new();
    visit_floats(model, |_, role, values| {
        if role == Role::RunningStatistic {
            all.extend(values().into_data().convert_dtype(DType::F32).iter::<f32>());
        }
    });
    all
}

fn write<M: Module>(model: &M, values: Vec<f32>) {
    // The mapped clone is dropped. The change remains in the running states that it shares with
    // `model`.
    drop(model.clone().map(&mut Write { path: ModulePath::default(), values: values.into_iter() }));
}

struct Write {
    path: ModulePath,
    values: std::vec::IntoIter<f32>,
}

impl ModuleMapper for Write {
    track_path!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.role(&param) != Role::RunningStatistic {
            return param;
        }
        let shape = param.shape();
        let values: Vec<f32> = self.values.by_ref().take(shape.num_elements()).collect();
        param.map(|old| {
            Tensor::from_data(TensorData::new(values, shape), (&old.device(), old.dtype()))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig};
    use burn::tensor::Device;
    use burn_rehearsal_collective::run_threads;

    fn norm(values: &[f32; 4]) -> BatchNorm {
        let norm = BatchNormConfig::new(2).init(&Device::flex());
        set(&norm, values.to_vec()).unwrap();
        norm
    }

    #[test]
    fn statistics_resume_per_rank_or_as_mean_on_another_world_size() {
        let of = |rank: usize| [0.1 + rank as f32, -2.0, 3.0, 0.3 * rank as f32];
        let gathered =
            run_threads(3, |mut threads| gather(&norm(&of(threads.rank())), &mut threads));
        for all in gathered {
            let all = all.unwrap();
            for rank in 0..3 {
                let own = of_rank(&all, rank, 3).unwrap();
                assert_eq!(read(&norm(own.first_chunk().unwrap())), of(rank));
            }
            for rank in 0..2 {
                assert_eq!(
                    of_rank(&all, rank, 2).unwrap(),
                    [(0.1 + 1.1 + 2.1) / 3.0, -2.0, 3.0, (0.3 + 0.6) / 3.0]
                );
            }
        }
    }

    #[test]
    fn equal_statistics_are_not_gathered_and_foreign_ones_are_refused() {
        let gathered = run_threads(2, |mut threads| gather(&norm(&[1.0; 4]), &mut threads));
        assert!(gathered.into_iter().all(|all| all.unwrap().is_empty()));
        assert_eq!(of_rank(&[], 1, 2), None);
        assert!(matches!(set(&norm(&[1.0; 4]), vec![0.0; 3]), Err(DataParallelError::Record(_))));
    }
}
