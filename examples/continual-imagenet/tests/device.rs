//! Short runs with the buffer on the device that `BURN_DEVICE` names (default: flex).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Trains on the digits and returns the report, or standard error.
fn try_train(
    device: &str,
    store: &str,
    arguments: &[&str],
    directory: &Path,
) -> Result<Value, String> {
    let out = directory.join(format!("{device}-{store}{}", arguments.concat()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_continual-imagenet"));
    command
        .args(["train", "--method", "rehearsal", "--device", device, "--store", store])
        .args(arguments)
        .arg("--out");
    let output = command.arg(&out).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    assert!(
        String::from_utf8_lossy(&output.stdout).contains(&format!("store {store};")),
        "the store is printed before training"
    );
    Ok(serde_json::from_str(&std::fs::read_to_string(out.join("rehearsal/report.json")).unwrap())
        .unwrap())
}

fn train(device: &str, store: &str, directory: &Path) -> Value {
    try_train(device, store, &["--epochs", "2"], directory).unwrap()
}

fn device() -> String {
    std::env::var("BURN_DEVICE").unwrap_or_else(|_| "flex".to_owned())
}

fn average(report: &Value) -> f64 {
    report["summary"]["average_top1"].as_f64().unwrap()
}

#[test]
fn a_buffer_on_the_device_draws_the_same_samples_as_on_the_host() {
    let device = device();
    let directory = tempfile::tempdir().unwrap();
    let (host, on_device) =
        (train("flex", "host", directory.path()), train(&device, "device", directory.path()));
    for field in ["capacity", "len", "per_class", "distinct", "contents_digest", "draws_digest"] {
        assert_eq!(host["buffer"][field], on_device["buffer"][field], "buffer.{field}");
    }
    assert_eq!(
        (&host["buffer"]["store"], &on_device["buffer"]["store"]),
        (&"host".into(), &"device".into())
    );
    let (host, on_device) = (average(&host), average(&on_device));
    println!("average top-1: {host:.4} on flex, {on_device:.4} on {device}");
    // Other kernels may round differently. Two epochs are few, but far from chance (0.1).
    assert!((host - on_device).abs() < 0.1 && on_device > 0.4, "{host} and {on_device}");
}

#[test]
fn half_precision_learns_on_the_device_or_is_refused_by_name() {
    let (device, directory) = (device(), tempfile::tempdir().unwrap());
    for precision in ["bf16", "f16"] {
        let arguments = ["--epochs", "1", "--tasks", "2", "--precision", precision];
        match try_train(&device, "device", &arguments, directory.path()) {
            Ok(report) => {
                assert_eq!(report["precision"]["format"], precision);
                assert_eq!(report["precision"]["loss_scale"].is_number(), precision == "f16");
                println!("average top-1 in {precision}: {:.4} on {device}", average(&report));
                assert!(average(&report) > 0.3, "{}, but chance is 0.1", average(&report));
            }
            // Flex supports both.
            Err(refused) => assert!(
                device != "flex" && refused.contains("--precision") && refused.contains(precision),
                "{refused}"
            ),
        }
    }
}
