//! The program from the outside: its output, its files and its exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use support::{HANG, Running, program, read_all, read_until};
use tempfile::TempDir;

/// The smallest run on the digits with an earlier task.
const SMALL: [&str; 4] = ["--tasks", "2", "--epochs", "2"];

struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(directory: &Path, arguments: &[&str]) -> Ended {
    let (code, stdout, stderr) = Running::start(&mut program(directory, arguments)).finish();
    Ended { code: code.expect("no exit code: ended by a signal"), stdout, stderr }
}

/// Runs successfully, without output on standard error, and returns standard output.
fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let ended = run(directory, arguments);
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (0, ""),
        "{arguments:?} printed {}",
        ended.stdout
    );
    ended.stdout
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs `arguments` with a new output directory. Expects one line of error that contains all of
/// `words`, and no file.
fn refused(arguments: &[&str], words: &[&str]) {
    let directory = TempDir::new().unwrap();
    let ended = run(directory.path(), &[arguments, &["--out", "deep/out"]].concat());
    assert_eq!(ended.code, 1, "{arguments:?}: {}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{arguments:?}: {}", ended.stderr);
    assert!(ended.stderr.starts_with("error: "), "{arguments:?}: {}", ended.stderr);
    words.iter().for_each(|word| {
        assert!(ended.stderr.contains(word), "{arguments:?}: no {word:?} in: {}", ended.stderr)
    });
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "{arguments:?} left files: {:?}", files(directory.path()));
}

/// As [`refused`], for errors of the argument parser: several lines and exit code 2.
fn misused(arguments: &[&str], words: &[&str]) {
    let directory = TempDir::new().unwrap();
    let ended = run(directory.path(), arguments);
    assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{arguments:?}: {}", ended.stderr);
    words.iter().for_each(|word| {
        assert!(ended.stderr.contains(word), "{arguments:?}: no {word:?} in: {}", ended.stderr)
    });
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{arguments:?}");
}

/// Creates an image folder of `classes` with 6 training and 2 test images each, JPEG and PNG.
fn image_folder(directory: &Path, classes: &[&str]) {
    for (part, images) in [("train", 6), ("test", 2)] {
        for (class, name) in classes.iter().enumerate() {
            let folder = directory.join(part).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for index in 0..images {
                let image = image::RgbImage::from_fn(10, 8, |x, y| {
                    image::Rgb([60 * class as u8, (20 * x) as u8, (9 * y + index) as u8])
                });
                image
                    .save(
                        folder.join(format!(
                            "{index}.{}",
                            if index % 2 == 0 { "jpg" } else { "png" }
                        )),
                    )
                    .unwrap();
            }
        }
    }
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path.join("report.json")).unwrap()).unwrap()
}

/// The part of a report that equal runs have in common bit for bit: no times, no configuration.
fn result(report: &Value) -> Value {
    let fields = ["method", "seed", "complete", "tasks", "accuracy", "summary", "curves", "buffer"];
    fields
        .iter()
        .map(|&field| (field.to_string(), report[field].clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn rehearse(arguments: &[&str]) -> Value {
    let directory = TempDir::new().unwrap();
    let base = ["train", "--method", "rehearsal", "--epochs", "2", "--out", "out"];
    succeed(directory.path(), &[&base, arguments].concat());
    result(&report(&directory.path().join("out/rehearsal")))
}

#[test]
fn invalid_numbers_are_refused_by_name_before_a_file_is_written() {
    refused(
        &["--representatives", "145"],
        &["`--representatives 145`", "144 samples", "`--capacity 10%`"],
    );
    refused(&["--candidates", "9"], &["`--candidates 9`", "`--batch-size 8`"]);
    refused(&["--candidates", "0"], &["`--candidates 0`", "at least 1"]);
    for (capacity, shown) in
        [("0", "0"), ("0%", "0%"), ("0.01%", "0.01%"), ("0MiB", "0B"), ("10e-6MiB", "10B")]
    {
        let named = format!("`--capacity {shown}`");
        refused(&["--capacity", capacity], &[&named, "single sample"]);
    }
    refused(&["--capacity", "1", "--ranks", "2"], &["`--capacity 1`", "2 ranks"]);
    refused(
        &["--capacity", "0.2KiB", "--representatives", "8"],
        &["`--representatives 8`", "`--capacity 204B`"],
    );
    misused(&["--candidates", "half"], &["half", "25%"]);
    refused(&["--representatives", "200000%"], &["--representatives", "at most"]);
    for capacity in ["garbage", "-5", "101%", "10 apples", ""] {
        misused(&["--capacity", capacity], &["--capacity", &format!("'{capacity}'"), "512MiB"]);
    }
    refused(&["--tasks", "11"], &["`--tasks 11`", "10 classes"]);
    refused(&["--stream", "instance", "--tasks", "2000"], &["`--tasks 2000`", "samples"]);
    for option in ["--tasks", "--epochs", "--ranks", "--batch-size", "--image-size"] {
        refused(&[option, "0"], &[option, "at least 1"]);
    }
    for option in ["--ranks", "--workers", "--image-size", "--lag"] {
        refused(&[option, "100000"], &[option, "at most"]);
    }
    for option in ["--representatives", "--batch-size"] {
        refused(&[option, &usize::MAX.to_string()], &[option, "at most"]);
    }
    for numbers in [["NaN", "1"], ["0", "0"], ["0.5", "1.5"]] {
        let [low, high] = numbers;
        refused(
            &["--augment", "resized-crop-flip", "--crop-area", low, high],
            &["--crop-area", "above 0"],
        );
    }
    refused(&["--model", "conv", "--crop-size", "3"], &["`--crop-size 3`", "at least 4"]);
    for rate in ["-1", "0", "NaN", "inf"] {
        refused(&["--learning-rate", rate], &["--learning-rate", "above 0"]);
    }
    refused(&["--momentum", "1"], &["`--momentum 1`", "below 1"]);
    refused(&["--momentum", "-0.5"], &["`--momentum -0.5`", "not negative"]);
    refused(&["--weight-decay", "-1"], &["`--weight-decay -1`", "not negative"]);
    refused(&["--scale-cap", "0.5"], &["`--scale-cap 0.5`", "at least 1"]);
    refused(&["--start-task", "5"], &["`--start-task 5`", "5 tasks"]);
    refused(&["--model", "conv", "--image-size", "3"], &["`--image-size 3`", "at least 4"]);
    let derpp = ["train", "--method", "derpp"];
    let options = |text| [&derpp[..], &["--method-options", text]].concat();
    refused(&options("gamma=1"), &["`--method-options gamma`", "derpp.alpha, derpp.beta"]);
    refused(&options("alpha=-1"), &["`--method-options alpha=-1`", "it must be in 0.0..="]);
    refused(&[&derpp[..], &["--lag", "0"]].concat(), &["`--lag 0`", "`derpp` stores logits"]);
    // Two representatives need a row of 64 pixels, 8 bytes, and 40 bytes of logits each.
    let small = ["--capacity", "0.2KiB", "--representatives", "2", "--ranks", "1"];
    refused(&[&derpp[..], &small].concat(), &["`--representatives 2`", "the 1 samples"]);
}

#[test]
fn unknown_values_and_options_are_refused_by_name() {
    misused(&["--data", "cifar"], &["'cifar'", "--data", "`folder:DIR`"]);
    misused(&["--data", "folder:"], &["'folder:'", "--data"]);
    misused(&["--device", "abacus"], &["'abacus'", "--device", "`flex`"]);
    misused(&["--device", "cuda:x"], &["'cuda:x'", "--device", "number"]);
    misused(&["--milestones", "5:0.1,5:0.2"], &["'5:0.1,5:0.2'", "--milestones", "increase"]);
    misused(&["--checkpoint-every", "0"], &["'0'", "--checkpoint-every", "`never`"]);
    misused(&["--store-limit", "2"], &["'2'", "--store-limit", "2GiB"]);
    if !cfg!(feature = "cuda") {
        refused(&["--device", "cuda"], &["`--device cuda`", "--features cuda"]);
    }
    if !cfg!(feature = "wgpu") {
        refused(&["--device", "wgpu"], &["`--device wgpu`", "--features wgpu"]);
    }
    let options = [
        "policy",
        "sampling",
        "execution",
        "candidate-mode",
        "on-repeat",
        "stream",
        "class-order",
        "model",
        "recipe",
        "augment",
    ];
    for option in options {
        misused(
            &[&format!("--{option}"), "nonsense"],
            &["'nonsense'", &format!("--{option}"), "possible values"],
        );
    }
    misused(&["train"], &["--method"]);
    misused(&["train", "--method", "memory"], &["'memory'", "rehearsal"]);
    misused(&["--methods", "er,memory"], &["'er,memory'", "no method `memory`", "er-ace"]);
    misused(&["--methods", "er,rehearsal"], &["the method `rehearsal` is listed twice"]);
    misused(&["--method-options", "gamm=1"], &["'gamm=1'", "`gamm`", "ewc.gamma"]);
    misused(&["--method-options", "der.alpha=-1"], &["'der.alpha=-1'", "alpha is -1", "0.0..="]);
    misused(&["--epochs", "-3"], &["'-3'", "--epochs"]);
    misused(&["--epochs", "many"], &["'many'", "--epochs"]);
    misused(&["--frobnicate"], &["--frobnicate"]);
    misused(&["report"], &["DIRECTORIES"]);
}

#[test]
fn invalid_image_folders_are_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let refused_folder = |path: &Path, more: &[&str], words: &[&str]| {
        refused(&[&["--data", &format!("folder:{}", path.display())], more].concat(), words);
    };
    refused_folder(&at("missing"), &[], &["missing", "No such file"]);
    std::fs::write(at("file"), "").unwrap();
    refused_folder(&at("file"), &[], &["file", "Not a directory"]);
    std::fs::create_dir_all(at("bare/test/cat")).unwrap();
    refused_folder(&at("bare"), &[], &["bare", "no `train` folder"]);
    std::fs::create_dir_all(at("untested/train/cat")).unwrap();
    refused_folder(&at("untested"), &[], &["untested", "neither a `test` nor a `val` folder"]);
    std::fs::create_dir_all(at("classless/train")).unwrap();
    std::fs::create_dir_all(at("classless/test")).unwrap();
    refused_folder(&at("classless"), &[], &["classless", "no subfolder"]);

    image_folder(&at("animals"), &["cat", "dog", "fox"]);
    refused_folder(&at("animals"), &["--tasks", "4"], &["`--tasks 4`", "3 classes"]);
    refused_folder(
        &at("animals"),
        &["--tasks", "3", "--capacity", "7", "--representatives", "8"],
        &["`--representatives 8`", "7 samples", "`--capacity 7`"],
    );
    std::fs::create_dir_all(at("animals/test/gnu")).unwrap();
    refused_folder(&at("animals"), &["--tasks", "3"], &["`gnu`", "not in `train`"]);
    std::fs::remove_dir(at("animals/test/gnu")).unwrap();
    // A task without test samples.
    std::fs::remove_dir_all(at("animals/test/dog")).unwrap();
    refused_folder(&at("animals"), &["--tasks", "3"], &["animals/test/dog", "No such file"]);
    std::fs::create_dir_all(at("animals/test/dog")).unwrap();
    refused_folder(&at("animals"), &["--tasks", "3"], &["`dog`", "no image", "animals/test/dog"]);
}

#[test]
fn an_unwritable_output_directory_is_refused_before_training() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("taken"), "mine").unwrap();
    for out in ["taken", "taken/below"] {
        let ended = run(directory.path(), &["--out", out]);
        assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{out}");
        assert!(
            ended.stderr.starts_with("error: ")
                && ended.stderr.contains(out)
                && ended.stderr.lines().count() == 1,
            "{}",
            ended.stderr
        );
    }
    assert_eq!(std::fs::read_to_string(directory.path().join("taken")).unwrap(), "mine");
}

#[test]
fn a_damaged_image_ends_all_ranks_with_its_path() {
    let directory = TempDir::new().unwrap();
    for (part, image) in [("train", "2.jpg"), ("test", "0.jpg")] {
        let folder = directory.path().join(part);
        image_folder(&folder, &["cat", "dog"]);
        let damaged = folder.join(part).join("dog").join(image);
        std::fs::write(&damaged, "no image").unwrap();
        let data = format!("folder:{}", folder.display());
        let path = damaged.display().to_string();
        let base = [
            "--data",
            &data,
            "--tasks",
            "2",
            "--epochs",
            "1",
            "--batch-size",
            "4",
            "--capacity",
            "4",
            "--representatives",
            "2",
        ];
        for ranks in ["1", "2", "4"] {
            // Without lag the exchange of rows fails first, otherwise the learner.
            for lag in ["0", "1"] {
                let method = ["train", "--method", "rehearsal", "--ranks", ranks, "--lag", lag];
                failed(&[&method, &base[..]].concat(), &path);
            }
        }
        failed(&[&base[..], &["--ranks", "2"]].concat(), &path);
    }
}

/// Expects a run that starts and then fails with one line that contains `path`, and no directory.
fn failed(arguments: &[&str], path: &str) {
    let directory = TempDir::new().unwrap();
    // With checkpoints, the tasks before the failure would be kept.
    let ended = run(
        directory.path(),
        &[arguments, &["--out", "deep/out", "--checkpoint-every", "never"]].concat(),
    );
    assert_eq!(
        (ended.code, ended.stderr.lines().count()),
        (1, 1),
        "{arguments:?}: {}",
        ended.stderr
    );
    assert!(
        ended.stderr.starts_with("error: ") && ended.stderr.contains(path),
        "{arguments:?}: no {path} in: {}",
        ended.stderr
    );
    assert_eq!(files(directory.path()), Vec::<PathBuf>::new(), "{arguments:?}");
    assert!(!directory.path().join("deep").exists(), "{arguments:?}");
}

#[test]
fn an_invalid_configuration_file_is_refused_with_its_name_and_line() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("run.toml");
    let file = path.display().to_string();
    let missing = directory.path().join("none.toml").display().to_string();
    refused(&["--config", &missing], &[&missing, "No such file"]);
    for (text, words) in [
        ("tasks = 2\nepoch = 3\n", ["line 2", "`epoch`"]),
        ("tasks = = 3\n", ["line 1", "="]),
        ("\n\nepochs = \"many\"\n", ["line 3", "many"]),
        ("policy = \"nonsense\"\n", ["line 1", "`nonsense`"]),
        ("epochs = -3\n", ["line 1", "-3"]),
        ("\ncapacity = \"many\"\n", ["line 2", "512MiB"]),
    ] {
        std::fs::write(&path, text).unwrap();
        refused(&["--config", &file], &[&[file.as_str()], &words[..]].concat());
    }
    std::fs::write(&path, "candidates = 9\n").unwrap();
    refused(&["--config", &file], &["`--candidates 9`"]);
}

#[test]
fn results_do_not_depend_on_threads() {
    for ranks in ["1", "2", "4"] {
        let first = rehearse(&["--ranks", ranks]);
        for digest in ["contents_digest", "draws_digest"] {
            assert!(
                first["buffer"][digest].as_str().is_some_and(|text| text.len() >= 16),
                "{}",
                first["buffer"]
            );
        }
        for more in [&[][..], &["--execution", "inline"], &["--workers", "0"], &["--workers", "4"]]
        {
            assert_eq!(
                rehearse(&[&["--ranks", ranks], more].concat()),
                first,
                "{ranks} ranks, {more:?}"
            );
        }
        let other = rehearse(&["--ranks", ranks, "--seed", "43"]);
        for digest in ["contents_digest", "draws_digest"] {
            assert_ne!(other["buffer"][digest], first["buffer"][digest], "{ranks} ranks, {digest}");
        }
        assert_ne!(other["accuracy"], first["accuracy"]);
    }
}

#[test]
fn every_method_can_be_compared() {
    let directory = TempDir::new().unwrap();
    let names = [
        "incremental",
        "rehearsal",
        "scratch",
        "er-ace",
        "der",
        "derpp",
        "cls-er",
        "agem",
        "gdumb",
        "lwf",
        "ewc",
    ];
    for ranks in ["1", "2"] {
        let out = format!("out-{ranks}");
        let options = ["--method-options", "alpha=0.5,derpp.alpha=0.25", "--out", &out];
        let arguments = ["compare", "--methods", &names.join(","), "--ranks", ranks];
        let stdout = succeed(directory.path(), &[&arguments, &SMALL[..], &options].concat());
        let out = directory.path().join(&out);
        let page = std::fs::read_to_string(out.join("report.html")).unwrap();
        for name in names {
            assert!(stdout.contains(name) && page.contains(name), "{name}");
            let report = report(&out.join(name));
            assert_eq!((&report["method"], &report["complete"]), (&name.into(), &true.into()));
            let curves = report["curves"].as_array().unwrap();
            assert!(curves.iter().all(|point| point["train_loss"].is_number()), "{name}");
            let options = match name {
                "derpp" => serde_json::json!({ "alpha": 0.25, "beta": 1.0 }),
                "lwf" => serde_json::json!({ "alpha": 0.5, "temperature": 2.0 }),
                "rehearsal" => serde_json::json!({}),
                _ => continue,
            };
            assert_eq!(report["config"]["method-options"], options, "{name}");
        }
        // A row with logits is larger. GDumb trains on the 144 rows of the buffer.
        let bytes = |name: &str| report(&out.join(name))["buffer"]["bytes"].clone();
        assert_eq!((bytes("rehearsal"), bytes("der")), (10368.into(), (144 * 112).into()));
        assert!(stdout.contains("buffer of der: samples 144, bytes 16128"), "{stdout}");
        let samples = report(&out.join("gdumb"))["time"]["epochs"][0]["samples"].clone();
        assert_eq!(samples, 144);
    }
}

#[test]
fn er_ace_learns_differently_from_rehearsal() {
    let directory = TempDir::new().unwrap();
    succeed(directory.path(), &["train", "--method", "er-ace", "--epochs", "2", "--out", "out"]);
    let asymmetric = result(&report(&directory.path().join("out/er-ace")));
    let rehearsal = rehearse(&[]);
    assert_ne!(asymmetric["accuracy"], rehearsal["accuracy"]);
    // If the number of representatives were lost, they would be masked like incoming rows, and
    // earlier tasks would be forgotten.
    let average = |of: &Value| of["summary"]["average_top1"].as_f64().unwrap();
    assert!(average(&asymmetric) > 0.5 * average(&rehearsal), "{}", asymmetric["summary"]);
}

#[test]
fn augmentation_is_deterministic_and_does_not_change_stored_images() {
    for ranks in ["1", "2"] {
        let of = |more: &[&str]| rehearse(&[&["--ranks", ranks], more].concat());
        let plain = of(&[]);
        assert_eq!(of(&["--augment", "none"]), plain);
        let crop = of(&["--augment", "crop-flip"]);
        // The mini-batch of a step and its augmentation do not depend on threads.
        assert_eq!(
            of(&["--augment", "crop-flip", "--workers", "4", "--execution", "inline"]),
            crop
        );
        let resized = of(&["--augment", "resized-crop-flip"]);
        assert_ne!(resized["curves"], crop["curves"]);
        for augmented in [&crop, &resized] {
            assert_ne!(augmented["curves"], plain["curves"], "{ranks} ranks");
            // The buffer stores the original images.
            assert_eq!(augmented["buffer"], plain["buffer"], "{ranks} ranks");
        }
        assert_ne!(of(&["--augment", "crop-flip", "--seed", "43"])["curves"], crop["curves"]);
    }
}

#[test]
fn augmentation_does_not_affect_evaluation_and_is_reported() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("run.toml"), "augment = \"resized-crop-flip\"\n").unwrap();
    let small =
        [&["train", "--method", "incremental", "--fresh", "--config", "run.toml"], &SMALL[..]]
            .concat();
    let runs = [&[][..], &["--augment", "crop-flip"], &["--augment", "none"]].map(|flags| {
        succeed(directory.path(), &[&small, flags].concat());
        report(&directory.path().join("runs/digits/incremental"))
    });
    for (report, augment) in runs.iter().zip(["resized-crop-flip", "crop-flip", "none"]) {
        assert_eq!(report["config"]["augment"], augment);
        // The untrained network sees unchanged test images.
        assert_eq!(report["accuracy"]["initial_top1"], runs[0]["accuracy"]["initial_top1"]);
    }
    assert_ne!(runs[0]["curves"], runs[2]["curves"]);
}

#[test]
fn a_comparison_prints_a_table_and_writes_complete_reports() {
    let directory = TempDir::new().unwrap();
    let stdout = succeed(directory.path(), &SMALL);
    assert!(
        stdout.chars().all(|character| character == '\n' || !character.is_control()),
        "{stdout:?}"
    );
    for words in
        ["task 1/2", "task 2/2", "average", "forgetting", "× incr.", "bytes 10368", "runs/digits"]
    {
        assert!(stdout.contains(words), "no {words:?} in {stdout}");
    }
    let out = directory.path().join("runs/digits");
    for method in ["incremental", "rehearsal", "scratch"] {
        assert!(stdout.contains(method));
        let report = report(&out.join(method));
        assert_eq!(
            (&report["method"], &report["world_size"], &report["complete"]),
            (&method.into(), &2.into(), &true.into())
        );
        assert_eq!(
            (&report["config"]["tasks"], &report["config"]["policy"]),
            (&2.into(), &"class-balanced".into())
        );
        for name in ["top1", "top5", "task_il"] {
            let matrix = report["accuracy"][name].as_array().unwrap();
            assert!(
                matrix.len() == 2 && matrix.iter().all(|row| row.as_array().unwrap().len() == 2),
                "{matrix:?}"
            );
        }
        let figures =
            ["average_top1", "average_task_il", "average_top5", "forgetting", "bwt", "fwt"];
        for name in figures {
            assert!(report["summary"][name].is_number(), "{name}: {}", report["summary"]);
        }
        assert!(
            report["time"]["total_s"].is_number() && report["time"]["samples_per_s"].is_number()
        );
        assert!(report["time"]["phases_ms"]["forward_backward"].is_number(), "{}", report["time"]);
        let buffer = &report["buffer"];
        if method != "rehearsal" {
            assert!(buffer.is_null());
            continue;
        }
        assert_eq!(
            (&buffer["capacity"], &buffer["len"], &buffer["bytes"]),
            (&144.into(), &144.into(), &10368.into()),
            "{buffer}"
        );
        let per_class: Vec<u64> = buffer["per_class"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rows| rows.as_u64().unwrap())
            .collect();
        assert_eq!((per_class.len(), per_class.iter().sum::<u64>()), (10, 144));
        assert!(
            buffer["distinct"].as_u64().is_some_and(|distinct| (1..=144).contains(&distinct)),
            "{buffer}"
        );
    }
    assert_figures(&out);
    // A report and a network per method, two pictures for rehearsal, and five common files.
    assert_eq!(files(&out).len(), 13, "{:?}", files(&out));
}

#[test]
fn a_trained_network_can_be_loaded_and_later_methods_join_its_page() {
    let directory = TempDir::new().unwrap();
    let train = |method: &str, more: &[&str]| {
        let command =
            ["train", "--method", method, "--tasks", "2", "--epochs", "1", "--out", "out"];
        succeed(directory.path(), &[&command[..], more].concat());
    };
    train("rehearsal", &[]);
    let out = directory.path().join("out");
    let first = report(&out.join("rehearsal"));
    let network = out.join("rehearsal/model.safetensors");
    train("incremental", &["--weights", network.to_str().unwrap()]);
    let second = report(&out.join("incremental"));
    assert_eq!(
        second["accuracy"]["initial_top1"], first["accuracy"]["top1"][1],
        "the loaded network has the accuracies of the saved one"
    );
    for page in ["report.html", "summary.csv", "curves.csv"] {
        let text = std::fs::read_to_string(out.join(page)).unwrap();
        assert!(text.contains("incremental") && text.contains("rehearsal"), "{page}: {text}");
    }
}

fn assert_figures(directory: &Path) {
    for figure in ["accuracy.svg", "phases.svg"] {
        let svg = std::fs::read_to_string(directory.join(figure)).unwrap();
        assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"), "{figure}");
    }
}

#[test]
fn progress_over_a_pipe_is_plain_lines_with_all_figures() {
    let directory = TempDir::new().unwrap();
    let command = ["train", "--method", "rehearsal", "--out", "out"];
    let arguments = [&command[..], &SMALL[..], &["--evaluate-every", "1"]].concat();
    let stdout = succeed(directory.path(), &arguments);
    let line = stdout
        .lines()
        .find(|line| line.contains("epoch 1/2"))
        .unwrap_or_else(|| panic!("no epoch in {stdout}"));
    for words in [
        "rehearsal  task 1/2  epoch 1/2  loss ",
        "  top-1 ",
        " %  ",
        " images/s  load ",
        "  buffer 100 %  wait ",
        "  per task [",
        "  ETA 00:00:0",
    ] {
        assert!(line.contains(words), "no {words:?} in {line:?}");
    }
    let figure = |before: &str| {
        line.split_once(before)
            .unwrap()
            .1
            .split_whitespace()
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    assert!(
        figure("loss ") > 0.0 && figure("top-1 ") <= 100.0 && figure("wait ") < 100.0,
        "{line}"
    );
    assert!(
        line.split_once(" images/s").unwrap().0.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
            > 0.0,
        "{line}"
    );
    // Lines of epochs are at least five seconds apart, except after evaluations.
    for (out, every, fewest, most) in [("out-2", "0", 1, 8), ("out-3", "10", 6, 14)] {
        let many =
            [&command[..], &["--tasks", "2", "--epochs", "40", "--evaluate-every", every]].concat();
        let (lines, rows) = (
            succeed(directory.path(), &many),
            rows(&directory.path().join(out).join("curves.csv")),
        );
        assert!((fewest..=most).contains(&lines.matches("  epoch ").count()), "{lines}");
        assert_eq!(rows.len(), 80);
    }
    let quiet = succeed(directory.path(), &[&arguments[..], &["--display", "none"]].concat());
    assert!(
        !quiet.contains("task 1/2") && quiet.contains("task-IL") && quiet.contains("images/s"),
        "{quiet}"
    );
}

/// The rows of a CSV file without its header, all of the same length.
fn rows(path: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines =
        text.lines().map(|line| line.split(',').map(str::to_string).collect::<Vec<_>>());
    let head = lines.next().unwrap();
    lines.inspect(|row| assert_eq!(row.len(), head.len(), "{text}")).collect()
}

#[test]
fn accuracies_within_tasks_are_reported_logged_and_drawn() {
    let directory = TempDir::new().unwrap();
    let arguments = [
        "train",
        "--method",
        "rehearsal",
        "--tasks",
        "2",
        "--epochs",
        "4",
        "--evaluate-every",
        "2",
        "--out",
        "out",
    ];
    succeed(directory.path(), &arguments);
    let out = directory.path().join("out");
    let report = report(&out.join("rehearsal"));
    let (curves, epochs) =
        (report["curves"].as_array().unwrap(), report["time"]["epochs"].as_array().unwrap());
    assert_eq!((curves.len(), epochs.len()), (8, 8));
    let (mut seconds, mut images) = (0.0, 0);
    for (row, (point, time)) in rows(&out.join("curves.csv")).iter().zip(curves.iter().zip(epochs))
    {
        let number = |cell: usize| row[cell].parse::<f64>().unwrap();
        assert_eq!(
            (row[0].as_str(), row[1].as_str(), row[2].as_str()),
            ("rehearsal", "rehearsal", "42")
        );
        let (task, epoch) =
            (point["task"].as_f64().unwrap() + 1.0, point["epoch"].as_f64().unwrap() + 1.0);
        assert_eq!(
            (number(3), number(4), number(5)),
            (task, epoch, point["train_loss"].as_f64().unwrap())
        );
        assert_eq!(number(6), time["train_s"].as_f64().unwrap());
        let measured = epoch % 2.0 == 0.0;
        assert_eq!(
            (!row[8].is_empty(), point["top1"].as_array().unwrap().len()),
            (measured, if measured { 2 } else { 0 }),
            "{row:?}"
        );
        if measured {
            assert_eq!(
                (number(8), number(9)),
                (point["top1"][0].as_f64().unwrap(), point["top1"][1].as_f64().unwrap())
            );
        }
        seconds += number(6);
        images += time["samples"].as_u64().unwrap();
    }
    assert_eq!(images, 4 * 1442);
    let time = &report["time"];
    assert!(seconds > 0.0 && seconds <= time["train_s"].as_f64().unwrap(), "{seconds}, {time}");
    assert!(
        (time["samples_per_s"].as_f64().unwrap()
            - images as f64 / time["train_s"].as_f64().unwrap())
        .abs()
            < 1e-3,
        "{time}"
    );
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        page.contains("Accuracy within tasks")
            && page.contains("images/s")
            && !page.contains("<script"),
        "{page}"
    );
    let last = format!("{:.0}", 100.0 * report["accuracy"]["top1"][1][0].as_f64().unwrap());
    assert!(
        page.split("Top-1 accuracy on every task").nth(1).unwrap().contains(&format!(">{last}<")),
        "no {last} in the matrix"
    );
}

#[cfg(unix)]
#[test]
fn curves_can_be_read_during_a_run() {
    let directory = TempDir::new().unwrap();
    let arguments =
        ["train", "--method", "incremental", "--tasks", "2", "--epochs", "3000", "--out", "out"];
    let mut running = Running::start(&mut program(directory.path(), &arguments));
    let path = directory.path().join("out/curves.csv");
    let started = Instant::now();
    while !std::fs::read_to_string(&path).is_ok_and(|text| text.lines().count() > 5) {
        assert!(started.elapsed() < HANG && running.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(!directory.path().join("out/incremental/report.json").exists());
    let rows = rows(&path);
    assert!(
        rows.iter()
            .enumerate()
            .all(|(index, row)| row[4] == (index % 3000 + 1).to_string() && !row[5].is_empty()),
        "{rows:?}"
    );
    interrupt(&running.0);
    drop(running.0.stdout.take());
    drop(running.0.stderr.take());
    assert_eq!(running.wait(), Some(130));
}

#[test]
fn the_terminal_interface_needs_its_feature_and_a_terminal() {
    let words = if cfg!(feature = "tui") { "not a terminal" } else { "--features tui" };
    refused(&["--display", "tui"], &["`--display tui`", words]);
    misused(&["--display", "nonsense"], &["'nonsense'", "--display", "possible values"]);
}

#[test]
fn an_image_folder_is_learned_and_names_the_output_directory() {
    let directory = TempDir::new().unwrap();
    image_folder(&directory.path().join("pets"), &["cat", "dog", "eel", "fox"]);
    let small = ["--tasks", "2", "--epochs", "1", "--capacity", "8", "--image-size", "8"];
    succeed(
        directory.path(),
        &[&["train", "--method", "rehearsal", "--data", "folder:pets/"], &small[..]].concat(),
    );
    let report = report(&directory.path().join("runs/pets/rehearsal"));
    assert_eq!(
        (&report["config"]["model"], &report["tasks"]),
        (&"conv".into(), &serde_json::json!([[0, 1], [2, 3]]))
    );
    // The name of the current folder is found.
    succeed(
        &directory.path().join("pets"),
        &[&["train", "--method", "scratch", "--data", "folder:."], &small[..]].concat(),
    );
    assert!(directory.path().join("pets/runs/pets/scratch/report.json").is_file());
}

#[test]
fn methods_without_rehearsal_ignore_the_buffer() {
    let directory = TempDir::new().unwrap();
    succeed(
        directory.path(),
        &[&["train", "--method", "incremental", "--capacity", "1"], &SMALL[..]].concat(),
    );
}

#[test]
fn the_command_line_overrides_the_configuration_file() {
    let directory = TempDir::new().unwrap();
    let text = "tasks = 5\nepochs = 1\npolicy = \"fifo\"\ncapacity = \"50\"\nout = \"from-file\"\nlearning-rate = 0.05\n";
    std::fs::write(directory.path().join("run.toml"), text).unwrap();
    succeed(
        directory.path(),
        &["train", "--method", "rehearsal", "--config", "run.toml", "--tasks", "2", "--seed", "7"],
    );
    let report = report(&directory.path().join("from-file/rehearsal"));
    let config = &report["config"];
    let expected = serde_json::json!({
        "tasks": 2, "seed": 7,
        "epochs": 1, "policy": "fifo", "capacity": "50", "learning-rate": 0.05, "out": "from-file",
        "batch-size": 8, "recipe": "digits",
    });
    expected
        .as_object()
        .unwrap()
        .iter()
        .for_each(|(name, value)| assert_eq!(config[name], *value, "{name}"));
    assert_eq!((&report["buffer"]["capacity"], &report["seed"]), (&50.into(), &7.into()));
}

#[test]
fn the_defaults_in_the_help_are_a_configuration_file() {
    let directory = TempDir::new().unwrap();
    let help = succeed(directory.path(), &["train", "--help"]);
    let defaults = help.split_once("Defaults, in the format of a `--config` file:\n").unwrap().1;
    std::fs::write(directory.path().join("run.toml"), defaults).unwrap();
    let small = [&["train", "--method", "incremental", "--fresh"], &SMALL[..]].concat();
    succeed(directory.path(), &[&small, &["--config", "run.toml"][..]].concat());
    let first = report(&directory.path().join("runs/digits/incremental"));
    succeed(directory.path(), &small);
    assert_eq!(
        report(&directory.path().join("runs/digits/incremental"))["config"],
        first["config"]
    );
}

#[test]
fn the_report_command_prints_the_same_table_and_figures() {
    let directory = TempDir::new().unwrap();
    let stdout = succeed(directory.path(), &[&SMALL[..], &["--out", "out"]].concat());
    let figures =
        ["out/accuracy.svg", "out/phases.svg"].map(|figure| directory.path().join(figure));
    let drawn = figures.clone().map(|figure| std::fs::read_to_string(figure).unwrap());
    let embedded = || -> Vec<String> {
        let page = std::fs::read_to_string(directory.path().join("out/report.html")).unwrap();
        let parts = page.split("data:image/png;base64,").skip(1);
        parts.map(|part| part.split('"').next().unwrap().to_owned()).collect()
    };
    let pictures = embedded();
    assert_eq!(pictures.len(), 2, "the stored samples and a draw");
    assert!(!directory.path().join("out/scratch/stored.png").exists());
    // A rank has stored seven samples of a class: twelve in a row are those of both ranks.
    let stored = image::open(directory.path().join("out/rehearsal/stored.png")).unwrap();
    let stored = stored.into_rgba8();
    assert_eq!(stored.dimensions(), (12 * 34, 10 * 34));
    assert!((0..10).all(|class| stored.get_pixel(11 * 34, class * 34).0[3] == 255));
    figures.iter().for_each(|figure| std::fs::remove_file(figure).unwrap());
    let again = succeed(directory.path(), &["report", "out"]);
    let table = again.split("figures:").next().unwrap();
    assert!(
        table.contains("rehearsal") && stdout.contains(table),
        "{again}\n--- is not in ---\n{stdout}"
    );
    assert_eq!(figures.clone().map(|figure| std::fs::read_to_string(figure).unwrap()), drawn);
    assert_eq!(embedded(), pictures);
    // A run counts once, even if it is given twice.
    let twice =
        succeed(directory.path(), &["report", "out", "out/rehearsal", "--out", "elsewhere"]);
    assert_eq!(twice.split("figures:").next().unwrap(), table);
    assert_figures(&directory.path().join("elsewhere"));
    assert!(!directory.path().join("out/rehearsal/accuracy.svg").exists());
}

#[test]
fn several_seeds_are_reported_as_mean_and_deviation() {
    let directory = TempDir::new().unwrap();
    for seed in ["1", "2", "3"] {
        let out = format!("seeds/{seed}");
        succeed(
            directory.path(),
            &[&["train", "--method", "incremental", "--seed", seed, "--out", &out], &SMALL[..]]
                .concat(),
        );
    }
    let table = succeed(directory.path(), &["report", "seeds"]);
    assert!(table.contains("incremental (3 seeds)") && table.contains('±'), "{table}");
    // A different configuration has its own row in the table, the page and the files.
    succeed(
        directory.path(),
        &[
            &[
                "train",
                "--method",
                "incremental",
                "--seed",
                "1",
                "--momentum",
                "0",
                "--out",
                "seeds/4",
            ],
            &SMALL[..],
        ]
        .concat(),
    );
    let table = succeed(directory.path(), &["report", "seeds"]);
    let seeds = directory.path().join("seeds");
    let page = std::fs::read_to_string(seeds.join("report.html")).unwrap();
    for (label, runs) in [("incremental momentum=0.9", "3"), ("incremental momentum=0.0", "1")] {
        assert!(table.contains(label) && page.contains(label), "{label}: {table}");
        let summary = rows(&seeds.join("summary.csv"));
        let row = summary.iter().find(|row| row[0] == label).unwrap();
        assert!(row[2] == runs && row[4].is_empty() == (runs == "1"), "{row:?}");
        assert_eq!(
            rows(&seeds.join("curves.csv"))
                .iter()
                .filter(|row| row[0] == label)
                .count()
                .to_string(),
            (runs.parse::<usize>().unwrap() * 4).to_string()
        );
    }
    assert_figures(&directory.path().join("seeds"));
}

#[test]
fn missing_and_damaged_reports_are_refused_by_name() {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("empty")).unwrap();
    std::fs::create_dir(directory.path().join("damaged")).unwrap();
    std::fs::write(directory.path().join("damaged/report.json"), "{").unwrap();
    for (name, words) in
        [("missing", "No such file"), ("empty", "no report.json"), ("damaged", "not a run report")]
    {
        let ended = run(directory.path(), &["report", name]);
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr.lines().count()),
            (1, "", 1),
            "{name}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains(name) && ended.stderr.contains(words), "{}", ended.stderr);
    }
    assert_eq!(files(directory.path()).len(), 1);
}

#[test]
fn all_devices_are_listed() {
    let stdout = succeed(&std::env::temp_dir(), &["devices"]);
    let line = |name: &str| stdout.lines().find(|line| line.starts_with(name)).map(str::to_string);
    assert!(line("flex").is_some() && line("wgpu").is_some() && line("cuda").is_some(), "{stdout}");
}

#[test]
fn a_loss_that_is_not_finite_causes_a_warning() {
    let directory = TempDir::new().unwrap();
    let ended = run(
        directory.path(),
        &[&["train", "--method", "incremental", "--learning-rate", "1e10"], &SMALL[..]].concat(),
    );
    assert_eq!(ended.code, 0);
    assert!(
        ended.stderr.starts_with("warning: incremental: ")
            && ended.stderr.contains("--learning-rate"),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_closed_pipe_does_not_end_a_run() {
    let directory = TempDir::new().unwrap();
    let arguments = [&["train", "--method", "incremental"], &SMALL[..]].concat();
    let mut running = Running::start(&mut program(directory.path(), &arguments));
    drop(running.0.stdout.take());
    let stderr = read_all(running.0.stderr.take().unwrap());
    let code = running.wait();
    assert_eq!((code, stderr.join().unwrap().as_str()), (Some(0), ""));
    assert_eq!(report(&directory.path().join("runs/digits/incremental"))["complete"], true);
}

/// Sends SIGTERM, which stops a run as Ctrl-C does and is rarely ignored by callers. Uses the
/// shell's `kill`, the only one on a small system.
#[cfg(unix)]
fn interrupt(child: &Child) {
    assert!(
        Command::new("sh")
            .args(["-c", "kill -s TERM $0", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_with_a_partial_report() {
    let directory = TempDir::new().unwrap();
    // Both runs are too long to end before the signal. The second one completes its first task.
    for (epochs, first, learned) in [("100000", "buffer:", 0), ("300", "task 1/5  average", 1)] {
        let arguments = ["--epochs", epochs, "--out", epochs];
        let mut running = Running::start(&mut program(directory.path(), &arguments));
        let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
        let stderr = read_all(running.0.stderr.take().unwrap());
        read_until(&mut stdout, first);
        interrupt(&running.0);
        let rest = read_all(stdout);
        let code = running.wait();
        let (rest, stderr) = (rest.join().unwrap(), stderr.join().unwrap());
        assert_eq!(
            (code, stderr.as_str()),
            (Some(130), "stopping after this step; press Ctrl-C again to stop immediately\n"),
            "{rest}"
        );
        assert!(rest.contains("interrupted") && !rest.contains("scratch"), "{rest}");
        let out = directory.path().join(epochs);
        let report = report(&out.join("incremental"));
        assert_eq!(report["complete"], false);
        let measured = report["accuracy"]["top1"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row[0].is_number())
            .count();
        assert!(measured >= learned && measured < 5, "{}", report["accuracy"]["top1"]);
        assert_figures(&out);
        assert!(!out.join("scratch").exists());
    }
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_the_program_immediately() {
    let directory = TempDir::new().unwrap();
    image_folder(&directory.path().join("pets"), &["cat", "dog"]);
    // Reading an image from a pipe without a writer never ends, so the step after which the first
    // signal would end the run is never reached.
    let pipe = directory.path().join("pets/train/cat/forever.jpg");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let arguments = [
        "train",
        "--method",
        "incremental",
        "--data",
        "folder:pets",
        "--tasks",
        "1",
        "--epochs",
        "1",
        "--out",
        "out",
    ];
    let mut running = Running::start(&mut program(directory.path(), &arguments));
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut stderr = BufReader::new(running.0.stderr.take().unwrap());
    read_until(&mut stdout, "folder:pets");
    // `job.json` is written after the start.
    while !directory.path().join("out/job.json").exists() {
        assert!(running.0.try_wait().unwrap().is_none(), "the run has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    interrupt(&running.0);
    read_until(&mut stderr, "again");
    interrupt(&running.0);
    assert_eq!(running.wait(), Some(130));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    let left = files(&directory.path().join("out"));
    assert!(
        left.iter().all(|path| path.ends_with("job.json") || path.ends_with(".lock")),
        "{left:?}"
    );
}
