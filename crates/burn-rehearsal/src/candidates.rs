//! Selection of the rows of a mini-batch that are offered to the buffer.

use crate::config::{CandidateMode, RehearsalConfig};
use crate::distinct::DistinctSampler;
use crate::random::{Purpose, Stream};
use crate::row_count::RowCount;

/// Selects the rows of a mini-batch that are offered to the buffer. Reuses its memory from step to
/// step.
#[derive(Debug, Default)]
pub(crate) struct CandidateSelector(DistinctSampler);

impl CandidateSelector {
    /// Fills `chosen` with the candidates of `step` on `rank` among `rows` rows, in ascending
    /// order. The result is a pure function of the arguments.
    pub(crate) fn select(
        &mut self,
        config: &RehearsalConfig,
        step: u64,
        rank: usize,
        rows: usize,
        chosen: &mut Vec<u32>,
    ) {
        let mut rng = Stream::new(config.seed, Purpose::Candidates, step, rank as u32);
        chosen.clear();
        match config.candidate_mode {
            CandidateMode::Exact => {
                let drawn = self.0.draw(&mut rng, config.candidates.of(rows), rows as u64);
                chosen.extend(drawn.map(|row| row as u32));
                chosen.sort_unstable();
            }
            CandidateMode::Bernoulli => {
                let chance = match config.candidates {
                    RowCount::Count(count) => count as f64 / rows as f64,
                    RowCount::Ratio(ratio) => ratio,
                };
                chosen.extend((0..rows as u32).filter(|_| rng.unit_f64() < chance));
            }
        }
    }
}
