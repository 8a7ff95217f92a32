//! Images for continual learning with Burn.
//!
//! * `data`: labelled images, embedded or from disk, opened by name (feature `images`).
//! * [`ImageBatch`] and [`ImageBatcher`]: mini-batches of them, which a rehearsal buffer can store.
//! * [`augment`]: data augmentation on the device, one mini-batch at a time.
//! * [`models`]: networks of the continual-learning literature.
//! * [`thumbnails`]: pictures of the images in a buffer, for the report of a run.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod augment;
#[cfg(feature = "images")]
mod batch;
#[cfg(feature = "images")]
pub mod data;
pub mod models;
#[cfg(feature = "images")]
pub mod thumbnails;

#[cfg(feature = "images")]
pub use batch::{ImageBatch, ImageBatcher};
