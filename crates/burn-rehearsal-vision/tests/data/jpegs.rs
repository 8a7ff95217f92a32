//! JPEG files of all structures are decoded correctly or refused, and truncated files are refused.

use super::jpeg::{Jpeg, pixel};
use burn_rehearsal_vision::data::{Decoder, Fit};

const SIDE: usize = 45;

fn color(sampling: [(usize, usize); 3], scans: &[&[usize]]) -> Jpeg {
    let scans = scans.iter().map(|scan| scan.to_vec()).collect();
    Jpeg { side: SIDE, sampling: sampling.to_vec(), scans, restart: 0, progressive: false }
}

fn decode(bytes: &[u8], side: usize) -> Result<Vec<u8>, String> {
    Decoder::default().decode(bytes, side, Fit::Stretch).map(|pixels| pixels.to_vec())
}

/// The mean difference from the image.
fn difference(jpeg: &Jpeg, decoded: &[u8]) -> f64 {
    let channel = |channel: usize| if jpeg.sampling.len() == 1 { 0 } else { channel };
    let expected =
        |i: usize| pixel((i % SIDE) as f64, (i / SIDE % SIDE) as f64)[channel(i / (SIDE * SIDE))];
    decoded
        .iter()
        .enumerate()
        .map(|(i, &value)| (f64::from(value) - expected(i)).abs())
        .sum::<f64>()
        / decoded.len() as f64
}

const SAMPLINGS: [[(usize, usize); 3]; 12] = [
    [(1, 1), (1, 1), (1, 1)],
    [(2, 1), (1, 1), (1, 1)],
    [(1, 2), (1, 1), (1, 1)],
    [(2, 2), (1, 1), (1, 1)],
    [(4, 1), (1, 1), (1, 1)],
    [(2, 2), (2, 1), (1, 2)],
    // Chroma is sampled finer than luma.
    [(1, 1), (2, 2), (2, 2)],
    [(1, 1), (2, 1), (2, 1)],
    [(1, 1), (1, 2), (1, 2)],
    [(2, 1), (1, 2), (1, 2)],
    [(3, 1), (1, 1), (1, 1)],
    [(1, 2), (1, 2), (1, 2)],
];

#[test]
fn all_samplings_scans_and_restart_intervals_are_decoded() {
    let orders: [&[&[usize]]; 4] =
        [&[&[0, 1, 2]], &[&[0], &[1], &[2]], &[&[0], &[1, 2]], &[&[2], &[0, 1]]];
    for (sampling, scans, restart, progressive) in SAMPLINGS.into_iter().flat_map(|sampling| {
        let sequential = orders
            .into_iter()
            .flat_map(move |scans| [0, 1, 5].map(|restart| (sampling, scans, restart, false)));
        sequential.chain([0, 5].map(|restart| (sampling, orders[0], restart, true)))
    }) {
        let jpeg = Jpeg { restart, progressive, ..color(sampling, scans) };
        let decoded =
            decode(&jpeg.encode(), SIDE).unwrap_or_else(|error| panic!("{jpeg:?}: {error}"));
        let by = difference(&jpeg, &decoded);
        assert!(by < 4.0, "{jpeg:?}: {by}");
    }
    for sampling in [(1, 1), (2, 2), (1, 2)] {
        for (restart, progressive) in [(0, false), (3, false), (3, true)] {
            let jpeg = Jpeg {
                side: SIDE,
                sampling: vec![sampling],
                scans: vec![vec![0]],
                restart,
                progressive,
            };
            let decoded =
                decode(&jpeg.encode(), SIDE).unwrap_or_else(|error| panic!("{jpeg:?}: {error}"));
            assert!(difference(&jpeg, &decoded) < 4.0, "{jpeg:?}");
        }
    }
}

#[test]
fn unsupported_structures_are_refused() {
    let cmyk = Jpeg { sampling: vec![(1, 1); 4], ..color(SAMPLINGS[0], &[&[0], &[1], &[2], &[3]]) };
    let error = decode(&cmyk.encode(), SIDE).unwrap_err();
    assert!(error.contains("not supported"), "{error}");
    // The sampling factors of the components are 4, 2 and 2.
    let jpeg = color([(4, 1), (2, 1), (2, 1)], &[&[0], &[1], &[2]]);
    match decode(&jpeg.encode(), SIDE) {
        Err(error) => assert!(error.contains("not supported"), "{error}"),
        Ok(decoded) => assert!(cfg!(feature = "turbojpeg") && difference(&jpeg, &decoded) < 4.0),
    }
    let twice = color(SAMPLINGS[0], &[&[0, 1, 2], &[1]]).encode();
    assert!(decode(&twice, SIDE).unwrap_err().contains("in two scans"));
    let missing = color(SAMPLINGS[0], &[&[0], &[1]]).encode();
    assert!(decode(&missing, SIDE).unwrap_err().contains("scans are missing"));
}

#[test]
fn truncated_files_are_refused_even_with_an_end_marker() {
    let one: &[&[usize]] = &[&[0, 1, 2]];
    let jpegs = [
        color(SAMPLINGS[3], one),
        Jpeg { restart: 2, ..color(SAMPLINGS[0], one) },
        color(SAMPLINGS[3], &[&[0], &[1, 2]]),
        Jpeg { restart: 3, ..color(SAMPLINGS[6], one) },
        Jpeg { progressive: true, ..color(SAMPLINGS[3], one) },
    ];
    let refined = include_bytes!("progressive.jpg").to_vec();
    for (number, bytes) in jpegs.iter().map(Jpeg::encode).chain([refined]).enumerate() {
        let side = if number < jpegs.len() { SIDE } else { 32 };
        let whole = decode(&bytes, side).unwrap();
        assert!(decode(&[&bytes[..], b"anything"].concat(), side).is_ok());
        let first_scan = bytes.windows(2).position(|window| window == [0xff, 0xda]).unwrap();
        for end in first_scan..bytes.len() - 2 {
            assert!(
                decode(&bytes[..end], side).is_err(),
                "JPEG {number}, {end} of {} bytes",
                bytes.len()
            );
            let ended = [&bytes[..end], &[0xff, 0xd9]].concat();
            // If only one bits are cut off, the guard replaces them, and the result is the same.
            let decoded = decode(&ended, side);
            assert!(
                decoded.is_err() || decoded == Ok(whole.clone()),
                "JPEG {number}, {end} of {} bytes and an end",
                bytes.len()
            );
        }
        assert!(decode(&bytes[..bytes.len() - 2], side).unwrap_err().contains("no end marker"));
    }
}

#[test]
fn a_size_that_exceeds_the_data_is_refused_before_decoding() {
    for progressive in [false, true] {
        let jpeg = Jpeg { progressive, ..color(SAMPLINGS[3], &[&[0, 1, 2]]) };
        let mut bytes = jpeg.encode();
        let frame = bytes
            .windows(2)
            .position(|window| window == [0xff, 0xc0 + 2 * u8::from(progressive)])
            .unwrap();
        let side = 11_500u16.to_be_bytes();
        bytes[frame + 5..frame + 9].copy_from_slice(&[side[0], side[1], side[0], side[1]]);
        let error = decode(&bytes, SIDE).unwrap_err();
        assert!(error.contains("bytes for") && error.contains("blocks"), "{error}");
    }
}
