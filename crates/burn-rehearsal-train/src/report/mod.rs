//! The [`RunReport`] of a run, as versioned JSON. The format is described in [`schema`].

mod error;
mod files;
pub mod schema;

pub use error::ReportError;
pub use files::write_atomically;
pub use schema::RunReport;
