//! The program under `mpirun`: the same results as with threads, and clear errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use burn_rehearsal_testing as testing;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_continual-imagenet");

/// The arguments of a run with `method`.
fn arguments(method: &str) -> [&str; 5] {
    ["train", "--method", method, "--epochs", "2"]
}

/// The program with rehearsal on `size` processes.
fn mpirun(size: usize) -> Command {
    mpirun_of("rehearsal", size)
}

/// The program with `method` on `size` processes.
fn mpirun_of(method: &str, size: usize) -> Command {
    let mut command = testing::mpirun(size, PROGRAM);
    command.args(arguments(method)).env("RUST_BACKTRACE", "0");
    command
}

fn output(command: &mut Command, out: &Path) -> Output {
    // Launchers that start at the same time and create the same session directory may fail.
    let sessions = tempfile::tempdir().unwrap();
    command
        .arg("--out")
        .arg(out)
        .env("TMPDIR", sessions.path())
        .output()
        .expect("mpirun is installed")
}

/// The report and standard output of a successful run of `method` without output on standard error.
fn report(method: &str, command: &mut Command) -> (Value, String) {
    let out = tempfile::tempdir().unwrap();
    let output = output(command, out.path());
    assert_eq!(
        (output.status.success(), String::from_utf8_lossy(&output.stderr).as_ref()),
        (true, "")
    );
    let report = std::fs::read(out.path().join(method).join("report.json")).unwrap();
    (serde_json::from_slice(&report).unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn results_of_processes_and_threads_are_bit_identical() {
    for (method, size) in [("rehearsal", 2), ("rehearsal", 3), ("derpp", 4)] {
        let mut command = Command::new(PROGRAM);
        command.args(arguments(method)).args(["--ranks", &size.to_string()]);
        let (threads, _) = report(method, &mut command);
        let (processes, stdout) = report(method, &mut mpirun_of(method, size));
        assert_eq!(processes["method"], method);
        assert_eq!(processes["world_size"], size);
        assert_eq!(processes["config"]["collective"], "mpi");
        for same in ["accuracy", "curves", "tasks", "complete"] {
            assert_eq!(processes[same], threads[same], "{same}, {method}, {size} ranks");
        }
        for digest in ["contents_digest", "draws_digest"] {
            assert!(processes["buffer"][digest].is_string());
            assert_eq!(
                processes["buffer"][digest], threads["buffer"][digest],
                "{digest}, {method}, {size} ranks"
            );
        }
        assert_eq!(
            stdout.matches("task 5/5  average").count(),
            1,
            "exactly one process shows progress:\n{stdout}"
        );
        assert_eq!(stdout.matches("reports and figures").count(), 1, "{stdout}");
    }
}

#[test]
fn gradients_can_be_summed_by_the_mpi_library() {
    let (report, _) = report("rehearsal", mpirun(2).args(["--reduction", "fast"]));
    assert_eq!(report["config"]["reduction"], "fast");
    assert!(report["summary"]["average_top1"].as_f64().unwrap() > 0.1);
}

#[test]
fn an_error_ends_all_processes_and_names_the_cause() {
    let out = tempfile::tempdir().unwrap();
    let output = output(mpirun(2).args(["--ranks", "3"]), out.path());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("the launcher started 2 processes"),
        "{stderr}"
    );
}

/// Far longer than any of these runs takes.
const HANG: Duration = Duration::from_secs(120);

/// Maximum time until a run is refused: three seconds, and more on a busy machine.
const REFUSAL: Duration = Duration::from_secs(30);

/// A launcher in the background. It and its processes are killed when a test fails.
struct Running {
    child: Child,
    _sessions: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal("KILL", &format!("-{}", self.child.id()));
        }
        let _ = self.child.wait();
    }
}

fn start(command: &mut Command) -> Running {
    let sessions = tempfile::tempdir().unwrap();
    command
        .env("TMPDIR", sessions.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // All processes of a group can be killed together.
    Running {
        child: command.process_group(0).spawn().expect("mpirun is installed"),
        _sessions: sessions,
    }
}

impl Running {
    /// Exit code, standard output and standard error.
    fn finish(mut self) -> (Option<i32>, String, String) {
        let read = |mut from: Box<dyn Read + Send>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = from.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        let stdout = self.child.stdout.take().map(|pipe| read(Box::new(pipe)));
        let stderr = self.child.stderr.take().map(|pipe| read(Box::new(pipe)));
        let started = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(started.elapsed() < HANG, "the run hangs");
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |thread: Option<std::thread::JoinHandle<String>>| {
            thread.map_or_else(String::new, |thread| thread.join().unwrap())
        };
        (code, text(stdout), text(stderr))
    }

    /// Reads standard output up to a line with `words`.
    fn read_until(&mut self, words: &str) {
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the output ended before {words:?}");
        }
        // Without a reader of the rest, the run would wait.
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    }
}

/// Uses the shell's `kill`, the only one on a small system.
fn signal(name: &str, process: &str) {
    let _ = Command::new("sh")
        .args(["-c", "kill -s \"$0\" -- \"$1\"", name, process])
        .stderr(Stdio::null())
        .status();
}

/// The program with separate arguments and directories for each rank.
fn each<S: AsRef<OsStr>>(ranks: &[(&Path, Vec<S>)]) -> Command {
    let mut command = Command::new(testing::mpirun(1, PROGRAM).get_program());
    for (name, value) in testing::mpirun(1, PROGRAM).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    for (number, (directory, arguments)) in ranks.iter().enumerate() {
        command
            .args([":"].iter().filter(|_| number > 0))
            .args(["-n", "1", "-wdir"])
            .arg(directory)
            .arg(PROGRAM)
            .args(arguments);
    }
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Expects a run that fails with an error that contains `words` from each rank, and leaves no file
/// at `out`.
fn refused(command: &mut Command, size: usize, words: &str, out: &Path) {
    let started = Instant::now();
    let (code, stdout, stderr) = start(command).finish();
    assert!(code != Some(0) && started.elapsed() < REFUSAL, "{words:?}: {stdout}{stderr}");
    for rank in 0..size {
        let says = |line: &str| line.starts_with(&format!("rank {rank}: ")) && line.contains(words);
        assert!(stderr.lines().any(says), "no {words:?} from rank {rank} of {size}: {stderr}");
    }
    assert!(!out.exists(), "{words:?} left {}", out.display());
}

/// A small run on an image folder.
const BASE: [&str; 11] = [
    "train",
    "--method",
    "rehearsal",
    "--data",
    "folder:data",
    "--image-size",
    "8",
    "--epochs",
    "2",
    "--out",
    "out",
];

#[test]
fn options_that_differ_are_named_with_ranks_and_values() {
    let directory = tempfile::tempdir().unwrap();
    image_folder(&directory.path().join("data"));
    let base: Vec<&str> = [&BASE[..], &["--model", "mlp", "--capacity", "12"]].concat();
    // Arguments of most ranks, arguments of rank 1, and words of the error.
    let cases: [(&[&str], &[&str], &str); 17] = [
        (&["--tasks", "2"], &["--tasks", "3"], "--tasks is 2 on"),
        (&["--tasks", "2"], &["--tasks", "2", "--reduction", "fast"], "--reduction is fixed on"),
        (
            &["--tasks", "2", "--evaluate-every", "1"],
            &["--tasks", "2", "--evaluate-every", "2"],
            "--evaluate-every is 1 on",
        ),
        (&["--tasks", "2"], &["--tasks", "2", "--batch-size", "4"], "--batch-size is 8 on"),
        (&["--tasks", "2"], &["--tasks", "2", "--augment", "crop-flip"], "--augment is none on"),
        (&["--tasks", "2"], &["--tasks", "2", "--stream", "instance"], "--stream is class on"),
        (
            &["--tasks", "2"],
            &["--tasks", "2", "--class-order", "seeded"],
            "--class-order is fixed on",
        ),
        (
            &["--tasks", "2"],
            &["--tasks", "2", "--learning-rate", "0.5"],
            "--learning-rate is 0.02 on",
        ),
        (&["--tasks", "2"], &["--tasks", "2", "--warmup-epochs", "1"], "--warmup-epochs is 0.0 on"),
        (&["--tasks", "2"], &["--tasks", "2", "--milestones", "1:0.1"], "--milestones is none on"),
        (&["--tasks", "2"], &["--tasks", "2", "--scale-cap", "2"], "--scale-cap is 1.0 on"),
        (
            &["--tasks", "2"],
            &["--tasks", "2", "--optimizer-state", "keep"],
            "--optimizer-state is reset on",
        ),
        (&["--tasks", "2"], &["--tasks", "2", "--init", "xavier"], "--init is kaiming on"),
        (&["--tasks", "2"], &["--tasks", "2", "--fit", "crop"], "--fit is stretch on"),
        (
            &["--tasks", "2"],
            &["--tasks", "2", "--checkpoint-every", "never"],
            "--checkpoint-every is task on",
        ),
        (&["--tasks", "2"], &["--tasks", "2", "--policy", "fifo"], "--policy is class-balanced on"),
        (&["--tasks", "2"], &["--tasks", "2", "--seed", "1", "--lag", "2"], "--lag is 1 on"),
    ];
    for (number, (usual, culprit, words)) in cases.into_iter().enumerate() {
        let size = 2 + number % 2;
        let of = |rank: usize| {
            (directory.path(), [&base[..], if rank == 1 { culprit } else { usual }].concat())
        };
        let ranks: Vec<_> = (0..size).map(of).collect();
        let words =
            format!("{words} {}", if size == 2 { "rank 0 and " } else { "ranks 0, 2 and " });
        refused(&mut each(&ranks), size, &words, &directory.path().join("out"));
    }
    let method = |name: &'static str| ["train", "--method", name, "--out", "out"].to_vec();
    let ranks = [(directory.path(), method("incremental")), (directory.path(), method("scratch"))];
    refused(
        &mut each(&ranks),
        2,
        "--method is incremental on rank 0 and scratch on rank 1",
        &directory.path().join("out"),
    );
    // Other options may differ.
    let own: [&[&str]; 3] = [
        &["--workers", "2"],
        &["--execution", "inline", "--display", "none"],
        &["--checkpoint-keep", "5"],
    ];
    let ranks = own.map(|own| (directory.path(), [&base[..], &["--tasks", "2"], own].concat()));
    let (code, stdout, stderr) = start(&mut each(&ranks)).finish();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
}

/// Three classes with 6 training and 3 test images each.
fn image_folder(directory: &Path) {
    for (part, images) in [("train", 6), ("test", 3)] {
        for (class, name) in ["cat", "dog", "eel"].iter().enumerate() {
            let folder = directory.join(part).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for index in 0..images {
                // The number of bytes depends on the class.
                let image = image::RgbImage::from_fn(8, 8, |x, y| {
                    image::Rgb([60 * class as u8, (x as usize * class) as u8, (y * index) as u8])
                });
                image.save(folder.join(format!("{index}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn data_that_differs_is_named_with_ranks_and_classes() {
    type Spoil = fn(&Path);
    let cases: [(Spoil, &str); 6] = [
        (
            |data| std::fs::write(data.join("train/dog/1.png"), "another image").unwrap(),
            "training images of class \"dog\" differ between rank 0 and rank 1",
        ),
        (
            |data| {
                for part in ["train", "test"] {
                    std::fs::rename(data.join(part).join("cat"), data.join("aside")).unwrap();
                    std::fs::rename(data.join(part).join("eel"), data.join(part).join("cat"))
                        .unwrap();
                    std::fs::rename(data.join("aside"), data.join(part).join("eel")).unwrap();
                }
            },
            "training images of class \"cat\" differ between rank 0 and rank 1",
        ),
        (
            |data| {
                ["train", "test"].iter().for_each(|part| {
                    std::fs::rename(data.join(part).join("cat"), data.join(part).join("ant"))
                        .unwrap()
                })
            },
            "class 0 is \"cat\" on rank 0 and \"ant\" on rank 1",
        ),
        (
            |data| std::fs::remove_file(data.join("test/eel/2.png")).unwrap(),
            "test images of class \"eel\": 3 on rank 0 and 2 on rank 1",
        ),
        (
            |data| std::fs::remove_file(data.join("train/cat/5.png")).unwrap(),
            "training images of class \"cat\": 6 on rank 0 and 5 on rank 1",
        ),
        (
            |data| {
                std::fs::rename(data.join("train/cat/5.png"), data.join("train/dog/6.png")).unwrap()
            },
            "training images of class \"dog\": 6 on rank 0 and 7",
        ),
    ];
    for (number, (spoil, words)) in cases.into_iter().enumerate() {
        let size = 2 + number % 2;
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        directories.iter().for_each(|directory| image_folder(&directory.path().join("data")));
        spoil(&directories[1].path().join("data"));
        let out = directories[0].path().join("out");
        let mut arguments: Vec<&OsStr> = BASE.iter().map(OsStr::new).collect();
        arguments[2] = ["incremental", "scratch", "rehearsal"][number % 3].as_ref();
        arguments.pop();
        arguments.push(out.as_os_str());
        arguments.extend(["--tasks", "3", "--model", "mlp", "--capacity", "12"].map(OsStr::new));
        let ranks: Vec<_> = (0..size)
            .map(|rank| (directories[usize::from(rank == 1)].path(), arguments.clone()))
            .collect();
        refused(&mut each(&ranks), size, words, &out);
    }
}

#[test]
fn an_output_directory_must_be_shared_by_all_ranks() {
    for (size, there) in [(2, false), (3, true)] {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let other = directories[1].path().join("x");
        if there {
            // A different directory of the same name.
            std::fs::create_dir(&other).unwrap();
        }
        let arguments = ["train", "--method", "rehearsal", "--epochs", "2", "--out", "x"].to_vec();
        let ranks: Vec<_> = (0..size)
            .map(|rank| (directories[usize::from(rank == 1)].path(), arguments.clone()))
            .collect();
        let words = "is not the same on rank 0 and on rank 1: checkpoints need a directory that all ranks share";
        refused(&mut each(&ranks), size, words, &directories[0].path().join("x"));
        assert_eq!(other.read_dir().is_ok_and(|mut files| files.next().is_none()), there);
    }
}

/// A run with short steps.
const LONG: [&str; 9] =
    ["train", "--method", "rehearsal", "--tasks", "2", "--epochs", "40", "--out", "out"];

fn checkpoints(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory.join("out/rehearsal/checkpoints")) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("manifest.json").exists())
        .collect()
}

/// The job script with `mpirun` in `docs/RUNNING.md`, with this program and this launcher.
fn job_script(launcher: &Command, arguments: &[&str]) -> String {
    let guide = include_str!("../../../docs/RUNNING.md");
    let block = guide
        .split("```sh\n")
        .find(|block| block.contains("B:USR1"))
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let words: Vec<_> = launcher
        .get_args()
        .map(|word| word.to_str().unwrap())
        .chain(arguments.iter().copied())
        .collect();
    let own = format!("{} {} &", launcher.get_program().to_str().unwrap(), words.join(" "));
    let line = |line: &str| if line.starts_with("mpirun ") { own.clone() } else { line.to_owned() };
    let lines: Vec<_> = block.lines().map(line).collect();
    assert!(lines.contains(&own));
    lines.join("\n")
}

#[test]
fn the_job_script_writes_a_checkpoint_and_requeues_the_job() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("bin")).unwrap();
    std::fs::write(directory.path().join("bin/scontrol"), "#!/bin/sh\necho \"$@\" >> requeued\n")
        .unwrap();
    let executable =
        Command::new("chmod").args(["+x", "bin/scontrol"]).current_dir(directory.path()).status();
    assert!(executable.unwrap().success());
    let launcher = testing::mpirun(2, PROGRAM);
    let path = format!("bin:{}", std::env::var("PATH").unwrap());
    let job = |arguments: &[&str]| {
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(job_script(&launcher, arguments))
            .current_dir(directory.path())
            .env("PATH", &path)
            .env("SLURM_JOB_ID", "7");
        command.envs(launcher.get_envs().filter_map(|(name, value)| Some((name, value?))));
        start(&mut command)
    };
    let requeued =
        || std::fs::read_to_string(directory.path().join("requeued")).unwrap_or_default();
    // Steps of a millisecond, then much slower steps.
    let slow = [
        "--model",
        "resnet18",
        "--model-width",
        "8",
        "--image-size",
        "32",
        "--batch-size",
        "64",
        "--out",
        "slow",
    ];
    for (arguments, checkpoint) in [(LONG.to_vec(), "out"), ([&LONG[..7], &slow].concat(), "slow")]
    {
        let before = requeued();
        let mut running = job(&arguments);
        running.read_until("buffer:");
        signal("USR1", &running.child.id().to_string());
        let (_, _, stderr) = running.finish();
        assert_eq!(requeued(), format!("{before}requeue 7\n"), "{stderr}");
        assert!(directory.path().join(checkpoint).join("job.json").exists());
        assert!(
            directory
                .path()
                .join(checkpoint)
                .join("rehearsal/checkpoints/00000001/manifest.json")
                .exists()
        );
    }
    let before = requeued();
    let (code, stdout, stderr) = job(&LONG).finish();
    assert!(code == Some(0) && stdout.contains("resumes with task"), "{stdout}{stderr}");
    assert!(!directory.path().join("out/job.json").exists(), "{stdout}{stderr}");
    assert_eq!(requeued(), before);
}

#[test]
fn an_interrupted_run_resumes_to_the_results_of_an_uninterrupted_one() {
    let whole = tempfile::tempdir().unwrap();
    let (code, ..) =
        start(testing::mpirun(2, PROGRAM).args(LONG).current_dir(whole.path())).finish();
    assert_eq!(code, Some(0));
    let directory = tempfile::tempdir().unwrap();
    let run = || start(testing::mpirun(2, PROGRAM).args(LONG).current_dir(directory.path()));
    let mut running = run();
    running.read_until("buffer:");
    signal("USR1", &running.child.id().to_string());
    let (code, _, stderr) = running.finish();
    assert_eq!(code, Some(130), "{stderr}");
    let (code, stdout, stderr) = run().finish();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("resumes with task"), "{stdout}");
    let result = |of: &Path| {
        let report: Value =
            serde_json::from_slice(&std::fs::read(of.join("out/rehearsal/report.json")).unwrap())
                .unwrap();
        ["accuracy", "complete", "summary"].map(|name| report[name].clone())
    };
    assert_eq!(result(directory.path()), result(whole.path()));
}

/// An event during a run under `mpirun`.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A signal to the launcher.
    Launcher(&'static str),
    /// A signal to rank 1's process.
    Rank(&'static str),
}

/// The processes of ranks that a launcher started, directly or through a proxy.
fn ranks_of(launcher: u32) -> Vec<u32> {
    let parents: HashMap<u32, (u32, String)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let process: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            Some((process, (rest.split_whitespace().nth(1)?.parse().ok()?, name.to_owned())))
        })
        .collect();
    let ancestors = |process: u32| {
        std::iter::successors(Some(process), |process| {
            parents.get(process).map(|(parent, _)| *parent)
        })
    };
    let is_rank = |process: &u32| {
        parents[process].1.starts_with("continual-imag")
            && ancestors(*process).any(|of| of == launcher)
    };
    let mut ranks: Vec<u32> = parents.keys().copied().filter(is_rank).collect();
    ranks.sort_unstable();
    ranks
}

fn is_alive(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < HANG, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts the run in `directory` once for each of `events`, and checks that it resumes.
fn survives(directory: &Path, arguments: &[&str], events: &[Event]) {
    let mut resumed = false;
    for &event in events {
        let mut running = start(testing::mpirun(2, PROGRAM).args(arguments).current_dir(directory));
        running.read_until(if resumed { "resumes with task" } else { "buffer:" });
        resumed = true;
        // The event happens during training, with at least one complete checkpoint.
        let before = checkpoints(directory);
        until("a checkpoint", || checkpoints(directory).iter().any(|path| !before.contains(path)));
        let launcher = running.child.id();
        let ranks = ranks_of(launcher);
        assert_eq!(ranks.len(), 2);
        let (name, process) = match event {
            Event::Launcher(name) => (name, launcher),
            Event::Rank(name) => (name, ranks[1]),
        };
        signal(name, &process.to_string());
        if name == "STOP" {
            // A process that is stopped for a while counts as slow.
            std::thread::sleep(Duration::from_secs(2));
            signal("CONT", &process.to_string());
            let before = checkpoints(directory);
            until("a checkpoint after a stop", || {
                checkpoints(directory).iter().any(|path| !before.contains(path))
            });
            signal("USR1", &launcher.to_string());
        }
        let (code, stdout, stderr) = running.finish();
        match event {
            // These signals reach the ranks: the run completes its step and writes a checkpoint.
            Event::Launcher("USR1" | "XCPU" | "STOP") | Event::Rank("TERM" | "STOP") => {
                assert_eq!(code, Some(130), "{event:?}: {stderr}")
            }
            Event::Launcher("KILL") => assert_eq!(code, None, "{event:?}"),
            _ => {
                assert!(code.is_some_and(|code| code != 0), "{event:?}: {code:?} {stdout}{stderr}")
            }
        }
        until("the end of the ranks", || !ranks.iter().any(|&rank| is_alive(rank)));
        assert!(!checkpoints(directory).is_empty(), "{event:?}");
    }
    let mut running = start(testing::mpirun(2, PROGRAM).args(arguments).current_dir(directory));
    running.read_until("resumes with task");
}

#[test]
fn runs_with_short_steps_resume_after_signals_kills_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let arguments =
        [&LONG[..5], &["--epochs", "1000000", "--checkpoint-every", "100", "--out", "out"]]
            .concat();
    let signals = ["USR1", "XCPU", "TERM", "INT", "HUP", "KILL", "STOP"].map(Event::Launcher);
    survives(
        directory.path(),
        &arguments,
        &[&signals[..], &["TERM", "KILL", "STOP"].map(Event::Rank)].concat(),
    );
}

#[test]
fn runs_with_long_steps_resume_after_signals_kills_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    image_folder(&directory.path().join("data"));
    // One step per epoch, which is longer than the launcher's grace period of two seconds.
    let slow = [
        "--data",
        "folder:data",
        "--image-size",
        "160",
        "--model",
        "resnet18",
        "--capacity",
        "12",
        "--checkpoint-every",
        "1",
    ];
    let arguments = [
        &["train", "--method", "rehearsal", "--tasks", "3", "--epochs", "1000000", "--out", "out"],
        &slow[..],
    ]
    .concat();
    // The launcher of Open MPI treats INT and HUP like TERM.
    let events = [
        Event::Launcher("USR1"),
        Event::Launcher("TERM"),
        Event::Launcher("KILL"),
        Event::Rank("KILL"),
        Event::Rank("STOP"),
    ];
    survives(directory.path(), &arguments, &events);
}
