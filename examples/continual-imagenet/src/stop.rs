//! Ctrl-C: the first ends the run after the current step on all ranks, the second ends the program.

use burn::train::Interrupter;
use std::sync::{Arc, Mutex, PoisonError};

/// Exit code of a program that SIGINT ended.
pub const INTERRUPTED: u8 = 130;

/// Knows every rank's interrupter.
#[derive(Clone, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requested: bool,
    ranks: Vec<Interrupter>,
}

impl Stop {
    /// Listens to Ctrl-C from now on. Where that is not possible, Ctrl-C ends the program as usual. One process of a run `speaks`.
    pub fn listen(speaks: bool) -> Self {
        let stop = Self::default();
        let handler = stop.clone();
        let listening = ctrlc::set_handler(move || {
            let mut state = handler.state.lock().unwrap_or_else(PoisonError::into_inner);
            if std::mem::replace(&mut state.requested, true) {
                std::process::exit(i32::from(INTERRUPTED));
            }
            if speaks {
                eprintln!("stopping after this step; once more to stop at once");
            }
            state.ranks.iter().for_each(|rank| rank.stop(Some("Ctrl-C")));
        });
        if let Err(error) = listening {
            tracing::warn!(%error, "cannot listen to Ctrl-C");
        }
        stop
    }

    /// Adds a rank.
    pub fn add(&self, interrupter: &Interrupter) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.requested {
            interrupter.stop(Some("Ctrl-C"));
        }
        state.ranks.push(interrupter.clone());
    }

    /// Whether somebody asked to stop.
    pub fn requested(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requested
    }
}
