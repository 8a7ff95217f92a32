//! The gates of a world, and the end of a deadlock among them.

use std::sync::PoisonError;

use super::gate::Gate;
use crate::activity::World;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The gates of all handles of a world.
///
/// A thread that locks several gates has locked this list before, and no thread locks it while
/// holding a gate.
#[derive(Debug, Default)]
pub(super) struct Gates {
    gates: Mutex<Numbered>,
}

#[derive(Debug, Default)]
struct Numbered {
    list: Vec<(usize, Arc<Gate>)>,
    /// Gates so far.
    next: usize,
}

impl Gates {
    /// Adds a gate, unless another of its handles has done so; gates without handles are forgotten.
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

    /// If nothing can move, all gates fail, and the ranks that wait at one get the reason.
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
            // Everybody has left.
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
