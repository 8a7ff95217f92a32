//! Tables, figures and pages from the reports of continual-learning runs.
//!
//! A run of [`burn_rehearsal_train::experiment`] ends with a [`RunReport`], which is stored as
//! `report.json`. This crate puts runs side by side, to compare methods of continual learning, for
//! example incremental training with rehearsal (experience replay). It needs neither a GPU nor the
//! data.
//!
//! ```
//! use burn_rehearsal_report::{Comparison, ConfigFields};
//! use burn_rehearsal_train::report::{RunReport, schema::EXAMPLE};
//! # let directory = tempfile::tempdir()?;
//! # let [run, page] = ["report.json", "report.html"].map(|name| directory.path().join(name));
//! # std::fs::write(&run, EXAMPLE)?;
//!
//! let reports = vec![RunReport::read(&run)?];
//! let comparison = Comparison::new(&reports, ConfigFields::default());
//! println!("{}", comparison.table());
//! std::fs::write(page, comparison.html())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Outputs
//!
//! | method | output |
//! |---|---|
//! | [`Comparison::table`] | a line for each run, as plain text |
//! | [`Comparison::merged_table`] | a line for each group, as plain text |
//! | [`Comparison::html`] | one page with all figures and tables |
//! | [`Comparison::accuracy_svg`] | accuracy after each task, and accuracy matrices |
//! | [`Comparison::epochs_svg`] | accuracy after each epoch in which it was measured |
//! | [`Comparison::loss_svg`] | training loss of each epoch |
//! | [`Comparison::phases_svg`] | time of a training step by phase |
//! | [`Comparison::summary_csv`] | a line for each group, for other tools |
//! | [`Comparison::curves_csv`] | a line for each epoch, for other tools |
//!
//! A [`CurvesLog`] writes the lines of [`curves_csv`](Comparison::curves_csv) while a run trains.
//!
//! Each output is one text that needs no other file. Figures and pages follow the light or dark
//! color scheme of the viewer, and figures have a title and a description for screen readers.
//!
//! # Groups and seeds
//!
//! Runs that differ only in their seed are one [`Group`]. Its figures are the mean over the seeds,
//! and mean ± sample standard deviation in tables. If a method ran with several configurations, a
//! group is named after the options that distinguish it, such as `rehearsal policy=fifo`.
//! [`ConfigFields`] describes the options of the program that made the runs.
//!
//! # Reading the report
//!
//! **Methods.** The table has these columns. The equations are in
//! [`burn_rehearsal_train::metrics`].
//!
//! | column | meaning | better |
//! |---|---|---|
//! | class-IL | average top-1 accuracy over the tasks learned, after the last of them | higher |
//! | task-IL | the same among the classes of the task that a sample belongs to | higher |
//! | top-5 | as class-IL, if the right class is among the five most likely | higher |
//! | forgetting | mean drop of the earlier tasks from their best accuracy | lower |
//! | backward transfer | mean change of the earlier tasks since they were learned | higher |
//! | forward transfer | mean accuracy on new tasks, minus that of the untrained network | higher |
//! | total | wall-clock time of the run with evaluations, in seconds | lower |
//! | training | wall-clock time of training alone, in seconds | lower |
//! | × incremental | training time divided by that of incremental training | lower |
//! | images/s | incoming training samples of all ranks per second of training | higher |
//!
//! The CSV file names class-IL `average_top1` and task-IL `average_task_il`. Both are equal if
//! every task has all classes, as in instance-incremental streams.
//!
//! Incremental training is usually the lower bound of accuracy, and training from scratch on all
//! data so far the upper bound. A good buffer comes close to the upper bound at little more than
//! the time of the lower bound.
//!
//! **Accuracy.** The curves show the average accuracy over the tasks learned so far. The heat maps
//! show the accuracy matrix of each method: row i is the state after task i, and column j is the
//! test set of task j. The last row is the final accuracy on each task. A column that fades from
//! top to bottom is a task that is forgotten. Cells above the diagonal are tasks that are not
//! learned yet.
//!
//! **Accuracy within tasks** shows how fast a task is forgotten once the next one begins. It needs
//! a run that evaluates within tasks
//! ([`evaluate_every`](burn_rehearsal_train::experiment::Settings::evaluate_every)).
//!
//! **Training loss** is the mean of each epoch over incoming rows and representatives. A gap is an
//! epoch whose loss was not finite.
//!
//! **Time of a step.** A wide bar is the training thread: `load` waits for the incoming mini-batch,
//! `wait` waits for the representatives, and `assemble` appends them. A narrow bar is the engine
//! thread of the buffer, which works at the same time: `insert`, `plan`, `exchange`, `deliver`. The
//! buffer costs no time if `wait` and `assemble` are short compared with the step. Times of a GPU
//! are only exact if the device was synchronized between phases
//! ([`profile`](burn_rehearsal_train::experiment::Settings::profile)).
//!
//! **Buffer** and **samples in the buffer** show how many samples are stored, how evenly they are
//! distributed over classes, and, if the samples are images, some of them. Pictures are made by
//! [`Workload::pictures`](burn_rehearsal_train::experiment::Workload::pictures) at the end of a run
//! and stored next to its report.
//!
//! **Configuration** lists all options. Options that the user changed are marked.
#![warn(missing_docs)]

mod accuracy;
mod canvas;
mod comparison;
mod csv;
mod curves_log;
mod epochs;
#[cfg(test)]
mod fixtures;
mod html;
mod phases;
mod pictures;
mod table;

pub use comparison::{Comparison, ConfigFields, Group};
pub use curves_log::CurvesLog;

#[cfg(doc)]
use burn_rehearsal_train::report::RunReport;
