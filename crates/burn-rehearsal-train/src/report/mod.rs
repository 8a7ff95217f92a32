//! Reports of runs: configuration, accuracies, times and the buffer, as versioned JSON.
//!
//! An [`Experiment`](crate::experiment::Experiment) returns a [`RunReport`], and
//! [`RunReport::write`] saves it as `report.json`. [`schema`] describes every field of the file.
//! `burn-rehearsal-report` makes tables, figures and a web page from reports.
//!
//! ```
//! use burn_rehearsal_train::report::{RunReport, schema::EXAMPLE};
//!
//! let report: RunReport = serde_json::from_str(EXAMPLE)?;
//! # let directory = tempfile::tempdir()?;
//! report.write(directory.path())?;
//! let report = RunReport::read(directory.path())?;
//! println!("{}: average accuracy {:?}", report.method, report.summary.average_top1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Reading a report
//!
//! * **Does the network remember?** [`Summary`](schema::Summary) has the average accuracy after the
//!   last task, and the forgetting of earlier tasks. Compare them with a run of
//!   [`Incremental`](crate::methods::Incremental), the lower bound, and of
//!   [`Scratch`](crate::methods::Scratch), the upper bound. [`metrics`](crate::metrics) defines all
//!   figures.
//! * **Which tasks are forgotten?** Read [`Accuracy::top1`](schema::Accuracy::top1) column by
//!   column: the entries of column j, from row j down, are the accuracy on task j after each later
//!   task.
//! * **Does training converge?** [`RunReport::curves`] has the loss after every epoch, and the
//!   accuracies if they were measured
//!   ([`evaluate_every`](crate::experiment::Settings::evaluate_every)).
//! * **What does rehearsal cost?** [`Time::phases_ms`](schema::Time::phases_ms) has the mean time
//!   of each phase of a step. `wait` and `assemble` are the cost of rehearsal in a step, apart from
//!   the additional rows. `insert`, `plan`, `exchange` and `deliver` run in the background. On a
//!   GPU, only `load`, `wait` and the background phases are measured, unless the run was profiled
//!   ([`phases_exact`](schema::Time::phases_exact)).
//! * **What does the buffer hold?** [`BufferReport`](schema::BufferReport) has the number of stored
//!   samples of each class. Two runs with equal digests stored and replayed the same samples, bit
//!   for bit.
//! * **Is the run complete?** If [`complete`](RunReport::complete) is false, the run was stopped,
//!   and its figures are those of the tasks that it finished.

mod error;
mod files;
pub mod schema;

pub use error::ReportError;
pub use files::write_atomically;
pub use schema::RunReport;
