//! Exact top-1, top-5 and task-IL accuracy over all ranks.
//!
//! [`evaluate`] compares a sample's class with all classes of the network. [`evaluate_task`] also
//! counts the samples whose class has the highest score among the classes of their task. See
//! [`metrics`](crate::metrics#class-il-and-task-il) for the difference.
//!
//! Every rank evaluates its own part of a test set, and the counts are summed. The result does not
//! depend on the partition: no row is dropped, and no row counts twice.

use burn::data::dataloader::DataLoader;
use burn::tensor::{DType, Element, TensorData};
use burn::train::{ClassificationOutput, InferenceStep};
use burn_rehearsal_collective::{Collective, CollectiveError, CollectiveExt};
use std::fmt::Debug;

/// The reason why an evaluation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// The loader of this rank failed.
    #[error("the evaluation data could not be loaded: {0}")]
    Loader(String),
    /// The output of the model could not be read.
    #[error("the model's output could not be read: {0}")]
    Output(String),
    /// The numbers of predictions and targets differ.
    #[error("the model made {predictions} predictions for {targets} targets")]
    Rows {
        /// Rows of the output.
        predictions: usize,
        /// Length of the targets.
        targets: usize,
    },
    /// A target is not a class of the model.
    #[error("the target class {class} is outside the model's {classes} classes")]
    Class {
        /// The class of the sample.
        class: i64,
        /// The number of classes of the model.
        classes: usize,
    },
    /// The evaluation of another rank failed.
    #[error("the evaluation failed on rank {0}")]
    Rank(usize),
    /// The ranks could not exchange their counts.
    #[error("{0}")]
    Collective(#[from] CollectiveError),
}

/// The counts of an evaluation over all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evaluation {
    /// The number of samples.
    pub rows: u64,
    /// Samples whose class has the highest score.
    pub top1: u64,
    /// Samples whose class is among the five highest scores: all samples, if there are at most five
    /// classes.
    pub top5: u64,
    /// Samples whose class has the highest score among the classes of their task. Equal to `top1`
    /// if the evaluation has no task.
    pub task_il: u64,
}

impl Evaluation {
    /// Top-1 accuracy among all classes (class-IL): the fraction of samples that are classified
    /// correctly, in 0..=1. 0 without samples.
    pub fn top1_accuracy(&self) -> f64 {
        fraction(self.top1, self.rows)
    }

    /// Top-5 accuracy: the fraction of samples whose class is among the five highest scores, in
    /// 0..=1. 0 without samples.
    pub fn top5_accuracy(&self) -> f64 {
        fraction(self.top5, self.rows)
    }

    /// Task-IL accuracy: the fraction of samples that are classified correctly among the classes of
    /// their task, in 0..=1. 0 without samples.
    pub fn task_il_accuracy(&self) -> f64 {
        fraction(self.task_il, self.rows)
    }

    /// Adds a row of class `class`. `task` are the classes of its task; `None`: all classes.
    fn add_row(&mut self, scores: &[f32], class: usize, task: Option<&[usize]>) {
        self.rows += 1;
        let score = scores[class];
        if score.is_nan() {
            return;
        }
        // Of equal scores, the lower class comes first.
        let is_better = |other: &usize| {
            let value = scores.get(*other);
            value.is_some_and(|value| *value > score || (*value == score && *other < class))
        };
        let better = (0..scores.len()).filter(is_better).count();
        let first_of_task = match task {
            Some(classes) => classes.contains(&class) && !classes.iter().any(is_better),
            None => better < 1,
        };
        self.top1 += u64::from(better < 1);
        self.top5 += u64::from(better < 5);
        self.task_il += u64::from(first_of_task);
    }
}

/// Evaluates this rank's part of a test set and sums the counts over all ranks. All ranks get the
/// same result. Collective: every rank calls it, with an empty loader if it has no part.
///
/// `model` must be in its validation state ([`Module::valid`](burn::module::Module::valid)). Scores
/// are compared on the host, so that ties are broken in the same way on every device: the lower
/// class wins. A score that is not a number is never correct.
///
/// ```
/// # use burn::data::dataloader::DataLoader;
/// # use burn::train::{ClassificationOutput, InferenceStep};
/// # use burn_rehearsal_collective::Rank;
/// # use burn_rehearsal_train::evaluate::evaluate;
/// # use std::error::Error;
/// # fn accuracy<M, B>(model: &M, part: &dyn DataLoader<B>, rank: &Rank)
/// #     -> Result<f64, Box<dyn Error>>
/// # where M: InferenceStep<Input = B, Output = ClassificationOutput>, B: Send + 'static {
/// let mut collective = rank.collective()?;
/// let accuracy = evaluate(model, part, collective.as_mut())?.top1_accuracy();
/// # Ok(accuracy) }
/// ```
///
/// # Errors
///
/// [`EvaluateError`] on every rank, after all ranks have finished their parts: a loader failed,
/// targets do not fit the scores, or a rank failed or left.
pub fn evaluate<M, I>(
    model: &M,
    loader: &dyn DataLoader<I>,
    collective: &mut dyn Collective,
) -> Result<Evaluation, EvaluateError>
where
    M: InferenceStep<Input = I, Output = ClassificationOutput>,
    I: Send + 'static,
{
    evaluate_among(model, loader, None, collective)
}

/// Like [`evaluate`], for a test set of one task with the given classes. Also counts the rows that
/// are correct among these classes ([`Evaluation::task_il`]), in the same pass over the data.
///
/// All ranks pass the same classes, in any order. Classes that the model does not have are ignored.
/// A row whose own class is not in `classes` is never correct among them.
///
/// ```
/// # use burn::data::dataloader::DataLoader;
/// # use burn::train::{ClassificationOutput, InferenceStep};
/// # use burn_rehearsal_collective::Rank;
/// # use burn_rehearsal_train::evaluate::evaluate_task;
/// # use burn_rehearsal_train::stream::TaskStream;
/// # use std::error::Error;
/// # fn print<M, B>(model: &M, part: &dyn DataLoader<B>, stream: &dyn TaskStream, rank: &Rank)
/// #     -> Result<(), Box<dyn Error>>
/// # where M: InferenceStep<Input = B, Output = ClassificationOutput>, B: Send + 'static {
/// let mut collective = rank.collective()?;
/// let evaluation = evaluate_task(model, part, stream.classes(0), collective.as_mut())?;
/// println!("class-IL {:.3}", evaluation.top1_accuracy());
/// println!("task-IL {:.3}", evaluation.task_il_accuracy());
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// Those of [`evaluate`].
pub fn evaluate_task<M, I>(
    model: &M,
    loader: &dyn DataLoader<I>,
    classes: &[usize],
    collective: &mut dyn Collective,
) -> Result<Evaluation, EvaluateError>
where
    M: InferenceStep<Input = I, Output = ClassificationOutput>,
    I: Send + 'static,
{
    evaluate_among(model, loader, Some(classes), collective)
}

fn evaluate_among<M, I>(
    model: &M,
    loader: &dyn DataLoader<I>,
    task: Option<&[usize]>,
    collective: &mut dyn Collective,
) -> Result<Evaluation, EvaluateError>
where
    M: InferenceStep<Input = I, Output = ClassificationOutput>,
    I: Send + 'static,
{
    let own = count(model, loader, task);
    let part = own.as_ref().copied().unwrap_or_default();
    let words = [u64::from(own.is_err()), part.rows, part.top1, part.top5, part.task_il];
    let parts = collective.gather_words(words)?;
    // The error of this rank is more specific than the number of a failed rank.
    own?;
    if let Some(rank) = parts.iter().position(|[failed, ..]| *failed != 0) {
        return Err(EvaluateError::Rank(rank));
    }
    Ok(parts.iter().fold(Evaluation::default(), |sum, [_, rows, top1, top5, task_il]| Evaluation {
        rows: sum.rows + rows,
        top1: sum.top1 + top1,
        top5: sum.top5 + top5,
        task_il: sum.task_il + task_il,
    }))
}

fn count<M, I>(
    model: &M,
    loader: &dyn DataLoader<I>,
    task: Option<&[usize]>,
) -> Result<Evaluation, EvaluateError>
where
    M: InferenceStep<Input = I, Output = ClassificationOutput>,
    I: Send + 'static,
{
    let mut evaluation = Evaluation::default();
    for item in loader.iter() {
        let item = item.map_err(|error| EvaluateError::Loader(error.to_string()))?;
        let output = model.step(item);
        let [predictions, classes] = output.output.dims();
        let scores: Vec<f32> = values(output.output.try_into_data(), DType::F32)?;
        let targets: Vec<i64> = values(output.targets.try_into_data(), DType::I64)?;
        if targets.len() != predictions {
            return Err(EvaluateError::Rows { predictions, targets: targets.len() });
        }
        for (row, class) in targets.into_iter().enumerate() {
            let index = usize::try_from(class)
                .ok()
                .filter(|index| *index < classes)
                .ok_or(EvaluateError::Class { class, classes })?;
            evaluation.add_row(&scores[row * classes..][..classes], index, task);
        }
    }
    Ok(evaluation)
}

fn values<T: Element>(
    data: Result<TensorData, impl Debug>,
    dtype: DType,
) -> Result<Vec<T>, EvaluateError> {
    let data = data.map_err(|error| EvaluateError::Output(format!("{error:?}")))?;
    let values = data.convert_dtype(dtype).try_into_vec();
    values.map_err(|error| EvaluateError::Output(format!("{error:?}")))
}

fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_class_and_nan_is_never_correct() {
        let mut evaluation = Evaluation::default();
        evaluation.add_row(&[1.0, 1.0, 0.0], 0, None);
        assert_eq!((evaluation.rows, evaluation.top1), (1, 1));
        evaluation.add_row(&[1.0, 1.0, 0.0], 1, None);
        assert_eq!((evaluation.rows, evaluation.top1, evaluation.top5), (2, 1, 2));
        evaluation.add_row(&[f32::NAN, 1.0, 0.0], 0, None);
        assert_eq!((evaluation.rows, evaluation.top1, evaluation.top5), (3, 1, 2));
        evaluation.add_row(&[f32::NAN, 1.0, 0.0], 1, None);
        assert_eq!((evaluation.rows, evaluation.top1, evaluation.top5), (4, 2, 3));
    }

    #[test]
    fn top_five_of_six_classes_excludes_the_lowest() {
        let mut evaluation = Evaluation::default();
        for class in 0..6 {
            evaluation.add_row(&[5.0, 4.0, 3.0, 2.0, 1.0, 0.0], class, None);
        }
        assert_eq!(evaluation, Evaluation { rows: 6, top1: 1, top5: 5, task_il: 1 });
        assert_eq!(
            (evaluation.top1_accuracy(), evaluation.top5_accuracy()),
            (1.0 / 6.0, 5.0 / 6.0)
        );
        assert_eq!(Evaluation::default().top1_accuracy(), 0.0);
    }

    /// Whether a row is correct among the classes of its task.
    fn is_correct(scores: &[f32], class: usize, task: &[usize]) -> bool {
        let mut evaluation = Evaluation::default();
        evaluation.add_row(scores, class, Some(task));
        evaluation.task_il == 1
    }

    #[test]
    fn scores_of_other_tasks_do_not_count_in_task_il() {
        let scores = [0.0, 9.0, 2.0, 3.0, 8.0];
        assert!(is_correct(&scores, 3, &[3, 2, 0]));
        assert!(!is_correct(&scores, 2, &[3, 2, 0]));
        let mut evaluation = Evaluation::default();
        evaluation.add_row(&scores, 3, Some(&[2, 3]));
        evaluation.add_row(&scores, 1, Some(&[0, 1]));
        evaluation.add_row(&scores, 2, Some(&[2, 3]));
        assert_eq!(evaluation, Evaluation { rows: 3, top1: 1, top5: 3, task_il: 2 });
        assert_eq!(evaluation.task_il_accuracy(), 2.0 / 3.0);
    }

    #[test]
    fn ties_and_nan_within_a_task_count_as_among_all_classes() {
        let scores = [f32::NAN, 1.0, 1.0, 0.0];
        for task in [[1, 2], [2, 1]] {
            assert!(is_correct(&scores, 1, &task) && !is_correct(&scores, 2, &task));
        }
        assert!(!is_correct(&scores, 0, &[0]) && is_correct(&scores, 3, &[0, 3]));
        assert!(is_correct(&scores, 2, &[2, 3]), "the tie with class 1 is outside the task");
    }

    #[test]
    fn a_class_that_is_missing_in_its_task_or_in_the_model() {
        assert!(!is_correct(&[1.0, 0.0], 0, &[1]));
        assert!(!is_correct(&[1.0, 0.0], 0, &[]));
        assert!(is_correct(&[1.0, 0.0], 0, &[0, 7]));
    }

    #[test]
    fn task_il_is_top_1_with_all_classes() {
        for class in 0..3 {
            for task in [None, Some([2, 0, 1].as_slice())] {
                let mut evaluation = Evaluation::default();
                evaluation.add_row(&[0.5, 2.0, 2.0], class, task);
                assert_eq!(evaluation.task_il, evaluation.top1, "{class}, {task:?}");
            }
        }
    }
}
