//! Checkpoints of a buffer on one rank and on two ranks, with valid digests, as an attacker could
//! make them.
//!
//! An input contains, for each file, the JSON of the header, a zero byte, and the data. The target
//! adds the length of the header, the digests and the manifest.
#![no_main]

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::checkpoint::{BUFFER, FileEntry, Manifest};
use burn_rehearsal::{
    Capacity, OnRepeat, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig, SamplingKind,
};
use burn_rehearsal_fuzz::{folder, write};
use libfuzzer_sys::fuzz_target;
use std::path::Path;
use std::sync::LazyLock;
use tempfile::TempDir;

#[derive(RehearsalBatch, Clone, Debug)]
struct Batch {
    #[rehearsal(bytes)]
    image: Tensor<3, Int>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
    #[rehearsal(id)]
    id: Tensor<1, Int>,
    score: Tensor<2>,
    flag: Tensor<1, Bool>,
}

fn batch(step: usize) -> Batch {
    let device = Device::flex();
    let ints =
        |values: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(values, [3]), &device);
    let bytes: Vec<u8> = (0..12).map(|value| (7 * step + value) as u8).collect();
    Batch {
        image: Tensor::from_data(TensorData::new(bytes, [3, 2, 2]), (&device, DType::U8)),
        class: ints((0..3).map(|row| ((step + row) % 4) as i64).collect()),
        id: ints((0..3).map(|row| (3 * step + row) as i64 % 29).collect()),
        score: Tensor::ones([3, 2], &device),
        flag: Tensor::from_data(TensorData::new(vec![step % 2 == 0; 3], [3]), &device),
    }
}

fn config(kind: u8) -> RehearsalConfig {
    let policy = PolicyKind::ALL[kind as usize % PolicyKind::ALL.len()];
    let sampling =
        SamplingKind::ALL[kind as usize / PolicyKind::ALL.len() % SamplingKind::ALL.len()];
    let on_repeat = if kind % 2 == 0 { OnRepeat::KeepBoth } else { OnRepeat::SkipIfStored };
    RehearsalConfig::new(Capacity::Samples(9))
        .with_candidates(2)
        .with_representatives(3)
        .with_policy(policy)
        .with_sampling(sampling)
        .with_on_repeat(on_repeat)
        .with_execution(burn_rehearsal::Execution::Inline)
}

/// The offsets of the tensors in a file, in order, and the bytes of the file; `None` if the header
/// is invalid.
fn file(input: &[u8]) -> Option<(Vec<(usize, usize)>, Vec<u8>)> {
    let at = input.iter().position(|&byte| byte == 0)?;
    let (json, data) = (&input[..at], &input[at + 1..]);
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json).ok()?;
    let mut places = Vec::new();
    for (name, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let place = tensor.get("data_offsets")?;
        let place = (
            usize::try_from(place.get(0)?.as_u64()?).ok()?,
            usize::try_from(place.get(1)?.as_u64()?).ok()?,
        );
        if place.0 > place.1 || place.1 > 1 << 16 {
            return None;
        }
        places.push((place, name));
    }
    places.sort();
    let mut data = data.to_vec();
    data.resize(places.last().map_or(0, |((_, end), _)| *end), 1);
    let padded = json.len().next_multiple_of(8);
    let mut bytes = (padded as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json);
    bytes.resize(8 + padded, b' ');
    bytes.append(&mut data);
    Some((places.into_iter().map(|(place, _)| place).collect(), bytes))
}

fn digest(bytes: &[u8], places: &[(usize, usize)]) -> Option<String> {
    let first = 8 + u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?) as usize;
    let mut hash = blake3::Hasher::new();
    hash.update(&bytes[..first]);
    for (start, end) in places {
        hash.update(blake3::hash(bytes.get(first + start..first + end)?).as_bytes());
    }
    Some(hash.finalize().to_hex().to_string())
}

fn forge(directory: &Path, inputs: &[&[u8]]) -> Option<()> {
    let mut entries = Vec::new();
    for (rank, input) in inputs.iter().enumerate() {
        let (places, bytes) = file(input)?;
        let name = format!("rank-{rank:05}.safetensors");
        write(directory, &name, &bytes);
        entries.push(FileEntry {
            name,
            bytes: bytes.len() as u64,
            digest: digest(&bytes, &places)?,
        });
    }
    Manifest::new(BUFFER, entries, &()).ok()?.write(directory).ok()
}

/// Restores a checkpoint and, if that succeeds, runs a few steps.
fn restore(directory: &Path, kind: u8) -> bool {
    let buffer: RehearsalBuffer<Batch> = config(kind).init().expect("a buffer");
    if buffer.restore(directory, &Device::flex()).is_err() {
        return false;
    }
    for step in 0..6 {
        if buffer.rehearse(batch(step)).is_err() {
            return true;
        }
    }
    let inspection = buffer.inspect().expect("a healthy buffer");
    assert!(inspection.len <= 9 && inspection.per_class.iter().sum::<usize>() == inspection.len);
    buffer.report().expect("a healthy buffer");
    buffer.snapshot().expect("a healthy buffer");
    true
}

/// Converts a file of a checkpoint to an input.
fn as_input(bytes: &[u8]) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("a header")) as usize;
    let (header, data) = bytes[8..].split_at(length);
    [header.trim_ascii_end(), &[0], data].concat()
}

/// Writes seeds to the directory in `SEEDS`, and checks that this target computes digests as
/// checkpoints do.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = folder();
    let seeds = std::env::var_os("SEEDS");
    for kind in 0..18 {
        for ranks in [1, 2] {
            let written = folder.path().join("written");
            let results = burn_rehearsal_collective::run_threads(ranks, |threads| {
                let buffer: RehearsalBuffer<Batch> =
                    RehearsalBuffer::new(&config(kind), Box::new(threads))?;
                for step in 0..9 {
                    if step == 4 {
                        buffer.begin_task(1)?;
                    }
                    buffer.rehearse(batch(step))?;
                }
                buffer.checkpoint(&written)
            });
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            let file = |rank: usize| {
                std::fs::read(written.join(format!("rank-{rank:05}.safetensors"))).expect("a file")
            };
            let inputs: Vec<Vec<u8>> = (0..ranks).map(|rank| as_input(&file(rank))).collect();
            let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
            forge(folder.path(), &inputs).expect("a valid checkpoint");
            assert!(restore(folder.path(), kind), "checkpoints compute digests differently");
            if let Some(seeds) = &seeds {
                let input = [&[kind, ranks as u8][..], &inputs.join(&b"\n---\n"[..])].concat();
                write(Path::new(seeds), &format!("{kind}-{ranks}"), &input);
            }
        }
    }
    folder
});

fuzz_target!(|input: &[u8]| {
    let folder = FOLDER.path();
    let Some((&[kind, ranks], input)) = input.split_first_chunk() else { return };
    let parts: [&[u8]; 2] = burn_rehearsal_fuzz::parts(input);
    let inputs = if ranks % 2 == 1 { &parts[..1] } else { &parts[..] };
    if forge(folder, inputs).is_some() {
        restore(folder, kind % 18);
    }
});
