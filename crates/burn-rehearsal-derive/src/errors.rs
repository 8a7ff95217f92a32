//! Collects mistakes, so that one compilation reports all of them.

use syn::Error;

/// The mistakes found so far, each at its own place in the source.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    /// Adds a mistake.
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    /// Whether there is none so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Gives `value` back if there was no mistake.
    ///
    /// # Errors
    ///
    /// All mistakes, combined.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Error> {
        self.0.map_or(Ok(value), Err)
    }
}
