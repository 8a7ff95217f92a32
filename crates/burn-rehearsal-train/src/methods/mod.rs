//! How a network is trained from task to task.
//!
//! A [`Method`] says which data a network trains on and with which loss; [`MethodModel`] puts it
//! around the network. To add a method, write its file and name it in the list of this module.
//!
//! ```
//! use burn_rehearsal_train::methods;
//!
//! assert!(methods::by_name("rehearsal")?.rehearses());
//! for method in methods::ALL {
//!     println!("{}: {}", method.name(), method.summary());
//! }
//! # Ok::<(), burn_rehearsal::error::ConfigError>(())
//! ```

mod model;

pub use model::{Classifier, LabelledBatch, MethodModel};

use crate::named;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{Int, Tensor};
use burn_rehearsal::error::ConfigError;
use serde::{Serialize, Serializer};
use std::fmt;

/// Declares the modules of the built-in methods and lists them.
macro_rules! methods {
    ($($module:ident::$method:ident),* $(,)?) => {
        $(mod $module; pub use $module::$method;)*

        /// The built-in methods.
        pub static ALL: &[MethodRef] = &[$(&$method),*];
    };
}

methods! {
    incremental::Incremental,
    rehearsal::Rehearsal,
    scratch::Scratch,
    er_ace::ErAce,
}

/// How a network is trained from task to task. The methods of this module need no state; your own
/// may have options.
///
/// ```
/// use burn::tensor::{Int, Tensor};
/// use burn_rehearsal_train::methods::{Method, cross_entropy};
///
/// /// Rehearsal with a penalty on large scores.
/// #[derive(Debug)]
/// struct Cautious {
///     weight: f32,
/// }
///
/// impl Method for Cautious {
///     fn name(&self) -> &'static str {
///         "cautious"
///     }
///
///     fn parameters(&self) -> String {
///         format!("weight={}", self.weight)
///     }
///
///     fn summary(&self) -> &'static str {
///         "rehearsal with a penalty on large scores"
///     }
///
///     fn rehearses(&self) -> bool {
///         true
///     }
///
///     fn loss(&self, logits: Tensor<2>, targets: Tensor<1, Int>, _representatives: usize) -> Tensor<1> {
///         let penalty = logits.clone().square().mean() * self.weight;
///         cross_entropy(logits, targets) + penalty
///     }
/// }
/// ```
pub trait Method: fmt::Debug + Send + Sync {
    /// The name in configurations and reports, in kebab case.
    fn name(&self) -> &'static str;

    /// The options of the method as text, for example `"weight=0.1"`. All ranks must have the same,
    /// and a run resumes only with those that it began with. Default: no options.
    fn parameters(&self) -> String {
        String::new()
    }

    /// What the method does, in a line.
    fn summary(&self) -> &'static str;

    /// Whether mini-batches are augmented with representatives. Default: no.
    fn rehearses(&self) -> bool {
        false
    }

    /// Whether every task starts with a new network and trains on the data of all tasks so far.
    /// Default: no.
    fn restarts(&self) -> bool {
        false
    }

    /// The loss of a mini-batch, shape `[1]`. Default: [`cross_entropy`].
    ///
    /// `logits` are the network's scores, `[rows, classes]`; `targets` the classes, `[rows]`. The
    /// last `representatives` rows come from the buffer. The loss must be a mean over rows: ranks
    /// are weighted by their rows.
    fn loss(
        &self,
        logits: Tensor<2>,
        targets: Tensor<1, Int>,
        representatives: usize,
    ) -> Tensor<1> {
        let _ = representatives;
        cross_entropy(logits, targets)
    }
}

impl dyn Method {
    /// The name, with the options in parentheses if there are any.
    pub(crate) fn full_name(&self) -> String {
        let parameters = self.parameters();
        if parameters.is_empty() {
            self.name().to_owned()
        } else {
            format!("{}({parameters})", self.name())
        }
    }
}

/// Methods are equal if they have the same name and options.
impl PartialEq for dyn Method {
    fn eq(&self, other: &Self) -> bool {
        self.full_name() == other.full_name()
    }
}

/// The name.
impl fmt::Display for dyn Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// As its name.
impl Serialize for dyn Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A method that a network can hold.
pub type MethodRef = &'static dyn Method;

/// The built-in method of this name.
///
/// # Errors
///
/// [`ConfigError::UnknownName`], which lists the names.
pub fn by_name(name: &str) -> Result<MethodRef, ConfigError> {
    named::by_name("method", name, ALL, |method| method.name())
}

/// The mean over rows of the cross entropy between the softmax of `logits`, `[rows, classes]`, and
/// `targets`, `[rows]`.
pub fn cross_entropy(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_name() {
        for method in ALL {
            assert_eq!(by_name(method.name()).unwrap().name(), method.name());
        }
        let error = by_name("Scratch").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no method `Scratch`; expected one of incremental, rehearsal, scratch, er-ace"
        );
    }
}
