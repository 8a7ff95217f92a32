//! The program as a child process.
#![cfg_attr(not(unix), allow(dead_code))]

use std::io::{BufRead, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

/// Far longer than any of these runs takes.
pub(crate) const HANG: Duration = Duration::from_secs(300);

/// The program with piped outputs.
pub(crate) fn program(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_continual-imagenet"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("RUST_LOG")
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A program in the background. It is killed when a test fails.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// The exit code, after the end of a program whose outputs were taken. `None` if a signal ended
    /// it.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(started.elapsed() < HANG, "the program hangs");
            sleep(Duration::from_millis(5));
        }
    }

    /// The exit code, standard output and standard error.
    pub(crate) fn finish(mut self) -> (Option<i32>, String, String) {
        let stdout = read_all(self.0.stdout.take().unwrap());
        let stderr = read_all(self.0.stderr.take().unwrap());
        (self.wait(), stdout.join().unwrap(), stderr.join().unwrap())
    }
}

/// Reads the rest of an output in the background.
pub(crate) fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    spawn(move || {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    })
}

/// Reads lines until one contains `words`.
pub(crate) fn read_until(from: &mut impl BufRead, words: &str) {
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(from.read_line(&mut line).unwrap() > 0, "the output ended before {words:?}");
    }
}
