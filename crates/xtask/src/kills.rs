//! Nothing lost: runs of the digits that are killed at random moments, resumed, and compared with one that was left alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::main_job;
use crate::workspace::{Leg, Workspace};

/// What every run does: everything that has a state is in it, and checkpoints are frequent enough to be hit while they are written.
const RUN: &str =
    "train --method rehearsal --epochs 60 --optimizer-state keep --warmup-epochs 2 --scale-cap 2 --augment crop-flip --checkpoint-every 2";

/// What is asked for.
pub(crate) struct Plan {
    /// How many kills.
    pub(crate) times: u64,
    /// What the moments follow from.
    pub(crate) seed: u64,
    /// Ranks.
    pub(crate) ranks: usize,
    /// What starts them as processes.
    pub(crate) launcher: Option<String>,
    /// The program, if it is not to be built.
    pub(crate) program: Option<PathBuf>,
}

/// Carries out a plan.
pub(crate) fn kills(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let program = match &plan.program {
        Some(program) => program.clone(),
        None => main_job::build(workspace)?,
    };
    let folder = workspace.target_dir(Leg::DEFAULT).join("kills");
    match std::fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(Error::File { path: folder, source }),
        _ => {}
    }
    let out = |name: &str| folder.join(name).join("out");
    let started = Instant::now();
    let mut whole = start(&program, plan, &out("whole"))?;
    expect_success(&mut whole)?;
    let time = started.elapsed();
    let expected = result(&out("whole"))?;
    println!("left alone, the run takes {:.1} s; killing it {} times", time.as_secs_f64(), plan.times);

    let mut moments = plan.seed;
    let (mut killed, mut jobs, mut writing) = (0, 0, 0);
    while killed < plan.times {
        jobs += 1;
        let out = out(&format!("job-{jobs}"));
        loop {
            moments = moments.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Often enough to kill a job several times, seldom enough to let it get on.
            let moment = time.mul_f64(0.2 * (moments >> 40) as f64 / (1u64 << 24) as f64);
            let mut child = start(&program, plan, &out)?;
            if killed == plan.times || !survives(&mut child, moment)? {
                expect_success(&mut child)?;
                break;
            }
            killed += 1;
            writing += u64::from(unfinished(&out));
        }
        let found = result(&out)?;
        if found != expected {
            let path = out.join("rehearsal/report.json");
            return Err(Error::Report { path, reason: format!("is not the report of {}", folder.join("whole").display()) });
        }
    }
    println!(
        "kills survived: {killed} of {killed}, {writing} of them while a checkpoint was being written; {jobs} jobs, all reports bit-identical"
    );
    Ok(())
}

fn start(program: &Path, plan: &Plan, out: &Path) -> Result<Child> {
    let mut command = match &plan.launcher {
        None => Command::new(program),
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.arg("-n").arg(plan.ranks.to_string()).arg(program);
            command
        }
    };
    command.args(RUN.split(' ')).arg("--out").arg(out).stdin(Stdio::null()).stdout(Stdio::null());
    if plan.launcher.is_none() {
        command.arg("--ranks").arg(plan.ranks.to_string());
    }
    command.spawn().map_err(|source| Error::Start { command: format!("{command:?}"), source })
}

/// Kills the run at `moment`; false if it ended before.
fn survives(child: &mut Child, moment: Duration) -> Result<bool> {
    let started = Instant::now();
    let failed = |source| Error::Start { command: "the run that is to be killed".into(), source };
    while started.elapsed() < moment {
        if child.try_wait().map_err(failed)?.is_some() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1).min(moment.saturating_sub(started.elapsed())));
    }
    if child.try_wait().map_err(failed)?.is_some() {
        return Ok(false);
    }
    child.kill().map_err(failed)?;
    child.wait().map_err(failed)?;
    Ok(true)
}

fn expect_success(child: &mut Child) -> Result<()> {
    let status = child.wait().map_err(|source| Error::Start { command: "the run".into(), source })?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: RUN.into(), status }) }
}

/// Whether there is a checkpoint that was not finished.
fn unfinished(out: &Path) -> bool {
    let entries = std::fs::read_dir(out.join("rehearsal/checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| !entry.path().join("manifest.json").exists())
}

/// A report but for times and the place where it lies.
fn result(out: &Path) -> Result<Value> {
    let path = out.join("rehearsal/report.json");
    let text = std::fs::read_to_string(&path).map_err(|source| Error::File { path: path.clone(), source })?;
    let mut report: Value = serde_json::from_str(&text).map_err(|error| Error::Report { path, reason: error.to_string() })?;
    if let Some(report) = report.as_object_mut() {
        report.remove("time");
        // Counted since the run last went on.
        if let Some(buffer) = report.get_mut("buffer").and_then(Value::as_object_mut) {
            buffer.remove("per_step");
        }
    }
    if let Some(config) = report.get_mut("config").and_then(Value::as_object_mut) {
        config.remove("out");
    }
    Ok(report)
}
