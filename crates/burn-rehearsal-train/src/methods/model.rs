//! A network with a method.

#[cfg(doc)]
use super::Method;
use super::MethodRef;
use super::parameters;
use super::step::{Step, TaskEnd, Update, cross_entropy};
use crate::data_parallel::{project_gradients, scale_loss};
use crate::evaluate::EvaluateError;
use crate::experiment::ExperimentError;
use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::{Module, ModuleDisplay, Param, ParamId, RunningState};
use burn::optim::{GradientsParams, ModuleOptimizer, MultiGradientsParams};
use burn::tensor::{Int, Tensor, TensorData, activation};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};
use burn_rehearsal::{RehearsalBatch, RehearsalConfig, RowLayout};
use burn_rehearsal_collective::{Collective, CollectiveExt, ReduceOp};
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// A mini-batch whose rows have classes.
///
/// Derive [`RehearsalBatch`] with a row layout. Methods that store logits also need a late field:
///
/// ```
/// # use burn::tensor::{Int, Tensor};
/// # use burn_rehearsal::{RehearsalBatch, RowLayout};
/// #[derive(RehearsalBatch, Clone, Debug)]
/// struct DerBatch {
///     inputs: Tensor<2>,
///     #[rehearsal(class)]
///     targets: Tensor<1, Int>,
///     #[rehearsal(late)]
///     logits: Option<Tensor<2>>,
///     #[rehearsal(layout)]
///     rows: RowLayout<Self>,
/// }
/// ```
///
/// `targets`, `layout` and `stored_logits` return the fields, and the other methods are as short:
///
/// ```
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use burn::tensor::Tensor;
/// # use stubs::{DerBatch, DerBatchLate};
/// # use std::ops::Range;
/// # trait Example { fn select(&self, rows: Range<usize>) -> Self; fn valid(self) -> Self;
/// #     fn store_logits(&self, logits: Tensor<2>); }
/// # impl Example for DerBatch {
/// fn select(&self, rows: Range<usize>) -> Self {
///     Self { inputs: self.inputs.clone().slice(rows), ..self.clone() }
/// }
/// fn valid(self) -> Self {
///     Self { inputs: self.inputs.inner(), ..self }
/// }
/// fn store_logits(&self, logits: Tensor<2>) {
///     self.rows.annotate(DerBatchLate { logits });
/// }
/// # }
/// ```
pub trait LabeledBatch: RehearsalBatch<Rest: Default> + Clone {
    /// The class of every row, `[rows]`.
    fn targets(&self) -> Tensor<1, Int>;

    /// The incoming rows and those of each draw.
    fn layout(&self) -> &RowLayout<Self>;

    /// A mini-batch with the inputs of these rows only. The other fields may have any value: only
    /// [`Classifier::logits`] sees it.
    fn select(&self, rows: Range<usize>) -> Self;

    /// The mini-batch with its inputs on the device without autodiff, for
    /// [`Classifier::logits`] of a network in inference mode.
    fn valid(self) -> Self;

    /// The logits that were stored with the drawn rows, in the order of the draws,
    /// `[representatives, classes]`. Default: `None`.
    fn stored_logits(&self) -> Option<Tensor<2>> {
        None
    }

    /// [Annotates](RowLayout::annotate) the incoming rows with logits, `[incoming, classes]`.
    /// Default: does nothing.
    fn store_logits(&self, _logits: Tensor<2>) {}
}

/// A network that scores classes.
///
/// ```
/// # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
/// # use burn::{module::Module, nn::Linear, tensor::Tensor};
/// # use burn_rehearsal_train::methods::Classifier;
/// # use stubs::MyBatch;
/// #[derive(Module, Debug)]
/// struct Network {
///     layer: Linear,
/// }
///
/// impl Classifier for Network {
///     type Batch = MyBatch;
///
///     fn logits(&self, batch: MyBatch) -> Tensor<2> {
///         self.layer.forward(batch.inputs)
///     }
/// }
/// ```
pub trait Classifier: Module + ModuleDisplay + 'static {
    /// The type of its mini-batches.
    type Batch: LabeledBatch;

    /// The scores of every row, `[rows, classes]`, in `f32` whatever the precision of the network.
    fn logits(&self, batch: Self::Batch) -> Tensor<2>;
}

/// The position of a network in a stream of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskInfo {
    /// The number of the task, counted from 0.
    pub task: usize,
    /// The classes of the tasks before it, in ascending order.
    pub earlier_classes: Vec<usize>,
}

/// What a method keeps from step to step, as parameters that are not trained: records contain them.
#[derive(Module, Debug)]
struct Snapshots {
    /// On several ranks, they are averaged with the running statistics of batch norms, which they
    /// contain and in which the ranks differ.
    values: Vec<RunningState<Tensor<1>>>,
    /// The number of updates, shape `[1]`.
    updates: Param<Tensor<1, Int>>,
    /// The value of `updates`, once it was read.
    #[module(skip)]
    counted: Option<u64>,
}

impl Snapshots {
    /// `count` copies of the parameters of `network`.
    fn new<N: Module>(network: &N, count: usize) -> Self {
        let values = parameters::values(network);
        let device = values.device();
        let zero = Tensor::from_data(TensorData::new(vec![0i64], [1]), &device);
        Self {
            values: (0..count).map(|_| RunningState::new(values.clone())).collect(),
            updates: Param::initialized(ParamId::new(), zero),
            counted: None,
        }
    }

    /// The values without autodiff.
    fn values(&self) -> Vec<Tensor<1>> {
        self.values.iter().map(|state| state.value_sync().inner()).collect()
    }

    /// Lets a method change the values.
    fn change<T>(&mut self, change: impl FnOnce(&mut [Tensor<1>]) -> T) -> T {
        let mut values = self.values();
        let result = change(&mut values);
        for (state, value) in self.values.iter().zip(values) {
            let autodiff = state.value().is_autodiff();
            state.update(if autodiff { value.autodiff() } else { value });
            state.value_sync(); // applies the update
        }
        result
    }

    /// Counts an update and returns the number of updates so far.
    fn count(&mut self) -> u64 {
        let updates = self.updates.clone().map(|updates| updates + 1);
        let number = match self.counted {
            Some(counted) => counted + 1,
            // Once per run: reading waits for the device.
            None => updates.val().into_data().iter::<i64>().next().unwrap_or(1) as u64,
        };
        (self.updates, self.counted) = (updates, Some(number));
        number
    }
}

/// A network and the method it trains with. It implements Burn's `TrainStep` and `InferenceStep`,
/// so it works with Burn's learner and with [`DataParallel`](crate::data_parallel::DataParallel).
///
/// ```
/// use burn::optim::SgdConfig;
/// use burn::train::Learner;
/// use burn_rehearsal_train::methods::{Classifier, DerPlusPlus, MethodModel};
///
/// fn learner<N: Classifier>(network: N) -> Learner<MethodModel<N>> {
///     let model = MethodModel::new(network, &DerPlusPlus { alpha: 0.2, beta: 0.5 });
///     Learner::new(model, SgdConfig::new().init(), 0.1)
/// }
/// ```
///
/// # Requirements of methods
///
/// An [`Experiment`](crate::experiment::Experiment) does what its method requires. With a learner
/// of your own, do it yourself:
///
/// * Configure the buffer with [`configured`](Self::configured), which sets the draws and the late
///   fields.
/// * If the method has [snapshots](Method::snapshots), call [`begin_task`](Self::begin_task) and
///   [`end_task`](Self::end_task) for every task.
/// * Provide the [data](Method::training_data), and insert rows into the buffer at the
///   [right time](Method::insertion).
///
/// Snapshots are part of the records of the model.
#[derive(Module, Debug)]
pub struct MethodModel<N: Module + ModuleDisplay> {
    /// The network.
    pub network: N,
    snapshots: Option<Snapshots>,
    #[module(skip)]
    method: MethodRef,
    #[module(skip)]
    seed: u64,
    #[module(skip)]
    task: Arc<Mutex<TaskInfo>>,
}

impl<N: Classifier> MethodModel<N> {
    /// Combines a network with a method.
    pub fn new(network: N, method: MethodRef) -> Self {
        let count = method.snapshots();
        let snapshots = (count > 0).then(|| Snapshots::new(&network, count));
        Self { network, snapshots, method, seed: 0, task: Arc::default() }
    }

    /// Sets the seed of the method's random choices. Default: 0.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The configuration of a buffer for the method of this model: with the draws of the method,
    /// each like that of `config`, and with late fields only if the method stores logits.
    ///
    /// ```
    /// use burn_rehearsal::RehearsalConfig;
    /// use burn_rehearsal_train::methods::{Classifier, MethodModel};
    ///
    /// fn draws<N: Classifier>(model: &MethodModel<N>, config: RehearsalConfig) -> usize {
    ///     model.configured(config).draws().count()
    /// }
    /// ```
    pub fn configured(&self, config: RehearsalConfig) -> RehearsalConfig {
        self.method.configured(config)
    }

    /// Begins a task. Holds for all clones of this model.
    pub fn begin_task(&self, task: TaskInfo) {
        *self.task.lock() = task;
    }

    /// Ends a task: the method replaces its snapshots. `loader` has this rank's part of the
    /// training data of the task. Collective.
    ///
    /// # Errors
    ///
    /// See [`Method::end_task`].
    pub fn end_task(
        mut self,
        loader: &dyn DataLoader<N::Batch>,
        collective: &mut dyn Collective,
    ) -> Result<Self, ExperimentError> {
        let Self { network, snapshots: Some(snapshots), method, task, .. } = &mut self else {
            return Ok(self);
        };
        let end = |snapshots: &mut [Tensor<1>]| {
            method.end_task(&mut TaskEnd {
                task: task.lock().task,
                parameters: parameters::values(network),
                snapshots,
                fisher: &mut || fisher(network, loader, collective),
            })
        };
        snapshots.change(end)?;
        Ok(self)
    }

    /// The network to evaluate and to save, in inference mode: the trained network, or that of a
    /// [snapshot](Method::evaluated_snapshot).
    pub fn evaluated(&self) -> N {
        let snapshot = self.method.evaluated_snapshot();
        let values = snapshot.zip(self.snapshots.as_ref());
        match values.and_then(|(snapshot, snapshots)| snapshots.values.get(snapshot)) {
            Some(state) => parameters::with_values(&self.network, state.value_sync().inner()),
            None => self.network.valid(),
        }
    }

    /// Shows the method an update of the parameters.
    fn updated(mut self) -> Self {
        let Self { network, snapshots: Some(snapshots), method, seed, .. } = &mut self else {
            return self;
        };
        let number = snapshots.count();
        let parameters = || parameters::values(network);
        let update = Update { number, seed: *seed, parameters: &parameters };
        snapshots.change(|snapshots| method.updated(&update, snapshots));
        self
    }
}

/// See [`TaskEnd::fisher`].
fn fisher<N: Classifier>(
    network: &N,
    loader: &dyn DataLoader<N::Batch>,
    collective: &mut dyn Collective,
) -> Result<Tensor<1>, ExperimentError> {
    // Forward passes change running statistics. Those of this copy are not used.
    let network = &network.valid().train();
    let mut sum = parameters::values(network).zeros_like();
    let mut rows = 0;
    let mut failed = None;
    for batch in loader.iter() {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                failed = Some(ExperimentError::Data(error.to_string()));
                break;
            }
        };
        let targets = batch.targets();
        for row in 0..batch.rows() {
            let scores = activation::log_softmax(network.logits(batch.select(row..row + 1)), 1);
            let target = targets.clone().slice(row..row + 1).reshape([1, 1]);
            let log_probability = scores.gather(1, target).reshape([1]);
            let weight = log_probability.clone().inner().exp();
            let gradients = GradientsParams::from_grads(log_probability.backward(), network);
            sum = sum + parameters::gradients(network, &gradients).square() * weight;
        }
        rows += batch.rows() as u64;
    }
    // All ranks enter the sum, also after an error.
    let counts = collective.gather_words([u64::from(failed.is_some()), rows])?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(rank) = counts.iter().position(|[failed, _]| *failed != 0) {
        return Err(EvaluateError::Rank(rank).into());
    }
    let rows: u64 = counts.iter().map(|[_, rows]| rows).sum();
    let (device, elements) = (sum.device(), sum.dims()[0]);
    let mut values: Vec<f32> = sum.into_data().iter::<f32>().collect();
    collective.all_reduce(&mut values, ReduceOp::Sum)?;
    let sum = Tensor::<1>::from_data(TensorData::new(values, [elements]), &device);
    Ok(sum / rows.max(1) as f32)
}

/// The network and the mini-batch of a step, whatever their types.
pub(super) trait Network {
    fn rows(&self) -> usize;
    /// The number of incoming rows, and those of each draw.
    fn layout(&self) -> (usize, &[usize]);
    fn targets(&self) -> Tensor<1, Int>;
    fn logits(&self, rows: Range<usize>) -> Tensor<2>;
    /// The logits of a network with other parameters, in inference mode.
    fn logits_of(&self, parameters: Tensor<1>, rows: Range<usize>) -> Tensor<2>;
    fn parameters(&self) -> Tensor<1>;
    fn stored_logits(&self) -> Option<Tensor<2>>;
    fn store_logits(&self, logits: Tensor<2>);
}

/// A network and a mini-batch.
struct Pass<'a, N: Classifier> {
    network: &'a N,
    batch: &'a N::Batch,
}

impl<N: Classifier> Pass<'_, N> {
    fn select(&self, rows: Range<usize>) -> N::Batch {
        if rows == (0..self.rows()) { self.batch.clone() } else { self.batch.select(rows) }
    }
}

impl<N: Classifier> Network for Pass<'_, N> {
    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn layout(&self) -> (usize, &[usize]) {
        let layout = self.batch.layout();
        (layout.incoming().unwrap_or_else(|| self.rows()), layout.draws())
    }

    fn targets(&self) -> Tensor<1, Int> {
        self.batch.targets()
    }

    fn logits(&self, rows: Range<usize>) -> Tensor<2> {
        self.network.logits(self.select(rows))
    }

    fn logits_of(&self, parameters: Tensor<1>, rows: Range<usize>) -> Tensor<2> {
        let network = parameters::with_values(self.network, parameters);
        network.logits(self.select(rows).valid())
    }

    fn parameters(&self) -> Tensor<1> {
        parameters::flatten(self.network)
    }

    fn stored_logits(&self) -> Option<Tensor<2>> {
        self.batch.stored_logits()
    }

    fn store_logits(&self, logits: Tensor<2>) {
        self.batch.store_logits(logits);
    }
}

impl<N: Classifier> TrainStep for MethodModel<N> {
    type Input = N::Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: N::Batch) -> TrainOutput<ClassificationOutput> {
        let pass = Pass { network: &self.network, batch: &batch };
        let snapshots = self.snapshots.as_ref().map(Snapshots::values).unwrap_or_default();
        let task = self.task.lock().clone();
        let step = Step::new(&pass, &snapshots, &task);
        let loss = self.method.loss(&step);
        let gradients = scale_loss(loss.clone()).backward();
        let mut grads = GradientsParams::from_grads(gradients, self);
        if let Some(reference) = self.method.reference_loss(&step) {
            let reference = scale_loss(reference).backward();
            let reference = GradientsParams::from_grads(reference, self);
            grads = project_gradients(self, grads, reference, batch.layout().representatives());
        }
        let (output, targets) = step.into_output();
        TrainOutput { grads, item: ClassificationOutput { loss, output, targets } }
    }

    fn optimize(
        self,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: GradientsParams,
    ) -> Self {
        optimizer.step(rate, self, grads).updated()
    }

    fn optimize_multi(
        self,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        grads: MultiGradientsParams,
    ) -> Self {
        optimizer.step_multi(rate, self, grads).updated()
    }
}

impl<N: Classifier> InferenceStep for MethodModel<N> {
    type Input = N::Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: N::Batch) -> ClassificationOutput {
        let targets = batch.targets();
        let output = match self.method.evaluated_snapshot() {
            Some(_) => self.evaluated().logits(batch),
            None => self.network.logits(batch),
        };
        ClassificationOutput {
            loss: cross_entropy(output.clone(), targets.clone()),
            output,
            targets,
        }
    }
}
