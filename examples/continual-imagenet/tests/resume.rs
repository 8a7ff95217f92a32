//! A run that is killed or interrupted goes on from where it was, and ends with the bits of one that never stopped.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far beyond what any of these runs takes: a run that is still there hangs.
const HANG: Duration = Duration::from_secs(300);

/// A small run with everything that has a state: a buffer, momentum that is kept, a schedule, augmentation.
const RUN: [&str; 17] = [
    "train",
    "--method",
    "rehearsal",
    "--tasks",
    "3",
    "--epochs",
    "40",
    "--optimizer-state",
    "keep",
    "--warmup-epochs",
    "1.5",
    "--scale-cap",
    "2",
    "--augment",
    "crop-flip",
    "--out",
    "out",
];

/// A program that runs in the background; a test that fails does not leave it running.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path, arguments: &[&str]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_continual-imagenet"));
    command.args(arguments).current_dir(directory).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// Exit code, standard output and standard error.
fn finish(mut running: Running) -> (Option<i32>, String, String) {
    let read = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            from.read_to_string(&mut text).unwrap();
            text
        })
    };
    let (stdout, stderr) = (read(Box::new(running.0.stdout.take().unwrap())), read(Box::new(running.0.stderr.take().unwrap())));
    let started = Instant::now();
    let code = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status.code();
        }
        assert!(started.elapsed() < HANG, "the program hangs");
        std::thread::sleep(Duration::from_millis(5));
    };
    (code, stdout.join().unwrap(), stderr.join().unwrap())
}

fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = finish(start(directory, arguments));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?} printed {stdout}");
    stdout
}

/// Starts a run, interrupts it once a line with `words` was printed, and sees it end as it should.
fn interrupted(directory: &Path, arguments: &[&str], words: &str) {
    let mut running = start(directory, arguments);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the output ended before {words:?}");
    }
    signal(&running.0, "INT");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let mut stderr = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(130), "{rest}{stderr}");
    assert!(rest.contains("not finished"), "{rest}");
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("sh").args(["-c", "kill -s $0 $1", name, &child.id().to_string()]).status().unwrap().success());
}

/// All of a report but times.
fn result(path: &Path) -> Value {
    let mut report: Value = serde_json::from_slice(&std::fs::read(path.join("report.json")).unwrap()).unwrap();
    report.as_object_mut().unwrap().remove("time").unwrap();
    // Counted since the run last went on.
    report["buffer"].as_object_mut().unwrap().remove("per_step").unwrap();
    report
}

fn uninterrupted(arguments: &[&str]) -> Value {
    let directory = TempDir::new().unwrap();
    succeed(directory.path(), arguments);
    let out = directory.path().join("out");
    let left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(
        left.iter()
            .all(|name| ["accuracy.svg", "curves.csv", "phases.svg", "rehearsal", "report.html", "summary.csv"].contains(&name.as_str())),
        "{left:?}"
    );
    assert!(!out.join("rehearsal/checkpoints").exists());
    result(&out.join("rehearsal"))
}

/// The complete checkpoints, oldest first.
fn checkpoints(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory.join("out/rehearsal/checkpoints")) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.join("manifest.json").exists()).collect();
    paths.sort();
    paths
}

#[test]
fn a_run_that_is_killed_at_any_moment_ends_with_the_same_report() {
    let arguments = [&RUN[..], &["--checkpoint-every", "7"]].concat();
    let started = Instant::now();
    let whole = uninterrupted(&arguments);
    let longest = started.elapsed().as_millis() as u64;
    let directory = TempDir::new().unwrap();
    let mut state = 7u64;
    for _ in 0..10 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let mut running = start(directory.path(), &arguments);
        std::thread::sleep(Duration::from_millis((state >> 33) % longest.max(1)));
        let _ = running.0.kill();
        running.0.wait().unwrap();
        if !directory.path().join("out/job.json").exists() && directory.path().join("out/rehearsal/report.json").exists() {
            break;
        }
    }
    if directory.path().join("out/job.json").exists() || !directory.path().join("out/rehearsal/report.json").exists() {
        succeed(directory.path(), &arguments);
    }
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
    assert!(!directory.path().join("out-2").exists());
}

/// Task and epoch of every row of `curves.csv`, each of which has all its cells.
fn epochs(directory: &Path) -> Vec<(usize, usize)> {
    let text = std::fs::read_to_string(directory.join("out/curves.csv")).unwrap();
    let cells = text.lines().next().unwrap().split(',').count();
    let row = |line: &str| {
        let row: Vec<_> = line.split(',').collect();
        assert!(row.len() == cells && row[5..8].iter().all(|cell| cell.parse::<f64>().is_ok_and(|value| value > 0.0)), "{line}");
        (row[3].parse().unwrap(), row[4].parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn the_epochs_on_disk_are_complete_and_there_once_after_kills_and_interruptions() {
    let directory = TempDir::new().unwrap();
    let arguments = [&RUN[..], &["--checkpoint-every", "7"]].concat();
    let every: Vec<_> = (1..=3).flat_map(|task| (1..=40).map(move |epoch| (task, epoch))).collect();
    for (index, seen) in [3, 30, 60].into_iter().enumerate() {
        let running = start(directory.path(), &arguments);
        let started = Instant::now();
        while !std::fs::read_to_string(directory.path().join("out/curves.csv")).is_ok_and(|text| text.lines().count() > seen) {
            assert!(started.elapsed() < HANG);
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&running.0, if index == 1 { "INT" } else { "KILL" });
        finish(running);
        let found = epochs(directory.path());
        assert_eq!(found, every[..found.len()], "after {seen}");
    }
    succeed(directory.path(), &arguments);
    assert_eq!(epochs(directory.path()), every);
}

#[test]
fn an_interrupted_run_goes_on_in_the_middle_of_an_epoch_with_the_same_bits() {
    for more in [&["--ranks", "1"][..], &["--ranks", "3", "--lag", "2", "--policy", "reservoir", "--sampling", "class-balanced"]] {
        let arguments = [&RUN[..], more].concat();
        let whole = uninterrupted(&arguments);
        let directory = TempDir::new().unwrap();
        for words in ["buffer:", "goes on", "task 2/3  average"] {
            interrupted(directory.path(), &arguments, words);
            assert!((1..=2).contains(&checkpoints(directory.path()).len()));
        }
        // Who does the work, and where it is shown, does not matter.
        let stdout = succeed(directory.path(), &[&arguments[..], &["--workers", "3", "--execution", "inline"]].concat());
        assert!(stdout.contains("goes on with task"), "{stdout}");
        let mut report = result(&directory.path().join("out/rehearsal"));
        for option in ["workers", "execution"] {
            report["config"][option] = whole["config"][option].clone();
        }
        assert_eq!(report, whole, "{more:?}");
    }
}

/// Of the newest checkpoint: the steps done in its epoch, and the header of the learner's file.
fn newest(directory: &Path) -> (u64, String) {
    let path = checkpoints(directory).pop().unwrap();
    let manifest: Value = serde_json::from_slice(&std::fs::read(path.join("manifest.json")).unwrap()).unwrap();
    let bytes = std::fs::read(path.join("learner.safetensors")).unwrap_or_default();
    let length = bytes.first_chunk().map_or(0, |&length| u64::from_le_bytes(length) as usize);
    let state: Value = serde_json::from_str(manifest["state"].as_str().unwrap()).unwrap();
    let steps = state["position"]["within"][1].as_u64().unwrap_or(0);
    (steps, String::from_utf8(bytes.get(8..8 + length).unwrap_or_default().to_vec()).unwrap())
}

#[test]
fn running_statistics_stay_each_ranks_own_where_an_epoch_is_interrupted() {
    let mut arguments = vec!["train", "--method", "rehearsal", "--tasks", "2", "--epochs", "3", "--ranks", "2", "--out", "out"];
    arguments.extend(["--model", "resnet18", "--model-width", "2"]);
    let whole = uninterrupted(&arguments);
    let directory = TempDir::new().unwrap();
    let mut found = false;
    for words in ["buffer:", "goes on", "goes on"] {
        interrupted(directory.path(), &arguments, words);
        let (steps, header) = newest(directory.path());
        // In the middle of an epoch the two ranks' differ; at its end they have been averaged.
        assert_eq!(header.contains("statistics.00001"), steps > 0, "{steps} steps");
        found |= steps > 0;
    }
    assert!(found, "no epoch was interrupted in its middle");
    succeed(directory.path(), &arguments);
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_is_used() {
    let whole = uninterrupted(&RUN);
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "task 2/3  average");
    let found = checkpoints(directory.path());
    assert_eq!(found.len(), 2);
    for file in ["learner.safetensors", "buffer/rank-00001.safetensors"] {
        let path = found[1].join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let copy = TempDir::new().unwrap();
    assert!(Command::new("cp").arg("-r").arg(directory.path().join("out")).arg(copy.path()).status().unwrap().success());
    let (code, stdout, stderr) = finish(start(directory.path(), &RUN));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("goes on with task"), "{stdout}");
    assert!(stderr.contains("buffer/rank-00001.safetensors is damaged") || stderr.contains("learner.safetensors is damaged"), "{stderr}");
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
    // Without a good one there is nothing to go on from: better an error than a silent beginning.
    for path in checkpoints(copy.path()) {
        std::fs::write(path.join("manifest.json"), "{").unwrap();
    }
    let (code, stdout, stderr) = finish(start(copy.path(), &RUN));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("manifest.json is damaged") && stderr.contains("begin anew with `--fresh`"), "{stderr}");
    succeed(copy.path(), &[&RUN[..], &["--fresh"]].concat());
    assert_eq!(result(&copy.path().join("out/rehearsal")), whole);
}

#[test]
fn a_checkpoint_without_its_own_buffer_is_none_and_takes_no_place_of_a_good_one() {
    let whole = uninterrupted(&RUN);
    for missing in [true, false] {
        let directory = TempDir::new().unwrap();
        interrupted(directory.path(), &RUN, "task 2/3  average");
        let found = checkpoints(directory.path());
        assert_eq!(found.len(), 2);
        std::fs::remove_dir_all(found[1].join("buffer")).unwrap();
        if !missing {
            assert!(Command::new("cp").arg("-r").arg(found[0].join("buffer")).arg(&found[1]).status().unwrap().success());
        }
        interrupted(directory.path(), &RUN, "goes on");
        let left = checkpoints(directory.path());
        // Of those that were there only the good one may be left.
        assert!(left.len() == 2 && !left.contains(&found[1]), "{left:?}");
        succeed(directory.path(), &RUN);
        assert_eq!(result(&directory.path().join("out/rehearsal")), whole, "the buffer is missing: {missing}");
    }
}

#[test]
fn a_run_that_began_anew_and_was_interrupted_is_not_the_finished_one_of_before() {
    let directory = TempDir::new().unwrap();
    succeed(directory.path(), &RUN);
    let other = [&RUN[..], &["--seed", "5"]].concat();
    let own = [&other[..], &["--fresh", "--weights", "out/rehearsal/model.safetensors"]].concat();
    let (code, _, stderr) = finish(start(directory.path(), &own));
    assert!(code == Some(1) && stderr.contains("would replace"), "{stderr}");
    assert!(directory.path().join("out/rehearsal/model.safetensors").exists());
    interrupted(directory.path(), &[&other[..], &["--fresh"]].concat(), "task 1/3  average");
    assert!(!directory.path().join("out/rehearsal/model.safetensors").exists());
    let stdout = succeed(directory.path(), &other);
    assert!(stdout.contains("goes on with task"), "{stdout}");
    assert_eq!(result(&directory.path().join("out/rehearsal")), uninterrupted(&other));
}

#[test]
fn whoever_interrupts_a_run_that_has_everything_is_told_so() {
    let directory = TempDir::new().unwrap();
    let running = start(directory.path(), &RUN);
    let report = directory.path().join("out/rehearsal/report.json");
    let started = Instant::now();
    while !std::fs::read_to_string(&report).is_ok_and(|text| text.contains("\"complete\": true") || text.contains("\"complete\":true")) {
        assert!(started.elapsed() < HANG);
        std::thread::yield_now();
    }
    signal(&running.0, "TERM");
    let (code, stdout, stderr) = finish(running);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(!directory.path().join("out/job.json").exists());
}

#[test]
fn checkpoints_whose_job_is_lost_are_not_thrown_away() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "task 1/3  average");
    std::fs::remove_file(directory.path().join("out/job.json")).unwrap();
    let (code, _, stderr) = finish(start(directory.path(), &RUN));
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("job.json") && stderr.contains("there are checkpoints in") && stderr.contains("--fresh"), "{stderr}");
    assert!(!checkpoints(directory.path()).is_empty());
}

#[test]
fn a_run_that_cannot_write_a_checkpoint_ends_with_its_file_and_goes_on_from_the_one_before() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "task 1/3");
    let before = checkpoints(directory.path());
    let number: usize = before.last().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let next = directory.path().join(format!("out/rehearsal/checkpoints/{:08}", number + 1));
    let mut running = start(directory.path(), &RUN);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("goes on") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0);
    }
    // Where the next one's buffer would be there is a file.
    std::fs::create_dir(&next).unwrap();
    std::fs::write(next.join("buffer"), "").unwrap();
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let mut stderr = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let code = running.0.wait().unwrap().code();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("{:08}/buffer", number + 1)), "{stderr}");
    assert_eq!(checkpoints(directory.path()), before);
    assert!(!next.exists(), "what it had begun to write is left");
    let stdout = succeed(directory.path(), &RUN);
    assert!(stdout.contains("goes on with task"), "{stdout}");
    assert_eq!(result(&directory.path().join("out/rehearsal")), uninterrupted(&RUN));
}

#[test]
fn another_configuration_is_refused_with_what_changed_and_a_finished_run_is_left_alone() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "buffer:");
    let (code, _, stderr) = finish(start(directory.path(), &[&RUN[..], &["--batch-size", "9", "--seed", "5"]].concat()));
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(stderr.contains("batch-size was 8 and is 9, seed was 42 and is 5") && stderr.contains("--fresh"), "{stderr}");
    succeed(directory.path(), &RUN);
    let first = result(&directory.path().join("out/rehearsal"));
    assert!(succeed(directory.path(), &RUN).contains("out-2"));
    let mut second = result(&directory.path().join("out-2/rehearsal"));
    second["config"]["out"] = "out".into();
    assert_eq!(second, first);
}

#[test]
fn two_runs_on_one_directory_do_not_disturb_each_other() {
    let directory = TempDir::new().unwrap();
    let long = ["train", "--method", "rehearsal", "--epochs", "10000", "--out", "out"];
    let mut running = start(directory.path(), &long);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("buffer:") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0);
    }
    let (code, _, stderr) = finish(start(directory.path(), &long));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("another run is using the directory out"), "{stderr}");
}

#[test]
fn a_run_goes_on_with_other_numbers_of_ranks_and_says_so() {
    let directory = TempDir::new().unwrap();
    let ranks = |ranks: &'static str| [&RUN[..], &["--ranks", ranks]].concat();
    interrupted(directory.path(), &ranks("4"), "task 1/3  average");
    interrupted(directory.path(), &ranks("2"), "task 2/3  average");
    let stdout = succeed(directory.path(), &ranks("3"));
    assert!(stdout.contains("written by 2 ranks"), "{stdout}");
    let report = result(&directory.path().join("out/rehearsal"));
    assert_eq!((&report["world_size"], &report["earlier_world_sizes"]), (&3.into(), &serde_json::json!([4, 2])));
    assert_eq!((&report["buffer"]["len"], &report["complete"]), (&144.into(), &true.into()));
}
