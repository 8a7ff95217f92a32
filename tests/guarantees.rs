//! The guarantees 4.1 to 4.5 and 4.9 of the design, one topic a module.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "guarantees/deterministic.rs"]
mod deterministic;
#[path = "guarantees/errors.rs"]
mod errors;
#[path = "guarantees/loaders.rs"]
mod loaders;
#[path = "guarantees/model.rs"]
mod model;
#[path = "guarantees/uniform.rs"]
mod uniform;
