//! Tests of the guarantees 1 to 5 and 8 to 10 of docs/ARCHITECTURE.md, one topic per module.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "guarantees/bounded.rs"]
mod bounded;
#[path = "guarantees/bounded_time.rs"]
mod bounded_time;
#[path = "guarantees/checkpoint.rs"]
mod checkpoint;
#[path = "guarantees/counters.rs"]
mod counters;
#[path = "guarantees/custom.rs"]
mod custom;
#[path = "guarantees/deterministic.rs"]
mod deterministic;
#[path = "guarantees/device.rs"]
mod device;
#[path = "guarantees/errors.rs"]
mod errors;
#[path = "guarantees/exact.rs"]
mod exact;
#[path = "guarantees/faults.rs"]
mod faults;
#[path = "guarantees/handover.rs"]
mod handover;
#[path = "guarantees/learner.rs"]
mod learner;
#[path = "guarantees/lives.rs"]
mod lives;
#[path = "guarantees/loaders.rs"]
mod loaders;
#[path = "guarantees/mistakes.rs"]
mod mistakes;
#[path = "guarantees/model.rs"]
mod model;
#[path = "guarantees/outside_steps.rs"]
mod outside_steps;
#[path = "guarantees/reservoirs.rs"]
mod reservoirs;
#[path = "guarantees/snapshot.rs"]
mod snapshot;
#[path = "guarantees/tasks.rs"]
mod tasks;
#[path = "guarantees/tracked.rs"]
mod tracked;
#[path = "guarantees/uneven.rs"]
mod uneven;
#[path = "guarantees/uniform.rs"]
mod uniform;
