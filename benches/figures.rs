//! The figures of a benchmark: printed for people, and recorded as data.

use serde_json::{Value, json};
use std::fmt;
use std::fs;
use std::path::Path;

/// The environment variable that names the folder for recorded figures. `cargo xtask bench` sets
/// it. Without it nothing is written.
const FOLDER: &str = "BENCH_FIGURES";

/// A limit for a figure. The limit itself is allowed.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// The figure must not be larger.
    AtMost(f64),
    /// The figure must not be smaller.
    AtLeast(f64),
}

use Target::{AtLeast, AtMost};

impl Target {
    /// Whether `value` meets the target.
    pub fn met(self, value: f64) -> bool {
        match self {
            AtMost(limit) => value <= limit,
            AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtMost(limit) => write!(f, "≤ {limit}"),
            AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}

/// The figures of one benchmark.
#[derive(Debug)]
pub struct Figures {
    benchmark: &'static str,
    question: &'static str,
    case: String,
    rows: Vec<Value>,
}

impl Figures {
    /// Prints the question of a benchmark, its setting, and the load of the machine.
    pub fn new(benchmark: &'static str, question: &'static str, setting: &str) -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("unknown");
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        println!("{benchmark}: {question}\n{setting}\n{cores} cores, load average {load}");
        Self { benchmark, question, case: String::new(), rows: Vec::new() }
    }

    /// Prints and records a figure.
    ///
    /// `case` names the measurement and its conditions, and `quantity` names the figure. Tables
    /// have a row per case and a column per quantity. A value that is not finite is printed as not
    /// measured, and not recorded.
    pub fn add(
        &mut self,
        case: &str,
        quantity: &str,
        value: f64,
        unit: &str,
        target: Option<Target>,
    ) {
        if self.case != case {
            println!("\n{case}");
            case.clone_into(&mut self.case);
        }
        if !value.is_finite() {
            return println!("  {quantity:<40} not measured");
        }
        let met = target.map(|target| target.met(value));
        let verdict = target.zip(met).map_or_else(String::new, |(target, met)| {
            format!("  target {target}: {}", if met { "met" } else { "missed" })
        });
        let value = rounded(value);
        println!("  {quantity:<40} {value:>9} {unit:<9}{verdict}");
        self.rows.push(json!({
            "question": self.question,
            "case": case,
            "quantity": quantity,
            "value": value,
            "unit": unit,
            "target": target.map(|target| match target {
                AtMost(limit) => json!({ "at_most": limit }),
                AtLeast(limit) => json!({ "at_least": limit }),
            }),
            "met": met,
        }));
    }

    /// Whether every figure so far meets its target.
    pub fn all_met(&self) -> bool {
        self.rows.iter().all(|row| row["met"] != false)
    }

    /// Writes the rows to `BENCHMARK.json` in the folder that `BENCH_FIGURES` names, if it is set.
    #[allow(clippy::expect_used, reason = "a benchmark has no caller to report an error to")]
    pub fn write(self) {
        if let Some(folder) = std::env::var_os(FOLDER) {
            let path = Path::new(&folder).join(self.benchmark).with_extension("json");
            fs::write(path, Value::Array(self.rows).to_string()).expect("a writable folder");
        }
    }
}

/// `value` with four significant digits.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}
