//! The sum of one flat tensor over all ranks, bucket by bucket.
//!
//! While one bucket is summed over the ranks, the next one is read from the device, so that the two
//! transfers overlap. All ranks use the same buckets, whatever their devices. Buckets do not change
//! the result, since every value is summed separately, in rank order.

use std::sync::mpsc::sync_channel;

use burn::tensor::Tensor;
use burn_rehearsal::batch::is_host;
use burn_rehearsal_collective::{Collective, CollectiveError, ReduceOp};

/// Values per bucket (16 MiB), large enough to make the cost per bucket negligible.
pub(super) const BUCKET: usize = 4 << 20;

/// The reason why there is no sum.
#[derive(Debug)]
pub(super) enum BucketError {
    /// The device of this rank could not be read.
    Read(String),
    /// The collective failed.
    Collective(CollectiveError),
}

/// Sums `flat`, shape `[len]`, over all ranks. A rank without a tensor counts as zeros. Collective.
pub(super) fn sum(
    flat: Option<Tensor<1>>,
    len: usize,
    bucket: usize,
    collective: &mut dyn Collective,
) -> Result<Vec<f32>, BucketError> {
    match flat {
        Some(flat) if len > bucket && !is_host(&flat.device()) => {
            read_and_sum(&flat, bucket, collective)
        }
        // Host memory has no transfer to overlap, and a single bucket has no successor.
        Some(flat) => sum_here(read(flat)?, bucket, collective),
        None => sum_here(vec![0.0; len], bucket, collective),
    }
}

fn sum_here(
    mut values: Vec<f32>,
    bucket: usize,
    collective: &mut dyn Collective,
) -> Result<Vec<f32>, BucketError> {
    values
        .chunks_mut(bucket)
        .try_for_each(|values| collective.all_reduce(values, ReduceOp::Sum))
        .map_err(BucketError::Collective)?;
    Ok(values)
}

fn read_and_sum(
    flat: &Tensor<1>,
    bucket: usize,
    collective: &mut dyn Collective,
) -> Result<Vec<f32>, BucketError> {
    let len = flat.dims()[0];
    std::thread::scope(|scope| {
        // One bucket is summed, one waits, and one is read.
        let (read_already, buckets) = sync_channel::<Vec<f32>>(1);
        let summing = scope.spawn(move || {
            let mut sums = Vec::with_capacity(len);
            for mut values in buckets {
                collective.all_reduce(&mut values, ReduceOp::Sum)?;
                sums.append(&mut values);
            }
            Ok(sums)
        });
        let mut unreadable = None;
        for start in (0..len).step_by(bucket) {
            match read(flat.clone().narrow(0, start, bucket.min(len - start))) {
                Ok(values) => {
                    // The receiver is gone only after an error of its own.
                    if read_already.send(values).is_err() {
                        break;
                    }
                }
                Err(error) => {
                    unreadable = Some(error);
                    break;
                }
            }
        }
        drop(read_already);
        let sums = summing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .map_err(BucketError::Collective);
        unreadable.map_or(sums, Err)
    })
}

fn read(tensor: Tensor<1>) -> Result<Vec<f32>, BucketError> {
    let unreadable = |error: String| BucketError::Read(error);
    let data = tensor.try_into_data().map_err(|error| unreadable(format!("{error:?}")))?;
    data.try_into_vec().map_err(|error| unreadable(format!("{error:?}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use burn::tensor::{Device, TensorData};
    use burn_rehearsal_collective::run_threads;

    /// The gradients of one rank. Their magnitudes differ, so that the sum depends on its order.
    fn gradients(rank: usize, len: usize) -> Vec<f32> {
        (0..len)
            .map(|at| (1.0 + at as f32 / 7.0) * 10f32.powi(((at + rank * 5) % 9) as i32 - 4))
            .collect()
    }

    fn bits(sums: &[f32]) -> Vec<u32> {
        sums.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn buckets_and_reading_ahead_change_no_bit() {
        let len = 23;
        let expected = bits(
            &(0..len)
                .map(|at| (gradients(0, len)[at] + 0.0) + gradients(2, len)[at])
                .collect::<Vec<_>>(),
        );
        for bucket in [1, 4, 22, 23, 100] {
            let ranks = run_threads(3, |mut ranks| {
                let rank = ranks.rank();
                let flat = (rank != 1).then(|| {
                    Tensor::<1>::from_data(
                        TensorData::new(gradients(rank, len), [len]),
                        &Device::default(),
                    )
                });
                match flat {
                    // Only the last rank reads ahead, as it would with a device.
                    Some(flat) if rank == 2 => read_and_sum(&flat, bucket, &mut ranks)
                        .map_err(|error| format!("{error:?}")),
                    flat => {
                        sum(flat, len, bucket, &mut ranks).map_err(|error| format!("{error:?}"))
                    }
                }
            });
            for sums in ranks {
                assert_eq!(bits(&sums.unwrap()), expected, "buckets of {bucket}");
            }
        }
    }

    #[test]
    fn a_rank_that_reads_ahead_gets_an_error_if_another_leaves() {
        let ranks = run_threads(2, |mut ranks| {
            if ranks.rank() == 1 {
                return Ok(true);
            }
            let flat = Tensor::<1>::zeros([1000], &Device::default());
            Ok::<_, ()>(matches!(
                read_and_sum(&flat, 10, &mut ranks),
                Err(BucketError::Collective(_))
            ))
        });
        assert!(ranks.into_iter().all(|rank| rank.unwrap()));
    }
}
