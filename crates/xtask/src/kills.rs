//! `cargo xtask kills`: runs of the digits are killed at random moments, resumed, and compared with
//! an uninterrupted run.
//!
//! If ranks are processes, every other kill hits a random rank, and the launcher has to end the
//! others. The remaining kills hit the whole job.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::main_job;
use crate::workspace::{Workspace, remove_folder};

/// The arguments of every run. They use every component that has a state, and write checkpoints so
/// often that some kills hit a run while it writes one.
const RUN: &str = "train --method rehearsal --epochs 60 --optimizer-state keep \
    --warmup-epochs 2 --scale-cap 2 --augment crop-flip --checkpoint-every 2";

/// The options of the command.
pub(crate) struct Plan {
    /// The number of kills.
    pub(crate) times: u64,
    /// The seed of the moments.
    pub(crate) seed: u64,
    /// The number of ranks.
    pub(crate) ranks: usize,
    /// The launcher that starts ranks as processes.
    pub(crate) launcher: Option<String>,
    /// The program to run instead of building one.
    pub(crate) program: Option<PathBuf>,
}

/// The longest time to wait for the end of a run, much longer than any run takes.
const HANG: Duration = Duration::from_secs(120);

/// The victim of a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// All processes of the job.
    Job,
    /// One rank: this number modulo the number of ranks.
    Rank(u64),
}

/// The end of a run that was to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Finished,
    JobKilled,
    RankKilled,
}

pub(crate) fn kills(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let program = match &plan.program {
        Some(program) => program.clone(),
        None => main_job::build(
            workspace,
            if plan.launcher.is_some() { &["--features", "mpi"] } else { &[] },
        )?,
    };
    let folder = workspace.target.join("kills");
    remove_folder(&folder)?;
    let out = |name: &str| folder.join(name).join("out");
    let started = Instant::now();
    let mut whole = start(&program, plan, &out("whole"))?;
    expect_success(&mut whole)?;
    let time = started.elapsed();
    let expected = result(&out("whole"))?;
    println!(
        "an uninterrupted run takes {:.1} s; killing runs {} times",
        time.as_secs_f64(),
        plan.times
    );

    let mut random = plan.seed;
    let mut next = || {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 40
    };
    let (mut killed, mut ranks_killed, mut jobs, mut writing) = (0, 0, 0, 0);
    while killed < plan.times {
        jobs += 1;
        let out = out(&format!("job-{jobs}"));
        loop {
            // A job is killed several times, but still makes progress.
            let moment = time.mul_f64(0.2 * next() as f64 / (1u64 << 24) as f64);
            let victim = if plan.launcher.is_some() && killed % 2 == 0 {
                Victim::Rank(next())
            } else {
                Victim::Job
            };
            let mut child = start(&program, plan, &out)?;
            let fate = if killed == plan.times {
                Fate::Finished
            } else {
                kill(&mut child, &program, &out, moment, victim)?
            };
            if fate == Fate::Finished {
                expect_success(&mut child)?;
                break;
            }
            killed += 1;
            ranks_killed += u64::from(fate == Fate::RankKilled);
            writing += u64::from(unfinished(&out));
        }
        let found = result(&out)?;
        if found != expected {
            let path = out.join("rehearsal/report.json");
            return Err(Error::Invalid {
                path,
                reason: format!("differs from the report in {}", folder.join("whole").display()),
            });
        }
    }
    println!(
        "kills survived: {killed} of {killed} ({ranks_killed} of one rank, {} of the whole job), \
         {writing} of them while a checkpoint was written; {jobs} jobs, all reports identical",
        killed - ranks_killed
    );
    Ok(())
}

fn start(program: &Path, plan: &Plan, out: &Path) -> Result<Child> {
    let mut command = match &plan.launcher {
        None => Command::new(program),
        Some(launcher) => {
            let mut command = Command::new(launcher);
            // Open MPI refuses root, and more ranks than cores, without these variables. Other
            // launchers ignore them.
            command
                .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
            command.envs([
                ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
                ("OMPI_MCA_hwloc_base_binding_policy", "none"),
            ]);
            command.arg("-n").arg(plan.ranks.to_string()).arg(program);
            command
        }
    };
    command.args(RUN.split(' ')).arg("--out").arg(out).stdin(Stdio::null()).stdout(Stdio::null());
    if plan.launcher.is_some() {
        // The launcher reports killed ranks, as expected.
        command.stderr(Stdio::null());
    }
    if plan.launcher.is_none() {
        command.arg("--ranks").arg(plan.ranks.to_string());
    }
    command.spawn().map_err(|source| Error::Start { command: format!("{command:?}"), source })
}

/// Kills a run at `moment`, unless it ends before, and waits until all its processes are gone.
fn kill(
    child: &mut Child,
    program: &Path,
    out: &Path,
    moment: Duration,
    victim: Victim,
) -> Result<Fate> {
    let started = Instant::now();
    let failed = |source| Error::Start { command: "the run to kill".into(), source };
    while started.elapsed() < moment {
        if child.try_wait().map_err(failed)?.is_some() {
            return Ok(Fate::Finished);
        }
        std::thread::sleep(Duration::from_millis(1).min(moment.saturating_sub(started.elapsed())));
    }
    let ranks: Vec<u32> = processes(out)
        .into_iter()
        .filter(|(_, name)| Some(name.as_os_str()) == program.file_name())
        .map(|(id, _)| id)
        .collect();
    if child.try_wait().map_err(failed)?.is_some() {
        return Ok(Fate::Finished);
    }
    match victim {
        Victim::Rank(number) if !ranks.is_empty() => {
            send_kill(&[ranks[number as usize % ranks.len()]]);
            // The launcher and the other ranks have to notice the kill.
            while child.try_wait().map_err(failed)?.is_none() {
                if started.elapsed() > moment + HANG {
                    send_kill(&processes(out).into_iter().map(|(id, _)| id).collect::<Vec<_>>());
                    return Err(Error::Hang(HANG));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let status = child.wait().map_err(failed)?;
            // The run may have finished before.
            Ok(if status.success() { Fate::Finished } else { Fate::RankKilled })
        }
        // Before the ranks exist, there is only the launcher.
        _ => {
            child.kill().map_err(failed)?;
            loop {
                let left: Vec<u32> = processes(out).into_iter().map(|(id, _)| id).collect();
                send_kill(&left);
                if child.try_wait().map_err(failed)?.is_some() && left.is_empty() {
                    return Ok(Fate::JobKilled);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// The processes of the run that writes to `out`, and the names of their programs. Only these
/// processes have `out` among their arguments.
fn processes(out: &Path) -> Vec<(u32, std::ffi::OsString)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |entry: std::fs::DirEntry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let arguments = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut arguments = arguments.split(|&byte| byte == 0);
        let name = Path::new(std::str::from_utf8(arguments.next()?).ok()?).file_name()?.to_owned();
        arguments
            .any(|argument| {
                std::str::from_utf8(argument).is_ok_and(|argument| OsStr::new(argument) == out)
            })
            .then_some((id, name))
    };
    entries.filter_map(process).collect()
}

/// Sends SIGKILL. Processes that have ended already are ignored.
fn send_kill(ids: &[u32]) {
    if !ids.is_empty() {
        let ids = ids.iter().map(u32::to_string);
        let _ = Command::new("kill").arg("-KILL").args(ids).stderr(Stdio::null()).status();
    }
}

fn expect_success(child: &mut Child) -> Result<()> {
    let status =
        child.wait().map_err(|source| Error::Start { command: "the run".into(), source })?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: RUN.into(), status }) }
}

/// Whether there is an unfinished checkpoint.
fn unfinished(out: &Path) -> bool {
    let entries =
        std::fs::read_dir(out.join("rehearsal/checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| !entry.path().join("manifest.json").exists())
}

/// The report of a run, without its times and its folder.
fn result(out: &Path) -> Result<Value> {
    let path = out.join("rehearsal/report.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::File { path: path.clone(), source })?;
    let mut report: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Invalid { path, reason: error.to_string() })?;
    if let Some(report) = report.as_object_mut() {
        report.remove("time");
        // These are counted since the last resume.
        if let Some(buffer) = report.get_mut("buffer").and_then(Value::as_object_mut) {
            buffer.remove("per_step");
        }
    }
    if let Some(config) = report.get_mut("config").and_then(Value::as_object_mut) {
        config.remove("out");
    }
    Ok(report)
}
