//! Methods: how a network is trained from task to task.
//!
//! | method | data of a task | loss | use |
//! |---|---|---|---|
//! | [`Incremental`] | the task | cross entropy | lower bound |
//! | [`Rehearsal`] | the task and representatives | cross entropy | experience replay (ER) |
//! | [`ErAce`] | the task and representatives | asymmetric cross entropy | ER-ACE |
//! | [`Scratch`] | all tasks so far, with a new network | cross entropy | upper bound |
//!
//! A [`Method`] chooses the data and the loss. [`MethodModel`] combines it with a network, for
//! Burn's learner or for [`DataParallel`](crate::data_parallel::DataParallel). An
//! [`Experiment`](crate::experiment::Experiment) also restarts the network and creates the buffer
//! as the method requires.
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
//!
//! # Your own method
//!
//! Implement [`Method`], and pass a reference to it to [`MethodModel`] or
//! [`Experiment`](crate::experiment::Experiment). A reference must be `'static`. For a method with
//! options that are known only at run time, use `Box::leak`.
//!
//! ```
//! use burn::tensor::{Int, Tensor};
//! use burn_rehearsal_train::methods::{Method, MethodRef, cross_entropy};
//!
//! /// Rehearsal with a penalty on large scores.
//! #[derive(Debug)]
//! struct Cautious {
//!     weight: f32,
//! }
//!
//! impl Method for Cautious {
//!     fn name(&self) -> &'static str {
//!         "cautious"
//!     }
//!
//!     fn parameters(&self) -> String {
//!         format!("weight={}", self.weight)
//!     }
//!
//!     fn summary(&self) -> &'static str {
//!         "Rehearsal with a penalty on large scores"
//!     }
//!
//!     fn rehearses(&self) -> bool {
//!         true
//!     }
//!
//!     fn loss(&self, logits: Tensor<2>, targets: Tensor<1, Int>, _: usize) -> Tensor<1> {
//!         let penalty = logits.clone().square().mean() * self.weight;
//!         cross_entropy(logits, targets) + penalty
//!     }
//! }
//!
//! let method: MethodRef = Box::leak(Box::new(Cautious { weight: 0.1 }));
//! ```
//!
//! To add a method to this crate, write it in a file of this module and add a line to its list.
//! [`ALL`] and [`by_name`] then include the method, and so do programs that use them.

mod model;

pub use model::{Classifier, LabeledBatch, MethodModel};

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

/// A way of training a network from task to task. See the [module](self) for an example.
pub trait Method: fmt::Debug + Send + Sync {
    /// The name in configurations and reports, in kebab case.
    fn name(&self) -> &'static str;

    /// The options of the method as text, for example `"weight=0.1"`. All ranks must have the same
    /// options, and a run resumes only with those of its start. Default: no options.
    fn parameters(&self) -> String {
        String::new()
    }

    /// A summary in one line, without a period at its end.
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
    /// `logits` are the scores of the network, `[rows, classes]`, and `targets` are the classes,
    /// `[rows]`. The last `representatives` rows come from the buffer. The loss must be a mean over
    /// rows, since ranks are weighted by their rows.
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
    /// The name, followed by the options in parentheses if there are any.
    pub(crate) fn full_name(&self) -> String {
        let parameters = self.parameters();
        if parameters.is_empty() {
            self.name().to_owned()
        } else {
            format!("{}({parameters})", self.name())
        }
    }
}

/// Methods are equal if they have the same name and the same options.
impl PartialEq for dyn Method {
    fn eq(&self, other: &Self) -> bool {
        self.full_name() == other.full_name()
    }
}

/// Writes the name.
impl fmt::Display for dyn Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Serializes the name.
impl Serialize for dyn Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A reference to a method, as networks and experiments hold it.
pub type MethodRef = &'static dyn Method;

/// Returns the built-in method with this name.
///
/// # Errors
///
/// [`ConfigError::UnknownName`], which lists the names.
pub fn by_name(name: &str) -> Result<MethodRef, ConfigError> {
    named::by_name("method", name, ALL, |method| method.name())
}

/// The cross entropy between the softmax of `logits`, `[rows, classes]`, and the classes `targets`,
/// `[rows]`: the mean over rows, shape `[1]`.
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
