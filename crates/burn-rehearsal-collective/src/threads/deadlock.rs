//! Ends a deadlock among the gates of a world.

use std::sync::PoisonError;

use super::gate::Gate;
use crate::activity::World;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The gates of all handles of a world.
///
/// A thread locks this list before it locks several gates, and never while it holds a gate.
#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: Mutex<Numbered>,
}

#[derive(Debug, Default)]
struct Numbered {
    list: Vec<(usize, Arc<Gate>)>,
    /// The number of gates that have been added.
    next: usize,
}

impl Gates {
    /// Adds a gate, unless another of its handles has done so, and removes gates without handles.
    pub(super) fn add(&self, gate: &Arc<Gate>) {
        let mut gates = self.lock();
        if gates.list.iter().any(|(_, known)| Arc::ptr_eq(known, gate)) {
            return;
        }
        gates.list.retain(|(_, gate)| !gate.is_abandoned());
        let number = gates.next;
        gates.list.push((number, gate.clone()));
        gates.next += 1;
    }

    /// Lets all gates fail if nothing can proceed. The ranks that wait get the reason.
    pub(super) fn end_deadlock(&self, world: &World) {
        let gates = self.lock();
        // With all gates locked, no rank enters or leaves an operation.
        let mut states: Vec<_> =
            gates.list.iter().map(|(number, gate)| (number, gate, gate.lock())).collect();
        if world.movable() > 0 {
            return;
        }
        let mut waiting: Vec<_> = states
            .iter()
            .flat_map(|(number, _, state)| state.waiting(&number.to_string()))
            .collect();
        if waiting.is_empty() {
            // All ranks have left.
            return;
        }
        waiting.sort_by_key(|wait| wait.rank);
        for (_, gate, state) in &mut states {
            gate.end_waiting(state, &waiting, world);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
