//! A linear network on a hand-made mini-batch, and the same arithmetic without tensors.
#![allow(clippy::unwrap_used)]

use super::model::{Network, TaskInfo};
use super::step::Step;
use super::{Method, Update};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::cell::RefCell;
use std::ops::Range;

pub(super) const FEATURES: usize = 2;
pub(super) const CLASSES: usize = 4;

/// A row: its inputs and its class.
pub(super) type Row = ([f32; FEATURES], usize);

/// Rows of different inputs and classes.
pub(super) const ROWS: [Row; 7] = [
    ([0.5, -1.0], 0),
    ([2.0, 0.3], 3),
    ([-0.7, 0.9], 1),
    ([1.1, 1.3], 2),
    ([-1.5, -0.2], 0),
    ([0.4, -0.6], 1),
    ([0.2, 1.7], 3),
];

/// The weights of the network, `[FEATURES, CLASSES]`.
pub(super) const WEIGHTS: [f32; FEATURES * CLASSES] = [0.5, -0.3, 0.2, 0.1, -0.4, 0.6, 0.3, -0.2];

/// The scores of a row in a network with these weights.
pub(super) fn scores(weights: &[f32], (inputs, _): &Row) -> [f64; CLASSES] {
    std::array::from_fn(|class| {
        let products = (0..FEATURES).map(|i| f64::from(inputs[i] * weights[i * CLASSES + class]));
        products.sum()
    })
}

/// The logarithm of the probability of `class` among `classes`.
pub(super) fn log_probability(scores: &[f64], class: usize, classes: &[usize]) -> f64 {
    scores[class] - classes.iter().map(|&other| scores[other].exp()).sum::<f64>().ln()
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// The mean cross entropy of rows over `classes`.
pub(super) fn cross_entropy_among(rows: &[Row], classes: &[usize]) -> f64 {
    mean(rows.iter().map(|row| -log_probability(&scores(&WEIGHTS, row), row.1, classes)))
}

/// The mean cross entropy of rows.
pub(super) fn cross_entropy(rows: &[Row]) -> f64 {
    cross_entropy_among(rows, &[0, 1, 2, 3])
}

/// The mean squared distance between the scores of rows and `targets`, over rows and classes.
pub(super) fn distance(rows: &[Row], targets: &[[f64; CLASSES]]) -> f64 {
    mean(rows.iter().zip(targets).map(|(row, target)| {
        let scores = scores(&WEIGHTS, row);
        mean(scores.iter().zip(target).map(|(score, target)| (score - target).powi(2)))
    }))
}

/// The network and a mini-batch.
pub(super) struct Mock {
    weights: Tensor<1>,
    rows: Vec<Row>,
    incoming: usize,
    draws: Vec<usize>,
    stored: Option<Vec<[f64; CLASSES]>>,
    /// The rows of each forward pass.
    pub(super) passes: RefCell<Vec<Range<usize>>>,
    /// The logits to store.
    pub(super) annotated: RefCell<Vec<Vec<f32>>>,
}

/// The loss of a step, and its gradient.
pub(super) struct Loss {
    pub(super) value: f64,
    pub(super) gradient: Vec<f64>,
}

impl Mock {
    pub(super) fn new(incoming: &[Row], draws: &[&[Row]]) -> Self {
        Self {
            weights: Tensor::from_data(WEIGHTS, &Self::device()).require_grad(),
            rows: [incoming, &draws.concat()].concat(),
            incoming: incoming.len(),
            draws: draws.iter().map(|draw| draw.len()).collect(),
            stored: None,
            passes: RefCell::default(),
            annotated: RefCell::default(),
        }
    }

    /// The logits that were stored with the drawn rows.
    pub(super) fn with_stored(mut self, stored: &[[f64; CLASSES]]) -> Self {
        self.stored = Some(stored.to_vec());
        self
    }

    fn device() -> Device {
        Device::flex().autodiff()
    }

    /// Calls `run` with the step of this mini-batch.
    pub(super) fn step<T>(
        &self,
        snapshots: &[&[f32]],
        task: &TaskInfo,
        run: impl FnOnce(&Step<'_>) -> T,
    ) -> T {
        let snapshots: Vec<_> = snapshots.iter().map(|values| plain(values)).collect();
        run(&Step::new(self, &snapshots, task))
    }

    /// The loss of a method in the first task.
    pub(super) fn loss(&self, method: &dyn Method, snapshots: &[&[f32]]) -> Loss {
        self.loss_in(method, snapshots, &TaskInfo::default())
    }

    pub(super) fn loss_in(
        &self,
        method: &dyn Method,
        snapshots: &[&[f32]],
        task: &TaskInfo,
    ) -> Loss {
        let loss = self.step(snapshots, task, |step| method.loss(step));
        assert_eq!(loss.dims(), [1]);
        let gradient = self.weights.grad(&loss.backward()).unwrap();
        let gradient = gradient.into_data().iter::<f32>().map(f64::from).collect();
        Loss { value: f64::from(loss.into_scalar::<f32>()), gradient }
    }

    /// The inputs of rows on `device`.
    fn inputs(&self, rows: Range<usize>, device: &Device) -> Tensor<2> {
        let values: Vec<f32> = self.rows[rows.clone()].iter().flat_map(|row| row.0).collect();
        Tensor::from_data(TensorData::new(values, [rows.len(), FEATURES]), device)
    }
}

/// A tensor without autodiff.
pub(super) fn plain(values: &[f32]) -> Tensor<1> {
    Tensor::from_data(values, &Device::flex())
}

pub(super) fn floats(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.to_data().try_into_vec().unwrap()
}

/// Shows `method` an update with these parameters.
pub(super) fn update(
    method: &dyn Method,
    number: u64,
    seed: u64,
    parameters: &[f32],
    snapshots: &mut [Tensor<1>],
) {
    let parameters = || plain(parameters);
    method.updated(&Update { number, seed, parameters: &parameters }, snapshots);
}

pub(super) fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
}

impl Network for Mock {
    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn layout(&self) -> (usize, &[usize]) {
        (self.incoming, &self.draws)
    }

    fn targets(&self) -> Tensor<1, Int> {
        let targets: Vec<i64> = self.rows.iter().map(|row| row.1 as i64).collect();
        Tensor::from_data(targets.as_slice(), &Self::device())
    }

    fn logits(&self, rows: Range<usize>) -> Tensor<2> {
        self.passes.borrow_mut().push(rows.clone());
        let weights = self.weights.clone().reshape([FEATURES, CLASSES]);
        self.inputs(rows, &Self::device()).matmul(weights)
    }

    fn logits_of(&self, parameters: Tensor<1>, rows: Range<usize>) -> Tensor<2> {
        let weights = parameters.reshape([FEATURES, CLASSES]);
        self.inputs(rows, &Device::flex()).matmul(weights)
    }

    fn parameters(&self) -> Tensor<1> {
        self.weights.clone()
    }

    fn stored_logits(&self) -> Option<Tensor<2>> {
        let stored = self.stored.as_ref()?;
        let values: Vec<f32> = stored.iter().flatten().map(|&value| value as f32).collect();
        let shape = [stored.len(), CLASSES];
        Some(Tensor::from_data(TensorData::new(values, shape), &Self::device()))
    }

    fn store_logits(&self, logits: Tensor<2>) {
        self.annotated.borrow_mut().push(logits.into_data().try_into_vec().unwrap());
    }
}
