//! What can go wrong with a figure.

/// Why a figure cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FigureError {
    /// A figure of no runs was asked for.
    #[error("there is no report to draw the figure {figure} of")]
    NoReports {
        /// Name of the figure.
        figure: &'static str,
    },

    /// The drawing library failed.
    #[error("cannot draw the figure {figure}: {reason}")]
    Draw {
        /// Name of the figure.
        figure: &'static str,
        /// What the library said.
        reason: String,
    },
}
