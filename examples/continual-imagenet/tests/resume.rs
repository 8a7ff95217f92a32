//! A run that was killed or interrupted resumes, and ends bit-identical to an uninterrupted run.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::io::{BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};
use support::{HANG, Running, program, read_until};
use tempfile::TempDir;

/// A small run with all kinds of state: a buffer, momentum across tasks, a schedule, augmentation.
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

fn start(directory: &Path, arguments: &[&str]) -> Running {
    start_ignoring(directory, arguments, &[])
}

/// Starts a program that ignores these signals. All others have their default action, even if the
/// caller of the tests ignores them.
#[allow(unsafe_code)]
fn start_ignoring(directory: &Path, arguments: &[&str], ignored: &'static [i32]) -> Running {
    let mut command = program(directory, arguments);
    let set = move || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGXCPU] {
            let action = if ignored.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
            // SAFETY: neither action is a function of this program.
            unsafe { libc::signal(signal, action) };
        }
        Ok(())
    };
    // SAFETY: only `signal` is called between `fork` and `exec`, and it may be.
    unsafe { command.pre_exec(set) };
    Running::start(&mut command)
}

fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = start(directory, arguments).finish();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?} printed {stdout}");
    stdout
}

/// Starts a run, interrupts it after a line with `words`, and checks how it ends.
fn interrupted(directory: &Path, arguments: &[&str], words: &str) {
    interrupted_by(&["INT"], directory, arguments, words);
}

fn interrupted_by(signals: &[&str], directory: &Path, arguments: &[&str], words: &str) {
    let mut running = start(directory, arguments);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    read_until(&mut stdout, words);
    signals.iter().for_each(|name| signal(&running.0, name));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let mut stderr = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(130), "{rest}{stderr}");
    assert!(rest.contains("not finished"), "{rest}");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", "kill -s $0 $1", name, &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
    // This succeeds for a process that has ended and was not waited for, too.
    assert!(sent.unwrap().success());
}

/// Every file below a directory, with its contents and modification time.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let of = |path: PathBuf| match path.is_dir() {
        true => contents(&path),
        false => vec![(
            path.clone(),
            std::fs::read(&path).unwrap(),
            path.metadata().unwrap().modified().unwrap(),
        )],
    };
    paths.into_iter().flat_map(of).collect()
}

/// Expects a start that fails with all of these words and changes no file in `out`.
fn refused(directory: &Path, arguments: &[&str], words: &[&str]) {
    let out = directory.join("out");
    let before = contents(&out);
    let (code, stdout, stderr) = start(directory, arguments).finish();
    assert_eq!(code, Some(1), "{arguments:?}: {stdout}");
    let last = stderr.lines().last().unwrap();
    words.iter().for_each(|word| assert!(last.contains(word), "no {word:?} in: {stderr}"));
    let now = contents(&out);
    let names = |files: &[(PathBuf, Vec<u8>, SystemTime)]| {
        files.iter().map(|(path, ..)| path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&now), "{arguments:?}");
    for (before, now) in before.iter().zip(&now) {
        assert!(before == now, "{arguments:?} changed {}", now.0.display());
    }
}

/// A report without times.
fn result(path: &Path) -> Value {
    let mut report: Value =
        serde_json::from_slice(&std::fs::read(path.join("report.json")).unwrap()).unwrap();
    report.as_object_mut().unwrap().remove("time").unwrap();
    // Counted since the last start of the program.
    report["buffer"].as_object_mut().unwrap().remove("per_step").unwrap();
    report
}

fn uninterrupted(arguments: &[&str]) -> Value {
    let directory = TempDir::new().unwrap();
    succeed(directory.path(), arguments);
    let out = directory.path().join("out");
    let left: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        left.iter().all(|name| [
            "accuracy.svg",
            "curves.csv",
            "phases.svg",
            "rehearsal",
            "report.html",
            "summary.csv"
        ]
        .contains(&name.as_str())),
        "{left:?}"
    );
    assert!(!out.join("rehearsal/checkpoints").exists());
    result(&out.join("rehearsal"))
}

/// The report of [`RUN`] without an interruption.
fn whole() -> Value {
    static WHOLE: OnceLock<Value> = OnceLock::new();
    WHOLE.get_or_init(|| uninterrupted(&RUN)).clone()
}

/// The complete checkpoints, oldest first.
fn checkpoints(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory.join("out/rehearsal/checkpoints")) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("manifest.json").exists())
        .collect();
    paths.sort();
    paths
}

#[test]
fn a_run_killed_at_random_moments_ends_with_the_same_report() {
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
        if !directory.path().join("out/job.json").exists()
            && directory.path().join("out/rehearsal/report.json").exists()
        {
            break;
        }
    }
    if directory.path().join("out/job.json").exists()
        || !directory.path().join("out/rehearsal/report.json").exists()
    {
        succeed(directory.path(), &arguments);
    }
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
    assert!(!directory.path().join("out-2").exists());
}

/// Task and epoch of every row of `curves.csv`. All rows must be complete.
fn epochs(directory: &Path) -> Vec<(usize, usize)> {
    let text = std::fs::read_to_string(directory.join("out/curves.csv")).unwrap();
    let cells = text.lines().next().unwrap().split(',').count();
    let row = |line: &str| {
        let row: Vec<_> = line.split(',').collect();
        assert!(
            row.len() == cells
                && row[5..8].iter().all(|cell| cell.parse::<f64>().is_ok_and(|value| value > 0.0)),
            "{line}"
        );
        (row[3].parse().unwrap(), row[4].parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn every_epoch_is_logged_once_after_kills_and_interruptions() {
    let directory = TempDir::new().unwrap();
    let arguments = [&RUN[..], &["--checkpoint-every", "7"]].concat();
    let every: Vec<_> = (1..=3).flat_map(|task| (1..=40).map(move |epoch| (task, epoch))).collect();
    for (index, seen) in [3, 30, 60].into_iter().enumerate() {
        let running = start(directory.path(), &arguments);
        let started = Instant::now();
        while !std::fs::read_to_string(directory.path().join("out/curves.csv"))
            .is_ok_and(|text| text.lines().count() > seen)
        {
            assert!(started.elapsed() < HANG);
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&running.0, if index == 1 { "INT" } else { "KILL" });
        running.finish();
        let found = epochs(directory.path());
        assert_eq!(found, every[..found.len()], "after {seen}");
    }
    succeed(directory.path(), &arguments);
    assert_eq!(epochs(directory.path()), every);
}

#[test]
fn a_run_resumes_within_an_epoch_with_the_same_bits() {
    for more in [
        &["--ranks", "1"][..],
        &["--ranks", "3", "--lag", "2", "--policy", "reservoir", "--sampling", "class-balanced"],
    ] {
        let arguments = [&RUN[..], more].concat();
        let whole = uninterrupted(&arguments);
        let directory = TempDir::new().unwrap();
        for words in ["buffer:", "resumes with", "task 2/3  average"] {
            interrupted(directory.path(), &arguments, words);
            assert!((1..=2).contains(&checkpoints(directory.path()).len()));
        }
        // The number of threads may change.
        let stdout = succeed(
            directory.path(),
            &[&arguments[..], &["--workers", "3", "--execution", "inline"]].concat(),
        );
        assert!(stdout.contains("resumes with task"), "{stdout}");
        let mut report = result(&directory.path().join("out/rehearsal"));
        for option in ["workers", "execution"] {
            report["config"][option] = whole["config"][option].clone();
        }
        assert_eq!(report, whole, "{more:?}");
    }
}

/// The steps done in the epoch of the newest checkpoint, and the header of its learner file.
fn newest(directory: &Path) -> (u64, String) {
    let path = checkpoints(directory).pop().unwrap();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(path.join("manifest.json")).unwrap()).unwrap();
    let bytes = std::fs::read(path.join("learner.safetensors")).unwrap_or_default();
    let length = bytes.first_chunk().map_or(0, |&length| u64::from_le_bytes(length) as usize);
    let state: Value = serde_json::from_str(manifest["state"].as_str().unwrap()).unwrap();
    let steps = state["position"]["within"][1].as_u64().unwrap_or(0);
    (steps, String::from_utf8(bytes.get(8..8 + length).unwrap_or_default().to_vec()).unwrap())
}

#[test]
fn running_statistics_are_saved_per_rank_within_an_epoch() {
    let mut arguments = vec![
        "train",
        "--method",
        "rehearsal",
        "--tasks",
        "2",
        "--epochs",
        "3",
        "--ranks",
        "2",
        "--out",
        "out",
    ];
    arguments.extend(["--model", "resnet18", "--model-width", "2"]);
    let whole = uninterrupted(&arguments);
    let directory = TempDir::new().unwrap();
    let mut found = false;
    for words in ["buffer:", "resumes with", "resumes with"] {
        interrupted(directory.path(), &arguments, words);
        let (steps, header) = newest(directory.path());
        // Within an epoch the statistics of the ranks differ. At its end they are averaged.
        assert_eq!(header.contains("statistics.00001"), steps > 0, "{steps} steps");
        found |= steps > 0;
    }
    assert!(found, "no interruption was within an epoch");
    succeed(directory.path(), &arguments);
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_previous_one_is_used() {
    let whole = whole();
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
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(directory.path().join("out"))
            .arg(copy.path())
            .status()
            .unwrap()
            .success()
    );
    let (code, stdout, stderr) = start(directory.path(), &RUN).finish();
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("resumes with task"), "{stdout}");
    assert!(
        stderr.contains("buffer/rank-00001.safetensors is damaged")
            || stderr.contains("learner.safetensors is damaged"),
        "{stderr}"
    );
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
    // Without a valid checkpoint the run fails, rather than starting over silently.
    for path in checkpoints(copy.path()) {
        std::fs::write(path.join("manifest.json"), "{").unwrap();
    }
    let (code, stdout, stderr) = start(copy.path(), &RUN).finish();
    assert_eq!(code, Some(1), "{stdout}");
    assert!(
        stderr.contains("manifest.json is damaged")
            && stderr.contains("to start over, pass `--fresh`"),
        "{stderr}"
    );
    succeed(copy.path(), &[&RUN[..], &["--fresh"]].concat());
    assert_eq!(result(&copy.path().join("out/rehearsal")), whole);
}

#[test]
fn a_checkpoint_without_its_own_buffer_is_not_used() {
    let whole = whole();
    for missing in [true, false] {
        let directory = TempDir::new().unwrap();
        interrupted(directory.path(), &RUN, "task 2/3  average");
        let found = checkpoints(directory.path());
        assert_eq!(found.len(), 2);
        std::fs::remove_dir_all(found[1].join("buffer")).unwrap();
        if !missing {
            assert!(
                Command::new("cp")
                    .arg("-r")
                    .arg(found[0].join("buffer"))
                    .arg(&found[1])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        interrupted(directory.path(), &RUN, "resumes with");
        let left = checkpoints(directory.path());
        // Of the earlier checkpoints, only the valid one may remain.
        assert!(left.len() == 2 && !left.contains(&found[1]), "{left:?}");
        succeed(directory.path(), &RUN);
        assert_eq!(
            result(&directory.path().join("out/rehearsal")),
            whole,
            "missing buffer: {missing}"
        );
    }
}

#[test]
fn a_fresh_run_that_was_interrupted_is_not_taken_for_finished() {
    let directory = TempDir::new().unwrap();
    succeed(directory.path(), &RUN);
    let other = [&RUN[..], &["--seed", "5"]].concat();
    let own = [&other[..], &["--fresh", "--weights", "out/rehearsal/model.safetensors"]].concat();
    let (code, _, stderr) = start(directory.path(), &own).finish();
    assert!(code == Some(1) && stderr.contains("would overwrite"), "{stderr}");
    assert!(directory.path().join("out/rehearsal/model.safetensors").exists());
    interrupted(directory.path(), &[&other[..], &["--fresh"]].concat(), "task 1/3  average");
    assert!(!directory.path().join("out/rehearsal/model.safetensors").exists());
    let stdout = succeed(directory.path(), &other);
    assert!(stdout.contains("resumes with task"), "{stdout}");
    assert_eq!(result(&directory.path().join("out/rehearsal")), uninterrupted(&other));
}

#[test]
fn a_signal_after_the_last_step_does_not_interrupt_a_run() {
    let directory = TempDir::new().unwrap();
    let running = start(directory.path(), &RUN);
    let report = directory.path().join("out/rehearsal/report.json");
    let started = Instant::now();
    while !std::fs::read_to_string(&report)
        .is_ok_and(|text| text.contains("\"complete\": true") || text.contains("\"complete\":true"))
    {
        assert!(started.elapsed() < HANG);
        std::thread::yield_now();
    }
    signal(&running.0, "TERM");
    let (code, stdout, stderr) = running.finish();
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(!directory.path().join("out/job.json").exists());
}

#[test]
fn checkpoints_without_a_job_file_are_not_removed() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "task 1/3  average");
    std::fs::remove_file(directory.path().join("out/job.json")).unwrap();
    let (code, _, stderr) = start(directory.path(), &RUN).finish();
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(
        stderr.contains("job.json")
            && stderr.contains("there are checkpoints in")
            && stderr.contains("--fresh"),
        "{stderr}"
    );
    assert!(!checkpoints(directory.path()).is_empty());
}

#[test]
fn a_failed_checkpoint_is_named_and_the_previous_one_is_used() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "task 1/3");
    let before = checkpoints(directory.path());
    let number: usize =
        before.last().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let next = directory.path().join(format!("out/rehearsal/checkpoints/{:08}", number + 1));
    let mut running = start(directory.path(), &RUN);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    read_until(&mut stdout, "resumes with");
    // A file is in the place of the next checkpoint's buffer.
    std::fs::create_dir(&next).unwrap();
    std::fs::write(next.join("buffer"), "").unwrap();
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let mut stderr = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let code = running.0.wait().unwrap().code();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("{:08}/buffer", number + 1)), "{stderr}");
    assert_eq!(checkpoints(directory.path()), before);
    assert!(!next.exists(), "an incomplete checkpoint remains");
    let stdout = succeed(directory.path(), &RUN);
    assert!(stdout.contains("resumes with task"), "{stdout}");
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole());
}

#[test]
fn a_different_configuration_is_refused_and_a_finished_run_is_kept() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "buffer:");
    let other = [&RUN[..], &["--batch-size", "9", "--seed", "5"]].concat();
    let (code, _, stderr) = start(directory.path(), &other).finish();
    assert_eq!((code, stderr.lines().count()), (Some(1), 1), "{stderr}");
    assert!(
        stderr.contains("batch-size was 8 and is 9, seed was 42 and is 5")
            && stderr.contains("--fresh"),
        "{stderr}"
    );
    succeed(directory.path(), &RUN);
    let first = result(&directory.path().join("out/rehearsal"));
    assert!(succeed(directory.path(), &RUN).contains("out-2"));
    let mut second = result(&directory.path().join("out-2/rehearsal"));
    second["config"]["out"] = "out".into();
    assert_eq!(second, first);
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = TempDir::new().unwrap();
    let long = ["train", "--method", "rehearsal", "--epochs", "10000", "--out", "out"];
    let mut running = start(directory.path(), &long);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    read_until(&mut stdout, "buffer:");
    let (code, _, stderr) = start(directory.path(), &long).finish();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("another run is using the directory out"), "{stderr}");
}

#[test]
fn a_run_resumes_on_a_different_number_of_ranks() {
    let directory = TempDir::new().unwrap();
    let ranks = |ranks: &'static str| [&RUN[..], &["--ranks", ranks]].concat();
    interrupted(directory.path(), &ranks("4"), "task 1/3  average");
    interrupted(directory.path(), &ranks("2"), "task 2/3  average");
    let stdout = succeed(directory.path(), &ranks("3"));
    assert!(stdout.contains("written by 2 ranks"), "{stdout}");
    let report = result(&directory.path().join("out/rehearsal"));
    assert_eq!(
        (&report["world_size"], &report["earlier_world_sizes"]),
        (&3.into(), &serde_json::json!([4, 2]))
    );
    assert_eq!((&report["buffer"]["len"], &report["complete"]), (&144.into(), &true.into()));
}

#[test]
fn all_signals_write_a_checkpoint() {
    let whole = whole();
    let directory = TempDir::new().unwrap();
    let all: [&[&str]; 6] = [
        &["USR1", "USR1", "USR1", "USR1"],
        &["XCPU", "XCPU", "USR1"],
        &["HUP"],
        &["TERM"],
        &["INT"],
        &["USR1", "XCPU", "TERM"],
    ];
    for signals in all {
        let words =
            if checkpoints(directory.path()).is_empty() { "buffer:" } else { "resumes with" };
        interrupted_by(signals, directory.path(), &RUN, words);
        assert!(!checkpoints(directory.path()).is_empty(), "{signals:?}");
    }
    succeed(directory.path(), &RUN);
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole);
}

#[test]
fn signals_that_are_ignored_at_the_start_stay_ignored() {
    let directory = TempDir::new().unwrap();
    let mut running = start_ignoring(
        directory.path(),
        &RUN,
        &[libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGXCPU],
    );
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    read_until(&mut stdout, "buffer:");
    ["HUP", "INT", "TERM", "USR1", "XCPU"].into_iter().for_each(|name| signal(&running.0, name));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("task 3/3  average") && !rest.contains("not finished"), "{rest}");
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
}

/// Creates an image folder of `classes` with 6 training and 3 test images each.
fn image_folder(directory: &Path, classes: &[&str]) {
    for (part, images) in [("train", 6), ("test", 3)] {
        for (class, name) in classes.iter().enumerate() {
            let folder = directory.join(part).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for index in 0..images {
                image::RgbImage::from_fn(8, 8, |x, y| {
                    image::Rgb([60 * class as u8, (20 * x) as u8, (9 * y + index) as u8])
                })
                .save(folder.join(format!("{index}.png")))
                .unwrap();
            }
        }
    }
}

#[test]
fn a_run_resumes_only_on_the_same_data_at_any_path() {
    for method in ["incremental", "scratch", "rehearsal"] {
        let directory = TempDir::new().unwrap();
        let at = |path: &str| directory.path().join(path);
        image_folder(&at("data"), &["cat", "dog", "eel", "fox"]);
        let mut arguments = vec![
            "train",
            "--method",
            method,
            "--image-size",
            "8",
            "--model",
            "mlp",
            "--tasks",
            "2",
            "--epochs",
            "250",
        ];
        arguments.extend([
            "--batch-size",
            "2",
            "--candidates",
            "1",
            "--representatives",
            "2",
            "--capacity",
            "8",
            "--ranks",
            "1",
        ]);
        arguments.extend(["--out", "out"]);
        let on = |data: &'static str| [&arguments[..], &["--data", data]].concat();
        interrupted(directory.path(), &on("folder:data"), "task 1/2  average");
        let rename = |from: &str, to: &str| std::fs::rename(at(from), at(to)).unwrap();
        let refused = |words: &[&str]| {
            refused(directory.path(), &on("folder:data"), &[words, &["--fresh"]].concat())
        };

        for part in ["train", "test"] {
            rename(&format!("data/{part}/cat"), &format!("data/{part}/yak"));
        }
        refused(&["class 0 was \"cat\" and is \"dog\""]);
        for part in ["train", "test"] {
            rename(&format!("data/{part}/yak"), &format!("data/{part}/cat"));
        }
        std::fs::copy(at("data/train/dog/0.png"), at("data/train/dog/new.png")).unwrap();
        refused(&["training images of class \"dog\": 6 before, 7 now"]);
        rename("data/train/dog/new.png", "new.png");
        rename("data/test/eel/1.png", "old.png");
        refused(&["test images", "class \"eel\": 3 before, 2 now"]);
        rename("old.png", "data/test/eel/1.png");
        rename("data/train/fox/2.png", "old.png");
        std::fs::write(at("data/train/fox/2.png"), "another image").unwrap();
        refused(&["training images of class \"fox\" have changed", "names and sizes of files"]);
        rename("old.png", "data/train/fox/2.png");
        rename("data/train/fox/2.png", "data/train/fox/9.png");
        refused(&["training images of class \"fox\" have changed"]);
        rename("data/train/fox/9.png", "data/train/fox/2.png");
        let other = [&on("folder:data")[..], &["--fit", "crop"]].concat();
        self::refused(directory.path(), &other, &["fit was \"stretch\" and is \"crop\""]);

        // The path and the times of files may change.
        assert!(
            Command::new("cp")
                .args(["-r", "data", "copy"])
                .current_dir(directory.path())
                .status()
                .unwrap()
                .success()
        );
        std::fs::remove_dir_all(at("data")).unwrap();
        let stdout = succeed(directory.path(), &on("folder:./copy/"));
        assert!(stdout.contains("resumes with task"), "{stdout}");
    }
}

#[test]
fn a_comparison_resumes_on_the_same_data_only() {
    let directory = TempDir::new().unwrap();
    image_folder(&directory.path().join("data"), &["cat", "dog"]);
    let mut arguments = vec![
        "compare",
        "--data",
        "folder:data",
        "--image-size",
        "8",
        "--tasks",
        "2",
        "--epochs",
        "300",
        "--out",
        "out",
    ];
    arguments.extend([
        "--model",
        "mlp",
        "--batch-size",
        "2",
        "--candidates",
        "1",
        "--representatives",
        "1",
        "--capacity",
        "4",
        "--ranks",
        "1",
    ]);
    interrupted(directory.path(), &arguments, "incremental  task 2/2  average");
    std::fs::remove_file(directory.path().join("data/train/cat/1.png")).unwrap();
    refused(directory.path(), &arguments, &["training images of class \"cat\": 6 before, 5 now"]);
}

#[test]
fn a_run_resumes_only_with_its_method_options() {
    let directory = TempDir::new().unwrap();
    let arguments =
        ["train", "--method", "derpp", "--tasks", "2", "--epochs", "100", "--out", "out"];
    interrupted(directory.path(), &arguments, "derpp  task 1/2  average");
    let other = [&arguments[..], &["--method-options", "alpha=0.5"]].concat();
    let changed = ["method-options was", "\"alpha\":0.2", "and is", "\"alpha\":0.5"];
    refused(directory.path(), &other, &changed);
    // The default may be repeated.
    let same = [&arguments[..], &["--method-options", "derpp.beta=1"]].concat();
    assert!(succeed(directory.path(), &same).contains("resumes with task 2/2"));
}

#[test]
fn a_failed_start_changes_no_file() {
    let directory = TempDir::new().unwrap();
    interrupted(directory.path(), &RUN, "task 2/3  average");
    let found = checkpoints(directory.path());
    assert_eq!(found.len(), 2);
    let learner = |checkpoint: &PathBuf| checkpoint.join("learner.safetensors");
    refused(directory.path(), &[&RUN[..], &["--seed", "5"]].concat(), &["seed was 42 and is 5"]);
    refused(
        directory.path(),
        &[&RUN[..], &["--weights", "missing.safetensors"]].concat(),
        &["missing.safetensors"],
    );
    // The files of two checkpoints are swapped.
    let swap = || {
        std::fs::rename(learner(&found[0]), directory.path().join("swap")).unwrap();
        std::fs::rename(learner(&found[1]), learner(&found[0])).unwrap();
        std::fs::rename(directory.path().join("swap"), learner(&found[1])).unwrap();
    };
    swap();
    for ranks in ["1", "2", "3"] {
        refused(
            directory.path(),
            &[&RUN[..], &["--ranks", ranks]].concat(),
            &["learner.safetensors is damaged", "--fresh"],
        );
    }
    swap();
    let good = found
        .iter()
        .map(|checkpoint| std::fs::read(learner(checkpoint)).unwrap())
        .collect::<Vec<_>>();
    for (checkpoint, good) in found.iter().zip(&good) {
        let mut bytes = good.clone();
        bytes[good.len() / 2] ^= 1;
        std::fs::write(learner(checkpoint), bytes).unwrap();
    }
    refused(directory.path(), &RUN, &["learner.safetensors is damaged"]);
    // `--fresh` fails, too, if the checkpoints cannot be listed.
    let out = directory.path().join("out/rehearsal/checkpoints");
    std::fs::rename(&out, directory.path().join("aside")).unwrap();
    std::fs::write(&out, "").unwrap();
    refused(directory.path(), &[&RUN[..], &["--fresh"]].concat(), &["out/rehearsal/checkpoints"]);
    std::fs::remove_file(&out).unwrap();
    std::fs::rename(directory.path().join("aside"), &out).unwrap();
    found
        .iter()
        .zip(&good)
        .for_each(|(checkpoint, good)| std::fs::write(learner(checkpoint), good).unwrap());
    assert!(succeed(directory.path(), &RUN).contains("resumes with task"));
    assert_eq!(result(&directory.path().join("out/rehearsal")), whole());
}

#[test]
fn a_run_whose_directory_is_moved_names_the_file_it_cannot_write() {
    let directory = TempDir::new().unwrap();
    let arguments = [&RUN[..], &["--checkpoint-every", "1"]].concat();
    let mut running = start(directory.path(), &arguments);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    read_until(&mut stdout, "task 1/3");
    std::fs::rename(directory.path().join("out"), directory.path().join("gone")).unwrap();
    std::fs::write(directory.path().join("out"), "").unwrap();
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    let mut stderr = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap();
    assert!(!last.contains("remove") && last.contains("out/rehearsal/checkpoints/"), "{stderr}");
}
