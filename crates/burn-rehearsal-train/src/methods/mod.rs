//! Methods: how a network is trained from task to task.
//!
//! | method | data of a task | loss, and what the method keeps | source |
//! |---|---|---|---|
//! | [`Incremental`] | the task | cross entropy | lower bound |
//! | [`Rehearsal`] | the task and representatives | cross entropy | experience replay (ER) |
//! | [`ErAce`] | as ER | asymmetric cross entropy | Caccia et al. 2022 |
//! | [`Der`] | as ER | distance to stored logits | Buzzega et al. 2020 |
//! | [`DerPlusPlus`] | the task and two draws | distance to stored logits, cross entropy | Buzzega et al. 2020 |
//! | [`ClsEr`] | as ER | distance to two averaged networks | Arani et al. 2022 |
//! | [`AGem`] | as ER, stored after each task | gradient projection | Chaudhry et al. 2019 |
//! | [`GDumb`] | the buffer only, with a new network | cross entropy | Prabhu et al. 2020 |
//! | [`Lwf`] | the task | distillation from the network of the last task | Li and Hoiem 2016 |
//! | [`OnlineEwc`] | the task | penalty on changes of important parameters | Schwarz et al. 2018 |
//! | [`Scratch`] | all tasks so far, with a new network | cross entropy | upper bound |
//!
//! A [`Method`] says which data it needs and computes the loss of a [`Step`]. [`MethodModel`]
//! combines it with a network, for Burn's learner or for
//! [`DataParallel`](crate::data_parallel::DataParallel). An
//! [`Experiment`](crate::experiment::Experiment) also creates the buffer, restarts the network and
//! calls the method after each task, as the method requires.
//!
//! ```
//! use burn_rehearsal_train::methods;
//!
//! assert!(methods::by_name("derpp")?.rehearses());
//! let method = methods::with_options("derpp", &[("alpha", 0.5)])?;
//! assert_eq!(method.parameters(), "alpha=0.5,beta=1");
//! for method in methods::ALL {
//!     println!("{}: {}", method.name(), method.summary());
//! }
//! # Ok::<(), burn_rehearsal::error::ConfigError>(())
//! ```
//!
//! # Your own method
//!
//! Implement [`Method`], and pass a reference to it to [`MethodModel`] or
//! [`Experiment`](crate::experiment::Experiment):
//!
//! ```
//! # use burn::tensor::Tensor;
//! # use burn_rehearsal_train::methods::{Method, MethodRef, Step};
//!
//! #[derive(Debug)]
//! struct Cautious(f32);
//! # impl Method for Cautious {
//! #     fn name(&self) -> &'static str { "cautious" }
//! #     fn summary(&self) -> &'static str { "Rehearsal with a penalty on large scores" }
//! #     fn rehearses(&self) -> bool { true }
//! #     fn loss(&self, step: &Step<'_>) -> Tensor<1> { loss(self, step) }
//! # }
//!
//! // In `impl Method for Cautious`, next to its name and `rehearses`:
//! fn loss(method: &Cautious, step: &Step<'_>) -> Tensor<1> {
//!     let scores = step.logits(step.all());
//!     let penalty = scores.clone().square().mean() * method.0;
//!     step.cross_entropy(scores, step.all()) + penalty
//! }
//!
//! static METHOD: MethodRef = &Cautious(0.1); // or `Box::leak`, with options of the run
//! ```
//!
//! To add a method to this crate, write it in a file of this module and add a line to its list.
//! [`ALL`] and [`by_name`] then include the method, and so do programs that use them.

mod model;
mod options;
mod parameters;
mod step;
#[cfg(test)]
mod testing;

pub use model::{Classifier, LabeledBatch, MethodModel, TaskInfo};
pub use options::MethodOption;
pub use step::{Step, TaskEnd, Update, cross_entropy};

use crate::experiment::ExperimentError;
use crate::named;
use burn::tensor::Tensor;
use burn_rehearsal::error::ConfigError;
use burn_rehearsal::{DrawConfig, RehearsalConfig, SamplingKind};
use serde::{Serialize, Serializer};
use std::fmt;

/// Declares the modules of the built-in methods and lists them.
macro_rules! methods {
    ($($module:ident::$method:ident),* $(,)?) => {
        $(mod $module; pub use $module::$method;)*

        /// The built-in methods, with their default options.
        pub static ALL: &[MethodRef] = &[$(&$method::DEFAULT),*];
    };
}

methods! {
    incremental::Incremental,
    rehearsal::Rehearsal,
    scratch::Scratch,
    er_ace::ErAce,
    der::Der,
    derpp::DerPlusPlus,
    cls_er::ClsEr,
    agem::AGem,
    gdumb::GDumb,
    lwf::Lwf,
    ewc::OnlineEwc,
}

/// The data that a method trains on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainingData {
    /// The data of the current task, and representatives if the method
    /// [rehearses](Method::rehearses).
    Task,
    /// The data of all tasks so far. Every task starts with a new network.
    AllTasks,
    /// The rows of the buffer, in which the data of the current task is inserted first. Every task
    /// starts with a new network.
    Buffer,
}

/// The time at which a method that rehearses inserts rows into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Insertion {
    /// In every step, the candidates of the mini-batch.
    EveryStep,
    /// After each task: an equal share of the capacity for each task of the stream.
    TaskEnd,
}

/// A way of training a network from task to task. See the [module](self) for an example.
pub trait Method: fmt::Debug + Send + Sync {
    /// The name in configurations and reports, in kebab case.
    fn name(&self) -> &'static str;

    /// Other names that [`by_name`] accepts. Default: none.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// A summary in one line, without a period at its end.
    fn summary(&self) -> &'static str;

    /// The options with their values. Default: no options.
    fn options(&self) -> Vec<MethodOption> {
        Vec::new()
    }

    /// This method with the values of some options replaced.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if there is no such option, or if a value is outside its range.
    fn with_options(&self, values: &[(&str, f64)]) -> Result<Box<dyn Method>, ConfigError> {
        let name = values.first().map_or("", |(name, _)| name);
        Err(options::unknown(name, &self.options()))
    }

    /// The options of the method as text, for example `"alpha=0.1"`. All ranks must have the same
    /// options, and a run resumes only with those of its start.
    fn parameters(&self) -> String {
        let options = self.options();
        let options: Vec<_> = options.iter().map(MethodOption::to_string).collect();
        options.join(",")
    }

    /// The data that the method trains on. Default: the task.
    fn training_data(&self) -> TrainingData {
        TrainingData::Task
    }

    /// Whether the method uses a buffer. Default: no.
    fn rehearses(&self) -> bool {
        false
    }

    /// When rows are inserted into the buffer. Default: in every step.
    fn insertion(&self) -> Insertion {
        Insertion::EveryStep
    }

    /// The number of independent draws per step. Each has the number of representatives that the
    /// buffer is configured with. Default: 1.
    fn draws(&self) -> usize {
        1
    }

    /// Whether the method stores logits with the samples. If so, [`loss`](Self::loss) must call
    /// [`Step::store_logits`]. Default: no.
    fn stores_logits(&self) -> bool {
        false
    }

    /// The number of snapshots: vectors with one value per parameter that the method keeps, for
    /// example the parameters of an earlier network. They are part of checkpoints. Each starts as a
    /// copy of the initial parameters. Default: 0.
    fn snapshots(&self) -> usize {
        0
    }

    /// The snapshot whose network is evaluated and saved. Default: `None`, the trained network.
    fn evaluated_snapshot(&self) -> Option<usize> {
        None
    }

    /// The loss of a mini-batch, shape `[1]`. Default: the mean cross entropy of all rows.
    ///
    /// It should be a sum of means over rows. Ranks are weighted by their rows, so that N ranks
    /// compute the gradients of one rank with all rows if every rank has the same number of
    /// incoming rows and of representatives in each draw.
    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        step.cross_entropy(step.logits(step.all()), step.all())
    }

    /// A loss that an update must not increase, to first order: the gradient of
    /// [`loss`](Self::loss) is projected with
    /// [`project_gradients`](crate::data_parallel::project_gradients). It must be a mean over drawn
    /// rows. Default: `None`, no projection.
    fn reference_loss(&self, _step: &Step<'_>) -> Option<Tensor<1>> {
        None
    }

    /// Changes the snapshots after an update of the parameters. Default: does nothing.
    fn updated(&self, _update: &Update<'_>, _snapshots: &mut [Tensor<1>]) {}

    /// Changes the snapshots after the last update of a task. Collective. Default: does nothing.
    ///
    /// # Errors
    ///
    /// The error of a measurement of [`TaskEnd`]. It ends the run on all ranks.
    fn end_task(&self, _end: &mut TaskEnd<'_>) -> Result<(), ExperimentError> {
        Ok(())
    }
}

impl dyn Method {
    /// The configuration of a buffer for this method: with the draws of the method, each like that
    /// of `config`, with late fields only if the method stores logits, and without candidates if
    /// rows are inserted after each task.
    pub fn configured(&self, config: RehearsalConfig) -> RehearsalConfig {
        let draw = DrawConfig::new(config.representatives).with_sampling(config.sampling);
        let config = config.with_late_fields(self.stores_logits());
        let config = match self.insertion() {
            Insertion::EveryStep => config,
            // Rows of the last task must be drawn from the first step of a task on. Only rules that
            // depend on the task draw pending representatives again. The current task has no rows,
            // so this rule is the uniform one.
            Insertion::TaskEnd if config.sampling == SamplingKind::Uniform => {
                config.with_candidates(0).with_sampling(SamplingKind::ExcludeCurrent)
            }
            Insertion::TaskEnd => config.with_candidates(0),
        };
        match self.draws() {
            1 => config,
            draws => config.with_draws(std::iter::repeat_n(draw, draws)),
        }
    }

    /// Whether every task starts with a new network.
    pub fn restarts(&self) -> bool {
        self.training_data() != TrainingData::Task
    }

    /// The name, followed by the options in parentheses if there are any.
    pub fn full_name(&self) -> String {
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

/// Returns the built-in method with this name or alias, with its default options.
///
/// # Errors
///
/// [`ConfigError::UnknownName`], which lists the names.
pub fn by_name(name: &str) -> Result<MethodRef, ConfigError> {
    match ALL.iter().find(|method| method.aliases().contains(&name)) {
        Some(method) => Ok(*method),
        None => named::by_name("method", name, ALL, |method| method.name()),
    }
}

/// Returns the built-in method with this name and these options. The method is never freed, so call
/// this once per run.
///
/// # Errors
///
/// [`ConfigError`] if there is no such method or option, or if a value is outside its range.
pub fn with_options(name: &str, options: &[(&str, f64)]) -> Result<MethodRef, ConfigError> {
    let method = by_name(name)?;
    if options.is_empty() {
        return Ok(method);
    }
    Ok(Box::leak(method.with_options(options)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn methods_are_found_by_name_and_alias() {
        for method in ALL {
            assert_eq!(by_name(method.name()).unwrap().name(), method.name());
            for alias in method.aliases() {
                assert_eq!(by_name(alias).unwrap().name(), method.name());
            }
        }
        let error = by_name("Scratch").unwrap_err().to_string();
        assert!(
            error.starts_with("there is no method `Scratch`; expected one of incremental,"),
            "{error}"
        );
    }

    #[test]
    fn options_are_replaced_checked_and_part_of_the_identity() {
        let method = with_options("derpp", &[("beta", 0.5)]).unwrap();
        assert_eq!(method.full_name(), "derpp(alpha=0.2,beta=0.5)");
        assert!(method != by_name("derpp").unwrap());
        let error = |options: &[(&str, f64)], name| match with_options(name, options) {
            Err(error) => error.to_string(),
            Ok(method) => format!("{method:?}"),
        };
        assert_eq!(
            error(&[("gamma", 0.5)], "derpp"),
            "there is no option of this method `gamma`; expected one of alpha, beta"
        );
        assert!(error(&[("alpha", 0.5)], "rehearsal").contains("it has no options"));
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(error(&[("alpha", value)], "derpp").contains("alpha"), "{value}");
        }
    }

    #[test]
    fn every_method_states_its_options_in_range() {
        for method in ALL {
            for option in method.options() {
                assert!(option.range.contains(&option.value), "{method}: {option}");
                assert!(!option.help.is_empty() && !option.help.ends_with('.'), "{method}");
            }
        }
    }

    #[test]
    fn every_option_accepts_its_range_and_nothing_else() {
        for method in ALL {
            for MethodOption { name, range, .. } in method.options() {
                for value in [*range.start(), *range.end()] {
                    let method = with_options(method.name(), &[(name, value)]).unwrap();
                    assert!(method.options().iter().any(|option| option.value == value));
                }
                for value in [range.start() - 0.001, range.end() * 1.001, f64::NAN, f64::INFINITY] {
                    let error = with_options(method.name(), &[(name, value)]).unwrap_err();
                    let ConfigError::OutOfRange { what, .. } = error else { panic!("{error}") };
                    assert_eq!(what, name, "{method}");
                }
            }
        }
    }
}
