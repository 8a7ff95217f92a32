//! The output directory of a job, with the results of earlier jobs in it.
//!
//! A directory with a `job.json` holds an unfinished job. A new job writes this file after it has
//! removed earlier results, and removes it when all reports and figures are written. A directory
//! with reports and no `job.json` is finished, and the next job uses a new directory next to it.

use crate::config::{Config, NETWORK, Run, fixed_values, values};
use crate::error::AppError;
use burn_rehearsal::checkpoint::MANIFEST;
use burn_rehearsal_train::fingerprint::Fingerprint;
use burn_rehearsal_train::lock::DirectoryLock;
use burn_rehearsal_train::methods::MethodRef;
use burn_rehearsal_train::report::schema::REPORT_FILE;
use burn_rehearsal_train::report::{RunReport, write_atomically};
use burn_rehearsal_vision::thumbnails;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The name of the log of epochs.
pub const CURVES: &str = "curves.csv";

const JOB: &str = "job.json";
const CHECKPOINTS: &str = "checkpoints";

/// An output directory, locked by this job.
pub struct RunDirectory {
    out: PathBuf,
    runs: Vec<Run>,
    /// The fingerprint of the data.
    data: Fingerprint,
    /// The directories that this job created, innermost first.
    created: Vec<PathBuf>,
    /// Whether the job resumes the one in the directory.
    resumed: bool,
    /// Whether this process has written a file other than the lock.
    started: AtomicBool,
    lock: DirectoryLock,
}

/// The directory with the checkpoints of a method.
pub fn checkpoints(out: &Path, method: MethodRef) -> PathBuf {
    out.join(method.to_string()).join(CHECKPOINTS)
}

impl RunDirectory {
    /// Chooses and locks the directory for a job. No other file is written or removed before
    /// [`begin`](Self::begin).
    ///
    /// # Errors
    ///
    /// [`AppError`] if the directory cannot be written, another run uses it, or it holds an
    /// unfinished job with a different configuration.
    pub fn claim(runs: &[Run], config: &Config, data: &Fingerprint) -> Result<Self, AppError> {
        let finished = |out: &Path| {
            let is_done = |run: &Run| {
                RunReport::read(&out.join(run.method.to_string()))
                    .is_ok_and(|report| report.complete)
            };
            !out.join(JOB).exists() && runs.iter().any(is_done)
        };
        let fresh = config.fresh;
        let mut created = Vec::new();
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
            created.extend(out.ancestors().take_while(missing).map(Path::to_path_buf));
            std::fs::create_dir_all(&out).map_err(AppError::io("create the directory", &out))?;
            let lock = DirectoryLock::acquire(&out)
                .map_err(AppError::io("write to the directory", &out))?;
            let lock = lock.ok_or_else(|| AppError::Taken(out.clone()))?;
            // The previous owner of the lock may have finished a job meanwhile.
            if !fresh && finished(&out) {
                continue;
            }
            break (out, lock);
        };
        let mut directory = Self {
            out,
            runs: runs.to_vec(),
            data: data.clone(),
            created,
            resumed: false,
            started: AtomicBool::new(false),
            lock,
        };
        let claimed = directory.claim_or_resume(fresh, config.weights.as_deref());
        claimed.inspect_err(|_| directory.clean_up())?;
        Ok(directory)
    }

    /// Checks that the unfinished job in the directory can resume, or that a job with these
    /// pretrained `weights` can start.
    fn claim_or_resume(&mut self, fresh: bool, weights: Option<&Path>) -> Result<(), AppError> {
        let path = self.out.join(JOB);
        if !fresh && path.try_exists().map_err(AppError::io("look for", &path))? {
            let text = std::fs::read(&path).map_err(AppError::io("read", &path))?;
            let damaged = |error: serde_json::Error| {
                AppError::CannotResume(format!("{} is damaged: {error}", path.display()))
            };
            let before: Value = serde_json::from_slice(&text).map_err(damaged)?;
            let mut changed = difference(&before, &self.job());
            let data = before.get("data").cloned().unwrap_or_default();
            let data: Fingerprint = serde_json::from_value(data).map_err(damaged)?;
            // These values are options, which are compared above.
            let of_options = ["image size", "fit"];
            changed.extend(
                data.differences(&self.data)
                    .and_then(|data| data.without(&of_options))
                    .map(|data| data.to_string()),
            );
            if !changed.is_empty() {
                return Err(AppError::CannotResume(format!(
                    "the directory {} holds an unfinished run with other options or data: {}",
                    self.out.display(),
                    changed.join(", ")
                )));
            }
            self.resumed = true;
            return Ok(());
        }
        // Checkpoints are hours of work, and must not be removed because of a missing file.
        if let Some(kept) = self.checkpoints().find(|kept| !fresh && has_manifest(kept)) {
            return Err(AppError::CannotResume(format!(
                "{} is missing, but there are checkpoints in {}",
                path.display(),
                kept.display()
            )));
        }
        let is_result = |weights: &&Path| {
            weights.canonicalize().is_ok_and(|weights| {
                self.results().any(|file| file.canonicalize().is_ok_and(|file| file == weights))
            })
        };
        if let Some(weights) = weights.filter(is_result) {
            return Err(AppError::option(
                "weights",
                weights.display(),
                "this run would overwrite the file; copy it, or choose another `--out`",
            ));
        }
        Ok(())
    }

    /// Removes the results of an earlier job and writes `job.json`. Call it after the start has
    /// succeeded. Later calls and resumed jobs do nothing.
    ///
    /// # Errors
    ///
    /// [`AppError`] with the file that cannot be written or removed.
    pub fn begin(&self) -> Result<(), AppError> {
        if self.started.swap(true, Ordering::Relaxed) || self.resumed {
            return Ok(());
        }
        // Otherwise, after an interruption, an earlier report would count as one of this job.
        self.results().try_for_each(|file| removed(&file, std::fs::remove_file(&file)))?;
        self.checkpoints().try_for_each(|path| removed(&path, std::fs::remove_dir_all(&path)))?;
        Ok(write_atomically(&self.out.join(JOB), &format!("{}\n", self.job()))?)
    }

    /// The content of `job.json`.
    fn job(&self) -> Value {
        let (methods, config) = (Vec::from_iter(self.methods()), values(&self.runs));
        serde_json::json!({ "methods": methods, "config": config, "data": self.data })
    }

    fn methods(&self) -> impl Iterator<Item = MethodRef> {
        self.runs.iter().map(|run| run.method)
    }

    /// The files that finished methods write.
    fn results(&self) -> impl Iterator<Item = PathBuf> {
        self.methods().flat_map(|method| {
            [REPORT_FILE, NETWORK, thumbnails::STORED, thumbnails::DRAWN]
                .map(|file| self.out.join(method.to_string()).join(file))
        })
    }

    /// The directories of the methods' checkpoints.
    fn checkpoints(&self) -> impl Iterator<Item = PathBuf> {
        self.methods().map(|method| checkpoints(&self.out, method))
    }

    /// Whether methods resume from checkpoints in the directory.
    pub fn resumes(&self) -> bool {
        self.resumed
    }

    /// The directory.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The report of a run that the unfinished job has completed.
    pub fn report(&self, run: &Run) -> Option<RunReport> {
        let report =
            self.resumed.then(|| RunReport::read(&self.out.join(run.method.to_string())).ok())?;
        let config = Value::Object(run.config.values());
        report.filter(|report| {
            report.complete && fixed_values(&report.config) == fixed_values(&config)
        })
    }

    /// Removes the files that only an unfinished job needs.
    ///
    /// # Errors
    ///
    /// [`AppError`] if `job.json` cannot be removed.
    pub fn finish(&self) -> Result<(), AppError> {
        // The next new job removes the checkpoints that cannot be removed now.
        self.checkpoints().for_each(|path| drop(std::fs::remove_dir_all(path)));
        let path = self.out.join(JOB);
        removed(&path, std::fs::remove_file(&path))
    }

    /// Releases the lock.
    pub fn unlock(&self) {
        self.lock.release();
    }

    /// Cleans up after a failure. A job without a report or checkpoint leaves no file, and a job
    /// whose start failed leaves all files as they were.
    pub fn clean_up(&self) {
        let kept = !self.started.load(Ordering::Relaxed)
            || self.methods().any(|method| {
                let reported = self.out.join(method.to_string()).join(REPORT_FILE).exists();
                reported || has_manifest(&checkpoints(&self.out, method))
            });
        if !kept {
            let _ = std::fs::remove_file(self.out.join(JOB));
            let _ = std::fs::remove_file(self.out.join(CURVES));
            for method in self.methods() {
                let _ = std::fs::remove_dir_all(checkpoints(&self.out, method));
                let _ = std::fs::remove_dir(self.out.join(method.to_string()));
            }
        }
        self.unlock();
        // Directories that are not empty stay, with their parents.
        self.created.iter().all(|directory| std::fs::remove_dir(directory).is_ok());
    }
}

/// Maps the result of removing `path`. A missing file or directory is not an error.
fn removed(path: &Path, outcome: std::io::Result<()>) -> Result<(), AppError> {
    match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(AppError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Whether a directory contains checkpoints. True if it cannot be read.
fn has_manifest(directory: &Path) -> bool {
    let is_one = |entry: std::io::Result<DirEntry>| match entry
        .and_then(|entry| entry.path().join(MANIFEST).try_exists())
    {
        Err(error) => error.kind() != ErrorKind::NotADirectory,
        Ok(there) => there,
    };
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.into_iter().any(is_one),
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// The differences between two jobs that could change a result, as text.
fn difference(before: &Value, now: &Value) -> Vec<String> {
    let values = |job: &Value| {
        let mut values = fixed_values(job.get("config").unwrap_or_default());
        values.extend(job.get("methods").map(|methods| ("methods".to_owned(), methods.clone())));
        values
    };
    let (before, now) = (values(before), values(now));
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let text =
        |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    names
        .into_iter()
        .map(|name| (name, before.get(name), now.get(name)))
        .filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| format!("{name} was {} and is {}", text(before), text(now)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_differences_that_can_change_a_result_are_named() {
        let job = |config: Value| json!({ "methods": ["rehearsal"], "config": config });
        let before =
            job(json!({ "epochs": 2, "workers": 1, "ranks": 4, "out": "a", "device": "cuda:0" }));
        assert!(
            difference(
                &before,
                &job(
                    json!({ "epochs": 2, "workers": 3, "ranks": 2, "out": "b", "device": "cuda:1" })
                )
            )
            .is_empty()
        );
        let other = difference(
            &before,
            &job(json!({ "epochs": 3, "workers": 1, "ranks": 4, "out": "a", "device": "flex" })),
        );
        assert_eq!(other, ["device was \"cuda\" and is \"flex\"", "epochs was 2 and is 3"]);
        let methods =
            difference(&before, &json!({ "methods": ["scratch"], "config": before["config"] }));
        assert_eq!(methods, ["methods was [\"rehearsal\"] and is [\"scratch\"]"]);
    }
}
