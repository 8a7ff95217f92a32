//! Batch-norm running statistics: averaged over the ranks, and never shared between them.
//!
//! Burn keeps a running mean or variance in a `RunningState`: one value behind an `Arc`, with the
//! last update of each thread still pending. Mapping a module changes that value in place, for
//! every clone of the module; so statistics can be set through a clone of the learner's model, and
//! ranks in one process that were given clones of one model would disturb each other.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Tensor, TensorData};
use burn_rehearsal_collective::{Collective, CollectiveError, CollectiveExt, ReduceOp};

use super::error::DataParallelError;
use super::params::{ModulePath, Role, track_path, visit_floats};

/// Replaces every running statistic by its mean over all ranks, each rank counting the same.
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

/// Finds ranks that share their running statistics. Leaves nonsense in them: the caller sets them
/// afterwards.
pub(crate) fn check_not_shared<M: Module>(
    model: &M,
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let count = read(model).len();
    // Nobody writes before everybody has read.
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

/// All ranks' statistics, as bytes; nothing if they are the same everywhere.
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

/// Those of `rank` among what [`gather`] gave, or their mean if it was of another number of ranks;
/// `None` if rank 0's are everybody's.
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
/// [`DataParallelError::Record`] if they are those of another network.
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
    // Going over to validation writes every pending update into its value; `visit` alone would not
    // see them.
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
    // The mapped clone is dropped: what stays is the change behind the running states that it
    // shares with `model`.
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
    fn every_rank_goes_on_with_its_own_statistics_and_other_numbers_of_ranks_with_their_mean() {
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
    fn what_is_the_same_on_all_ranks_is_rank_0s_and_another_networks_is_refused() {
        let gathered = run_threads(2, |mut threads| gather(&norm(&[1.0; 4]), &mut threads));
        assert!(gathered.into_iter().all(|all| all.unwrap().is_empty()));
        assert_eq!(of_rank(&[], 1, 2), None);
        assert!(matches!(set(&norm(&[1.0; 4]), vec![0.0; 3]), Err(DataParallelError::Record(_))));
    }
}
