//! Signals. The first ends the run on all ranks after the current step, with a checkpoint. A second
//! one ends the program immediately.

use crate::console::print_error;
use burn::train::Interrupter;
use parking_lot::Mutex;
use std::sync::Arc;

/// Exit code of a program that was ended by SIGINT.
pub const INTERRUPTED: u8 = 130;

/// A request to stop, shared with the interrupters of all ranks.
#[derive(Clone, Default)]
pub struct Stop {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    requested: bool,
    /// Whether the request came from a user, whose second signal ends the program.
    by_user: bool,
    ranks: Vec<Interrupter>,
    before_exit: Option<Box<dyn Fn() + Send>>,
}

impl Stop {
    /// Handles signals from now on. If that is not possible, signals end the program as usual.
    /// `verbose` prints a message for each, in one process of a run.
    pub fn listen(verbose: bool) -> Self {
        let stop = Self::default();
        let handler = stop.clone();
        let listening = signals::listen(move |by_user| {
            let again = by_user && std::mem::replace(&mut handler.state.lock().by_user, true);
            if again {
                if let Some(before_exit) = &handler.state.lock().before_exit {
                    before_exit();
                }
                std::process::exit(i32::from(INTERRUPTED));
            }
            let first = handler.end_runs();
            match (by_user, first) {
                _ if !verbose => {}
                (true, _) => {
                    print_error("stopping after this step; press Ctrl-C again to stop immediately")
                }
                (false, true) => print_error("stopping after this step"),
                (false, false) => {}
            }
        });
        if let Err(error) = listening {
            tracing::warn!(%error, "cannot handle signals");
        }
        stop
    }

    /// Ends the run after the current step, as the first Ctrl-C does.
    #[cfg(feature = "tui")]
    pub fn request(&self) {
        self.state.lock().by_user = true;
        self.end_runs();
    }

    /// Stops all ranks. Returns false if they were stopped before.
    fn end_runs(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.requested, true) {
            return false;
        }
        state.ranks.iter().for_each(|rank| rank.stop(Some("a signal")));
        true
    }

    /// Adds the interrupter of a rank.
    pub fn add(&self, interrupter: &Interrupter) {
        let mut state = self.state.lock();
        if state.requested {
            interrupter.stop(Some("a signal"));
        }
        state.ranks.push(interrupter.clone());
    }

    /// Sets a function that is called before a second signal ends the program.
    #[cfg(feature = "tui")]
    pub fn before_exit(&self, restore: impl Fn() + Send + 'static) {
        self.state.lock().before_exit = Some(Box::new(restore));
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        self.state.lock().requested
    }
}

#[cfg(unix)]
mod signals {
    #![allow(unsafe_code)]

    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXCPU};
    use signal_hook::iterator::Signals;

    /// Calls `handle` for every signal. The argument is true for signals that users send, and false
    /// for those of schedulers.
    ///
    /// Signals that are ignored at the start stay ignored: `nohup` ignores SIGHUP, and shells
    /// ignore SIGINT for programs in the background.
    pub fn listen(handle: impl Fn(bool) + Send + 'static) -> std::io::Result<()> {
        let signals = [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXCPU]
            .into_iter()
            .filter(|&signal| !is_ignored(signal));
        let mut signals = Signals::new(signals)?;
        let each = move || {
            for signal in signals.forever() {
                // Launchers and schedulers may send the others several times. The kernel sends
                // SIGXCPU every second.
                handle([SIGHUP, SIGINT, SIGTERM].contains(&signal));
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(each).map(drop)
    }

    fn is_ignored(signal: i32) -> bool {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: without a new action, `sigaction` only writes the current one to `action`, which
        // is read only after success.
        unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }
}

#[cfg(not(unix))]
mod signals {
    /// Calls `handle` for every Ctrl-C.
    pub fn listen(handle: impl Fn(bool) + Send + 'static) -> Result<(), ctrlc::Error> {
        ctrlc::set_handler(move || handle(true))
    }
}
