//! Every stored class with the same probability, then every row of it.

use super::{Draw, Place, Sampling, Union};
use crate::draw::Distinct;
use crate::random::Stream;
use crate::slots::SlotTable;

/// Each of the r draws picks a class, uniformly among those that still have rows not drawn in this step, and then a row of it, uniformly.
#[derive(Debug, Default)]
pub struct ClassBalanced {
    distinct: Distinct,
    numbers: Vec<u64>,
    /// How many draws fell on each class; zero again after every plan.
    drawn: Vec<u64>,
    touched: Vec<u32>,
    /// The classes that still have rows, once one has run out.
    alive: Vec<u32>,
}

impl ClassBalanced {
    fn pick_classes(&mut self, union: &Union, rng: &mut Stream, count: u64) {
        let Some(classes) = &union.classes else { return };
        let mut run_out = false;
        self.alive.clear();
        for _ in 0..count {
            loop {
                let pool: &[u32] = if run_out { &self.alive } else { classes.present() };
                let place = rng.below_u32(pool.len() as u32) as usize;
                let class = pool[place];
                if self.drawn.len() <= class as usize {
                    self.drawn.resize(class as usize + 1, 0);
                }
                let drawn = &mut self.drawn[class as usize];
                if *drawn < classes.total(class) {
                    if *drawn == 0 {
                        self.touched.push(class);
                    }
                    *drawn += 1;
                    break;
                }
                if !run_out {
                    run_out = true;
                    self.alive.extend_from_slice(classes.present());
                }
                self.alive.swap_remove(place);
            }
        }
    }
}

impl Sampling for ClassBalanced {
    fn plan(&mut self, union: &Union, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        let Some(classes) = &union.classes else { return };
        self.touched.clear();
        self.pick_classes(union, rng, union.fill.total().min(representatives as u64));
        for &class in &self.touched {
            let count = std::mem::take(&mut self.drawn[class as usize]);
            if count == 1 {
                // What the general way would draw too.
                draws.push(Draw { group: class, number: rng.below(classes.total(class)) });
                continue;
            }
            self.numbers.clear();
            self.distinct.draw(rng, count as usize, classes.total(class), &mut self.numbers);
            draws.extend(self.numbers.iter().map(|&number| Draw { group: class, number }));
        }
    }

    fn place(&self, union: &Union, draw: Draw) -> Option<Place> {
        union.classes.as_ref()?.place(draw.group, draw.number)
    }

    fn here(&self, union: &Union, draw: Draw) -> Option<u32> {
        union.classes.as_ref()?.here(draw.group, draw.number)
    }

    fn locate(&self, table: &SlotTable, group: u32, index: u32) -> Option<u32> {
        table.of_class(group as usize).get(index as usize).copied()
    }
}
