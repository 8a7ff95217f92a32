//! A policy of your own: which stored sample makes room for a new one.

use burn::data::dataloader::DataLoaderBuilder;
use burn_rehearsal::policy::{Placement, Policy, SavedShard, ShardInfo, StateError};
use burn_rehearsal::{Capacity, CustomRules, Rank, RehearsalConfig, SlotTable, random::Stream};
use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream, select};
use burn_rehearsal_vision::data::open_digits;
use burn_rehearsal_vision::{ImageBatch, ImageBatcher};
use std::error::Error;

/// Keeps the first samples of each class, and equally many of all classes: the greedy sampler of
/// GDumb (Prabhu et al., "GDumb: A Simple Approach that Questions Our Progress in Continual
/// Learning", ECCV 2020).
#[derive(Clone)]
struct Greedy;

impl Policy for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    /// Called for each new sample when the buffer is full.
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
        let stored = |class: usize| table.of_class(class).len();
        let largest = (0..table.class_bound()).max_by_key(|&class| stored(class)).unwrap_or(0);
        if stored(class as usize) + 1 >= stored(largest) {
            return Placement::Reject;
        }
        let slots = table.of_class(largest);
        Placement::Replace(slots[rng.below(slots.len() as u64) as usize])
    }

    /// This policy remembers nothing, so it has no state to save and to restore.
    fn state(&self) -> Vec<u64> {
        Vec::new()
    }

    fn restore(&mut self, _state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
        Ok(())
    }

    fn merge(&self, _saved: &[SavedShard<'_>], _table: &SlotTable, _shard: &ShardInfo) -> Vec<u64> {
        Vec::new()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let data = open_digits(8)?;
    let (labels, test_labels) = (&data.train_labels, &data.test_labels);
    let stream = ClassIncremental::new(labels, test_labels, data.classes, 5, ClassOrder::Fixed)?;
    let batcher = ImageBatcher { shape: data.shape, room: 0 };

    let rules = CustomRules::default().with_policy(Greedy);
    let config = RehearsalConfig::new(Capacity::Samples(200)).with_late_fields(false); // no logits
    let buffer = config.init_with::<ImageBatch>(&Rank::solo(), rules)?;

    for task in 0..stream.tasks() {
        buffer.begin_task(task)?;
        let train = select(&data.train, stream.train(task));
        let train = DataLoaderBuilder::new(batcher.clone()).batch_size(16).shuffle(1).build(train);
        // Offers all samples of the task. A training run attaches the buffer to the loader instead.
        buffer.fill(train.iter())?;
        println!("task {}: stored per class {:?}", task + 1, buffer.report()?.per_class);
    }

    let report = buffer.report()?;
    let smallest = report.per_class.iter().min().copied().unwrap_or(0);
    println!("policy {}: every class has at least {smallest} samples", report.policy);
    Ok(())
}
