//! Measuring: medians, slopes, processor time, the machine's load.

use std::fs;
use std::time::{Duration, Instant};

/// The middle value; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The median of the ratios of two interleaved series, turn by turn.
pub fn ratio(ours: &[f64], reference: &[f64]) -> f64 {
    median(ours.iter().zip(reference).map(|(ours, reference)| ours / reference).collect())
}

/// How long something took, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// By the clock on the wall.
    pub wall: f64,
    /// Of the calling thread's processor time.
    pub cpu: f64,
}

impl Time {
    /// The share of the time that the thread ran. Less than 1 if another program took its core
    /// away; then a part of the time that the thread took by the clock on the wall is worth less by
    /// this factor, on average.
    pub fn running(self) -> f64 {
        if self.wall <= 1.03 * self.cpu + 1.0 { 1.0 } else { self.cpu / self.wall }
    }
}

/// The time that `work` takes, and what it returns.
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

/// Processor time in microseconds, so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// Of the calling thread.
    pub mine: f64,
    /// Of all other threads of the process.
    pub others: f64,
}

impl Cpu {
    /// The clocks now.
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
#[allow(unsafe_code, reason = "the standard library knows no processor time")]
fn clock(id: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the result, and the call keeps no pointer to it.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Prints what a benchmark measures, and how busy the machine is before it starts.
pub fn head(title: &str) {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{title}\n{cores} cores, load average {load} before the run");
}

/// "met" or "missed".
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}
