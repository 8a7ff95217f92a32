//! What does each method cost per training step?
//!
//! One rank trains the same network with each method, on the same incoming rows. A step is the
//! buffer's work on the training thread, the forward and backward passes, and the update. Ratios
//! are taken within a turn.
//!
//! The buffer's share is the time of a step divided by that of a step with the same passes without
//! a buffer: on mini-batches that a buffer has returned before.
#![allow(clippy::expect_used)]

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Device;
use burn::train::TrainStep;
use burn_rehearsal::{Capacity, RehearsalBuffer, RehearsalConfig};
use burn_rehearsal_benches::{
    B, Batch, C, Figures, Net, R, Series, Synthetic, Target, device, interleave, median,
    random_batches,
};
use burn_rehearsal_train::experiment::Workload;
use burn_rehearsal_train::methods::{
    self, Insertion, MethodModel, MethodRef, TaskInfo, TrainingData,
};
use std::time::Instant;

const CAPACITY: usize = 2_000;
const POOL: usize = 8;
const STEPS: usize = 16;
const TURNS: usize = 9;

/// A training with one method, which continues from turn to turn.
struct Training {
    model: MethodModel<Net>,
    optimizer: ModuleOptimizer,
    buffer: Option<RehearsalBuffer<Batch>>,
    /// Mini-batches that a buffer has returned before.
    augmented: Vec<Batch>,
}

impl Training {
    fn new(method: MethodRef, workload: &Synthetic, incoming: &[Batch], device: &Device) -> Self {
        let model = MethodModel::new(workload.model(device, 1), method);
        // Methods that depend on earlier tasks do their full work from the second task on.
        model.begin_task(TaskInfo { task: 1, earlier_classes: vec![0, 1] });
        let config = RehearsalConfig::new(Capacity::Samples(CAPACITY))
            .with_candidates(C)
            .with_representatives(R);
        let buffer = || -> RehearsalBuffer<Batch> {
            let buffer = model.configured(config.clone()).init().expect("a buffer");
            if method.insertion() == Insertion::TaskEnd {
                buffer.fill(incoming.iter().cloned().map(Ok)).expect("a full buffer");
            }
            buffer
        };
        let (mut augmented, mut of_run) = (incoming.to_vec(), None);
        if method.rehearses() {
            let earlier = buffer();
            augmented = (0..4 * POOL)
                .map(|step| {
                    let batch =
                        earlier.rehearse(incoming[step % POOL].clone()).expect("a mini-batch");
                    drop(model.step(batch.clone()));
                    batch
                })
                .collect();
            augmented.drain(..3 * POOL);
            of_run = Some(buffer());
        }
        Self { model, optimizer: workload.optimizer(), buffer: of_run, augmented }
    }

    /// The median time of a step in milliseconds.
    fn run(&mut self, incoming: &[Batch], with_buffer: bool) -> f64 {
        let times = (0..STEPS).map(|step| {
            let started = Instant::now();
            let batch = match self.buffer.as_ref().filter(|_| with_buffer) {
                Some(buffer) => {
                    buffer.rehearse(incoming[step % POOL].clone()).expect("a mini-batch")
                }
                None => self.augmented[step % POOL].clone(),
            };
            let output = self.model.step(batch);
            self.model =
                self.model.clone().optimize(&mut self.optimizer, 0.01.into(), output.grads);
            self.model.network.devices().iter().for_each(|device| device.sync().expect("a device"));
            started.elapsed().as_secs_f64() * 1e3
        });
        median(times.collect())
    }
}

fn main() {
    let mut figures = Figures::new(
        "methods",
        "what does each method cost per training step?",
        &format!(
            "3×32×32 u8, two convolutions, b = {B}, c = {C}, r = {R} per draw, one rank, {TURNS} \
             turns of {STEPS} steps"
        ),
    );
    let device = device().autodiff();
    let workload = Synthetic::new(100).expect("enough samples");
    let incoming: Vec<Batch> = random_batches(POOL, B, 32, 4, &device);
    let names: Vec<_> = methods::ALL
        .iter()
        .filter(|method| method.training_data() == TrainingData::Task)
        .map(|method| method.name())
        .collect();
    let mut trainings: Vec<_> = names
        .iter()
        .map(|name| {
            let method = methods::by_name(name).expect("a method");
            Training::new(method, &workload, &incoming, &device)
        })
        .collect();
    for training in &mut trainings {
        // Fills the buffer.
        for _ in 0..4 {
            training.run(&incoming, true);
        }
    }
    let mut series = Series::default();
    let indices: Vec<_> = (0..names.len()).collect();
    interleave(TURNS, &indices, |&index| {
        let (name, training) = (names[index], &mut trainings[index]);
        series.add(name, training.run(&incoming, true));
        if training.buffer.is_some() {
            series.add(format!("{name} without"), training.run(&incoming, false));
        }
    });
    for name in names {
        figures.add(name, "time per step", series.median(name), "ms", None);
        figures.add(name, "time / ER", series.ratio(name, "rehearsal"), "×", None);
        let without = format!("{name} without");
        if !series.values(&without).is_empty() {
            let target = Some(Target::AtMost(1.02));
            figures.add(
                name,
                "time / same passes, no buffer",
                series.ratio(name, &without),
                "×",
                target,
            );
        }
    }
    figures.write();
}
