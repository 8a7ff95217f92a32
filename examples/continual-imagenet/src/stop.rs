//! Ctrl-C: the first ends the run after the current step on all ranks, the second ends the program.

use burn::train::Interrupter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    before_exit: Option<Box<dyn Fn() + Send>>,
}

impl Stop {
    /// Listens to Ctrl-C from now on. Where that is not possible, Ctrl-C ends the program as usual. One process of a run `speaks`.
    pub fn listen(speaks: bool) -> Self {
        let stop = Self::default();
        let handler = stop.clone();
        let listening = ctrlc::set_handler(move || {
            if !handler.request() {
                if let Some(before_exit) = &handler.lock().before_exit {
                    before_exit();
                }
                std::process::exit(i32::from(INTERRUPTED));
            }
            if speaks {
                eprintln!("stopping after this step; once more to stop at once");
            }
        });
        if let Err(error) = listening {
            tracing::warn!(%error, "cannot listen to Ctrl-C");
        }
        stop
    }

    /// Ends the run after the current step; false if that was requested before.
    pub fn request(&self) -> bool {
        let mut state = self.lock();
        if std::mem::replace(&mut state.requested, true) {
            return false;
        }
        state.ranks.iter().for_each(|rank| rank.stop(Some("Ctrl-C")));
        true
    }

    /// Adds a rank.
    pub fn add(&self, interrupter: &Interrupter) {
        let mut state = self.lock();
        if state.requested {
            interrupter.stop(Some("Ctrl-C"));
        }
        state.ranks.push(interrupter.clone());
    }

    /// What is done before the program ends at once, in the place of what was to be done so far.
    #[cfg(feature = "tui")]
    pub fn before_exit(&self, restore: impl Fn() + Send + 'static) {
        self.lock().before_exit = Some(Box::new(restore));
    }

    /// Whether somebody asked to stop.
    pub fn requested(&self) -> bool {
        self.lock().requested
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
