//! Class-balanced sampling.

use super::{ClassCounts, DistinctSampler, Draw, RowLocation, Sampling, ShardCounts};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Draws every stored class with the same probability, then every row of that class with the same
/// probability.
///
/// Classes whose rows have all been drawn in the current step are excluded, so rows are drawn
/// without replacement. Without a `class` field, all rows have class 0 and this is uniform
/// sampling.
#[derive(Debug, Default, Clone)]
pub struct ClassBalancedSampling {
    distinct: DistinctSampler,
    numbers: Vec<u64>,
    /// The number of draws of each class; later the index of its next number. Zero between plans.
    drawn: Vec<u64>,
    /// The class of each draw, in order.
    picked: Vec<u32>,
    /// Each drawn class once.
    touched: Vec<u32>,
    /// The classes that still have rows, if a class has run out.
    alive: Vec<u32>,
}

impl ClassBalancedSampling {
    fn pick_classes(&mut self, classes: &ClassCounts, rng: &mut Stream, count: u64) {
        let mut run_out = false;
        self.alive.clear();
        for _ in 0..count {
            loop {
                let pool: &[u32] = if run_out { &self.alive } else { classes.present() };
                // Possible only if the counts contradict the fill of the shards.
                if pool.is_empty() {
                    return;
                }
                let position = rng.below_u32(pool.len() as u32) as usize;
                let class = pool[position];
                if self.drawn.len() <= class as usize {
                    self.drawn.resize(class as usize + 1, 0);
                }
                let drawn = &mut self.drawn[class as usize];
                if *drawn < classes.total(class) {
                    if *drawn == 0 {
                        self.touched.push(class);
                    }
                    *drawn += 1;
                    self.picked.push(class);
                    break;
                }
                if !run_out {
                    run_out = true;
                    self.alive.extend_from_slice(classes.present());
                }
                self.alive.swap_remove(position);
            }
        }
    }
}

impl Sampling for ClassBalancedSampling {
    fn name(&self) -> &'static str {
        "class-balanced"
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
        let Some(classes) = &counts.classes else { return };
        self.touched.clear();
        self.picked.clear();
        self.pick_classes(classes, rng, counts.fill.total().min(representatives as u64));
        self.numbers.clear();
        for &class in &self.touched {
            let count =
                std::mem::replace(&mut self.drawn[class as usize], self.numbers.len() as u64);
            let total = classes.total(class);
            self.numbers.extend(self.distinct.draw(rng, count as usize, total));
        }
        // Keeps the order of the picks, so that every prefix is a draw by the same rule.
        for &class in &self.picked {
            let next = &mut self.drawn[class as usize];
            draws.push(Draw { group: class, number: self.numbers[*next as usize] });
            *next += 1;
        }
        self.touched.iter().for_each(|&class| self.drawn[class as usize] = 0);
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
