//! Compares the settings and the data of all ranks before a run begins.

use super::{Checkpoints, ExperimentError, Settings};
use crate::fingerprint::Fingerprint;
use crate::methods::MethodRef;
use crate::stream::TaskStream;
use burn_rehearsal::agreement::agree_on;
use burn_rehearsal_collective::{Collective, CollectiveExt};
use serde_json::{Map, Value};

/// Compares settings and data over all ranks. Collective.
///
/// # Errors
///
/// Names the setting or the data that differ. Every rank returns the same error.
pub(super) fn compare(
    method: MethodRef,
    settings: &Settings,
    data: &Fingerprint,
    collective: &mut dyn Collective,
) -> Result<(), ExperimentError> {
    agree_on(collective, &agreed(method, settings))?;
    same_data(data, collective)
}

/// The values on which all ranks must agree, by name.
fn agreed(method: MethodRef, settings: &Settings) -> Map<String, Value> {
    // A new setting must be added either to the values below or to the ignored ones.
    let Settings {
        epochs,
        batch_size,
        rehearsal,
        learning_rate,
        warmup_epochs,
        milestones,
        scale_cap,
        keep_optimizer,
        seed,
        precision,
        evaluate_every,
        checkpoints,
        workers: _,
        profile: _,
        network: _,
    } = settings;
    let every = |Checkpoints { every, directory: _, keep: _, resume: _ }: &Checkpoints| {
        every.map_or("task".into(), |every| every.to_string())
    };
    let values = serde_json::json!({
        "method": method.full_name(),
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup_epochs": warmup_epochs,
        "milestones": milestones,
        "scale_cap": scale_cap,
        "keep_optimizer": keep_optimizer,
        "seed": seed,
        "precision": precision.to_string(),
        "evaluate_every": evaluate_every,
        "checkpoints": checkpoints.as_ref().map_or("never".into(), every),
    });
    let mut values = if let Value::Object(values) = values { values } else { Map::new() };
    if let Some(rehearsal) = rehearsal.as_ref().filter(|_| method.rehearses()) {
        values.extend(
            rehearsal
                .agreed()
                .into_iter()
                .map(|(name, value)| (format!("rehearsal.{name}"), value)),
        );
    }
    values
}

/// Adds the order of arrival to the fingerprint of the data.
pub(super) fn with_stream(data: Fingerprint, stream: &dyn TaskStream) -> Fingerprint {
    let mut hash = blake3::Hasher::new();
    let mut list = |numbers: &[usize]| {
        hash.update(&(numbers.len() as u64).to_le_bytes());
        for &number in numbers {
            hash.update(&(number as u64).to_le_bytes());
        }
    };
    for task in 0..stream.tasks() {
        [stream.classes(task), stream.train(task), stream.test(task)]
            .into_iter()
            .for_each(&mut list);
    }
    let digest: String = hash.finalize().to_hex().chars().take(16).collect();
    data.with_option("the order of arrival", format!("{} tasks ({digest})", stream.tasks()))
}

fn same_data(data: &Fingerprint, collective: &mut dyn Collective) -> Result<(), ExperimentError> {
    let own = serde_json::to_vec(data).unwrap_or_default();
    // A fingerprint may take megabytes, so it is sent only if the digests differ.
    let digests = collective.gather_bytes(blake3::hash(&own).as_bytes())?;
    let Some(rank) = digests.iter().position(|digest| *digest != digests[0]) else { return Ok(()) };
    let mut part = |root: usize| -> Result<Fingerprint, ExperimentError> {
        let bytes = collective.broadcast_bytes(own.clone(), root)?;
        serde_json::from_slice(&bytes).map_err(|error| ExperimentError::Data(error.to_string()))
    };
    let (first, other) = (part(0)?, part(rank)?);
    let differences = first
        .differences(&other)
        .map_or_else(String::new, |differences| differences.between_ranks(0, rank));
    Err(ExperimentError::DifferentData { rank, differences })
}
