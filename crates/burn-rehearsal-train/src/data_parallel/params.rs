//! The parameters of a model as a list in visit order.
//!
//! The order is the same on all ranks. Ids are not, since Burn draws them at random.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Bool, DType, Int, Tensor};
use burn_rehearsal_collective::{Collective, CollectiveExt};

use super::agree::share_reason;
use super::error::DataParallelError;
use crate::epoch::Epoch;

/// Burn's name of the type of a batch norm, as container of parameters.
const BATCH_NORM: &str = "Struct:BatchNorm";

/// The role of a parameter in data-parallel training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Has a gradient and is changed by the optimizer.
    Trained,
    /// The running mean or variance of a batch norm, changed by every forward pass, or a snapshot
    /// of a method.
    RunningStatistic,
    /// Anything else: frozen, an index, a mask.
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct ParamInfo {
    pub(crate) path: String,
    pub(crate) role: Role,
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: DType,
}

/// The position of a visitor or mapper in the tree of modules.
#[derive(Debug, Default)]
pub(crate) struct ModulePath {
    path: Vec<(String, String)>,
}

impl ModulePath {
    /// The name of the current field and the type of its container.
    pub(crate) fn last(&self) -> Option<(&str, &str)> {
        self.path.last().map(|(name, container)| (name.as_str(), container.as_str()))
    }

    /// The path of the module that holds the current field.
    pub(crate) fn module(&self) -> String {
        let path = self.path();
        path.rsplit_once('.').map_or_else(String::new, |(module, _)| module.to_owned())
    }

    pub(crate) fn enter(&mut self, name: &str, container_type: &str) {
        self.path.push((name.to_owned(), container_type.to_owned()));
    }

    pub(crate) fn exit(&mut self) {
        self.path.pop();
    }

    pub(crate) fn path(&self) -> String {
        self.path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
    }

    /// Whether the current field is a parameter or a statistic of a batch norm.
    pub(crate) fn in_batch_norm(&self) -> bool {
        self.last().is_some_and(|(_, container)| container == BATCH_NORM)
    }

    /// Whether the current field belongs to the snapshots of a method. They stay in `f32`.
    pub(crate) fn in_snapshots(&self) -> bool {
        self.path.iter().any(|(_, container)| container == "Struct:Snapshots")
    }

    /// The role of the current float parameter.
    ///
    /// Burn visits the running state of a module as a float parameter without a gradient. Only the
    /// name of the field in the batch norm distinguishes it from a frozen weight.
    pub(crate) fn role<const D: usize>(&self, param: &Param<Tensor<D>>) -> Role {
        if param.is_require_grad() {
            return Role::Trained;
        }
        match self.last() {
            Some((name, container)) if container == BATCH_NORM && name.starts_with("running_") => {
                Role::RunningStatistic
            }
            _ if self.in_snapshots() => Role::RunningStatistic,
            _ => Role::Other,
        }
    }
}

/// The methods of a visitor or mapper that keep its field `path` up to date.
macro_rules! track_path {
    () => {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.exit();
        }
    };
}
pub(crate) use track_path;

/// Calls `each` on every float parameter in visit order, with its role and a function that returns
/// its values in row-major order.
pub(crate) fn visit_floats<M, F>(model: &M, each: F)
where
    M: Module,
    F: FnMut(&ModulePath, Role, &dyn Fn() -> Tensor<1>),
{
    model.visit(&mut Floats { path: ModulePath::default(), each });
}

struct Floats<F> {
    path: ModulePath,
    each: F,
}

impl<F: FnMut(&ModulePath, Role, &dyn Fn() -> Tensor<1>)> ModuleVisitor for Floats<F> {
    track_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = || param.val().flatten(0, -1);
        (self.each)(&self.path, self.path.role(param), &values);
    }
}

/// The parameters of a model in visit order.
pub(crate) fn list<M: Module>(model: &M) -> Vec<ParamInfo> {
    let mut list = List::default();
    model.visit(&mut list);
    list.params
}

#[derive(Default)]
struct List {
    path: ModulePath,
    params: Vec<ParamInfo>,
}

impl List {
    fn push(&mut self, role: Role, shape: &[usize], dtype: DType) {
        self.params.push(ParamInfo { path: self.path.path(), role, shape: shape.to_vec(), dtype });
    }
}

impl ModuleVisitor for List {
    track_path!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        self.push(self.path.role(param), tensor.shape().as_slice(), tensor.dtype());
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let tensor = param.val();
        self.push(Role::Other, tensor.shape().as_slice(), tensor.dtype());
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        let tensor = param.val();
        self.push(Role::Other, tensor.shape().as_slice(), tensor.dtype());
    }
}

/// Checks that all ranks have the parameters of rank 0: the same paths, roles, shapes and types, in
/// the same order. Collective.
pub(crate) fn check_equal_structure(
    params: &[ParamInfo],
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let own: Vec<String> = params
        .iter()
        .map(|p| format!("{} ({:?}, {:?}, {:?})", p.path, p.role, p.dtype, p.shape))
        .collect();
    let first = collective.broadcast_bytes(own.join("\n").into_bytes(), 0)?;
    let first = String::from_utf8_lossy(&first).into_owned();
    let difference = match own
        .iter()
        .map(String::as_str)
        .zip(first.lines())
        .find(|(ours, theirs)| ours != theirs)
    {
        Some((ours, theirs)) => Some(format!("it has {ours} where rank 0 has {theirs}")),
        None if own.len() != first.lines().count() => {
            Some(format!("it has {} parameters, rank 0 has {}", own.len(), first.lines().count()))
        }
        None => None,
    };
    match collective.first_true(difference.is_some())? {
        Some(rank) => {
            let detail = share_reason(collective, rank, difference.as_deref().unwrap_or_default())?;
            Err(DataParallelError::DifferentModels { rank, detail })
        }
        None => Ok(()),
    }
}

/// Compares the parameters that must be equal on all ranks, bit for bit. Collective.
///
/// These are the trained parameters and, if they were averaged, the running statistics. Other
/// parameters never change and are not compared.
pub(crate) fn check_equal_values<M: Module>(
    model: &M,
    statistics: bool,
    epoch: Epoch,
    collective: &mut dyn Collective,
) -> Result<(), DataParallelError> {
    let (mut paths, mut own) = (Vec::new(), Vec::new());
    visit_floats(model, |path, role, values| {
        if role == Role::Trained || (statistics && role == Role::RunningStatistic) {
            paths.push(path.path());
            own.extend_from_slice(blake3::hash(values().into_data().as_bytes()).as_bytes());
        }
    });
    if own.is_empty() {
        return Ok(());
    }
    let mut all = vec![0; own.len() * collective.size()];
    collective.all_gather(&own, &mut all)?;
    let mut ranks = all.chunks_exact(own.len());
    let Some(first) = ranks.next() else { return Ok(()) };
    for (rank, other) in ranks.enumerate() {
        if let Some(index) = first
            .chunks_exact(blake3::OUT_LEN)
            .zip(other.chunks_exact(blake3::OUT_LEN))
            .position(|(a, b)| a != b)
        {
            let parameter = paths.swap_remove(index);
            return Err(DataParallelError::ParametersDiffer { rank: rank + 1, parameter, epoch });
        }
    }
    Ok(())
}
