//! Index tensors for writing candidates to a store on a device with one kernel per piece.

use crate::batch::index_tensor;
use burn::tensor::{Device, Int, Tensor};
use std::collections::BTreeMap;

/// Candidates and their slots, grouped by piece.
#[derive(Debug)]
pub(super) struct Scatter {
    pieces: BTreeMap<usize, Moves>,
    /// The number of candidates, including those without a slot.
    candidates: usize,
}

/// Row `sources[i]` of the candidates goes to row `targets[i]` of the piece.
#[derive(Debug, Default)]
struct Moves {
    sources: Vec<i64>,
    targets: Vec<i64>,
}

/// The index tensors of one piece.
pub(super) struct Part {
    pub(super) piece: usize,
    /// Shape `[rows]`. `None` if these are all candidates in order.
    pub(super) sources: Option<Tensor<1, Int>>,
    /// Shape `[rows, 1]`.
    pub(super) targets: Tensor<2, Int>,
}

impl Scatter {
    /// Groups the (candidate, slot) pairs of `candidates` candidates by piece. The slots must be
    /// distinct. Slot s is row s % `piece_rows` of piece s / `piece_rows`.
    pub(super) fn new(placements: &[(u32, u32)], candidates: usize, piece_rows: usize) -> Self {
        let mut pieces: BTreeMap<usize, Moves> = BTreeMap::new();
        for &(row, slot) in placements {
            let piece = pieces.entry(slot as usize / piece_rows).or_default();
            piece.sources.push(i64::from(row));
            piece.targets.push((slot as usize % piece_rows) as i64);
        }
        Self { pieces, candidates }
    }

    /// Uploads the index tensors to `device`.
    pub(super) fn upload(&self, device: &Device) -> Vec<Part> {
        let part = |(&piece, Moves { sources, targets }): (&usize, &Moves)| {
            let all = sources.iter().copied().eq(0..self.candidates as i64);
            Part {
                piece,
                sources: (!all).then(|| index_tensor(sources.clone(), device)),
                targets: index_tensor(targets.clone(), device).reshape([targets.len(), 1]),
            }
        };
        self.pieces.iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_gets_its_candidates_in_order() {
        let scatter = Scatter::new(&[(1, 2), (2, 7), (3, 0), (4, 9), (5, 5)], 6, 4);
        let pieces: Vec<_> = scatter
            .pieces
            .iter()
            .map(|(&piece, numbers)| (piece, &numbers.sources[..], &numbers.targets[..]))
            .collect();
        assert_eq!(
            pieces,
            [(0, &[1i64, 3][..], &[2i64, 0][..]), (1, &[2, 5], &[3, 1]), (2, &[4], &[1])]
        );
    }
}
