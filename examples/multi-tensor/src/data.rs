//! Robot arms: where is the hand, given the angles of the joints and the lengths of the links?

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::{Device, Tensor, TensorData};
use burn_rehearsal::RehearsalBatch;
use burn_rehearsal::random::{Purpose, Stream};
use std::f32::consts::FRAC_PI_2;

/// In each task the first joint turns through another quarter of the circle.
pub const TASKS: usize = 4;

#[derive(Clone, Debug)]
pub struct Arm {
    angles: [f32; 2],
    lengths: [f32; 2],
}

impl Arm {
    fn hand(&self) -> [f32; 2] {
        let [first, second] = [self.angles[0], self.angles[0] + self.angles[1]];
        let [upper, lower] = self.lengths;
        [upper * first.cos() + lower * second.cos(), upper * first.sin() + lower * second.sin()]
    }
}

/// Random arms of a task.
pub fn arms(task: usize, count: usize, seed: u64) -> Vec<Arm> {
    let mut random = Stream::new(seed, Purpose::TaskStream, task as u64, 0);
    let arm = |_| {
        let mut unit = || random.unit_f32();
        Arm {
            angles: [(task as f32 + unit()) * FRAC_PI_2, unit() * FRAC_PI_2],
            lengths: [0.5 + unit() / 2.0, 0.5 + unit() / 2.0],
        }
    };
    (0..count).map(arm).collect()
}

/// A mini-batch of robot arms with two joints and two links.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct ArmBatch {
    /// `[rows, 2]`: the angles of the joints, in radians.
    pub angles: Tensor<2>,
    /// `[rows, 2]`: the lengths of the links, in metres.
    pub lengths: Tensor<2>,
    /// `[rows, 2]`: the position of the hand, in metres.
    pub hand: Tensor<2>,
}

#[derive(Clone, Debug)]
pub struct ArmBatcher;

impl Batcher<Arm, ArmBatch> for ArmBatcher {
    fn batch(&self, arms: Vec<Arm>, device: &Device) -> ArmBatch {
        let pairs = |values: fn(&Arm) -> [f32; 2]| {
            let values: Vec<f32> = arms.iter().flat_map(values).collect();
            Tensor::from_data(TensorData::new(values, [arms.len(), 2]), device)
        };
        ArmBatch {
            angles: pairs(|arm| arm.angles),
            lengths: pairs(|arm| arm.lengths),
            hand: pairs(Arm::hand),
        }
    }
}
