//! Nothing lost: runs of the digits that are killed at random moments, resumed, and compared with
//! one that was left alone.
//!
//! Where ranks are processes, every other kill hits one of them, chosen at random, and the launcher
//! has to end the rest; the others hit the whole job at once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::main_job;
use crate::workspace::{Leg, Workspace};

/// What every run does: everything that has a state is in it, and checkpoints are frequent enough
/// to be hit while they are written.
const RUN: &str = "train --method rehearsal --epochs 60 --optimizer-state keep --warmup-epochs 2 --scale-cap 2 --augment crop-flip --checkpoint-every 2";

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

/// Far beyond what any of these runs takes to end.
const HANG: Duration = Duration::from_secs(120);

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// Everything that belongs to the job.
    Job,
    /// One rank: this number modulo the ranks that there are.
    Rank(u64),
}

/// What became of a run that was to be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Finished,
    JobKilled,
    RankKilled,
}

/// Carries out a plan.
pub(crate) fn kills(workspace: &Workspace, plan: &Plan) -> Result<()> {
    let program = match &plan.program {
        Some(program) => program.clone(),
        None => main_job::build(
            workspace,
            if plan.launcher.is_some() { &["--features", "mpi"] } else { &[] },
        )?,
    };
    let folder = workspace.target_dir(Leg::DEFAULT).join("kills");
    match std::fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::File { path: folder, source });
        }
        _ => {}
    }
    let out = |name: &str| folder.join(name).join("out");
    let started = Instant::now();
    let mut whole = start(&program, plan, &out("whole"))?;
    expect_success(&mut whole)?;
    let time = started.elapsed();
    let expected = result(&out("whole"))?;
    println!(
        "left alone, the run takes {:.1} s; killing it {} times",
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
            // Often enough to kill a job several times, seldom enough to let it get on.
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
            return Err(Error::Report {
                path,
                reason: format!("is not the report of {}", folder.join("whole").display()),
            });
        }
    }
    println!(
        "kills survived: {killed} of {killed} ({ranks_killed} of one rank, {} of the whole job), {writing} of them while a checkpoint was being written; \
         {jobs} jobs, all reports bit-identical",
        killed - ranks_killed
    );
    Ok(())
}

fn start(program: &Path, plan: &Plan, out: &Path) -> Result<Child> {
    let mut command = match &plan.launcher {
        None => Command::new(program),
        Some(launcher) => {
            let mut command = Command::new(launcher);
            // More ranks than cores, and root, are Open MPI's to refuse; other launchers know
            // nothing of these.
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
        // What the launcher says of a rank that was killed is no news.
        command.stderr(Stdio::null());
    }
    if plan.launcher.is_none() {
        command.arg("--ranks").arg(plan.ranks.to_string());
    }
    command.spawn().map_err(|source| Error::Start { command: format!("{command:?}"), source })
}

/// Kills a run at `moment`, unless it ends before, and waits until nothing of it is left.
fn kill(
    child: &mut Child,
    program: &Path,
    out: &Path,
    moment: Duration,
    victim: Victim,
) -> Result<Fate> {
    let started = Instant::now();
    let failed = |source| Error::Start { command: "the run that is to be killed".into(), source };
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
            // The launcher and the other ranks have to notice by themselves.
            while child.try_wait().map_err(failed)?.is_none() {
                if started.elapsed() > moment + HANG {
                    send_kill(&processes(out).into_iter().map(|(id, _)| id).collect::<Vec<_>>());
                    return Err(Error::Machine(format!(
                        "a run of which one rank was killed has not ended within {HANG:?}"
                    )));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let status = child.wait().map_err(failed)?;
            // It may have been done already.
            Ok(if status.success() { Fate::Finished } else { Fate::RankKilled })
        }
        // Before the ranks exist there is only the launcher.
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

/// The processes whose output goes to `out`, and the names of their programs: nobody else's have
/// this path among their arguments.
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

/// SIGKILL; a process that is gone already is as it should be.
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

/// Whether there is a checkpoint that was not finished.
fn unfinished(out: &Path) -> bool {
    let entries =
        std::fs::read_dir(out.join("rehearsal/checkpoints")).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| !entry.path().join("manifest.json").exists())
}

/// A report but for times and the place where it lies.
fn result(out: &Path) -> Result<Value> {
    let path = out.join("rehearsal/report.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|source| Error::File { path: path.clone(), source })?;
    let mut report: Value = serde_json::from_str(&text)
        .map_err(|error| Error::Report { path, reason: error.to_string() })?;
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
