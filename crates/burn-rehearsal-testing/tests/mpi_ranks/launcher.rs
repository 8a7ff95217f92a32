//! Runs `mpirun` with time limits.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use burn_rehearsal_testing::mpirun;

/// The outcome of a run.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) time: Duration,
}

/// A run in progress.
pub(crate) struct Run {
    child: Child,
    lines: Receiver<String>,
    stderr: thread::JoinHandle<String>,
    stdout: String,
    start: Instant,
    /// One run at a time, because more processes would only compete for cores.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

/// Starts `scenario` on `size` ranks.
pub(crate) fn start(size: usize, scenario: &[&str]) -> Run {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = mpirun(size, env!("CARGO_BIN_EXE_mpi-ranks"));
    command.args(scenario).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A new process group, so that all processes can be signalled.
    command.process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().expect("mpirun is installed");
    let (line, lines) = channel();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|text| line.send(text))
    });
    let mut pipe = child.stderr.take().unwrap();
    let stderr = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    Run { child, lines, stderr, stdout: String::new(), start, _turn: turn }
}

impl Run {
    /// Waits for a line that starts with `prefix` and returns the rest of it.
    pub(crate) fn wait_for(&mut self, prefix: &str) -> String {
        loop {
            let line =
                self.lines.recv_timeout(Duration::from_secs(60)).expect("the line arrives in time");
            self.stdout += &line;
            self.stdout.push('\n');
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.trim().to_owned();
            }
        }
    }

    /// The process id of the launcher.
    pub(crate) fn launcher(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the run, at most for `limit`.
    pub(crate) fn end(mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > limit {
                send("KILL", &format!("-{}", self.child.id()));
                let _ = self.child.wait();
                panic!("the run has not ended within {limit:?}. Its output:\n{}", self.stdout);
            }
            thread::sleep(Duration::from_millis(20));
        };
        let time = self.start.elapsed();
        self.stdout.extend(self.lines.iter().map(|line| line + "\n"));
        let stderr = self.stderr.join().unwrap();
        Ended { success: status.success(), stdout: self.stdout, stderr, time }
    }
}

/// Runs `scenario` on `size` ranks to its end.
pub(crate) fn run(size: usize, scenario: &[&str]) -> Ended {
    start(size, scenario).end(Duration::from_secs(120))
}

/// Sends a signal with the shell's built-in `kill`, which every system has.
pub(crate) fn send(signal: &str, process: &str) {
    let _ = Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\"", signal, process]).status();
}

/// The state of a rank that still runs, or whose parent has not waited for it.
pub(crate) fn state_of(process: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .ok()
        .filter(|stat| stat.contains("(mpi-ranks)"))
}
