//! The output directory: whose it is, and what an earlier run left there.
//!
//! A directory with a `job.json` holds an unfinished job; the file is written before anything else and removed when all reports and figures are there. A
//! directory with reports and no `job.json` is finished, and the next job gets a directory of its own beside it.

use crate::config::{Config, NETWORK};
use crate::error::AppError;
use burn_rehearsal::checkpoint::MANIFEST;
use burn_rehearsal_train::lock::DirectoryLock;
use burn_rehearsal_train::report::schema::{Method, REPORT_FILE};
use burn_rehearsal_train::report::{RunReport, write_atomically};
use serde_json::Value;
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Every epoch, while a run goes on and after it.
pub const CURVES: &str = "curves.csv";

const JOB: &str = "job.json";
const CHECKPOINTS: &str = "checkpoints";

/// Options that change no result, so that a job can go on with others.
const OF_NO_MATTER: [&str; 13] = [
    "out",
    // A run that went on so far has met no image for which it matters, or has left it out as it was told then.
    "on-damaged",
    "execution",
    "store",
    "store-limit",
    "workers",
    "profile",
    "checkpoint-every",
    "checkpoint-keep",
    // What the other options say already.
    "overridden",
    "ranks",
    "collective",
    "device",
];

/// An output directory that belongs to this job alone.
pub struct Place {
    out: PathBuf,
    methods: Vec<Method>,
    /// What the job is configured to do.
    config: Value,
    /// The directories that were made for this job, from the inside out.
    made: Vec<PathBuf>,
    /// Whether the job goes on with what is there.
    resumed: bool,
    /// Held until the program ends, however it ends.
    lock: DirectoryLock,
}

/// Where a method's checkpoints are.
pub fn checkpoints(out: &Path, method: Method) -> PathBuf {
    out.join(method.to_string()).join(CHECKPOINTS)
}

impl Place {
    /// Finds the directory for a job, makes sure that files can be written there before hours are spent on training, and locks it.
    ///
    /// # Errors
    ///
    /// [`AppError`] if it cannot be written, another run uses it, or it holds an unfinished job that was configured differently.
    pub fn claim(config: &Config, methods: &[Method], fresh: bool) -> Result<Self, AppError> {
        let finished = |out: &Path| {
            let is_done = |method: &Method| RunReport::read(&out.join(method.to_string())).is_ok_and(|report| report.complete);
            !out.join(JOB).exists() && methods.iter().any(is_done)
        };
        let mut made = Vec::new();
        let (out, lock) = loop {
            let mut out = config.out.clone();
            let mut number = 1;
            while !fresh && finished(&out) {
                number += 1;
                let mut name = config.out.file_name().unwrap_or_default().to_owned();
                name.push(format!("-{number}"));
                out = config.out.with_file_name(name);
            }
            let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
            made.extend(out.ancestors().take_while(missing).map(Path::to_path_buf));
            std::fs::create_dir_all(&out).map_err(io("create the directory", &out))?;
            let lock = DirectoryLock::acquire(&out).map_err(io("write to the directory", &out))?;
            let lock = lock.ok_or_else(|| AppError::Taken(out.clone()))?;
            // Whoever had the lock may have left a finished job.
            if !fresh && finished(&out) {
                continue;
            }
            break (out, lock);
        };
        let config_now = serde_json::to_value(config).unwrap_or_default();
        let mut place = Self { out, methods: methods.to_vec(), config: config_now, made, resumed: false, lock };
        let settled = place.settle(fresh, config.weights.as_deref());
        settled.inspect_err(|_| place.unlock())?;
        Ok(place)
    }

    /// Takes over the unfinished job, or begins one that starts from `weights`.
    fn settle(&mut self, fresh: bool, weights: Option<&Path>) -> Result<(), AppError> {
        let path = self.out.join(JOB);
        let job = serde_json::json!({ "methods": self.methods, "config": self.config });
        if !fresh && path.try_exists().map_err(io("look for", &path))? {
            let text = std::fs::read(&path).map_err(io("read", &path))?;
            let damaged = |error: serde_json::Error| AppError::DamagedJob { path: path.clone(), reason: error.to_string() };
            let before: Value = serde_json::from_slice(&text).map_err(damaged)?;
            let changed = difference(&before, &job);
            if !changed.is_empty() {
                return Err(AppError::Changed { path: self.out.clone(), changed: changed.join(", ") });
            }
            self.resumed = true;
            return Ok(());
        }
        let all_checkpoints: Vec<PathBuf> = self.methods.iter().map(|&method| checkpoints(&self.out, method)).collect();
        // Hours of work, whatever happened to the file that says whose.
        if let Some(kept) = all_checkpoints.iter().find(|kept| !fresh && has_manifest(kept)) {
            return Err(AppError::DamagedJob { path, reason: format!("it is missing, but there are checkpoints in {}", kept.display()) });
        }
        // A report of before must not be taken for this job's, should it be interrupted.
        let result = |method: &Method| [REPORT_FILE, NETWORK].map(|file| self.out.join(method.to_string()).join(file));
        let results: Vec<PathBuf> = self.methods.iter().flat_map(result).collect();
        let same = |weights: &Path, file: &Path| matches!((file.canonicalize(), weights.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if let Some(weights) = weights.filter(|weights| results.iter().any(|file| same(weights, file))) {
            return Err(AppError::option(
                "weights",
                weights.display(),
                "is what this run would replace; copy it, or choose another `--out`",
            ));
        }
        let files = results.iter().map(|file| (file, std::fs::remove_file(file)));
        let removed = files.chain(all_checkpoints.iter().map(|directory| (directory, std::fs::remove_dir_all(directory))));
        for (path, removed) in removed {
            match removed {
                Err(source) if source.kind() != ErrorKind::NotFound => return Err(io("remove", path)(source)),
                _ => {}
            }
        }
        Ok(write_atomically(&path, &format!("{job}\n"))?)
    }

    /// The directory.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The report of a method that the job has finished already.
    pub fn report(&self, method: Method) -> Option<RunReport> {
        let report = self.resumed.then(|| RunReport::read(&self.out.join(method.to_string())).ok())?;
        let own = |report: &RunReport| {
            let of = |config: &Value| serde_json::json!({ "config": config });
            report.complete && difference(&of(&report.config), &of(&self.config)).is_empty()
        };
        report.filter(own)
    }

    /// Everything is there: what was kept for the case of an interruption goes.
    pub fn finish(&self) -> Result<(), AppError> {
        // Remains are removed by a job that starts anew; what cannot be removed now does no harm.
        self.methods.iter().for_each(|&method| drop(std::fs::remove_dir_all(checkpoints(&self.out, method))));
        let path = self.out.join(JOB);
        std::fs::remove_file(&path).map_err(|source| AppError::Io { action: "remove", path, source })
    }

    /// Lets others use the directory.
    pub fn unlock(&self) {
        self.lock.release();
    }

    /// A job that failed before it had anything to keep leaves nothing behind.
    pub fn clean_up(&self) {
        let kept = self.methods.iter().any(|&method| {
            let reported = self.out.join(method.to_string()).join(REPORT_FILE).exists();
            reported || has_manifest(&checkpoints(&self.out, method))
        });
        if !kept {
            let _ = std::fs::remove_file(self.out.join(JOB));
            let _ = std::fs::remove_file(self.out.join(CURVES));
            for &method in &self.methods {
                let _ = std::fs::remove_dir_all(checkpoints(&self.out, method));
                let _ = std::fs::remove_dir(self.out.join(method.to_string()));
            }
        }
        self.unlock();
        // Those that are not empty stay, and so do those above them.
        self.made.iter().all(|directory| std::fs::remove_dir(directory).is_ok());
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AppError {
    let path = path.to_path_buf();
    move |source| AppError::Io { action, path, source }
}

/// Whether a directory holds checkpoints; what cannot be seen is taken for one.
fn has_manifest(directory: &Path) -> bool {
    let is_one = |entry: std::io::Result<DirEntry>| match entry.and_then(|entry| entry.path().join(MANIFEST).try_exists()) {
        Err(error) => error.kind() != ErrorKind::NotADirectory,
        Ok(there) => there,
    };
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.into_iter().any(is_one),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// What differs between two jobs and could change a result, in words.
fn difference(before: &Value, now: &Value) -> Vec<String> {
    let mut changed = Vec::new();
    let mut compare = |name: &str, before: Option<&Value>, now: Option<&Value>| {
        let text = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        if before != now {
            changed.push(format!("{name} was {} and is {}", text(before), text(now)));
        }
    };
    compare("methods", before.get("methods"), now.get("methods"));
    let options = |job: &Value| job.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    let (before, now) = (options(before), options(now));
    for name in now.keys().chain(before.keys().filter(|name| !now.contains_key(*name))) {
        if !OF_NO_MATTER.contains(&name.as_str()) {
            compare(name, before.get(name), now.get(name));
        }
    }
    // GPUs of one kind are alike, whatever their numbers.
    let kind = |options: &serde_json::Map<String, Value>| {
        options.get("device").and_then(Value::as_str).map(|name| name.split(':').next().map(Value::from))
    };
    compare("device", kind(&before).flatten().as_ref(), kind(&now).flatten().as_ref());
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changes_no_result_is_no_difference_and_the_rest_is_named() {
        let job = |config: Value| json!({ "methods": ["rehearsal"], "config": config });
        let before = job(json!({ "epochs": 2, "workers": 1, "ranks": 4, "out": "a", "device": "cuda:0" }));
        assert!(difference(&before, &job(json!({ "epochs": 2, "workers": 3, "ranks": 2, "out": "b", "device": "cuda:1" }))).is_empty());
        let other = difference(&before, &job(json!({ "epochs": 3, "workers": 1, "ranks": 4, "out": "a", "device": "flex" })));
        assert_eq!(other, ["epochs was 2 and is 3", "device was \"cuda\" and is \"flex\""]);
        let methods = difference(&before, &json!({ "methods": ["scratch"], "config": before["config"] }));
        assert_eq!(methods, ["methods was [\"rehearsal\"] and is [\"scratch\"]"]);
    }
}
