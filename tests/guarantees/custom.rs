//! User-defined policies and sampling rules: they decide, checkpoints keep their state, and ranks
//! with different rules are detected.

use burn_rehearsal::error::RehearsalError;
use burn_rehearsal::policy::{Placement, Policy, SavedShard, ShardInfo, StateError};
use burn_rehearsal::random::Stream;
use burn_rehearsal::sampling::{DistinctSampler, Draw, RowLocation, Sampling, ShardCounts};
use burn_rehearsal::{CustomRules, RehearsalBuffer, RehearsalConfig, SlotTable};
use burn_rehearsal_collective::{Collective, Rank};
use burn_rehearsal_testing::{
    CLASS, Mixed, assert_augmented, batch, config, device, fresh, stored_ids, world,
};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use tempfile::TempDir;

const ROWS: usize = 6;
const DRAWN: usize = 5;

/// In a full shard, every n-th candidate replaces the row of the next slot.
#[derive(Clone)]
struct EveryNth {
    n: u64,
    offered: u64,
    info: Option<ShardInfo>,
}

impl EveryNth {
    fn new(n: u64) -> Self {
        Self { n, offered: 0, info: None }
    }

    /// The slot that candidate number `offered` replaces in a full shard.
    fn slot(n: u64, offered: u64, len: usize) -> Option<usize> {
        offered.is_multiple_of(n).then_some((offered / n) as usize % len)
    }
}

impl Policy for EveryNth {
    fn name(&self) -> &'static str {
        "every-nth"
    }

    fn parameters(&self) -> String {
        format!("n={}", self.n)
    }

    fn start(&mut self, shard: &ShardInfo) {
        assert!(
            self.offered == 0 && self.info.is_none(),
            "a policy is started once, before any row is offered"
        );
        self.info = Some(*shard);
    }

    fn offered(&mut self, _class: u32) {
        self.offered += 1;
    }

    fn place(&mut self, _class: u32, table: &SlotTable, _rng: &mut Stream) -> Placement {
        assert_eq!(self.info.map(|info| info.capacity), Some(table.capacity()));
        Self::slot(self.n, self.offered, table.len())
            .map_or(Placement::Reject, |slot| Placement::Replace(slot as u32))
    }

    fn state(&self) -> Vec<u64> {
        vec![self.offered]
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Result<(), StateError> {
        let &[offered] = state else { return Err(StateError::length(state, 1)) };
        if offered < table.len() as u64 {
            return Err(StateError::new("fewer rows were offered than are stored"));
        }
        self.offered = offered;
        Ok(())
    }

    /// The largest ids first.
    fn order_key(&self, shard: &SavedShard<'_>, slot: u32) -> u64 {
        u64::MAX - shard.table.id(slot).unwrap() as u64
    }

    fn merge(&self, saved: &[SavedShard<'_>], table: &SlotTable, shard: &ShardInfo) -> Vec<u64> {
        assert_eq!(table.capacity(), shard.capacity);
        vec![shard.part_of(saved.iter().map(|shard| shard.state[0]).sum())]
    }
}

/// Uniform over the rows of odd classes.
#[derive(Clone, Default)]
struct OddClasses {
    distinct: DistinctSampler,
}

impl Sampling for OddClasses {
    fn name(&self) -> &'static str {
        "odd-classes"
    }

    fn needs_class_counts(&self) -> bool {
        true
    }

    fn plan(
        &mut self,
        counts: &ShardCounts,
        rng: &mut Stream,
        representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        let classes = counts.classes.as_ref().unwrap();
        let odd = || classes.present().iter().filter(|class| **class % 2 == 1);
        let rows = odd().map(|&class| classes.total(class)).sum();
        draws.extend(self.distinct.draw(rng, representatives, rows).map(|mut number| {
            for &group in odd() {
                match number.checked_sub(classes.total(group)) {
                    None => return Draw { group, number },
                    Some(rest) => number = rest,
                }
            }
            unreachable!("the classes have as many rows as their sum")
        }));
    }

    fn locate(&self, counts: &ShardCounts, draw: Draw) -> Option<RowLocation> {
        counts.classes.as_ref()?.locate(draw.group, draw.number)
    }

    fn local_index(&self, counts: &ShardCounts, draw: Draw) -> Option<u32> {
        counts.classes.as_ref()?.local_index(draw.group, draw.number)
    }

    fn slot_of(&self, table: &SlotTable, group: u32, index: u32) -> Option<u32> {
        table.of_class(group as usize).get(index as usize).copied()
    }
}

fn custom() -> CustomRules {
    CustomRules::default().with_policy(EveryNth::new(3)).with_sampling(OddClasses::default())
}

fn buffer_with(
    config: &RehearsalConfig,
    collective: Box<dyn Collective>,
    rules: CustomRules,
) -> RehearsalBuffer<Mixed> {
    config.init_with(&Rank::new(collective), rules).unwrap()
}

/// Runs steps and returns the IDs of the representatives of each.
fn steps(buffer: &RehearsalBuffer<Mixed>, steps: Range<usize>) -> Vec<Vec<i64>> {
    let step = |step| {
        let ids = fresh(3, buffer.rank(), step, ROWS, 4);
        assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap())
    };
    steps.map(step).collect()
}

/// The stored IDs in slot order, and the digests.
fn end(buffer: &RehearsalBuffer<Mixed>) -> (Vec<i64>, String, String) {
    let report = buffer.report().unwrap();
    assert_eq!(
        (report.policy.as_str(), report.sampling.as_str()),
        ("every-nth(n=3)", "odd-classes")
    );
    (stored_ids(buffer), report.contents_digest, report.draws_digest)
}

#[test]
fn user_defined_rules_decide_what_is_stored_and_drawn() {
    for size in [1, 4] {
        let config = config(10 * size + 3, ROWS, DRAWN).with_lag(0);
        let stored = world(size, |collective| {
            let info = ShardInfo::new(10 * size + 3, collective.rank(), size, None);
            let buffer = buffer_with(&config, collective, custom());
            let (mut model, mut offered) = (Vec::new(), 0);
            for step in 0..30 {
                for id in fresh(3, info.rank, step, ROWS, 4) {
                    offered += 1;
                    if model.len() < info.capacity {
                        model.push(id);
                    } else if let Some(slot) = EveryNth::slot(3, offered, model.len()) {
                        model[slot] = id;
                    }
                }
                let drawn = steps(&buffer, step..step + 1).concat();
                let per_class = buffer.report().unwrap().per_class;
                let odd: usize = per_class.iter().skip(1).step_by(2).sum();
                assert_eq!(drawn.len(), odd.min(DRAWN));
                assert!(
                    drawn.iter().all(|id| id / CLASS % 2 == 1),
                    "a row of an even class: {drawn:?}"
                );
                assert_eq!(end(&buffer).0, model);
            }
            model
        });
        assert_eq!(stored.iter().map(Vec::len).sum::<usize>(), 10 * size + 3);
    }
}

/// Runs a part of a run on `size` ranks between two checkpoints. Returns the draws and the end of
/// each rank.
#[allow(clippy::type_complexity)]
fn part(
    size: usize,
    from: Option<&Path>,
    to: Option<&Path>,
    range: Range<usize>,
) -> (Vec<Vec<Vec<i64>>>, Vec<(Vec<i64>, String, String)>) {
    let config = config(43, ROWS, DRAWN).with_lag(2);
    let ranks = world(size, |collective| {
        let buffer = buffer_with(&config, collective, custom());
        if let Some(from) = from {
            buffer.restore(from, &device()).unwrap();
        }
        let drawn = steps(&buffer, range.clone());
        if let Some(to) = to {
            buffer.checkpoint(to).unwrap();
        }
        (drawn, end(&buffer))
    });
    ranks.into_iter().unzip()
}

#[test]
fn a_checkpoint_keeps_the_state_of_user_defined_rules() {
    for size in [1, 4] {
        let directory = TempDir::new().unwrap();
        let path = directory.path();
        let whole = part(size, None, None, 0..20);
        let (mut drawn, _) = part(size, None, Some(path), 0..9);
        let (rest, ends) = part(size, Some(path), None, 9..20);
        drawn.iter_mut().zip(rest).for_each(|(drawn, rest)| drawn.extend(rest));
        assert_eq!((drawn, ends), whole, "{size} ranks");
    }
}

#[test]
fn a_user_defined_policy_decides_how_rows_are_dealt_to_other_ranks() {
    let directories = [(); 2].map(|()| TempDir::new().unwrap());
    let [first, second] = [0, 1].map(|at| directories[at].path());
    let ids = |ends: &[(Vec<i64>, String, String)]| {
        ends.iter().flat_map(|(ids, ..)| ids.clone()).collect::<BTreeSet<_>>()
    };
    let (_, four) = part(4, None, Some(first), 0..12);
    let (_, three) = part(3, Some(first), Some(second), 12..12);
    assert_eq!(ids(&four).len(), 43);
    assert_eq!(ids(&three), ids(&four));
    let sorted: Vec<i64> = ids(&four).into_iter().rev().collect();
    for (rank, (shard, ..)) in three.iter().enumerate() {
        assert_eq!(
            shard,
            &sorted.iter().copied().skip(rank).step_by(3).collect::<Vec<_>>(),
            "rows are dealt round robin, the largest IDs first"
        );
    }
    let (drawn, again) = part(4, Some(second), None, 12..24);
    assert!(drawn.iter().flatten().flatten().all(|id| id / CLASS % 2 == 1));
    assert_eq!(ids(&again).len(), 43);
    // Each of 4 ranks is offered 72 more rows, and every third of them replaces a row.
    let replaced = ids(&again).difference(&ids(&four)).count();
    assert!(replaced > 4 * 8, "{replaced} rows were replaced");
}

#[test]
fn ranks_with_different_user_defined_rules_disagree_on_every_rank() {
    let base = || CustomRules::default().with_policy(EveryNth::new(3));
    let others: [(CustomRules, &str); 3] = [
        (
            CustomRules::default().with_policy(EveryNth::new(4)),
            "policy is custom:every-nth(n=3) on ranks 0, 2 and custom:every-nth(n=4) on rank 1",
        ),
        (
            CustomRules::default(),
            "policy is custom:every-nth(n=3) on ranks 0, 2 and class_balanced on rank 1",
        ),
        (
            base().with_sampling(OddClasses::default()),
            "sampling is uniform on ranks 0, 2 and custom:odd-classes on rank 1",
        ),
    ];
    for (other, words) in others {
        let errors = world(3, |collective| {
            let rules = if collective.rank() == 1 { other.clone() } else { base() };
            let buffer = buffer_with(&config(30, ROWS, DRAWN), collective, rules);
            (0..9)
                .find_map(|step| {
                    buffer.rehearse(batch(&fresh(0, buffer.rank(), step, ROWS, 4))).err()
                })
                .unwrap()
        });
        for error in errors {
            assert!(
                matches!(error, RehearsalError::Configuration(_))
                    && error.to_string().ends_with(words),
                "{error}"
            );
        }
    }
}

#[test]
fn a_checkpoint_of_another_rule_is_refused_with_both_names() {
    let directory = TempDir::new().unwrap();
    let config = config(30, ROWS, DRAWN);
    let rules = |n| CustomRules::default().with_policy(EveryNth::new(n));
    let solo = |rules| config.init_with::<Mixed>(&Rank::solo(), rules).unwrap();
    let buffer = solo(rules(3));
    steps(&buffer, 0..4);
    buffer.checkpoint(directory.path()).unwrap();
    for (other, is) in
        [(rules(4), "custom:every-nth(n=4)"), (CustomRules::default(), "class_balanced")]
    {
        let error = solo(other).restore(directory.path(), &device()).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("policy was \"custom:every-nth(n=3)\" and is \"{is}\"")),
            "{error}"
        );
    }
    assert_eq!(solo(rules(3)).restore(directory.path(), &device()).unwrap().steps, 4);
}

/// A policy that chooses a slot that does not exist.
#[derive(Clone)]
struct Beyond;

impl Policy for Beyond {
    fn name(&self) -> &'static str {
        "beyond"
    }

    fn place(&mut self, _class: u32, table: &SlotTable, _rng: &mut Stream) -> Placement {
        Placement::Replace(table.capacity() as u32)
    }

    fn state(&self) -> Vec<u64> {
        Vec::new()
    }

    fn restore(&mut self, _state: &[u64], _table: &SlotTable) -> Result<(), StateError> {
        Ok(())
    }

    fn merge(&self, _saved: &[SavedShard<'_>], _table: &SlotTable, _shard: &ShardInfo) -> Vec<u64> {
        Vec::new()
    }
}

/// A sampling rule that draws a row or a rank that does not exist.
#[derive(Clone)]
struct Nowhere(RowLocation);

impl Sampling for Nowhere {
    fn name(&self) -> &'static str {
        "nowhere"
    }

    fn plan(
        &mut self,
        _counts: &ShardCounts,
        _rng: &mut Stream,
        _representatives: usize,
        draws: &mut Vec<Draw>,
    ) {
        draws.push(Draw { group: 0, number: 0 });
    }

    fn locate(&self, _counts: &ShardCounts, _draw: Draw) -> Option<RowLocation> {
        Some(self.0)
    }

    fn local_index(&self, _counts: &ShardCounts, _draw: Draw) -> Option<u32> {
        Some(self.0.index)
    }

    fn slot_of(&self, _table: &SlotTable, _group: u32, index: u32) -> Option<u32> {
        Some(index)
    }
}

#[test]
fn a_rule_that_chooses_a_missing_row_is_an_error() {
    let nowhere =
        |owner, index| CustomRules::default().with_sampling(Nowhere(RowLocation { owner, index }));
    for (rules, words) in [
        (
            CustomRules::default().with_policy(Beyond),
            "the policy replaces a row in a slot that does not exist",
        ),
        (nowhere(0, 99), "a draw names a row that is not stored"),
        (nowhere(1, 0), "a draw names a row that is not stored"),
    ] {
        let buffer = config(8, ROWS, DRAWN).init_with::<Mixed>(&Rank::solo(), rules).unwrap();
        let error = (0..9)
            .find_map(|step| buffer.rehearse(batch(&fresh(0, 0, step, ROWS, 4))).err())
            .unwrap();
        assert!(
            matches!(error, RehearsalError::Misuse(_)) && error.to_string().contains(words),
            "{error}"
        );
    }
}
