//! Reports made up for tests, and a check that a figure is well-formed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::schema::{
    Accuracy, BufferReport, CheckpointTime, CurvePoint, EpochTime, Method, PerStep, PrecisionReport, SCHEMA_VERSION, Summary, Time,
};
use super::*;
use crate::data_parallel::Precision;
use crate::metrics::AccuracyMatrix;

/// A directory of its own for one test, removed in the end.
pub(crate) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("burn-rehearsal-report-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A matrix as the methods usually give: `fade` is what a task keeps of its accuracy with every later task.
pub(crate) fn matrix(tasks: usize, fade: f64, level: f64) -> AccuracyMatrix {
    let mut matrix = AccuracyMatrix::new(tasks);
    for row in 0..tasks {
        let accuracy = |column: usize| if column <= row { level * fade.powi((row - column) as i32) } else { 0.0 };
        matrix.push_row(&(0..tasks).map(|column| Some(accuracy(column))).collect::<Vec<_>>()).unwrap();
    }
    matrix
}

/// A complete run of `tasks` tasks with two classes each.
pub(crate) fn report(method: Method, tasks: usize, seed: u64) -> RunReport {
    let wobble = 1.0 - 0.01 * (seed % 5) as f64;
    let (fade, level, time) = match method {
        Method::Incremental => (0.05, 0.99, 10.0),
        Method::Rehearsal => (0.97, 0.98, 20.0),
        Method::Scratch => (1.0, 0.985, 60.0),
    };
    let accuracy =
        Accuracy { top1: matrix(tasks, fade, level * wobble), top5: matrix(tasks, 1.0, 1.0), initial_top1: Some(vec![0.1; tasks]) };
    let phases = [
        ("load", 0.4),
        ("wait", 0.02),
        ("assemble", 0.1),
        ("forward_backward", time / 10.0),
        ("all_reduce", 0.3),
        ("optimizer", 0.2),
        ("insert", 0.05),
        ("plan", 0.01),
        ("exchange", 0.08),
    ];
    let kept = if method == Method::Rehearsal { 9 } else { 6 };
    RunReport {
        schema_version: SCHEMA_VERSION,
        package_version: "0.1.0".into(),
        method,
        config: serde_json::json!({ "method": method, "seed": seed, "epochs": 5, "out": format!("runs/{seed}"), "rehearsal": { "policy": "class-balanced" } }),
        seed,
        world_size: 2,
        device: "flex".into(),
        precision: PrecisionReport { format: Precision::F16, loss_scale: Some(1024.0), skipped_updates: 3 },
        complete: true,
        tasks: (0..tasks).map(|task| vec![2 * task, 2 * task + 1]).collect(),
        left_out: 0,
        summary: Summary::of(&accuracy),
        accuracy,
        earlier_world_sizes: vec![4],
        time: Time {
            checkpoints: Some(CheckpointTime { written: 3, resumed: 1, bytes: 100_000, total_s: 0.2, background_s: 0.4 }),
            total_s: time * wobble,
            train_s: 0.9 * time * wobble,
            samples_per_s: Some(1234.5),
            phases_ms: phases[..kept].iter().map(|(name, ms)| (name.to_string(), *ms)).collect::<BTreeMap<_, _>>(),
            phases_exact: true,
            steps: 450,
            epochs: vec![EpochTime { train_s: 0.25, samples: 300 }],
        },
        curves: vec![CurvePoint { task: 0, epoch: 0, train_loss: Some(0.5), top1: vec![Some(0.9); tasks] }],
        buffer: (method == Method::Rehearsal).then(|| BufferReport {
            capacity: 100,
            len: 100,
            bytes: 78_400,
            store: "host".into(),
            per_class: vec![10; 10],
            distinct: Some(100),
            per_step: Some(PerStep { queue_depth: 1.0, staleness: 1.0, copied_bytes: 1280.0 }),
            contents_digest: "00ff".into(),
            draws_digest: "ff00".into(),
        }),
    }
}

/// One run of every method.
pub(crate) fn three_methods(tasks: usize) -> Vec<RunReport> {
    [Method::Incremental, Method::Scratch, Method::Rehearsal].into_iter().map(|method| report(method, tasks, 0)).collect()
}

/// Panics unless every tag of `svg` is closed, in order, and no text holds a bare `<` or `&`.
pub(crate) fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(!rest[..start].contains('>'), "a stray > in {:?}", &rest[..start]);
        assert!(rest[..start].replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").replace("&quot;", "").find('&').is_none());
        let end = start + rest[start..].find('>').expect("a tag that does not end");
        let tag = &rest[start + 1..end];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed in the wrong order");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().expect("a tag without a name"));
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "an odd number of quotes in <{tag}>");
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "never closed: {open:?}");
}

/// The contents of all `<text>` elements.
pub(crate) fn texts(svg: &str) -> Vec<String> {
    svg.split("<text").skip(1).map(|part| part[part.find('>').unwrap() + 1..part.find("</text>").unwrap()].trim().to_string()).collect()
}
