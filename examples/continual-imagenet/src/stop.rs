//! Signals: the first ends the run after the current step on all ranks, with a checkpoint; a second
//! one ends the program.

use crate::console::print_error;
use burn::train::Interrupter;
use parking_lot::Mutex;
use std::sync::Arc;

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
    /// By a signal that a second one follows if a user loses patience.
    by_person: bool,
    ranks: Vec<Interrupter>,
    before_exit: Option<Box<dyn Fn() + Send>>,
}

impl Stop {
    /// Listens to signals from now on. Where that is not possible, they end the program as usual.
    /// One process of a run `speaks`.
    pub fn listen(speaks: bool) -> Self {
        let stop = Self::default();
        let handler = stop.clone();
        let listening = signals::listen(move |insists| {
            let again = insists && std::mem::replace(&mut handler.state.lock().by_person, true);
            if again {
                if let Some(before_exit) = &handler.state.lock().before_exit {
                    before_exit();
                }
                std::process::exit(i32::from(INTERRUPTED));
            }
            let first = handler.end_runs();
            match (insists, first) {
                _ if !speaks => {}
                (true, _) => {
                    print_error("stopping after this step; press Ctrl-C again to stop immediately")
                }
                (false, true) => print_error("stopping after this step"),
                (false, false) => {}
            }
        });
        if let Err(error) = listening {
            tracing::warn!(%error, "cannot listen to signals");
        }
        stop
    }

    /// Ends the run after the current step, as the first Ctrl-C does.
    #[cfg(feature = "tui")]
    pub fn request(&self) {
        self.state.lock().by_person = true;
        self.end_runs();
    }

    /// False if that was done before.
    fn end_runs(&self) -> bool {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.requested, true) {
            return false;
        }
        state.ranks.iter().for_each(|rank| rank.stop(Some("a signal")));
        true
    }

    /// Adds a rank.
    pub fn add(&self, interrupter: &Interrupter) {
        let mut state = self.state.lock();
        if state.requested {
            interrupter.stop(Some("a signal"));
        }
        state.ranks.push(interrupter.clone());
    }

    /// Sets what is called before the program ends at once.
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

    /// Calls `heard` for every signal, with whether a second such signal is to end the program.
    /// Signals that are ignored stay ignored: `nohup` says so of SIGHUP, and shells say so of
    /// SIGINT to what they run in the background.
    pub fn listen(heard: impl Fn(bool) + Send + 'static) -> std::io::Result<()> {
        let signals = [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXCPU]
            .into_iter()
            .filter(|&signal| !is_ignored(signal));
        let mut signals = Signals::new(signals)?;
        let each = move || {
            for signal in signals.forever() {
                // Launchers and schedulers may send the others several times, the kernel SIGXCPU
                // once a second.
                heard([SIGHUP, SIGINT, SIGTERM].contains(&signal));
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(each).map(drop)
    }

    fn is_ignored(signal: i32) -> bool {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: without a new action, `sigaction` only writes the present one to `action`, which
        // is read only if that succeeded.
        unsafe {
            libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }
}

#[cfg(not(unix))]
mod signals {
    /// Calls `heard` for every Ctrl-C.
    pub fn listen(heard: impl Fn(bool) + Send + 'static) -> Result<(), ctrlc::Error> {
        ctrlc::set_handler(move || heard(true))
    }
}
