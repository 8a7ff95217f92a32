//! Tables, figures and pages made of [`RunReport`]s.
//!
//! A [`Comparison`] puts runs side by side. Runs that differ only in their seed belong to one
//! [`Group`] and are shown as mean ± standard deviation.
//!
//! * [`Comparison::table`], [`Comparison::merged_table`]: plain text for a terminal.
//! * [`Comparison::html`]: everything in one page for a browser.
//! * [`Comparison::curves_csv`], [`Comparison::summary_csv`]: comma-separated values for other
//!   tools. A [`CurvesLog`] grows with a run.
//! * [`Comparison::accuracy_svg`], [`Comparison::epochs_svg`], [`Comparison::loss_svg`],
//!   [`Comparison::phases_svg`]: figures as SVG text.
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
