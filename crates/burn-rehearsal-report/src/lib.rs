//! Tables, figures and pages made of [`RunReport`]s.
//!
//! * [`groups`]: runs that differ in nothing but the seed belong together; everything below shows groups as mean ± standard deviation.
//! * [`comparison_table`] and [`merged_table`]: plain text for a terminal.
//! * [`html()`]: everything in one page for a browser; [`curves_csv`] (which grows with a run in a [`CurvesLog`]) and [`summary_csv`] for other tools.
//! * [`accuracy_svg`], [`epochs_svg`], [`loss_svg`] and [`phases_svg`]: figures as SVG text.
#![warn(missing_docs)]

mod csv;
mod curves_log;
mod error;
mod html;
mod layout;
mod merge;
mod plot_accuracy;
mod plot_epochs;
mod plot_phases;
mod table;

pub use csv::{curves_csv, summary_csv};
pub use curves_log::CurvesLog;
pub use error::FigureError;
pub use html::html;
pub use merge::{Group, groups};
pub use plot_accuracy::accuracy_svg;
pub use plot_epochs::{epochs_svg, loss_svg};
pub use plot_phases::phases_svg;
pub use table::{comparison_table, merged_table};

#[cfg(doc)]
use burn_rehearsal_train::report::RunReport;

#[cfg(test)]
mod fixtures;
