//! Measuring: series of turns, medians, slopes, processor time and memory.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

/// The median; 0 without values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Calls `work` for every item in each turn.
///
/// Every other turn goes backwards, so that a drift of the machine's speed favors no item.
pub fn interleave<T>(turns: usize, items: &[T], mut work: impl FnMut(&T)) {
    for turn in 0..turns {
        if turn % 2 == 0 {
            items.iter().for_each(&mut work);
        } else {
            items.iter().rev().for_each(&mut work);
        }
    }
}

/// Named series with one value per turn.
#[derive(Debug, Default)]
pub struct Series(BTreeMap<String, Vec<f64>>);

impl Series {
    /// Adds the value of one turn.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.entry(name.into()).or_default().push(value);
    }

    /// The values of a series, in the order of their turns. A series that was never added to is
    /// empty.
    pub fn values(&self, name: &str) -> &[f64] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The median of a series.
    pub fn median(&self, name: &str) -> f64 {
        median(self.values(name).to_vec())
    }

    /// The median over the turns of the ratio of two series in the same turn.
    pub fn ratio(&self, numerator: &str, denominator: &str) -> f64 {
        let pairs = self.values(numerator).iter().zip(self.values(denominator));
        median(pairs.map(|(numerator, denominator)| numerator / denominator).collect())
    }
}

/// A duration in elapsed time and in processor time, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Elapsed time.
    pub wall: f64,
    /// Processor time of the calling thread.
    pub cpu: f64,
}

impl Time {
    /// The share of the elapsed time during which the thread ran.
    ///
    /// It is less than 1 if another program held the thread's core. On average, an elapsed time
    /// measured within this one is too long by the inverse of this factor.
    pub fn running(self) -> f64 {
        if self.wall <= 1.03 * self.cpu + 1.0 { 1.0 } else { self.cpu / self.wall }
    }

    /// The elapsed time without the time during which the thread did not run.
    pub fn undisturbed(self) -> f64 {
        self.wall * self.running()
    }
}

/// The time that `work` takes, and its result.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Time, T) {
    let cpu = clock(libc::CLOCK_THREAD_CPUTIME_ID);
    let started = Instant::now();
    let value = work();
    let wall = micros(started.elapsed());
    (Time { wall, cpu: clock(libc::CLOCK_THREAD_CPUTIME_ID) - cpu }, value)
}

/// A duration in microseconds.
pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The least-squares slope of `log y` over `log x`, and its standard error.
pub fn log_slope(points: &[(f64, f64)]) -> (f64, f64) {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let n = logs.len() as f64;
    let mean_x = logs.iter().map(|(x, _)| x).sum::<f64>() / n;
    let mean_y = logs.iter().map(|(_, y)| y).sum::<f64>() / n;
    let spread: f64 = logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    let slope = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    let rest: f64 = logs.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    (slope, (rest / (n - 2.0) / spread).sqrt())
}

/// Processor time since the start of the process, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Of the calling thread.
    pub mine: f64,
    /// Of all other threads of the process.
    pub others: f64,
}

impl Cpu {
    /// Reads the clocks.
    pub fn now() -> Self {
        let mine = clock(libc::CLOCK_THREAD_CPUTIME_ID);
        Self { mine, others: clock(libc::CLOCK_PROCESS_CPUTIME_ID) - mine }
    }

    /// Processor time since an earlier reading.
    pub fn since(self, earlier: Self) -> Self {
        Self { mine: self.mine - earlier.mine, others: self.others - earlier.others }
    }
}

/// A clock of the operating system, in microseconds.
#[allow(unsafe_code, reason = "the standard library does not measure processor time")]
fn clock(id: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result, and the call keeps no pointer to it.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Resident memory of this process in MiB, on systems with a `/proc`.
pub fn resident_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
}

/// Runs a Python program with `python3`, or the interpreter that `PYTHON` names, and returns its
/// standard output.
///
/// # Errors
///
/// The reason in words, for example a module that is not installed.
pub fn python(program: &str, arguments: &[&str]) -> Result<String, String> {
    let interpreter = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let output = Command::new(interpreter)
        .args(["-c", program])
        .args(arguments)
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(errors.lines().last().unwrap_or("it failed without a message").to_owned())
}
